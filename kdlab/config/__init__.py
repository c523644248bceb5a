"""The configuration: schema, validators, allow-list of targets, composition, documentation of keys."""
