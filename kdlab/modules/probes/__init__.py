"""Probes of a training: what a choice would do from here, without a trace in the training."""
