"""Arms and the policy that picks one; the callbacks that answer the second and third question of a batch.

Which teacher speaks to each row (`Adopt`), which knowledge counts how much (`Weigh`). Both put a rule into the batch's
plan at `on_train_batch_start`; the distiller applies it in the step, to what the one forward shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl

from kdlab.errors import UserError
from kdlab.methods.selection.policies import Policy
from kdlab.methods.selection.rewards import Reward
from kdlab.modules.distiller import Distiller
from kdlab.runtime.seeding import generator
from kdlab.types import Batch, Plan


class ArmSelector:
    """The arm that serves: chosen once an optimizer step, or, with a `reward`, once every `interval` steps.

    With a reward it is chosen after the last arm's effect was seen: `observe`, called without arguments, the same value
    on all ranks. `key` names its draws; `write` takes a row whenever something was decided. An observation that is
    not finite is no reward: UserError, or, if `tolerant`, it is left out.
    """

    def __init__(
        self,
        key: str,
        arms: Mapping[str, Any],
        policy: Policy,
        total_steps: int,
        seed: int,
        reward: Reward | None = None,
        observe: Callable[[], float] | None = None,
        interval: int = 10,
        write: Callable[[dict[str, Any]], None] = lambda row: None,
        tolerant: bool = False,
    ) -> None:
        self.tolerant = tolerant
        self.key, self.arms, self.policy = key, dict(arms), policy
        self.total_steps, self.seed = total_steps, seed
        self.reward, self.observe, self.interval, self.write = reward, observe, interval, write
        self.arm: str | None = None
        self.last_reward: float | None = None

    def decide(self, module: Distiller, step: int) -> None:
        """Choose the arm of an optimizer step, at its start (collective)."""
        rng = generator(self.seed, self.key, step)
        progress = step / self.total_steps
        if self.reward is None:
            before, self.arm = self.arm, self.policy.choose(progress, rng)
            if step % self.interval == 0 or self.arm != before:
                self._record(module, step, None, None, None)
        elif step % self.interval == 0:
            assert self.observe is not None
            observation, speed, reward = self.observe(), None, None
            if math.isfinite(observation):
                speed, reward = self.reward.observe(observation)
            elif self.tolerant:
                observation = None
            else:
                raise UserError(
                    f"the loss that the policy observes is {observation} at step {step}, and nothing can be learnt from "
                    "that; trainer.on_nonfinite=skip leaves such observations out"
                )
            if reward is not None and self.arm is not None:
                self.policy.learn(self.arm, reward)  # pyright: ignore[reportAttributeAccessIssue]
            self.last_reward = reward
            self.arm = self.policy.choose(progress, rng)
            self._record(module, step, observation, speed, reward)

    @property
    def chosen(self) -> Any:
        """The arm's function."""
        assert self.arm is not None
        return self.arms[self.arm]

    def _record(
        self, module: Distiller, step: int, observation: float | None, speed: float | None, reward: float | None
    ) -> None:
        row = {"step": step, "arm": self.arm, "observation": observation, "speed": speed, "reward": reward}
        row |= {f"q_{arm}": value for arm, value in getattr(self.policy, "q", {}).items()}
        if module.ledger is not None:
            row["teacher_queries"] = module.ledger.total_queries()
        self.write(row)

    def columns(self) -> list[str]:
        """The columns of the rows that are written."""
        values = [f"q_{arm}" for arm in getattr(self.policy, "q", {})]
        return ["step", "arm", "observation", "speed", "reward", *values, "teacher_queries"]

    def state_dict(self) -> dict[str, Any]:
        return {
            "arm": self.arm,
            "last_reward": self.last_reward,
            "policy": self.policy.state_dict(),
            "reward": self.reward.state_dict() if self.reward else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.arm, self.last_reward = state["arm"], state["last_reward"]
        self.policy.load_state_dict(state["policy"])
        if self.reward:
            self.reward.load_state_dict(state["reward"])


class DecisionCallback(pl.Callback):
    """A callback that answers a question about each batch as its chooser's arm says."""

    def __init__(self, chooser: ArmSelector) -> None:
        self.chooser = chooser

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Distiller)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.chooser.decide(pl_module, trainer.global_step)
        batch.plan = batch.plan or Plan()
        self.answer(pl_module, batch, batch_idx)

    def answer(self, module: Distiller, batch: Batch, batch_idx: int) -> None:
        """Put the arm's answer into the plan of `batch`."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return self.chooser.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.chooser.load_state_dict(state_dict)
