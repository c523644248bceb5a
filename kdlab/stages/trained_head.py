"""Refuse runs whose decisions read a classifier of random weights: none of the terms in force trains it."""

from __future__ import annotations

from kdlab.errors import UserError
from kdlab.methods.knowledge.base import on_logits
from kdlab.methods.marks import marks_of, members_of
from kdlab.methods.selection.scores import PARTS
from kdlab.models import head_keys, loading
from kdlab.runtime.seeding import generator
from kdlab.stages import ksm_training
from kdlab.stages.base import Stage
from kdlab.stages.components import Selection

POINTS = 1000  # shares of the training at which a policy is asked for its arm


def untrained_until(stage: Stage) -> float:
    """Share of the training from which a term trains the student's classifier; 0 for a head that comes trained."""
    path, inputs = stage.config.student.path, stage.inputs
    if not inputs.head.per_row or stage.starts_as_teacher:
        return 0.0
    if path is not None:
        config, labels = loading.load_config(path, stage.config.student.revision), inputs.shape.labels or ("score",)  # pyright: ignore
        if head_keys.has_head(path, config, inputs.head.model_class) and loading.labels_of(config) == labels:
            return 0.0
    return min((w.since for w in inputs.terms().values() if on_logits(w.term)), default=1.0)


def check(stage: Stage) -> None:
    """UserError where selection, adoption, weighing or a reward reads the classifier before any term trains it."""
    until = untrained_until(stage)
    readers = _readers(stage, until) if until else []
    if readers:
        raise UserError(
            f"{readers[0]} reads the student's classifier, which has random weights for {until:g} of the training: "
            f"no term of knowledge={stage.config.knowledge.name} on logits counts before; let one count from the start "
            "(knowledge=tinybert has `head`, which trains the classifier alone), or choose by features: select=density, "
            "cluster or random, and select.observe=kd, adopt=single, weigh=fixed"
        )


def _readers(stage: Stage, until: float) -> list[str]:
    """The settings that read the classifier's answers in the first share `until` of the training."""
    config, found = stage.config, []
    if config.select.ratio < 1 and until > config.select.warmup:  # before, random rows are kept
        selection = stage.selection()
        arms = _arms_before(selection, config.select.warmup, until)
        found += [
            f"select.arms.{name}"
            for name in arms
            if any(marks_of(member).needs & PARTS for member in members_of(selection.arms[name]).values())
        ]
        if hasattr(selection.policy, "learn") and config.select.observe in ("task", "scored"):
            found.append(f"select.observe={config.select.observe}")
    if stage.inputs.queries_teacher and (adoption := stage.adoption()) is not None:
        found += [f"adopt.arms.{name}" for name, rule in adoption.arms.items() if "student" in marks_of(rule).needs]
    if "uncertainty" in ksm_training.needed_fields(stage):
        found.append(f"weigh={config.weigh.name}")
    if config.weigh.episodes and config.weigh.path is None:
        found.append(f"weigh.reward={config.weigh.reward}")
    return found


def _arms_before(selection: Selection, since: float, until: float) -> list[str]:
    """The arms that may be in force between two shares of the training: all of a policy that learns."""
    if hasattr(selection.policy, "learn"):
        return list(selection.arms)
    rng = generator(0, "arms")
    chosen = {selection.policy.choose(since + (until - since) * i / POINTS, rng) for i in range(POINTS)}
    return [name for name in selection.arms if name in chosen]
