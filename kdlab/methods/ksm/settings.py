"""Settings of a knowledge selection module (`kdlab.methods.ksm.module`), saved with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdlab.errors import UserError


@dataclass(frozen=True)
class KSMSettings:
    """Settings of a KSM, as in the docstring of `KSM`: `terms` names of the M terms; widths of [CLS] states; `rows` of
    the state (None: mean over rows); `action` "soft" or "hard" by `threshold`; `alpha` weight of the exploration bonus
    (Eq. 12, 13); `gamma` discount; learning rates; `hidden` width and `features` of the networks; `noise` deviation of
    the action's noise; `restraint` weight of the penalty on the sigmoids' inputs; `normalise` rewards; `seed` of the
    weights."""

    terms: tuple[str, ...]
    student_width: int
    teacher_widths: tuple[int, ...]
    rows: int | None
    action: str
    threshold: float
    alpha: float
    gamma: float
    lr_actor: float
    lr_critic: float
    hidden: int
    features: int
    noise: float
    restraint: float
    normalise: bool
    seed: int

    def check(self) -> None:
        """UserError for values outside their range."""
        if not self.terms or len(set(self.terms)) != len(self.terms):
            raise UserError(f"KSM weighs one knowledge term or more, all different, found {', '.join(self.terms)}")
        if not self.teacher_widths:
            raise UserError("KSM reads a teacher's states, and there is no teacher")
        if self.action not in ("soft", "hard"):
            raise UserError(f"KSM's action is soft or hard, found {self.action}")
        for width in (self.student_width, *self.teacher_widths):
            if isinstance(width, bool) or width < 1:
                raise UserError(f"KSM reads states of a width of 1 or more, found {width}")
        for name in ("threshold", "gamma"):
            value = getattr(self, name)
            if not (0 <= value <= 1 and (value or name == "threshold")):
                raise UserError(f"KSM's {name} must lie in {'[' if name == 'threshold' else '('}0, 1], found {value}")
        for name in ("alpha", "noise", "restraint"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"KSM's {name} must be a finite number of 0 or more, found {getattr(self, name)}")
        for name in ("lr_actor", "lr_critic"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"KSM's {name} must be a finite number above 0, found {getattr(self, name)}")
        for name in ("hidden", "features", "rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"KSM's {name} must be 1 or more, found {value}")
