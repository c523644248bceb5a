"""Labelled rows: the table of tasks, sources, files, labels, metrics."""
