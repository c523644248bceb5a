"""Altered run folders, whatever was altered: report, compare, analyse and page name them or show them, and never fail."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdlab import compare
from kdlab.errors import UserError
from kdlab.reporting import report as reporting_report
from kdlab.reporting.analyses import across_runs
from kdlab.reporting.page.as_html import html
from kdlab.reporting.page.as_markdown import markdown
from kdlab.reporting.seed_groups import Run, read
from kdlab.runs import export, rescoring
from kdlab.runs.closing import costs
from kdlab.runs.closing.beside_random import beside_random
from kdlab.runs.closing.result_schema import fault
from kdlab.runs.closing.scores import taught
from kdlab.runs.loggers import content
from kdlab.sweeps import job_status
from tests.support.cadence import each_time
from tests.support.old_runs import OLD

GOOD = ("finetune", "dekd")  # left as they are beside the altered run
HOSTILE: list[Any] = [
    None, True, -1, 0, 0.5, 10**400, -(10**40), float("nan"), float("inf"), 1e308, "", "many", "\ud800", "x" * 5000, "=1+1",
    "<script>alert(1)</script>|`$\\frac", "\x1b[31m\n", [], [1], {}, {"a": None}, [[]],
]  # fmt: skip
GONE = "(gone)"


@cache
def whole(name: str) -> dict[str, Any]:
    return (
        json.loads((OLD / "ksm" / name).read_text())
        if name.endswith("json")
        else yaml.safe_load((OLD / "ksm" / name).read_text())
    )


def places(node: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of nested containers."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*where, key)
        yield from places(value, (*where, key))


def altered(name: str, place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    made = copy.deepcopy(whole(name))
    node: Any = made
    for key in place[:-1]:
        node = node[key]
    if value == GONE:
        del node[place[-1]]
    else:
        node[place[-1]] = value
    return made


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    parent = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="kdlab-altered-", dir=parent))
    for name in (*GOOD, "ksm"):
        shutil.copytree(OLD / name, folder / name)
    yield folder
    shutil.rmtree(folder)


def write(home: Path, name: str, made: dict[str, Any]) -> None:
    file = home / "ksm" / name
    shutil.copy(OLD / "ksm" / "result.json", home / "ksm" / "result.json")
    shutil.copy(OLD / "ksm" / "config.yaml", home / "ksm" / "config.yaml")
    file.write_text(
        json.dumps(made) if name.endswith("json") else yaml.safe_dump(made, sort_keys=False), encoding="utf-8"
    )


def check_reading(home: Path) -> None:
    """The other runs are always there; the altered one is among them or named with one line."""
    runs, left = read([home])
    names = {run.folder.name for run in runs}
    assert names >= {*GOOD}
    assert ("ksm" in names) != (home / "ksm" in left), left
    for why in left.values():
        assert why and len(why) < 700
    for run in [run for run in runs if run.folder.name == "ksm"]:
        check_one(run)


def check_one(run: Run) -> None:
    """A run that was let in can be used by all that reads one."""
    check_use(dict(run.result))
    job_status.objective(run.folder)
    beside_random(dict(run.result), run.folder)
    with redirect_stdout(io.StringIO()):
        for command in (
            lambda: rescoring.rescore(run.folder, rows=0),
            lambda: export.export_student(run.folder, run.folder),
        ):
            with pytest.raises(UserError) as refused:
                command()
            assert "\n" not in str(refused.value)


def check_use(result: dict[str, Any]) -> None:
    """A result that the schema lets through has costs, a kind, and values for a logger."""
    assert costs.total(result).flops >= costs.own(result).flops >= 0 and costs.cached(result) >= 0
    for with_preparation in (True, False):
        assert all(gain is None or gain >= 0 for gain in costs.gains(result, with_preparation).values())
    assert taught(result) in (True, False)
    assert all(isinstance(value, float) for value in content.summary(result).values())


def result_or_line(action: Callable[[], Any]) -> Any:
    """The result of an action, or the line of its UserError."""
    try:
        return action()
    except UserError as error:
        return str(error)


def check_commands(home: Path) -> None:
    """compare with its files, the analyses' tables and the report's page: right ends, and text that is safe."""
    check_comparison(home)
    check_page(home)


def check_comparison(home: Path) -> None:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = compare.main([str(home), "--markdown", "--csv", str(home / "g.csv"), "--runs-csv", str(home / "r.csv")])
        assert code in (0, 2), err.getvalue()
    assert all(line.startswith("kdlab: ") for line in err.getvalue().splitlines())
    assert "<script" not in out.getvalue() and "\x1b" not in out.getvalue() + err.getvalue()
    if code == 0:
        for name in ("g.csv", "r.csv"):
            for row in csv.reader(io.StringIO((home / name).read_text(encoding="utf-8"))):
                assert not any(cell[:1] in ("=", "@", "+") for cell in row)
    for analysis in (across_runs.ratio, across_runs.temperature):
        found = result_or_line(lambda analysis=analysis: analysis([home], lambda line: line.encode()))
        assert not isinstance(found, str) or "\n" not in found


def check_page(home: Path) -> None:
    made = result_or_line(lambda: reporting_report.build_report([home], notify=lambda line: None))
    if isinstance(made, str):
        assert "metric" in made
        return
    page, text = html(made), markdown(made)
    assert "<script" not in page and "<script" not in text
    page.encode("utf-8")
    text.encode("utf-8")


def test_every_place_of_a_result_with_every_kind_of_value(home):
    """The schema names every alteration of what is read, and what it lets through can be summed up, printed and logged."""
    rng, count = random.Random(15), 0
    for place in places(whole("result.json")):
        for value in [GONE, *rng.sample(HOSTILE, 4)]:
            made = json.loads(json.dumps(altered("result.json", place, value)))
            said = fault(made)
            assert len(said) < 300
            said.encode("utf-8")
            count += 1
            if not said:
                try:
                    check_use(made)
                except Exception as error:
                    raise AssertionError(f"result.json with {str(value)[:40]!r} at {place}") from error
    assert count > 700


@pytest.mark.parametrize("examples", each_time([3, 30], 3))
@pytest.mark.parametrize("name", ["result.json", "config.yaml"])
def test_all_commands_survive_an_alteration(home, name, examples, monkeypatch):
    monkeypatch.setattr(reporting_report, "_over_tasks", lambda tables: [])  # drawn from the same rows as the others

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(
        st.lists(
            st.tuples(st.sampled_from([*places(whole(name))]), st.sampled_from([GONE, *HOSTILE])),
            min_size=1,
            max_size=1,
        )
    )
    def each(changes: list[tuple[Any, Any]]) -> None:
        for place, value in changes:
            write(home, name, altered(name, place, value))
        check_reading(home)
        check_commands(home)

    each()


PLACES = [("select", "name"), ("data", "path"), ("metrics",)]
UNSAFE = ["=1+1", "<script>alert(1)</script>|`$\\frac", "\x1b[31m\n"]
PAIRS = [(place, value) for place in PLACES for value in UNSAFE]


# by day each place and each value once, and markup at each place
@pytest.mark.parametrize(
    "case", each_time(PAIRS, *zip(PLACES, UNSAFE, strict=True), *((place, UNSAFE[1]) for place in PLACES)), ids=str
)
def test_names_are_escaped_wherever_they_are_printed(home, case):
    place, value = case
    changed = {value: {"score": 0.5}, **whole("result.json")["metrics"]} if place == ("metrics",) else value
    write(home, "result.json", altered("result.json", place, changed))
    check_reading(home)
    check_commands(home)


ALTERED_TABLES: dict[str, Callable[[str], str]] = {
    "binary": lambda table: "\0",
    "numbers of 400 digits": lambda table: f"{head(table)}\n" + ",".join("9" * 400 for _ in head(table).split(",")),
    "infinite": lambda table: table.replace("0.", "1e999"),
    "shifted": lambda table: table.replace(",", ",nan,"),
    "reversed": lambda table: "\n".join([head(table), *table.splitlines()[:0:-1]]),
    "markup": lambda table: "step,arm\n1,<script>\n",
}
TABLES = [(name, how) for name in ("metrics.csv", "selector.csv") for how in ALTERED_TABLES]


def head(table: str) -> str:
    return table.splitlines()[0]


# by day each alteration once, of one table or the other, and a table of each kind that cannot be read
@pytest.mark.parametrize("case", each_time(TABLES, *TABLES[:6:2], *TABLES[7::2], TABLES[6]), ids=" ".join)
def test_an_altered_table_costs_its_figures_alone(home, case):
    name, how = case
    write(home, "result.json", whole("result.json"))
    original = (OLD / "finetune" / name).read_text()
    (home / "finetune" / name).write_text(ALTERED_TABLES[how](original))
    try:
        check_page(home)  # which alone reads the tables
    finally:
        (home / "finetune" / name).write_text(original)
