"""The stage of a configuration (`data.stage`)."""

from __future__ import annotations

from collections.abc import Callable

from kdlab.config.schema import Config
from kdlab.stages.base import Stage
from kdlab.stages.causal.stage import CausalStage
from kdlab.stages.finetuning import FinetuneStage
from kdlab.stages.pretraining import PretrainStage

STAGES: dict[str, type[Stage]] = {"pretrain": PretrainStage, "finetune": FinetuneStage, "causal": CausalStage}


def stage_of(config: Config, notify: Callable[[str], None]) -> Stage:
    """Build the stage of a configuration; `notify` prints a line for the user. Nothing is read or loaded yet."""
    return STAGES[config.data.stage](config, notify)
