"""Arms and the policy that picks one, step by step: `ArmSelector`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from kdlab.errors import UserError
from kdlab.methods.selection.credit import Credit
from kdlab.methods.selection.policies import Policy
from kdlab.methods.selection.policies.context import chosen_arm, learn, reads_context
from kdlab.methods.selection.rewards import Reward
from kdlab.methods.selection.rewards.base import reads
from kdlab.methods.selection.run_facts import RunFacts
from kdlab.runtime.seeding import generator
from kdlab.types import Context, Observation

CREDITED = ("credited_arm", "credited_reward")  # columns: what the policy learnt from an observation


class ArmSelector:
    """Picks the arm in force: once an optimizer step, or, with a `reward`, once every `interval` steps.

    `key` names its random draws, keyed by `seed` and step; `total_steps` optimizer steps of the training. With a reward
    it picks an arm after it has observed the effect of the last one: `observe()` returns the observation, the same on
    all ranks (None: there is none, and nothing is learnt). `write` takes a row after each decision, with `columns`. An observation that is not finite is a UserError,
    or, if `tolerant`, is skipped. `objective()` names the loss that is observed now: where it has changed, the reward
    starts anew, for the difference of two losses is no progress. `credit`: the arm that a reward is due to (None: the one
    in force). For rewards that read an `Observation`: `learning_rate` of an optimizer step as a share of its peak (None:
    unknown, 1 each), `cost` returns FLOPs and queries so far (collective). `probe` returns the fall of the log loss that
    each of some arms would bring from a step on (collective): the rewards of `Probe`, and every `probe_every` steps a
    measurement. `arm`: the name of the arm in force (None before the first step). `last_reward` is the reward that the last
    observation gave, `last_credit` the arm and the reward that the policy learnt from it, which differ where `credit` does.
    """

    def __init__(
        self,
        key: str,
        arms: Mapping[str, Any],
        policy: Policy,
        total_steps: int,
        seed: int,
        reward: Reward | None = None,
        observe: Callable[[], float | None] | None = None,
        interval: int = 10,
        write: Callable[[dict[str, Any]], None] = lambda row: None,
        tolerant: bool = False,
        objective: Callable[[], list[str]] = list,
        credit: Credit | None = None,
        learning_rate: Callable[[int], float] | None = None,
        cost: Callable[[], tuple[float, int]] | None = None,
        probe: Callable[[int, Sequence[str]], dict[str, float]] | None = None,
        probe_every: int | None = None,
    ) -> None:
        self.tolerant, self.objective = tolerant, objective
        self.key, self.arms, self.policy = key, dict(arms), policy
        self.total_steps, self.seed = total_steps, seed
        self.first = 0  # the step of the first decision; the interval counts from there
        self.reward, self.observe, self.interval, self.write = reward, observe, interval, write
        self.arm: str | None = None
        self.last_reward: float | None = None
        self.last_credit: tuple[str, float] | None = None
        self._observed: list[str] | None = None  # the objective of the last observation
        self.credit, self.learning_rate, self.cost = credit or Credit(), learning_rate, cost
        self.probe, self.probe_every = probe, probe_every
        self._last: list[float] = []  # step, FLOPs and queries at the last observation
        self.facts = RunFacts() if reads_context(policy) else None
        self._choices: list[tuple[int, Context]] = []  # step and context of choices whose reward is still due

    def progress(self, step: int) -> float:
        """Share of the training done at an optimizer step, in [0, 1]."""
        return min(1.0, step / self.total_steps)

    def decide(self, step: int, ledger: Any = None) -> None:
        """Pick the arm of an optimizer step, at its start (collective); `ledger`: the run's cost, for the log."""
        rng = generator(self.seed, self.key, step)
        progress = self.progress(step)
        falls = self._measured(step)
        if self.reward is None:
            before, self.arm = self.arm, chosen_arm(self.policy, rng, self._context(progress))
            if (step - self.first) % self.interval == 0 or self.arm != before:
                self._record(ledger, step, None, None, None)
        elif (step - self.first) % self.interval == 0 or self.arm is None:
            observation, speed = self._observation(step), None
            before, self._observed = self._observed, self.objective()
            if before not in (None, self._observed):
                self.reward.restart()
                self.credit.restart()
                if self.facts is not None:
                    self.facts.restart()
            self.last_reward = self.last_credit = None
            if observation is not None:
                if self.facts is not None:
                    self.facts.observed(observation)
                speed, self.last_reward = self._learn(observation, step, falls)
            context = self._context(progress)
            self.arm = chosen_arm(self.policy, rng, context)
            self.credit.begin(step, self.arm)
            if self.facts is not None:
                self._choices = [*self._due_choices(), (step, context)]
            self._record(ledger, step, observation, speed, self.last_reward)

    def _measured(self, step: int) -> dict[str, float] | None:
        """The falls of a probe of all arms, where one is due at `step`."""
        if self.probe is None or self.probe_every is None or step % self.probe_every:
            return None
        return self.probe(step, list(self.arms))

    def _learn(self, loss: float, step: int, falls: dict[str, float] | None) -> tuple[float | None, float | None]:
        """Have the policy learn from an observed loss; (speed, reward) as the reward gives them. `falls`: of a probe of
        all arms at this step."""
        if "probe" in reads(self.reward):
            return self._learn_probed(step, falls)
        shares = self.credit.observe(step)
        given = self._given(loss, step, shares) if reads(self.reward) else loss
        speed, reward = self.reward.observe(given)  # pyright: ignore[reportOptionalMemberAccess]
        arm = self.credit.arm(shares)
        if reward is not None and arm is not None:
            self.last_credit = (arm, self.credit.own_part(arm, shares, reward))
            chosen = [context for begun, context in self._choices if begun < self.credit.end]
            learn(self.policy, *self.last_credit, chosen[-1] if chosen else None)
        return speed, reward

    def _due_choices(self) -> list[tuple[int, Context]]:
        """The choices that a later reward may be credited to."""
        oldest = self.credit.observed[0] if self.credit.observed else 0
        ended = [i for i, (begun, _) in enumerate(self._choices) if begun <= oldest]
        return self._choices[ended[-1] :] if ended else self._choices

    def _learn_probed(self, step: int, falls: dict[str, float] | None) -> tuple[float | None, float | None]:
        """Have the policy learn the rewards of the arms probed; fall and reward of the arm in force."""
        reward: Any = self.reward
        if falls is None or reward.compare != "all":
            assert self.probe is not None
            chosen = reward.chosen(list(self.arms), self.arm, generator(self.seed, self.key, "probe", step))
            falls = self.probe(step, chosen)
        rewards = reward.rewards(falls)
        now = self._context(self.progress(step))  # the arms were probed from here
        for arm, value in rewards.items():
            learn(self.policy, arm, value, now)
        known = self.arm if self.arm in rewards else None
        return (None, None) if known is None else (falls[known], rewards[known])

    def _given(self, loss: float, step: int, shares: dict[str, float]) -> Observation:
        """The observation at `step` for a reward that reads more than the loss (collective where it reads the cost)."""
        flops, queries = self.cost() if self.cost and "cost" in reads(self.reward) else (0.0, 0)
        before, self._last = self._last, [step, flops, queries]
        if not before:
            return Observation(loss, step)
        first = int(before[0])
        rate = math.fsum(self.learning_rate(i) if self.learning_rate else 1.0 for i in range(first, step))
        spent = (flops - before[1], int(queries - before[2]))
        return Observation(loss, step, self.arm, shares, step - first, rate, *spent)

    def _context(self, progress: float) -> Context:
        return Context(progress) if self.facts is None else self.facts.context(progress)

    def _observation(self, step: int) -> float | None:
        """The observation at `step`; None if there is none, or it is skipped."""
        assert self.observe is not None
        observation = self.observe()
        if observation is None or math.isfinite(observation):
            return observation
        if self.tolerant:
            return None
        raise UserError(
            f"the loss that the policy observes is {observation} at step {step}, and nothing can be learnt from "
            "that; trainer.on_nonfinite=skip leaves such observations out"
        )

    @property
    def rule(self) -> Any:
        """The rule of the arm in force: a strategy, an adoption rule or a weighing rule."""
        assert self.arm is not None
        return self.arms[self.arm]

    def _record(
        self, ledger: Any, step: int, observation: float | None, speed: float | None, reward: float | None
    ) -> None:
        row = {"step": step, "arm": self.arm, "observation": observation, "speed": speed, "reward": reward}
        if self._credits:
            row |= dict(zip(CREDITED, self.last_credit or (None, None), strict=True))
        row |= {f"q_{arm}": value for arm, value in getattr(self.policy, "q", {}).items()}
        if ledger is not None:
            row["teacher_queries"] = ledger.total_queries()
        self.write(row)

    def columns(self) -> list[str]:
        """The columns of the rows that `write` takes."""
        values = [f"q_{arm}" for arm in getattr(self.policy, "q", {})]
        credited = CREDITED if self._credits else ()
        return ["step", "arm", "observation", "speed", "reward", *credited, *values, "teacher_queries"]

    @property
    def _credits(self) -> bool:
        """True where a policy learns another reward, or that of another arm, than the observation's of the arm in force."""
        return self.reward is not None and (self.credit.decay > 0 or self.credit.delay > 0)

    def state_dict(self) -> dict[str, Any]:
        return {
            "arm": self.arm,
            "last_reward": self.last_reward,
            "objective": self._observed,
            "policy": self.policy.state_dict(),
            "reward": self.reward.state_dict() if self.reward else {},
            **({"credit": self.credit.state_dict(), "last": list(self._last)} if self.reward else {}),
            **({} if self.facts is None else {"facts": self.facts.state_dict(), "choices": self._saved_choices()}),
        }

    def _saved_choices(self) -> list[Any]:
        return [[step, list(astuple(context))] for step, context in self._choices]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.arm, self.last_reward = state["arm"], state["last_reward"]
        self._observed = state.get("objective")  # checkpoints before 2026-11-29 have none
        try:
            self.policy.load_state_dict(state["policy"])
        except KeyError as error:
            held = ", ".join(map(str, state["policy"])) or "nothing"
            raise UserError(
                f"the checkpoint was saved by another policy than {type(self.policy).__name__}: it holds {held}, and no {error}"
            ) from error
        if self.reward:
            self.reward.load_state_dict(state["reward"])
            self._last = list(state.get("last", ()))
            if "credit" in state:
                self.credit.load_state_dict(state["credit"])
            elif self.arm is not None:  # checkpoints before 2026-11-30: the arm in force is all that is known
                self.credit.load_state_dict({"segments": [[0, self.arm]], "observed": [-1], "estimates": {}})
        if self.facts is not None:
            self.facts.load_state_dict(state["facts"])
            self._choices = [(int(step), Context(*map(float, fields))) for step, fields in state.get("choices", ())]
