"""Configuration of a run's budget: how much it may cost, in queries, FLOPs, seconds or money.

The string below a field is its documentation, as in `kdlab.config.groups`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdlab.config.validators import one_of
from kdlab.errors import UserError
from kdlab.ranges import Count, NotNegative, Positive

KINDS = ("queries", "flops", "seconds", "price")


@dataclass
class BudgetConfig:
    """Costs that end a training; its schedule is planned for as many steps as they allow. Of several the first counts."""

    queries: Count | None = None
    "Teacher queries (rows) that the run may make; null: no limit"
    flops: Positive | None = None
    "Model FLOPs that the run may take, as the closing table counts them; null: no limit"
    seconds: Positive | None = None
    "Seconds of training that the run may take, as the closing table counts them; null: no limit"
    price: Positive | None = None
    "Money that the run may cost by price_per_query and price_per_hour; null: no limit"
    price_per_query: NotNegative | None = None
    "Price of a teacher query; null: none"
    price_per_hour: NotNegative | None = None
    "Price of an hour of training on this machine; null: none"
    like: str | None = None
    "Folder of a finished run: this run may cost as much as that one, in `by`; null: none"
    by: str = "flops"
    "like: the cost of that run that is the budget: queries, flops, seconds or price"
    preparation: bool = False
    "true: preparation (teachers, assistants, KSM) counts in the budget; false: the training alone, as it is paid once"

    @property
    def given(self) -> bool:
        """True if the run has a budget."""
        return self.like is not None or any(getattr(self, kind) is not None for kind in KINDS)

    @property
    def is_timed(self) -> bool:
        """True if the plan needs the seconds of a step, which are measured."""
        kinds = {kind for kind in KINDS if getattr(self, kind) is not None} | ({self.by} if self.like else set())
        return "seconds" in kinds or ("price" in kinds and bool(self.price_per_hour))

    def check(self) -> None:
        """UserError for a price without rates, or two budgets of one kind."""
        one_of("budget.by", self.by, KINDS)
        if self.like is not None and getattr(self, self.by) is not None:
            raise UserError(
                f"budget.like={self.like} budget.{self.by}={getattr(self, self.by):g}: two budgets of one kind; leave one out"
            )
        by_price = self.price is not None or (self.like is not None and self.by == "price")
        if by_price and not (self.price_per_query or self.price_per_hour):
            raise UserError(
                "budget.price: a price needs a rate: budget.price_per_query= (of a teacher query) or "
                "budget.price_per_hour= (of this machine)"
            )
