"""Settings of a knowledge selection module (`kdlab.methods.ksm.module`), saved with it."""

from __future__ import annotations

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
        """UserError for terms or teachers that are missing or repeated; `KSM` declares the ranges of the numbers."""
        if not self.terms or len(set(self.terms)) != len(self.terms):
            raise UserError(f"KSM weighs one knowledge term or more, all different, found {', '.join(self.terms)}")
        if not self.teacher_widths:
            raise UserError("KSM reads a teacher's states, and there is no teacher")
