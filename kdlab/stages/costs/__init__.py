"""Costs of a training before its first step: teacher queries and model FLOPs."""
