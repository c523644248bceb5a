"""Scores of encoders over batches, against scikit-learn, SciPy and NumPy, edge cases included."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from scipy.special import log_softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef, mean_squared_error

from kdlab.data.tasks.registry import TASKS
from kdlab.errors import UserError
from kdlab.models.encoder import Encoder
from kdlab.modules.evaluation import MaskedLMScore, TaskScore, over_splits, predictions
from kdlab.types import IGNORE, Batch, TaskShape
from tests.conftest import tiny_config

RNG = np.random.default_rng(5)
COLA, MRPC, STSB = (TASKS[name].shape for name in ("cola", "mrpc", "stsb"))


class Told:
    """Stands in for an encoder: its logits for each row are given, found by the row's id."""

    per_row = True

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = torch.tensor(logits, dtype=torch.float32)

    def encode(self, batch: Batch) -> SimpleNamespace:
        return SimpleNamespace(hidden=self.logits[batch.rows])

    def vectors(self, shown: SimpleNamespace, row: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return shown.hidden[row]

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors


def batches(labels: np.ndarray, size: int = 7, order: np.ndarray | None = None, unreal: int = 0) -> list[Batch]:
    """Rows 0, 1, ... (or in another order) in batches; with `unreal` rows that count for nothing at the end."""
    rows = np.arange(len(labels)) if order is None else order
    every = [rows[i : i + size] for i in range(0, len(rows), size)]
    made = []
    for part in every:
        ids = torch.ones(len(part), 3, dtype=torch.long)
        given = torch.tensor(labels[part], dtype=torch.float32 if labels.dtype.kind == "f" else torch.int64)
        made.append(Batch(torch.tensor(part), 0, ids, ids, given, torch.ones(len(part), dtype=torch.bool)))
    if unreal:
        made[-1].real[-unreal:] = False
    return made


def test_classification_equals_scikit_learn():
    logits, labels = RNG.normal(size=(40, 2)), RNG.integers(0, 2, 40)
    found = TaskScore(MRPC)(Told(logits), batches(labels))
    answer = logits.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, answer))
    assert found["f1"] == pytest.approx(f1_score(labels, answer))
    assert found["score"] == pytest.approx((found["accuracy"] + found["f1"]) / 2)
    assert found["loss"] == pytest.approx(log_loss(labels, np.exp(log_softmax(logits, axis=1))), rel=1e-5)
    assert list(found) == list(TaskScore(MRPC).names)
    for metric in ("accuracy", "f1"):  # DeKD section 4.4 scores MRPC by F1, Dynamic KD section 3.2.2 by accuracy
        assert TaskScore(MRPC, metric)(Told(logits), batches(labels)) == {**found, "score": found[metric]}


def test_many_classes_equal_scikit_learn():
    shape = TaskShape(1, tuple("abcde"), ("accuracy", "macro_f1", "matthews"))
    logits, labels = RNG.normal(size=(60, 5)), RNG.integers(0, 5, 60)
    found, answer = TaskScore(shape)(Told(logits), batches(labels)), logits.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, answer))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, answer, average="macro"))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(labels, answer))


@pytest.mark.parametrize("answered", [0, 1])
def test_predictions_of_one_class(answered):
    labels = np.array([0, 1, 1, 0, 1, 1])
    logits = np.zeros((6, 2))
    logits[:, answered] = 3.0
    found = TaskScore(COLA)(Told(logits), batches(labels))
    assert found["matthews"] == found["score"] == 0.0 == matthews_corrcoef(labels, [answered] * 6)
    found = TaskScore(MRPC)(Told(logits), batches(labels))
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, [answered] * 6))
    assert found["f1"] == pytest.approx(f1_score(labels, [answered] * 6, zero_division=0))


def test_labels_of_one_class():
    logits, labels = RNG.normal(size=(9, 2)), np.ones(9, dtype=np.int64)
    found = TaskScore(MRPC)(Told(logits), batches(labels))
    assert found["f1"] == pytest.approx(f1_score(labels, logits.argmax(1)))
    assert TaskScore(COLA)(Told(logits), batches(labels))["matthews"] == 0.0


