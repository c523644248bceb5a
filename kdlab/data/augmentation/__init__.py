"""TinyBERT's data augmentation."""
