"""The papers' analyses of one run and across runs."""
