"""Inputs of the causal stage that concern models; those of its rows are in `kdlab.stages.causal.rows`."""

from __future__ import annotations

from pathlib import Path

import transformers

from kdlab.config.groups.select import PROBE
from kdlab.errors import UserError
from kdlab.methods.knowledge.base import queries_teacher
from kdlab.models import loading
from kdlab.models.head import CAUSAL_LM
from kdlab.modules.evaluation import CausalLMScore
from kdlab.stages.causal.rows import CausalRows


class CausalInputs(CausalRows):
    """Rows that are continued, and the models that do so."""

    head = CAUSAL_LM

    @property
    def fixed_inputs(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """False where the student writes rows: a row is another text each time."""
        return not self.config.data.generated

    @property
    def score(self) -> CausalLMScore:  # pyright: ignore[reportIncompatibleVariableOverride]
        return CausalLMScore()

    def load(
        self, source: str | Path, revision: str | None = None, seed: int | None = None
    ) -> transformers.PreTrainedModel:
        return loading.load_causal_lm(source, revision)

    def check_rows(self) -> None:
        """As of the rows alone; UserError also for what rests on the data's own rows where the student writes some: labels, texts
        without prompts, caches, scores of earlier visits, probes, budgets."""
        super().check_rows()
        config = self.config
        if not config.data.generated:
            return
        key = f"data.generated={config.data.generated:g}"
        if not self.has_examples:
            raise UserError(f"{key}: plain text has no prompts; rows with a prompt and a completion, or messages")
        labels = [name for name, w in self.terms().items() if not queries_teacher(w.term)]
        if labels:
            raise UserError(
                f"{key}: knowledge.terms.{labels[0]} learns labels, and in rows that the student writes these are its own words; "
                f"knowledge.terms.{labels[0]}.weight=0"
            )
        select = config.select
        ruled_out = {
            f"teachers.cache={config.teachers.cache}": (config.teachers.cache != "off", "teachers.cache=off"),
            f"select.scoring={select.scoring}": (select.scoring == "stale", "select.scoring=fresh"),
            f"select.probe_every={select.probe_every}": (select.probe_every is not None, "select.probe_every=null"),
            "select.reward=probe": (isinstance(select.reward, dict) and select.reward["_target_"] == PROBE, "select.reward=trend"),
            "budget": (config.budget.given, "no budget, since the cost of a step is not known before"),
        }  # fmt: skip
        for name, (given, remedy) in ruled_out.items():
            if given:
                raise UserError(f"{key} {name}: a row is another text each time that the student writes it; {remedy}")
