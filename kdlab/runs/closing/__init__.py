"""The end of a run: its result.json, its closing table, its model card, and the costs in them."""
