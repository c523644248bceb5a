"""Scoring for `Select`: the rows that are scored."""
