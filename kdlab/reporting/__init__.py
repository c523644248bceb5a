"""Many runs: groups over seeds, statistics, comparison, the report page, published tables."""