def test_regression_equals_scipy():
    logits, labels = RNG.normal(size=(50, 1)), RNG.normal(size=50)
    labels[:10] = 2.5  # ties
    found = TaskScore(STSB)(Told(logits), batches(labels))
    assert found["pearson"] == pytest.approx(pearsonr(logits[:, 0], labels).statistic, rel=1e-5)
    assert found["spearman"] == pytest.approx(spearmanr(logits[:, 0], labels).statistic, rel=1e-5)
    assert found["score"] == pytest.approx((found["pearson"] + found["spearman"]) / 2)
    assert found["loss"] == pytest.approx(mean_squared_error(labels, logits[:, 0]), rel=1e-5)


def test_constants_in_regression_have_no_correlation():
    labels = RNG.normal(size=12)
    found = TaskScore(STSB)(Told(np.full((12, 1), 0.7)), batches(labels))
    assert found["pearson"] == found["spearman"] == found["score"] == 0.0  # SciPy: not a number
    assert found["loss"] == pytest.approx(float(np.mean((labels - 0.7) ** 2)), rel=1e-5)


def test_a_score_does_not_depend_on_order_batches_or_rows_that_are_not_real():
    logits, labels = RNG.normal(size=(23, 2)), RNG.integers(0, 2, 23)
    one = TaskScore(MRPC)(Told(logits), batches(labels, 23))
    other = TaskScore(MRPC)(Told(logits), batches(labels, 4, RNG.permutation(23)))
    assert one == other
    without = TaskScore(MRPC)(Told(logits), batches(labels[:20], 5))
    assert TaskScore(MRPC)(Told(logits), batches(labels, 23, unreal=3)) == without


def test_a_sharp_wrong_answer_costs_what_it_costs():
    found = TaskScore(MRPC)(Told(np.array([[200.0, 0.0]])), batches(np.array([1])))
    assert found["loss"] == pytest.approx(200.0) and found["accuracy"] == 0.0  # not inf, not NaN


def test_another_projection_stands_in_for_the_encoders():
    logits, labels = RNG.normal(size=(20, 3)), RNG.integers(0, 3, 20)
    shape = TaskShape(1, ("a", "b", "c"), ("accuracy",))
    plain = TaskScore(shape)(Told(logits), batches(labels))
    turned = TaskScore(shape)(Told(logits[:, [2, 1, 0]]), batches(labels), project=lambda v: v[:, [2, 1, 0]])
    assert turned == plain


def test_what_was_spent_is_told_batch_by_batch():
    told = []
    TaskScore(MRPC)(
        Told(RNG.normal(size=(10, 2))), batches(RNG.integers(0, 2, 10), 4), count=lambda b, n: told.append((len(b), n))
    )
    assert told == [(4, 4), (4, 4), (2, 2)]


@pytest.mark.parametrize("value", [-1, IGNORE, float("nan")])
def test_hidden_labels_are_refused(value):
    regression = isinstance(value, float)
    labels = RNG.normal(size=5) if regression else RNG.integers(0, 2, 5)
    labels[2] = value
    with pytest.raises(UserError, match="hidden"):
        TaskScore(STSB if regression else MRPC)(Told(RNG.normal(size=(5, 1 if regression else 2))), batches(labels))


def test_a_split_with_every_label_hidden_is_refused():
    with pytest.raises(UserError, match="hidden"):
        TaskScore(MRPC)(Told(RNG.normal(size=(4, 2))), batches(np.full(4, IGNORE)))


def test_a_model_that_diverged_is_named_so():
    logits = np.full((4, 1), np.nan)
    with pytest.raises(UserError, match="diverged"):
        TaskScore(STSB)(Told(logits), batches(RNG.normal(size=4)))
    with pytest.raises(UserError, match="diverged"):  # argmax of NaN is a class like any other
        TaskScore(MRPC)(Told(np.full((4, 2), np.nan)), batches(RNG.integers(0, 2, 4)))


