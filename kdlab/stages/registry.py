"""Which bench a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable

from kdlab.config.schema import Config
from kdlab.stages.base import Bench
from kdlab.stages.finetuning import TaskBench
from kdlab.stages.pretraining import TextBench

STAGES: dict[str, type[Bench]] = {"pretrain": TextBench, "finetune": TaskBench}


def bench_of(config: Config, say: Callable[[str], None]) -> Bench:
    """Everything a run of this configuration needs, made when it is first asked for."""
    return STAGES[config.data.stage](config, say)
