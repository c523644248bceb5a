"""The question of a comparison: what may differ between runs, and which of them is the baseline."""

from __future__ import annotations

QUESTION = ("select", "adopt", "weigh")  # settings that a comparison asks about: all others must agree
BASELINE = (
    "random selection at the same ratio, else vanilla KD on all rows, else the first group; each in the settings of the "
    "group itself"
)
