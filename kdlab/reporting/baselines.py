"""The baseline of each group: a group that agrees with it in all settings but those in question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdlab.errors import UserError, nearest
from kdlab.reporting.comparability import described, differing
from kdlab.reporting.seed_groups import Group, Run
from kdlab.runs.closing.question import QUESTION

# Kinds of baselines, and the kinds that a group of each kind is compared with.
RANDOM, VANILLA, WHOLE = 0, 1, 2
_ALLOWED = {None: (RANDOM, VANILLA, WHOLE), RANDOM: (VANILLA, WHOLE), VANILLA: (), WHOLE: (VANILLA,)}


@dataclass(frozen=True)
class BaselineChoice:
    """The place of a group's baseline; `unlike`: the settings in which that differs, so that no difference is taken."""

    place: int
    unlike: str = ""


def defaults(groups: Sequence[Group], across: Sequence[str] = QUESTION) -> list[BaselineChoice | None]:
    """Each group's baseline by `kdlab.runs.closing.question.BASELINE`: of those that agree with it the one that differs least.

    Where none agrees, the nearest with what differs. A group that others are compared with, and that has no better one
    itself, is not compared with the first: that would repeat a result.
    """
    choices: list[BaselineChoice | None] = []
    for i, group in enumerate(groups):
        kinds = {place: _kind(other, group.one, across) for place, other in enumerate(groups) if place != i}
        allowed = _ALLOWED[_kind(group, group.one, across)]
        places = {place: kind for place, kind in kinds.items() if kind in allowed and kind is not None}
        choices.append(_nearest(group, groups, places, across))
    used = {choice.place for choice in choices if choice is not None and not choice.unlike}
    for i, group in enumerate(groups):
        choice = choices[i]
        if i not in used and (choice is None or choice.unlike):
            first = next((place for place in range(i) if not differing(group, groups[place], across)), None)
            nearest_one = choice or _nearest(group, groups, dict.fromkeys(range(i), WHOLE), across)
            choices[i] = nearest_one if first is None else BaselineChoice(first)
    return choices


def named(
    what: str, groups: Sequence[Group], task: str, across: Sequence[str] = QUESTION
) -> list[BaselineChoice | None]:
    """Each group's baseline among those whose name is `what`, or has it in it: the one that agrees with the group.

    None for these themselves. UserError where none has that name, or several agree with one group.
    """
    names = [group.name for group in groups]
    places = [i for i, group in enumerate(groups) if what in (group.name, group.plain_name)] or [
        i for i, name in enumerate(names) if what in name
    ]
    if not places:
        raise UserError(f"--baseline {what!r}: {task} has no such group; {nearest(what, names)}")
    for i, group in enumerate(groups):
        fitting = [place for place in places if place == i or not differing(group, groups[place], across)]
        if len(fitting) > 1:
            found = " or ".join(names[place] for place in fitting)
            raise UserError(f"--baseline {what!r} could be {found} ({task}): give more of the name")
    return [
        None if i in places else _nearest(group, groups, dict.fromkeys(places, WHOLE), across)
        for i, group in enumerate(groups)
    ]


def random_counterpart(group: Group, groups: Sequence[Group]) -> Group | None:
    """The group that differs only by random selection at the same ratio; None for random and full-data groups."""
    if group.one.ratio == 1 or group.one.select == "random":
        return None
    found = [other for other in groups if _kind(other, group.one) == RANDOM and _only_selection(group, other)]
    return found[0] if found else None


def full_data_counterpart(group: Group, groups: Sequence[Group]) -> Group | None:
    """The full-data group (ratio 1, with a teacher) that agrees with a group in all that is not in question, and differs
    least; None where none agrees, and for a full-data group."""
    if group.one.ratio == 1:
        return None
    whole = [other for other in groups if other.one.ratio == 1 and other.one.taught and not differing(group, other)]
    return min(whole, key=lambda other: (distance(group, other), _kind(other, other.one)), default=None)


def distance(one: Group, other: Group) -> int:
    """Number of settings in which two groups differ, those of the selection excluded."""
    return len(differing(one, other, ("select",)))


def _nearest(
    group: Group, groups: Sequence[Group], places: Mapping[int, int], across: Sequence[str]
) -> BaselineChoice | None:
    """Of the groups at `places`, each with its kind, the one that agrees in most settings; then by kind, distance and order.

    Random selection counts where it differs in the selection alone, for else there would be two causes."""

    def rank(place: int) -> tuple[int, int, bool, int, int]:
        other = groups[place]
        plain = other.one.result.get("knowledge") == "response"
        return len(differing(group, other, across)), places[place], not plain, distance(group, other), place

    fitting = [
        place
        for place, kind in places.items()
        if kind != RANDOM or differing(group, groups[place], across) or _only_selection(group, groups[place], across)
    ]
    place = min(fitting, key=rank, default=None)
    return None if place is None else BaselineChoice(place, described(group, groups[place], across))


def _only_selection(one: Group, other: Group, across: Sequence[str] = ()) -> bool:
    """True if two groups differ in their selection alone (and in what the user compares `across`)."""
    return not differing(one, other, ("select", *(name for name in across if name not in QUESTION)))


def _kind(group: Group, of: Run, across: Sequence[str] = QUESTION) -> int | None:
    """The kind of baseline that a group is for one with the run `of`, which selects as much of its rows or positions; None:
    no baseline.

    Where the knowledge is in question, vanilla KD is that with knowledge=response."""
    run = group.one
    if run.ratio < 1:
        return RANDOM if run.select == "random" and run.chosen == of.chosen else None
    if not run.taught:
        return None
    policy = (run.result.get("policy") or {}).get("name", "fixed")
    plain = policy == "fixed" and run.result.get("adopt", "single") == "single"
    return VANILLA if plain and ("knowledge" not in across or run.result.get("knowledge") == "response") else WHOLE
