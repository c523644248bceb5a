"""KSM, the knowledge selection module: an actor-critic that weighs the knowledge terms at each step.

Wang et al. 2023, Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection (KSM),
section 5 and appendix B; equation numbers below are the paper's, and the equations in `kdlab.methods.ksm.actor_critic`.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from kdlab.errors import UserError
from kdlab.methods.ksm.actor_critic import hard_action, hard_bonus, phase_error, soft_bonus, step_error
from kdlab.methods.ksm.settings import KSMSettings
from kdlab.methods.marks import needs
from kdlab.ranges import Count, NotNegative, Positive, Probability, Rows, Share, Whole, Width, checked
from kdlab.runtime.seeding import generator
from kdlab.storage.files import atomic_write_bytes, atomic_write_json, user_errors
from kdlab.types import WeighingContext

WEIGHTS, SETTINGS = "ksm.safetensors", "ksm.json"


@needs("features")
class KSM:
    """A weighing rule `(context, terms) -> (M,)` that learns; frozen until `learning` is set.

    State (Eq. 2): the [CLS] states of student and teachers, each mapped by its own 2-layer MLP to `features` numbers;
    the teachers' are averaged by the row's adoption weights (zeros if all weights are 0). `rows` None: the mean over
    rows (ours: data selection makes batches of many sizes); a number: the features of all rows side by side as in the
    paper, zeros for missing rows. Actor (Eq. 3) and critic are 3-layer MLPs of width `hidden`. `action` "soft": M
    weights in [0, 1]; "hard": 0 or 1 by `threshold` (lambda). `lr_actor` and `lr_critic` are learning rates of Adam;
    the optimizers are part of this object. The paper does not print the hidden size of the feature networks; here it is
    `hidden`.

    Learning. In a phase, each call records its inputs and the action. `learn(reward)` ends the phase. Its last step's
    successor is the next phase's first step, so the update is made in that call; at the end of an episode (`last=True`)
    it is made at once, with Q = 0 after the end. Eq. 7: the actor follows the critic's gradient in the action, on the
    phase's states; for hard actions through the soft output, since the step function has no gradient. The student's
    feature network learns with the actor, through the action alone (else it would learn to represent states of high
    value); the teachers' learn with the critic.

    Differences from the paper, found on a small problem whose right weights are known (tests/unit/methods/ksm: two
    contexts, 500 phases of 4 steps, the paper's rates and sizes), which the printed equations do not solve:
    - `noise`: "sample an action" needs something to sample; a normal number of this deviation is added to the soft
      action (then cut to [0, 1]) while learning, drawn from `context.rng`.
    - a_t+1 in Eq. 8 and 11 is the actor's action in s_t+1 without the noise, as in deterministic policy gradients. With
      the noisy action the sum over a phase telescopes, and with gamma near 1 all actions but the first and the last
      cancel out: they would get no reward.
    - Eq. 10 is an ordinary least-squares error: both sides of Eq. 11 learn. (With a detached successor, the
      critic's level drifts with each phase's noise, which hides the gradients.) The target of Eq. 9 is detached.
    - `restraint`: weight of a penalty on the mean square of the sigmoids' inputs. Without it the critic's first errors
      drive the actor to 0 or 1 in some dozen phases, where a sigmoid has no gradient to return by.
    - `normalise`: phase rewards less their mean, over their standard deviation, of all rewards so far (the first is 0).
      Eq. 11's terms cancel where the value is the same everywhere, so a mean reward has no effect; and a fall of the
      loss is much smaller than the critic's first errors.
    """

    @checked
    def __init__(
        self,
        terms: Sequence[str],
        student_width: Count,
        teacher_widths: Sequence[Count],
        rows: Rows | None = None,
        action: Literal["soft", "hard"] = "soft",
        threshold: Probability = 0.2,
        alpha: NotNegative = 0.1,
        gamma: Share = 0.98,
        lr_actor: Positive = 2e-4,
        lr_critic: Positive = 2e-4,
        hidden: Width = 256,
        features: Width = 8,
        noise: NotNegative = 0.3,
        restraint: NotNegative = 0.01,
        normalise: bool = True,
        seed: Whole = 0,
    ) -> None:
        if isinstance(terms, str):
            raise UserError(f"KSM weighs a list of knowledge terms, found {terms!r}")
        self.settings = KSMSettings(
            tuple(terms), student_width, tuple(teacher_widths), rows, action, threshold, alpha, gamma, lr_actor,
            lr_critic, hidden, features, noise, restraint, normalise, seed,
        )  # fmt: skip
        self.settings.check()
        state, count = 2 * features * (rows or 1), len(terms)
        self.networks = nn.ModuleDict(
            {
                "student": _mlp(student_width, hidden, features),
                "teachers": nn.ModuleList(_mlp(width, hidden, features) for width in teacher_widths),
                "actor": _mlp(state, hidden, hidden, count),
                "critic": _mlp(state + count, hidden, hidden, 1),
            }
        )
        _initialise(self.networks, generator(seed, "ksm"))
        actor = [*self.networks["actor"].parameters(), *self.networks["student"].parameters()]
        critic = [*self.networks["critic"].parameters(), *self.networks["teachers"].parameters()]
        self._actor = torch.optim.Adam(actor, lr_actor, fused=True)
        self._critic = torch.optim.Adam(critic, lr_critic, fused=True)
        self.learning = False
        self._phases = 0  # ended so far, in all episodes
        self._rewards = [0.0, 0.0, 0.0]  # count, mean and sum of squared deviations
        self._learnt: list[dict[str, float]] = []
        self.begin_episode()

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the M terms that it weighs, in order."""
        return self.settings.terms

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self.networks.parameters()).device

    def begin_episode(self) -> None:
        """Clear the recorded phases, since the student starts anew; the networks keep what they learnt."""
        self._steps: list[dict[str, Any]] = []  # of the current phase
        self._due: list[dict[str, Any]] = []  # of the phase that waits for its successor
        self._reward = 0.0  # of that phase
        self._previous: Tensor | None = None  # (k, M), the actions of the phase before

    # ---- acting

    def __call__(self, context: WeighingContext, terms: Sequence[str]) -> Tensor:
        """Weights (M,) float32 of `terms`, detached. While `learning`, record the step and learn from an ended phase.

        UserError if `terms` or widths are not those of the settings, or if there are more rows than the state holds.
        """
        step = self._inputs(context, terms)
        with torch.autocast(self.device.type, enabled=False):
            with torch.no_grad():
                own = soft = self._act(*self._states([step]))[0].sigmoid()
                if self.learning and self.settings.noise:
                    drawn = torch.randn(len(soft), generator=context.rng, device=context.rng.device)
                    soft = (soft + self.settings.noise * drawn.to(soft)).clamp(0, 1)
                own, action = self._applied(own), self._applied(soft)
            if self.learning:
                self._record({**step, "own": own, "action": action})
        assert context.student is not None
        return action.to(context.student.device)

    def _record(self, step: dict[str, Any]) -> None:
        if self._due:
            with torch.enable_grad():
                self._update(self._due, step)
            self._due = []
        bonus = soft_bonus if self.settings.action == "soft" else hard_bonus
        if self._previous is not None:
            step["bonus"] = bonus(step["action"], self._previous, self.settings.alpha)
        self._steps.append(step)

    def _inputs(self, context: WeighingContext, terms: Sequence[str]) -> dict[str, Any]:
        """The inputs of a step, as they are recorded: float32, on the networks' device."""
        student, teachers = context.student, context.teachers
        if student is None:
            raise UserError("KSM needs the models' [CLS] states, found none of the student")
        self.check(terms, student.shape[1], [teacher.shape[1] for teacher in teachers])
        if self.settings.rows is not None and len(student) > self.settings.rows:
            raise UserError(
                f"this KSM's state holds {self.settings.rows} rows, the batch has {len(student)}: "
                "set rows to the largest batch, or to null for the mean over rows"
            )
        weights = context.teacher_weights
        if weights is None:
            weights = student.new_ones(len(student), len(teachers))
        return {
            "student": student.detach().to(self.device, torch.float32, copy=True),
            "teachers": [teacher.detach().to(self.device, torch.float32, copy=True) for teacher in teachers],
            "heed": weights.detach().to(self.device, torch.float32, copy=True),
        }

    def _states(self, steps: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """The student's and the teachers' part of the states of `steps`, (steps, features * rows) each."""
        sizes = [len(step["student"]) for step in steps]
        student = self.networks["student"](torch.cat([step["student"] for step in steps]))
        weights = torch.cat([step["heed"] for step in steps])
        teachers = torch.zeros_like(student)
        for number, network in enumerate(self.networks["teachers"]):  # pyright: ignore[reportArgumentType]
            share = weights[:, number, None] / weights.sum(1, keepdim=True).clamp_min(1e-9)
            teachers = teachers + share * network(torch.cat([step["teachers"][number] for step in steps]))
        return self._joined(student.split(sizes)), self._joined(teachers.split(sizes))

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        rows = self.settings.rows
        if rows is None:
            return torch.stack([part.mean(0) for part in parts])
        return torch.stack([F.pad(part, (0, 0, 0, rows - len(part))).flatten() for part in parts])

    def _act(self, student: Tensor, teachers: Tensor) -> Tensor:
        """The soft actions (steps, M) before the sigmoid. Eq. 3."""
        return self.networks["actor"](torch.cat([student, teachers], 1))

    def _value(self, student: Tensor, teachers: Tensor, actions: Tensor) -> Tensor:
        """The critic's Q(s, a), (steps,)."""
        return self.networks["critic"](torch.cat([student, teachers, actions], 1))[:, 0]

    def _applied(self, soft: Tensor) -> Tensor:
        return soft if self.settings.action == "soft" else hard_action(soft, self.settings.threshold)

    # ---- learning

    def learn(self, reward: float, last: bool = False) -> list[dict[str, float]]:
        """End the phase with its `reward` (the fall of the held-out loss, nats); `last`: it is the episode's last
        phase.

        Returns the updates made since the last call: that of the phase before, and of this one if it is the last.
        Values before the update: "phase" (counted over all episodes), "reward" as learnt, "phase_error" (Eq. 10),
        "exploration_error" (Eq. 9; absent in an episode's first phase) and "objective" (Eq. 7). ValueError, without any
        change, if the reward is not finite or no step was recorded.
        """
        reward = float(reward)
        if not math.isfinite(reward):
            raise ValueError(f"the reward of a phase must be finite, found {reward}")
        if not self._steps:
            raise ValueError("a phase of no steps has no reward: set `learning` before the first step")
        self._phases += 1
        self._reward = self._normal(reward)
        self._previous = torch.stack([step["action"] for step in self._steps])
        self._due, self._steps = self._steps, []
        if last:
            with torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
                self._update(self._due, None)
            self._due = []
        done, self._learnt = self._learnt, []
        return done

    def _normal(self, reward: float) -> float:
        count, mean, squares = self._rewards
        count, deviation = count + 1, reward - mean
        mean += deviation / count
        squares += deviation * (reward - mean)
        self._rewards = [count, mean, squares]
        if not self.settings.normalise:
            return reward
        return (reward - mean) / math.sqrt(squares / count) if squares > 0 else 0.0

    def _update(self, steps: list[dict[str, Any]], successor: dict[str, Any] | None) -> None:
        gamma = self.settings.gamma
        student, teachers = self._states(steps if successor is None else [*steps, successor])
        seen, k = student.detach(), len(steps)
        own = torch.stack([step["own"] for step in (steps if successor is None else [*steps, successor])])
        values = self._value(seen[:k], teachers[:k], torch.stack([step["action"] for step in steps]))
        following = self._value(seen[1:], teachers[1:], own[1:])
        if successor is None:
            following = F.pad(following, (0, 1))
        error = phase_error(self._reward, values, following, gamma)
        report = {"phase": float(self._phases), "reward": self._reward, "phase_error": float(error.detach())}
        if "bonus" in steps[0]:
            bonus = torch.stack([step["bonus"] for step in steps])
            exploration = step_error(bonus, values, following, gamma)
            report["exploration_error"] = float(exploration.detach())
            error = error + exploration
        _descend(self._critic, error)
        student, teachers = self._states(steps)
        seen, teachers = student.detach(), teachers.detach()
        drives = self._act(student, teachers)
        objective = self._value(seen, teachers, drives.sigmoid()).mean()
        _descend(self._actor, self.settings.restraint * drives.square().mean() - objective)
        self._learnt.append({**report, "objective": float(objective.detach())})

    # ---- state and files

    def check(self, terms: Sequence[str], student_width: int, teacher_widths: Sequence[int]) -> None:
        """UserError unless this KSM weighs these terms, in this order, of models of these widths."""
        settings = self.settings
        if tuple(terms) != settings.terms:
            raise UserError(f"this KSM weighs {', '.join(settings.terms)}, the knowledge is {', '.join(terms)}")
        if (student_width, tuple(teacher_widths)) != (settings.student_width, settings.teacher_widths):
            raise UserError(
                f"this KSM reads a student {settings.student_width} wide and teachers {list(settings.teacher_widths)}, "
                f"these are {student_width} and {list(teacher_widths)}"
            )

    def state_dict(self) -> dict[str, Any]:
        """The whole state, in the middle of a phase too, in types that load with `weights_only=True`.

        The recorded [CLS] states are in it: a phase of 128 steps of 32 rows, 768 wide in both models, is 25 MB.
        """
        return copy.deepcopy(
            {
                "settings": asdict(self.settings),
                "networks": dict(self.networks.state_dict()),
                "actor": self._actor.state_dict(),
                "critic": self._critic.state_dict(),
                "learning": self.learning,
                **{name: getattr(self, name) for name in _RECORD},
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`; UserError if it was saved with other settings."""
        saved, own = state["settings"], asdict(self.settings)
        for name, value in own.items():
            if saved.get(name) != value:
                raise UserError(f"the checkpoint's KSM has {name} {saved.get(name)}, the configured one has {value}")
        state = copy.deepcopy(state)
        self.networks.load_state_dict(state["networks"])
        self._actor.load_state_dict(state["actor"])
        self._critic.load_state_dict(state["critic"])
        self.learning = state["learning"]
        for name in _RECORD:
            setattr(self, name, _to_device(state[name], self.device))

    def save(self, folder: str | Path) -> None:
        """Write networks (safetensors) and settings (JSON) into `folder`, without the state of the learning."""
        folder = Path(folder)
        with user_errors("saving the KSM", folder):
            folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.networks.state_dict().items()}
        atomic_write_bytes(folder / WEIGHTS, safetensors.torch.save(weights))
        atomic_write_json(folder / SETTINGS, asdict(self.settings))

    @classmethod
    def load(cls, folder: str | Path) -> KSM:
        """The KSM saved in `folder`, frozen, on the CPU. UserError if there is none, or if it is damaged."""
        folder = Path(folder)
        for name in (SETTINGS, WEIGHTS):
            if not (folder / name).is_file():
                raise UserError(f"{folder} holds no KSM: {name} is missing; give the folder that KSM.save wrote")
        with user_errors("reading the KSM", folder):
            settings, weights = (folder / SETTINGS).read_bytes(), (folder / WEIGHTS).read_bytes()
        try:
            ksm = cls(**json.loads(settings))
            ksm.networks.load_state_dict(safetensors.torch.load(weights))
        except (ValueError, TypeError, RuntimeError, UserError, safetensors.SafetensorError) as error:
            reason = (str(error) or repr(error)).splitlines()[0]
            raise UserError(f"the KSM in {folder} is damaged: {reason}; copy or train it again") from error
        if not all(bool(torch.isfinite(tensor).all()) for tensor in ksm.networks.state_dict().values()):
            raise UserError(f"the KSM in {folder} is damaged: some weights are not finite; train it again")
        return ksm


_RECORD = ("_phases", "_rewards", "_learnt", "_steps", "_due", "_reward", "_previous")


def _mlp(*widths: int) -> nn.Sequential:
    layers = [[skip_init(nn.Linear, a, b), nn.ReLU()] for a, b in zip(widths[:-1], widths[1:], strict=True)]
    return nn.Sequential(*[module for pair in layers for module in pair][:-1])


def _initialise(networks: nn.Module, rng: torch.Generator) -> None:
    """Draw all weights from `rng`, with the distribution of nn.Linear."""
    for layer in networks.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=rng)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step on the optimizer's parameters; no other parameters get a gradient."""
    optimizer.zero_grad()
    loss.backward(inputs=[parameter for group in optimizer.param_groups for parameter in group["params"]])
    optimizer.step()


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [_to_device(item, device) for item in value]
    return {name: _to_device(item, device) for name, item in value.items()} if isinstance(value, dict) else value
