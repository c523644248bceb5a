"""Every sweep file at both scales, and its description in experiments/.

Compose jobs that set every key of a file once; check its choices and tasks by name.
tests/nightly/test_sweeps.py composes every job, and runs each at tiny size.
"""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import pytest

import kdlab
from kdlab import analyse
from kdlab.config.composition import CONF, composition
from kdlab.config.schema import checked
from kdlab.data.tasks.registry import find
from kdlab.sweeps import files
from tests.support.sweeps import all_grids, choices, covering, jobs, one_seed

EXPERIMENTS = CONF.parent / "experiments"
NAMES = files.names()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", files.SCALES)
def test_jobs_with_every_key_of_a_sweep_are_composed_and_valid(name, scale):
    for job in covering([grid for of, at, grid in all_grids() if (of, at) == (name, scale)]):
        config = checked(composition(job)[0])
        assert config.scale.name == scale
        if (scale, config.data.stage) == ("paper", "finetune"):
            assert config.data.task is not None  # the Hub has no default task


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_and_every_task_that_a_sweep_names_exists(name):
    named = [
        line.lstrip("+")
        for of, _, grid in all_grids()
        if of == name
        for values in choices(grid).values()
        for line in values
    ]
    assert named
    for line in named:
        key, _, value = line.partition("=")
        if (CONF / key).is_dir():
            assert (CONF / key / f"{value}.yaml").is_file(), line
        if key == "data.task":
            assert find(value)


@pytest.mark.parametrize("name", NAMES)
def test_no_two_jobs_of_a_sweep_are_the_same(name):
    for scale in files.SCALES:
        every = [frozenset(job) for of, at, grid in all_grids() if (of, at) == (name, scale) for job in jobs(grid)]
        assert len(every) == len(set(every)), scale


def test_the_jobs_of_a_grid_are_its_product():
    grid = ["+exp=ksm", "weigh=ksm,fixed", "seed=range(1,4)", "select.policy.stages=[a,b],[b,a]"]
    assert len(jobs(grid)) == 2 * 3 * 2 == prod(map(len, choices(grid).values()))
    assert ["+exp=ksm", "weigh=fixed", "seed=2", "select.policy.stages=[b,a]"] in jobs(grid)
    assert one_seed(grid) == ["+exp=ksm", "weigh=ksm,fixed", "seed=1", "select.policy.stages=[a,b],[b,a]"]


# ---- what experiments/ says


def commands(name: str) -> list[str]:
    return re.findall(r"^python -m kdlab\.run -m \+sweep=(.+)$", (EXPERIMENTS / name / "README.md").read_text(), re.M)


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_of_a_sweep_has_its_command_at_both_scales_and_how_many_runs_that_is(name):
    for given in ([], ["scale=paper"]):
        count = sum(len(jobs(grid)) for grid in files.grids(name, given))
        want = " ".join([name, *given])
        assert [c for c in commands(name) if re.fullmatch(rf"{want} +# {count:,} runs?", c)], (
            f"{want}   # {count:,} runs"
        )


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_of_a_sweep_says_what_is_asked_what_is_expected_and_what_came_out(name):
    text = (EXPERIMENTS / name / "README.md").read_text()
    file = files.read(name)
    assert text.startswith(f"# {file.question}\n\n**Source.** {file.source}")
    for part in ("**Commands.**", "**Expected.**", "**Results.**"):
        assert part in text
    assert not re.search(r"^\*\*\w+\.\*\* \|", text, re.M)  # a table begins on a line of its own
    results = text.partition("**Results.**")[2]
    where = {name, *re.findall(r"\]\(\.\./(\w+)/README\.md\)", results)}
    there = any((EXPERIMENTS / folder / "results.csv").is_file() for folder in where)
    assert there or "not run yet" in results.lower()


@pytest.mark.parametrize("name", NAMES)
def test_the_other_commands_that_a_folder_names_exist(name):
    blocks = re.findall(r"^```bash\n(.*?)^```", (EXPERIMENTS / name / "README.md").read_text(), re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines() if not line.startswith("#")]
    found = re.findall(r"python -m kdlab\.(\w+) ([^#\n]*)", "\n".join(lines))
    assert len(found) >= 2
    for module, rest in found:
        assert (Path(kdlab.__file__).parent / f"{module}.py").is_file(), module
        if module == "analyse":
            assert analyse._parser().parse_args(rest.split()).make


def test_every_folder_has_a_sweep_and_a_row_of_the_index():
    folders = sorted(path.name for path in EXPERIMENTS.iterdir() if (path / "README.md").is_file())
    assert folders == NAMES
    index = (EXPERIMENTS / "README.md").read_text()
    assert set(re.findall(r"\[\w+\]\((\w+)/README\.md\)", index)) == set(NAMES)
    for name in NAMES:
        assert f"`+sweep={name}`" in index


def test_the_example_of_ones_own_sweep_is_one(tmp_path):
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (EXPERIMENTS / "README.md").read_text(), re.M | re.S)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(text)
    assert [len(jobs(grid)) for grid in files.grids("mine", [], [tmp_path])] == [12, 3]
    assert [len(jobs(grid)) for grid in files.grids("mine", ["scale=paper"], [tmp_path])] == [24, 6, 6]
