"""Shard models over the ranks of a run: `frozen` teachers, and the student that is `trained`."""
