"""Scores of causal language models beyond the loss: ranked choices, greedy continuations."""
