"""Inputs of the causal stage that concern models; those of its rows are in `kdlab.stages.causal.rows`."""

from __future__ import annotations

from pathlib import Path

import transformers

from kdlab.models import loading
from kdlab.models.head import CAUSAL_LM
from kdlab.modules.evaluation import CausalLMScore
from kdlab.stages.causal.rows import CausalRows


class CausalInputs(CausalRows):
    """Rows that are continued, and the models that do so."""

    head = CAUSAL_LM
    fixed_inputs = True

    @property
    def score(self) -> CausalLMScore:  # pyright: ignore[reportIncompatibleVariableOverride]
        return CausalLMScore()

    def load(
        self, source: str | Path, revision: str | None = None, seed: int | None = None
    ) -> transformers.PreTrainedModel:
        return loading.load_causal_lm(source, revision)
