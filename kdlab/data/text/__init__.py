"""Plain text for pre-training: sources, files, cleaning, tokenization, masking."""
