"""Processes: distributed reductions, devices, seeding, signals, progress, and the ledger of costs."""
