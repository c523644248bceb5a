"""Files to start from: code, configuration and test of a strategy, a policy, a term or an adoption rule of one's own."""
