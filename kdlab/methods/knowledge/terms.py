"""Every knowledge term under one name, `kdlab.terms`: (student, teacher) `Outputs` -> a loss a unit or row."""

from kdlab.methods.knowledge.attention import attention_mse, attention_relation, value_relation
from kdlab.methods.knowledge.hidden_states import aligned, cosine, embedding_mse, hidden_mse, patient, relation
from kdlab.methods.knowledge.joint import CommonFeatures, FeatureAlignment, joined_soft_loss
from kdlab.methods.knowledge.logits import (
    label_cross_entropy,
    label_loss,
    label_squared_error,
    mean_squared_error,
    soft_cross_entropy,
    soft_loss,
)

__all__ = [
    "CommonFeatures",
    "FeatureAlignment",
    "aligned",
    "attention_mse",
    "attention_relation",
    "cosine",
    "embedding_mse",
    "hidden_mse",
    "joined_soft_loss",
    "label_cross_entropy",
    "label_loss",
    "label_squared_error",
    "mean_squared_error",
    "patient",
    "relation",
    "soft_cross_entropy",
    "soft_loss",
    "value_relation",
]
