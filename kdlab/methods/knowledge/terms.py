"""Every knowledge term under one name, `kdlab.terms`: (student, teacher) `Outputs` -> a loss a unit or row."""

from kdlab.methods.knowledge.attention import attention_mse, attention_relation, value_relation
from kdlab.methods.knowledge.divergences import (
    interpolated_kl,
    jensen_shannon,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
)
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
    "interpolated_kl",
    "jensen_shannon",
    "joined_soft_loss",
    "label_cross_entropy",
    "label_loss",
    "label_squared_error",
    "mean_squared_error",
    "patient",
    "relation",
    "reverse_kl",
    "skewed_kl",
    "skewed_reverse_kl",
    "soft_cross_entropy",
    "soft_loss",
    "value_relation",
]
