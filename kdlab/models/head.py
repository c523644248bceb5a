"""Heads: what a model predicts, from which vectors, and how it is loaded, scored and published.

A stage holds one, and its name stands in result.json. Nothing here loads transformers before a class is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdlab.errors import UserError, nearest


@dataclass(frozen=True)
class Head:
    """The head of a stage's models.

    `name`: in result.json; `title`: in messages. `auto_class`: the class of transformers that loads such models;
    `class_suffixes`: the ends of their own classes' names. `per_row`: True if the head reads one vector a row, False if it reads the vectors of single
    positions. `causal`: True if a position sees only those before it. `metric`: the headline score of comparisons;
    `direction` "minimize" or "maximize" it. `pipeline_tag`: the task in a model card. `probe`: a sentence for comparing
    two copies of a model, with "{mask}" where a mask token may stand. `heldout`: the name of the held-out rows in tables; `unit`: of what
    it predicts; `loss`: the name of its loss.
    """

    name: str
    title: str
    auto_class: str
    class_suffixes: tuple[str, ...]
    per_row: bool
    causal: bool
    metric: str
    direction: str
    pipeline_tag: str
    probe: str
    heldout: str
    unit: str
    loss: str

    @property
    def model_class(self) -> Any:
        """The auto class of transformers."""
        import transformers

        return getattr(transformers, self.auto_class)


MASKED_LM = Head(
    name="masked_lm",
    title="masked-LM model",
    auto_class="AutoModelForMaskedLM",
    class_suffixes=("ForMaskedLM",),
    per_row=False,
    causal=False,
    metric="loss",
    direction="minimize",
    pipeline_tag="fill-mask",
    probe="Paris is the {mask} of France.",
    heldout="held-out text",
    unit="masked position",
    loss="masked-LM loss",
)
CLASSIFIER = Head(
    name="sequence_classification",
    title="classifier",
    auto_class="AutoModelForSequenceClassification",
    class_suffixes=("ForSequenceClassification",),
    per_row=True,
    causal=False,
    metric="score",
    direction="maximize",
    pipeline_tag="text-classification",
    probe="Paris is the {mask} of France.",
    heldout="dev set",
    unit="row",
    loss="loss",
)
CAUSAL_LM = Head(
    name="causal_lm",
    title="causal language model",
    auto_class="AutoModelForCausalLM",
    class_suffixes=("ForCausalLM", "LMHeadModel"),
    per_row=False,
    causal=True,
    metric="loss",
    direction="minimize",
    pipeline_tag="text-generation",
    probe="Paris is the capital of France.",
    heldout="held-out text",
    unit="predicted token",
    loss="next-token loss",
)
HEADS = {head.name: head for head in (MASKED_LM, CLASSIFIER, CAUSAL_LM)}
STAGE_HEADS = {"pretrain": MASKED_LM, "finetune": CLASSIFIER, "causal": CAUSAL_LM}  # by `data.stage`


def head_of_result(result: Mapping[str, Any]) -> Head:
    """The head of a run, from its result.json; older ones name the stage alone, and the oldest are of pre-training.

    UserError for a head that does not exist.
    """
    if "head" not in result:
        return MASKED_LM if result.get("stage", "pretrain") == "pretrain" else CLASSIFIER
    name = str(result["head"])
    if name not in HEADS:
        raise UserError(f"result.json names the head {name[:80]}; {nearest(name, HEADS)}")
    return HEADS[name]


def head_of_model(model: Any) -> Head:
    """The head of a loaded model, by its class; MASKED_LM for a class that names none."""
    name = type(model).__name__
    return next((head for head in HEADS.values() if name.endswith(head.class_suffixes)), MASKED_LM)
