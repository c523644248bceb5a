"""Figures of the GPU benchmark: lines of its tables, and bars that are met or not. Nothing here runs a model."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measuring import milliseconds, quartiles, times

PLAIN, FLASH = "plain loop, sdpa", "plain loop, flash attention"
OURS, SOME, LOOK = "kdlab, ratio 1", "kdlab, entropy, ratio 0.1", "kdlab, entropy, ratio 0.1, look 0.3"
FACTORS = {OURS: 3.0, SOME: 8.0, LOOK: 8.0}  # times faster than the plain loop
PEAK_SHARE = 0.4  # of the device's FLOP/s, at ratio 1 and the longest rows


@dataclass(frozen=True)
class Measured:
    """One way: `seconds` and FLOPs of each turn, and gigabytes at the peak of a step."""

    seconds: Sequence[float]
    flops: Sequence[int]
    gb: float

    def share(self, peak: float | None) -> float | None:
        """Median over turns of the FLOP/s, as a share of the device's `peak`; None where that is unknown."""
        if peak is None:
            return None
        return statistics.median(f / s / peak for f, s in zip(self.flops, self.seconds, strict=True))


def fastest_plain(found: Mapping[str, Measured]) -> str | None:
    """The name of the plain loop with the lowest median; None where none has run."""
    ran = [name for name in (PLAIN, FLASH) if name in found]
    return min(ran, key=lambda name: statistics.median(found[name].seconds), default=None)


def factor(found: Mapping[str, Measured], way: str) -> float | None:
    """Speed-up of a way over the fastest plain loop (`measuring.times`); None where one of them has not run."""
    base = fastest_plain(found)
    return None if base is None or way not in found else times(found[base].seconds, found[way].seconds)


def multiple(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"


HEADER = ["way", "ms", "quartiles", "faster than the fastest plain loop", "GB", "TFLOP of a step", "share of peak"]


def lines(found: Mapping[str, Measured], peak: float | None) -> list[list[str]]:
    """A line for each way, of `HEADER`."""
    return [
        [name, *milliseconds(way.seconds, 1), multiple(factor(found, name)), f"{way.gb:.2f}",
         f"{statistics.fmean(way.flops) / 1e12:.3g}", percent(way.share(peak))]
        for name, way in found.items()
    ]  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """A target, and what was reached of it (None: not measured); `share`: both are shares, else factors."""

    measure: str
    target: float
    reached: float | None
    share: bool = False

    @property
    def verdict(self) -> str:
        return "not measured" if self.reached is None else "met" if self.reached >= self.target else "not met"

    def line(self) -> list[str]:
        said = percent if self.share else multiple
        reached = "-" if self.reached is None else said(self.reached)
        return [self.measure, said(self.target), reached, self.verdict]


def bars(part: str, found: Mapping[str, Measured], peak: float | None, longest: bool) -> list[Bar]:
    """The bars of a part; `longest`: its rows are the longest, for which the share of the peak has one."""
    made = [Bar(f"{part}: {way}", target, factor(found, way)) for way, target in FACTORS.items()]
    if longest:
        share = found[OURS].share(peak) if OURS in found else None
        made.append(Bar(f"{part}: {OURS}, share of peak", PEAK_SHARE, share, share=True))
    return made


def pays(base: Sequence[float], way: Sequence[float]) -> str:
    """Verdict on a way of running the same work: "pays" if it was faster in three quarters of the turns, "does not pay" if
    it was slower in three quarters."""
    low, _, high = quartiles([b / w for b, w in zip(base, way, strict=True)])
    return "pays" if low > 1 else "does not pay" if high < 1 else "no clear difference"
