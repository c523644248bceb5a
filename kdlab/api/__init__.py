"""kdlab from Python: runs in one call, and the selection of rows in any training loop."""
