"""Which stage a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable

from kdlab.config.schema import Config
from kdlab.stages.base import Stage
from kdlab.stages.finetuning import FinetuneStage
from kdlab.stages.pretraining import PretrainStage

STAGES: dict[str, type[Stage]] = {"pretrain": PretrainStage, "finetune": FinetuneStage}


def stage_of(config: Config, say: Callable[[str], None]) -> Stage:
    """Everything a run of this configuration needs, made when it is first asked for."""
    return STAGES[config.data.stage](config, say)
