"""Many jobs: expansion, scheduler, launchers, search, suites."""
