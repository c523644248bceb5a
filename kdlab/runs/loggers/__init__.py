"""Lightning loggers beside the run folder's own tables: W&B and TensorBoard."""
