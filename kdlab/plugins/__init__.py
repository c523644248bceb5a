"""Code of the user's own: which modules a configuration may name, guards around their calls, templates for new ones."""
