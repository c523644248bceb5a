"""Transformers as kdlab runs them: loading, students, encoder, packing, last layer, sharding, FLOPs."""
