"""One teacher: its specification, the frozen model, its answer cache."""
