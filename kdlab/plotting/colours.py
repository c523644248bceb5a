"""One colour per strategy, a function of its name alone: the same in all figures of all runs."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable

from kdlab.runtime.seeding import stable

# Okabe and Ito's palette, distinguishable with the common kinds of colour blindness; greys for the baselines.
COLOURS = {
    "entropy": "#E69F00",
    "scaled_entropy": "#F0E442",
    "margin": "#56B4E9",
    "least_confidence": "#009E73",
    "certainty": "#0072B2",
    "cluster": "#D55E00",
    "density": "#CC79A7",
    "random": "#A6A6A6",
    "ensemble": "#404040",
    "gradient_norm": "#8C510A",
}
# selections of several strategies, and full data
SELECTIONS = {"adads": "#332288", "randmix": "#44AA99", "schedule": "#999933", "all": "#882255"}
OTHERS = ("#332288", "#882255", "#999933", "#9FE2BF", "#0F4C4C")  # of classes and terms
INK, FAINT, GRID = "#222222", "#666666", "#DDDDDD"
NIGHT = "#14171B"  # background of the dark theme
READABLE = 3.0  # contrast of lines and marks (WCAG 2.2, 1.4.11)


def colours(arms: Iterable[str]) -> dict[str, str]:
    """Colour `#RRGGBB` of each arm by `colour`."""
    return {arm: colour(arm) for arm in arms}


def colour(arm: str) -> str:
    """Colour `#RRGGBB` of an arm, fixed for the names that kdlab has, by a hash of the name for others.

    A variant, "adads (interval=5)", has the colour of its strategy.
    """
    name = arm.split(" (", 1)[0]
    return COLOURS.get(name) or SELECTIONS.get(name) or _any_hue(name)


def _any_hue(arm: str) -> str:
    """A hue by a hash of the name, darker than those of the palettes."""
    number = stable(arm, "hue")
    channels = colorsys.hls_to_rgb(number % 360 / 360, (0.30, 0.38)[number // 360 % 2], 0.55)
    return _hex(channels)


def by_night(colour: str) -> str:
    """The colour, lightened until it stands out from the dark theme's background."""
    hue, light, saturation = colorsys.rgb_to_hls(*_channels(colour))
    while contrast(colour, NIGHT) < READABLE and light < 1:
        light = min(1.0, light + 0.04)
        colour = _hex(colorsys.hls_to_rgb(hue, light, saturation))
    return colour


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21 (WCAG 2.2: relative luminances plus 0.05, the larger by the smaller)."""
    low, high = sorted(0.05 + _luminance(colour) for colour in (one, other))
    return high / low


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _hex(channels: Iterable[float]) -> str:
    return "#" + "".join(f"{round(255 * channel):02X}" for channel in channels)
