"""Caveats of groups of runs as footnotes: a mark such as [a] beside a group's name, and the text below its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

from kdlab.reporting.seed_groups import Group


@dataclass
class Footnotes:
    """Marks of groups, by the id of the group, and the lines they refer to."""

    marks: dict[int, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def of(self, group: Group) -> str:
        """The marks of a group, such as "[a][c]"; "" without a caveat."""
        return self.marks.get(id(group), "")

    def named(self, group: Group) -> str:
        """The name of a group with its marks."""
        return " ".join(filter(None, (group.name, self.of(group))))


def footnotes(groups: Sequence[Group]) -> Footnotes:
    """One footnote for each kind of caveat of a group; groups whose runs have the same texts share it.

    A footnote has the text of the group's first run that has it, how many of its runs have a caveat of that kind where not
    all, and where their texts differ the seed of the one shown.
    """
    found, letters = Footnotes(), dict[str, str]()
    for group in groups:
        for kind in dict.fromkeys(kind for run in group.runs.values() for kind, _ in _caveats(run.result)):
            texts = {
                seed: said
                for seed, run in sorted(group.runs.items())
                if (said := [text for other, text in _caveats(run.result) if other == kind])
            }
            first = next(iter(texts))
            alike = all(said == texts[first] for said in texts.values())
            count = f"{len(texts)} of {len(group.runs)} runs" if len(texts) < len(group.runs) or not alike else ""
            remark = ", ".join(filter(None, (count, "" if alike else f"this is seed {first}")))
            line = texts[first][0] + (f" ({remark})" if remark else "")
            if line not in letters:
                letters[line] = f"[{_letters(len(letters))}]"
                found.lines.append(f"{letters[line]} {line}")
            found.marks[id(group)] = found.of(group) + letters[line]
    return found


def _caveats(result: Any) -> list[tuple[str, str]]:
    return [(str(one["kind"]), str(one["text"])) for one in result.get("caveats") or []]


def _letters(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    text = ascii_lowercase[number % 26]
    return text if number < 26 else _letters(number // 26 - 1) + text