def test_no_rows_are_refused():
    with pytest.raises(UserError, match="nothing to evaluate"):
        TaskScore(MRPC)(Told(np.zeros((1, 2))), [])


def test_answers_of_a_real_classifier_are_its_own():
    torch.manual_seed(0)
    config = tiny_config("distilbert", 2)
    config.num_labels = 3
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    ids = torch.randint(6, 100, (5, 9), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(9) < torch.tensor([9, 4, 7, 9, 5]).unsqueeze(1)).long()
    b = Batch(torch.tensor([3, 1, 4, 0, 2]), 0, ids, mask, torch.tensor([0, 1, 2, 0, 1]), torch.ones(5).bool())
    rows, logits, labels = predictions(Encoder(model).eval(), [b.take(torch.arange(3)), b.take(torch.arange(3, 5))])
    with torch.no_grad():
        torch.testing.assert_close(logits, model(input_ids=ids, attention_mask=mask).logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(rows, b.rows) and torch.equal(labels, b.labels)


# ---- several splits


def test_splits_are_scored_one_by_one_and_averaged():
    shape = TASKS["mnli"].shape
    first, second = (RNG.normal(size=(n, 3)) for n in (30, 20))
    truth = [RNG.integers(0, 3, n) for n in (30, 20)]
    matched, mismatched = batches(truth[0]), batches(truth[1])
    score = TaskScore(shape)

    def one(given):
        return score(Told(first if given is matched else second), given)

    found = over_splits(one, {"": matched, "mismatched": mismatched})
    shares = [accuracy_score(t, x.argmax(1)) for t, x in zip(truth, (first, second), strict=True)]
    assert set(found) == {"loss", "accuracy", "loss_mismatched", "accuracy_mismatched", "score"}
    assert [found["accuracy"], found["accuracy_mismatched"]] == pytest.approx(shares)
    assert found["score"] == pytest.approx(sum(shares) / 2)  # of splits, not of rows


def test_one_split_keeps_its_names_and_text_has_no_score():
    assert over_splits(lambda b: {"loss": 1.0, "score": 0.5}, {"": []}) == {"loss": 1.0, "score": 0.5}
    assert over_splits(lambda b: {"loss": 1.0, "accuracy": 0.25}, {"": []}) == {"loss": 1.0, "accuracy": 0.25}


# ---- masked words


def masked() -> tuple[transformers.PreTrainedModel, Batch]:
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(tiny_config("bert", 2)).eval()
    rng = torch.Generator().manual_seed(2)
    ids = torch.randint(6, 100, (4, 10), generator=rng)
    labels = torch.where(torch.rand(4, 10, generator=rng) < 0.4, ids, IGNORE)
    labels[3] = IGNORE  # a row in which nothing is masked
    every = torch.arange(4)
    return model, Batch(every, 0, ids, torch.ones_like(ids), labels, torch.tensor([True, True, False, True]))


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_masked_words_are_scored_at_the_masked_positions_of_real_rows(chunk):
    model, b = masked()
    with torch.no_grad():
        logits = model(input_ids=b.input_ids).logits.numpy()
    where = (b.labels != IGNORE).numpy() & b.real.numpy()[:, None]
    wanted = b.labels.numpy()[where]
    spent = []
    found = MaskedLMScore(chunk)(Encoder(model), [b], count=lambda _, n: spent.append(n))
    right = -log_softmax(logits[where], axis=1)[np.arange(len(wanted)), wanted]
    assert found["loss"] == pytest.approx(right.mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits[where].argmax(1) == wanted).mean())
    assert spent == [len(wanted)]


def test_text_without_a_masked_position_is_refused():
    model, b = masked()
    b.labels[:] = IGNORE
    with pytest.raises(UserError, match="no masked position"):
        MaskedLMScore()(Encoder(model), [b])
