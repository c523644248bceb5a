"""The documentation of configuration fields and choices, the generated page, and `--explain`."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdlab import ranges
from kdlab.config import (
    argument_lines,
    arguments,
    choices,
    documentation,
    explain,
    reference,
    schema,
)
from kdlab.config.composition import CONF, composition
from kdlab.config.groups import data, knowledge, select, student, teachers, training
from kdlab.errors import UserError

ROOT = Path(__file__).parents[3]
CHOICES = [(group, name) for group, names in choices.groups().items() for name in names]
VERBLESS = re.compile(r"(What|Which|Whether|How|Where|Whose|Who)\b")


@pytest.mark.parametrize("key", documentation.keys().values(), ids=lambda key: key.name)
def test_every_key_has_one_line_of_documentation(key):
    assert key.line and "\n" not in key.line and len(key.line) <= 116 and not key.line.endswith(".")
    assert not VERBLESS.match(key.line)
    if key.group is not None:
        assert (key.group.__doc__ or "").strip() and not key.group.__doc__.startswith(f"{key.group.__name__}(")


CHECKED = {
    student: 1,
    select: 6,
    knowledge: 2,
    training: 3,
    teachers: 9,
    data: 1,
    schema: 1,
}  # values of texts, at least


@pytest.mark.parametrize("module", CHECKED, ids=lambda module: module.__name__)
def test_the_allowed_values_of_a_text_are_in_its_line(module):
    """`one_of` in a check and the documentation of the field name the same values."""
    checked = 0
    for cls in ast.parse(inspect.getsource(module)).body:
        if not isinstance(cls, ast.ClassDef):
            continue
        for call in ast.walk(cls):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "one_of"):
                continue
            value, allowed = call.args[1:]
            assert isinstance(value, ast.Attribute)
            names = ast.literal_eval(allowed) if isinstance(allowed, ast.Tuple) else getattr(module, allowed.id)
            owner = knowledge.TermConfig if ast.unparse(value).startswith("term.") else getattr(module, cls.name)
            line = documentation.lines_of(owner)[value.attr]
            assert [name for name in names if name not in line] in ([], ["without"]), (cls.name, value.attr)
            checked += 1
    assert checked >= CHECKED[module]


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=map("=".join, CHOICES))
def test_every_choice_says_in_its_first_comment_line_what_it_is(group, name):
    line = choices.summary(group, name)
    assert 10 <= len(line) <= 120 and not line.endswith((",", ";", ":"))


@pytest.mark.parametrize("scale", choices.SCALES)
def test_the_defaults_are_those_that_hydra_composes(scale):
    from omegaconf import OmegaConf

    composed = OmegaConf.to_container(composition([f"scale={scale}"])[0], resolve=True)
    assert choices.defaults(scale) == composed
    tasks = composition([f"scale={scale}", f"+exp={choices.FINETUNING}", "select=all", "name=distill"])[0]
    assert choices.defaults(scale, "finetune") == OmegaConf.to_container(tasks, resolve=True)


def test_the_committed_page_is_the_generated_one():
    page = reference.page()
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == page, (
        "run python -m kdlab.config.reference"
    )
    missing = [key.name for key in documentation.keys().values() if f"`{key.name}`" not in page]
    assert not missing and all(f"`{name}`" in page for _, name in CHOICES)


def test_every_topic_names_keys_and_groups_that_exist_and_every_group_has_a_topic():
    named = {name for names in reference.TOPICS.values() for name in names}
    known = documentation.keys()
    assert not {name for name in named if name not in known and name not in choices.groups()}
    groups = {key.name for key in known.values() if key.group is not None and "." not in key.name}
    assert groups - {name.partition(".")[0] for name in named} <= {"scale"}


def test_every_argument_of_code_has_one_line_of_documentation():
    plain = {
        (target.rpartition(".")[2], argument.name)
        for target in arguments.code_names()
        for argument in arguments.arguments_of(target).values()
        if ranges.is_plain(argument.hint)
    }
    lines = {pair: argument_lines.line_of(*pair) for pair in plain}
    assert [pair for pair, line in lines.items() if not line or "\n" in line or len(line) > 116] == []
    assert [line for line in lines.values() if VERBLESS.match(line)] == []
    used = {name for code, argument in plain for name in (f"{code}.{argument}", argument)}
    assert argument_lines.LINES.keys() <= used


# ---- --explain


def test_a_key_is_explained_by_type_defaults_choices_and_line():
    text = explain.explanation("trainer.max_steps")
    assert (
        "trainer.max_steps: int at least 1 (over 10,000,000: confirm), or null" in text
        and documentation.keys()["trainer.max_steps"].line in text
    )
    assert "default: 160 (scale=demo), null (scale=own), null (scale=paper)" in text
    assert "default on tasks (fine-tuning): 500 (scale=demo), null (scale=own), null (scale=paper)" in text
    assert "500 (recipe=finetune_demo)" in text.replace("\n    ", " ")


def test_a_group_is_explained_by_its_choices_and_keys():
    text = explain.explanation("weigh")
    assert "default: fixed" in text and "weigh.phase" in text
    assert all(name in text for name in choices.groups()["weigh"]) and choices.summary("weigh", "ksm_hard") in text
    assert "+exp=CHOICE" in explain.explanation("exp") and "+sweep=CHOICE" in explain.explanation("sweep")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("knowledge.terms.soft.weight", ["float", "default: 5", "0.3 (knowledge=dekd)"]),
        ("knowledge.terms.mine.at", ["str", "labelled"]),
        ("teachers.others.mine.layers", ["default: null"]),
        (
            "select.policy.alpha",
            ["argument of the code that select.policy names", "0.1 (select=adads)", "arm's Q value"],
        ),
        ("select.ratio", ["0.5 (exp=dekd", "0.1 (select=adads", "1 (select=all)"]),
        ("data.augment.copies", ["default: -", "20 (augment=tinybert)"]),
        ("policy.phase", ["weigh.phase: int at least 1", "default: 32"]),
        ("+policy=ksm", ["weigh: a group"]),
    ],
)
def test_named_keys_arguments_and_former_spellings(name, words):
    text = explain.explanation(name)
    assert all(word in " ".join(text.split()) for word in words), text


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("select.ratoi", "select.ratio"),
        ("adopt.polcy", "adopt.policy"),
        ("select.policy.alfa", "select.policy.alpha"),
        ("wiegh", "weigh"),
    ],
)
def test_an_unknown_key_names_the_nearest(name, near):
    with pytest.raises(UserError, match=re.escape(near)):
        explain.explanation(name)


def explained(key: str) -> subprocess.CompletedProcess[str]:
    """The command, with exit code 3 where torch was loaded."""
    code = "import sys; from kdlab import run; code = run.main(sys.argv[1:]); sys.exit(code or 3 * ('torch' in sys.modules))"
    return subprocess.run([sys.executable, "-c", code, "--explain", key], capture_output=True, text=True, cwd=ROOT)


def test_the_command_explains_without_torch():
    done = explained("select.ratio")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("select.ratio: float in (0, 1]\n")
    done = explained("select.ratoi")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "select.ratio" in done.stderr


def test_conf_is_where_the_choices_are():
    assert choices.groups()["select"] == sorted(file.stem for file in (CONF / "select").glob("*.yaml"))
