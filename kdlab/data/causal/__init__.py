"""Rows of causal language models: documents, prompts with completions, conversations."""
