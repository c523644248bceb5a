"""Tiny models and data, runs in child processes, fault injection."""
