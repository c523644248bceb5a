"""Cached answers of teachers: rows in memory or on disk."""
