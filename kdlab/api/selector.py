"""`kdlab.Selector`: the rows of a batch to keep, in a training loop of any kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from kdlab.api.isolation import separate_hydra
from kdlab.config import choices
from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.errors import UserError, nearest
from kdlab.methods.selection.keeping import Keeping
from kdlab.methods.selection.policies import Fixed, Online, Policy
from kdlab.methods.selection.rewards import LossDecay, Reward
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.methods.selection.strategies import Strategy
from kdlab.methods.selection.top_k import selection_size
from kdlab.runtime import distributed
from kdlab.stages import components


class Selector(RowSelector):
    """Selects the rows of each batch by a strategy, or by several among which a policy chooses.

        selector = kdlab.Selector("adads", ratio=0.1, total_steps=1000, observe=loss_on_some_rows)
        rows = selector.rows(step, logits=logits, features=features)        # (k,) of the B rows, every step

    `strategy`: a choice of the group select ("adads", "entropy", "randmix", ...), a strategy (`kdlab.strategies`, or a
    function of `kdlab.Evidence`), or several by name. `ratio`: share of the rows to keep, in (0, 1]. `total_steps`:
    optimizer steps of the whole training. `observe`: returns the loss, in nats, on training rows that stay the same,
    for a policy that learns (AdaDS Eq. 11); of several ranks the mean counts. It is called every `interval` optimizer
    steps. `policy`, `reward`: in place of those that come with a name; of several strategies without one the policy is
    `kdlab.policies.Online`. `look`: share of the rows that are scored, drawn at random; `candidates(step, B)` returns them,
    before `rows`. `explore`, `balance`, `temperature`, `importance`: which rows are kept by their scores, and their weights,
    which `weights` has after `rows` (`kdlab.methods.selection.keeping.Keeping`); `warmup`: the share of the training whose
    rows are random ones first. `write` receives a dict for each decision (step, arm, observation, reward).

    Pass it to `kdlab.Select` for a Lightning trainer. `state_dict` and `load_state_dict` resume it: plain values, JSON
    can hold them (but for a strategy with a history of rows, whose state is a tensor).
    """

    def __init__(
        self,
        strategy: str | Strategy | Mapping[str, Strategy] = "adads",
        *,
        total_steps: int,
        ratio: float = 0.1,
        seed: int = 1,
        observe: Callable[[], float] | None = None,
        interval: int = 10,
        policy: Policy | None = None,
        reward: Reward | None = None,
        write: Callable[[dict[str, Any]], None] = lambda row: None,
        look: float = 1.0,
        explore: float = 0.0,
        balance: str = "none",
        temperature: float | None = None,
        importance: bool = False,
        warmup: float = 0.0,
    ) -> None:
        for name, value in (("total_steps", total_steps), ("interval", interval)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{name}={value!r}: a whole number of optimizer steps, at least 1")
        if observe is not None and not callable(observe):
            raise UserError(f"observe={observe!r}: a function without arguments that returns a loss")
        selection_size(1, ratio)
        parts = _parts(strategy, ratio)
        arms, chosen = parts.arms, policy or parts.policy
        if missing := [arm for arm in getattr(chosen, "arms", ()) if arm not in arms]:
            raise UserError(f"the policy chooses {missing[0]!r}, and the strategies are {', '.join(arms)}")
        if hasattr(chosen, "learn"):
            reward = reward or parts.reward or LossDecay()
        super().__init__(
            arms, chosen, ratio, total_steps, seed, reward, observe and _mean_over_ranks(observe), interval, write,
            look=look, keeping=Keeping(explore, balance, temperature, importance), warmup=warmup, ratios=parts.ratios,  # pyright: ignore
        )  # fmt: skip


def _parts(strategy: Any, ratio: float) -> components.Selection:
    """Strategies, policy, reward and ratios of a name, a strategy or several. UserError for anything else."""
    if isinstance(strategy, str):
        known = choices.groups()["select"]
        if strategy not in known:
            raise UserError(f"strategy={strategy}: there is no such choice; {nearest(strategy, known)}")
        with separate_hydra():
            composed, _ = composition([f"+exp={choices.FINETUNING}", f"select={strategy}"])
        select = checked(composed).select
        return components.selection(select if select.ratios is None else replace(select, ratio=ratio))
    if callable(strategy):
        name = getattr(getattr(strategy, "func", strategy), "__name__", type(strategy).__name__)
        return components.Selection({name: strategy}, Fixed([name]))
    if not isinstance(strategy, Mapping) or not strategy or not all(map(callable, strategy.values())):
        raise UserError(
            f"strategy={strategy!r}: the name of a choice, a strategy (a function of kdlab.Evidence), or a dict of strategies"
        )
    arms = dict(strategy)
    return components.Selection(arms, Fixed(list(arms)) if len(arms) == 1 else Online(list(arms)))


def _mean_over_ranks(observe: Callable[[], float]) -> Callable[[], float]:
    """The mean of an observation over the ranks (collective); a UserError for one that is no number."""

    def observed() -> float:
        value = observe()
        try:
            mine = torch.tensor([float(value), 1.0], dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"observe() returned {type(value).__name__}; a loss is expected, one number") from error
        total, count = distributed.all_sum(mine).tolist()
        return total / count

    return observed
