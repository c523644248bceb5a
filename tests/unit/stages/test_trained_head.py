"""The share of a training from which a term trains the student's classifier."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import transformers

from kdlab.methods.knowledge import logits
from kdlab.models import loading
from kdlab.models.head import CLASSIFIER
from kdlab.modules.objective import WeightedTerm
from kdlab.stages import trained_head

COMMIT = "34707a33cd59a94ecde241ac209bf35103691b43"


def test_the_head_of_a_student_of_the_hub_is_that_of_its_revision(monkeypatch):
    """The default branch has a classifier of the task, the commit an encoder alone."""
    labels = {0: "no", 1: "yes"}

    def config(source: str, revision: str | None = None) -> Any:
        kind = "BertModel" if revision == COMMIT else "BertForSequenceClassification"
        small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        return transformers.BertConfig(architectures=[kind], id2label=labels, label2id={"no": 0, "yes": 1}, **small)

    monkeypatch.setattr(loading, "load_config", config)
    late = WeightedTerm(logits.soft_loss, 1.0, since=0.87)
    shape = SimpleNamespace(labels=("no", "yes"))
    inputs = SimpleNamespace(head=CLASSIFIER, shape=shape, terms=lambda: {"soft": late})
    for revision, share in ((None, 0.0), (COMMIT, 0.87)):
        student = SimpleNamespace(path="owner/name", revision=revision)
        stage: Any = SimpleNamespace(config=SimpleNamespace(student=student), inputs=inputs, starts_as_teacher=False)
        assert trained_head.untrained_until(stage) == share


def test_a_student_that_starts_as_the_teacher_has_a_trained_head():
    stage: Any = SimpleNamespace(
        config=SimpleNamespace(student=SimpleNamespace(path=None)), inputs=SimpleNamespace(head=CLASSIFIER), starts_as_teacher=True
    )  # fmt: skip
    assert trained_head.untrained_until(stage) == 0.0
