"""Students that start as layers of a classifier, its head included (`student.start=teacher`)."""

from __future__ import annotations

import pytest
import torch
import transformers

from kdlab.errors import UserError
from kdlab.models.student import student_from, with_classes
from kdlab.testing.tiny import tiny_config

IDS = torch.tensor([[2, 9, 11, 12, 3]])


def classifier(family: str) -> transformers.PreTrainedModel:
    config = tiny_config(family)
    config.num_labels = 3
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_all_layers_and_the_head_in_the_data_order_predict_as_the_teacher(family):
    teacher = classifier(family)
    with torch.no_grad():
        for parameter in teacher.parameters():  # a bias of zeros would hide that it was left behind
            parameter.add_(0.01 * torch.randn_like(parameter))
        told = teacher(input_ids=IDS).logits
        student = student_from(with_classes(teacher, (2, 0, 1), ("a", "b", "c")), [0, 1, 2, 3]).eval()
        torch.testing.assert_close(student(input_ids=IDS).logits, told[:, [2, 0, 1]])
    assert student.config.id2label == {0: "a", 1: "b", 2: "c"} and student.config.label2id == {"a": 0, "b": 1, "c": 2}


def test_some_layers_keep_embeddings_and_head():
    teacher = classifier("bert")
    student = student_from(with_classes(teacher, None, ("a", "b", "c")), [1, 3])
    ours, theirs = student.state_dict(), teacher.state_dict()
    assert torch.equal(ours["classifier.weight"], theirs["classifier.weight"])
    assert torch.equal(ours["bert.embeddings.word_embeddings.weight"], theirs["bert.embeddings.word_embeddings.weight"])
    name = "bert.encoder.layer.{}.output.dense.weight"
    assert torch.equal(ours[name.format(0)], theirs[name.format(1)])
    assert torch.equal(ours[name.format(1)], theirs[name.format(3)])


def test_a_head_of_another_size_is_refused():
    with pytest.raises(UserError, match="ends in no linear layer of 5 outputs"):
        with_classes(classifier("bert"), (0, 1, 2, 3, 4), tuple("abcde"))
