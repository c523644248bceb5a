"""Launchers of sweep jobs: this machine, SLURM, Ray."""
