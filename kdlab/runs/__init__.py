"""One run folder from start to end."""
