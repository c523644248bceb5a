"""Power of the tests of a comparison: the difference that its seeds can show, and the command that runs more of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from kdlab.config import quoting
from kdlab.reporting import statistics
from kdlab.reporting.comparison import Comparison, ComparisonLine
from kdlab.reporting.seed_groups import Run
from kdlab.runs import sweep_commands

FEW = 10  # from this many seeds on, the power of the test is not printed
MANY = 30  # seeds beyond which no more are proposed
COMMANDS = 3  # printed at most; where more would be needed each group has its own
CORRELATIONS = ("matthews", "pearson", "spearman")  # from -1 to 1

Shown = Callable[..., str]


def power(comparison: Comparison, shown: Shown) -> str:
    """Sentences on what the tests can show, and on how many seeds more would do; "" where nothing was compared.

    `shown`: formats a value of the metric, with a sign if that is asked for."""
    untested = [line for line in comparison.lines if line.found is not None and line.found.pairs == 1]
    if not comparison.tested:
        return _first_test(untested[0]) if untested else ""
    said = [_least(comparison, shown), _more(comparison, shown)]
    return ". ".join(one for one in said if one)


def needed(std: float, difference: float, tests: int = 1) -> int | None:
    """The number of seeds that show a true `difference` in four cases of five, as one of `tests` by Holm; None above MANY."""
    if statistics.detectable(std, MANY, tests) > abs(difference):
        return None
    low, high = 1, MANY
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if statistics.detectable(std, middle, tests) <= abs(difference) else (middle, high)
    return high


def room(comparison: Comparison) -> float:
    """The largest difference from a baseline that the scale of the metric has room for; infinite for losses."""
    if comparison.lower:
        return math.inf
    groups = {id(line.group): line for line in comparison.lines}
    means = [
        sum(line.values.values()) / len(line.values)
        for tested in comparison.lines
        if tested.found is not None and (line := groups.get(id(tested.baseline))) is not None
    ]
    known = {name for line in comparison.lines for name in line.group.one.result["metrics"]["student"]}
    name = comparison.metric
    signed = name.startswith(CORRELATIONS) or (name == "score" and any(one.startswith(CORRELATIONS) for one in known))
    return max((max(1 - mean, mean + 1 if signed else mean) for mean in means), default=math.inf)


def _first_test(line: ComparisonLine) -> str:
    """The sentence for groups with one seed each."""
    return f"one seed each: no test, and no difference here can be told from chance; 2 seeds more begin one:  {_command(line, 3)}"


def _least(comparison: Comparison, shown: Shown) -> str:
    """The sentence on the smallest true difference that the tests detect, for each number of seeds below FEW."""
    tested = comparison.tested
    few = sorted({pair.pairs for pair in tested if pair.pairs < FEW})
    if not few:
        return ""
    std = math.sqrt(
        sum((pair.pairs - 1) * (pair.std or 0.0) ** 2 for pair in tested) / sum(pair.pairs - 1 for pair in tested)
    )
    least = {pairs: statistics.detectable(std, pairs) for pairs in few}
    held = {pairs: value for pairs, value in least.items() if value <= room(comparison)}
    spread = f"where differences spread as here (standard deviation {shown(std)})"
    if not held:
        seeds = " or ".join(map(str, few))
        return f"{seeds} seeds show no true difference that the scale has room for, {spread}"
    listed = ", ".join(f"{shown(value)} ({pairs} seeds)" for pairs, value in held.items())
    return (
        f"a t-test over so few seeds has little power: {spread}, it finds a true difference 4 times in 5 only if that "
        f"is at least {listed}"
    )


def _more(comparison: Comparison, shown: Shown) -> str:
    """The sentence on how many seeds more the nearest of the differences within chance takes, with the command."""
    tests = len(comparison.tested)
    chance = [
        (line, line.found, needed(line.found.std, line.found.difference, tests))
        for line in comparison.lines
        if line.found is not None and line.found.std and not line.sure
    ]
    if not chance:
        return ""
    reachable = [(max(count, pair.pairs + 1), line, pair) for line, pair, count in chance if count is not None]
    if not reachable or min(count for count, *_ in reachable) > MANY:
        return (
            f"No difference that is within chance would be shown by {MANY} seeds, were it as large as the one found: more seeds are "
            "not worth their cost here"
        )
    count, line, pair = min(reachable, key=lambda one: one[0])
    more = count - pair.pairs
    return (
        f"{line.group.name}: were the true difference as large as the one found ({shown(pair.difference, '+')}), {count} seeds "
        f"would show it 4 times in 5, {more} more than now:  {_command(line, count)}"
    )


def _command(line: ComparisonLine, count: int) -> str:
    """The commands that bring a group and its baseline to `count` common seeds, as they are pasted into a shell."""
    assert line.baseline is not None
    groups = (line.group, line.baseline)
    seeds = sorted(set.intersection(*(set(group.runs) for group in groups)))
    taken = max(seed for group in groups for seed in group.runs)
    new = [taken + 1 + i for i in range(count - len(seeds))]
    homes = {run.folder.parent for group in groups for run in group.runs.values()}
    whole = sweep_commands.commands(next(iter(homes))) if len(homes) == 1 else []
    if 0 < len(whole) <= COMMANDS:
        found = [sweep_commands.with_seeds(one, [*seeds, *new]) for one in whole]
    else:
        found = [sweep_commands.with_seeds(_overrides(group.one), new) for group in groups]
    return "  and  ".join(dict.fromkeys(map(quoting.command, found)))


def _overrides(run: Run) -> Sequence[str]:
    """The overrides of a run's command; an ellipsis for a run of an older kdlab, which has none."""
    command = run.result.get("command")
    return [str(one) for one in command[3:]] if isinstance(command, list) and len(command) > 3 else ["..."]
