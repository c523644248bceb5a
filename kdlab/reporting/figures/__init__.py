"""The figures of a report, narrow enough for a phone."""
