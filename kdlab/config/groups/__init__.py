"""Configuration groups: typed fields, one documentation line each, and every check that needs only their values.

The string below a field is its documentation: `kdlab run --explain KEY` and `docs/configuration.md` print it.
"""
