"""Pre-training and fine-tuning: from a checked configuration to inputs, teachers and modules."""
