"""LightningDataModules, and the text and tasks they read."""
