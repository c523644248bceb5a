"""Attention functions that transformers' models call: recorded, of sequences in one row, without stored matrices."""
