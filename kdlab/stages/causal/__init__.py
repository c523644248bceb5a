"""The causal stage: teachers and students that predict the next token."""
