"""LightningModules for student, teacher and assistant, and the parts of a training step."""
