"""README, docs and experiments: links and anchors, and every command and key that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from kdlab.__main__ import parser_of, usage
from kdlab.config import choices, documentation, explain
from kdlab.runs.closing.next_commands import next_lines
from kdlab.sweeps import files
from tests.support import documents
from tests.support.documents import PAGES, ROOT, Command

RUN_FLAGS = {
    "-m",
    "--dry-run",
    "--help",
    "--repeat",
    "--cfg",
    "--config-dir",
    "--explain",
    "--plan",
    "--prepare",
    "--code",
}
GROUPS = {key.name.partition(".")[0] for key in documentation.keys().values()}
OWN = {"threshold", "my_question", "my_gini"}  # choices that a page teaches to write
COMMANDS = [command for page in PAGES for command in documents.commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_an_anchor_that_exist(page):
    for target in documents.links(page):
        if target.startswith("https://"):
            continue
        assert "://" not in target, target
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_relative_to(ROOT) and file.exists(), target
        assert not anchor or anchor in documents.anchors(file), target


def test_links_anchors_and_commands_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One `key`, [two](x.md)\n\nSee [a](b.md#c-d) and `python -m kdlab.evaluate\nRUN`; `+exp=dekd select=all`.\n\n"
        "```bash\n# a comment\nA=1 python -m kdlab.run x=1 \\\n  'y=[1,2]'   # why\npython -m kdlab.run -m ... z=1\n```\n\n"
        "    python -m kdlab.report outputs && kdlab compare 'a b'\n\n```\nnext: this:  python -m kdlab.export RUN OUT\n```\n"
    )
    assert documents.anchors(page) == {"one-key-two"} and documents.links(page) == ["x.md", "b.md#c-d"]
    assert {(found.module, found.words) for found in documents.commands(page)} == {
        ("run", ("x=1", "y=[1,2]")),
        ("report", ("outputs",)),
        ("compare", ("a b",)),
        ("export", ("RUN", "OUT")),
        ("evaluate", ("RUN",)),
        ("run", ("+exp=dekd", "select=all")),
    }


def test_the_index_names_every_page_and_the_readme_the_index():
    index = ROOT / "docs" / "README.md"
    indices = [index, ROOT / "docs" / "methods" / "README.md"]
    named = {(page.parent / target.partition("#")[0]).resolve() for page in indices for target in documents.links(page)}
    missing = {page.name for page in (ROOT / "docs").rglob("*.md") if page != index and page not in named}
    assert not missing
    assert {"docs/README.md", "docs/configuration.md"} <= set(documents.links(ROOT / "README.md"))


def test_help_names_the_configuration_reference():
    assert "docs/configuration.md" in (ROOT / "conf" / "run.yaml").read_text() and "docs/configuration.md" in usage()


def test_the_next_command_of_the_readmes_run_is_the_one_that_it_prints():
    words = ["python", "-m", "kdlab.run", "+exp=adads_pretrain"]
    result = {"command": words, "adopt": {"name": "single"}, "select": {"name": "adads", "ratio": 0.1}}
    lines = "\n".join(next_lines(result, Path("outputs/adads_pretrain/<time>")))
    assert f"\n{lines}\n```" in (ROOT / "README.md").read_text()


def unknown(key: str, value: str) -> str:
    """The part of an override that does not exist; "" if its key, or its group and choice, do."""
    if key in choices.groups():
        known = choices.groups()[key] if key != "sweep" else files.names()
        return "" if value in known or value in OWN or not re.fullmatch(r"[a-z]\w*", value) else f"{key}={value}"
    if key.startswith("hydra.") or re.search(r"\._(target|partial)_$", key) or explain.find(key):
        return ""
    above = explain.find(key.rpartition(".")[0])
    return "" if above is not None and above.is_open else key


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command_names_options_keys_and_choices_that_exist(command: Command):
    words = list(command.words)
    parser = parser_of(command.module)
    if parser is not None:
        if words and words != ["--help"]:
            assert parser.parse_args(words)
        return
    assert {word for word in words if word.startswith("-")} <= RUN_FLAGS
    if words[:1] == ["--explain"]:
        assert words[1:] == ["KEY"] or explain.explanation(words[1])
    overrides = [word for word in words if "=" in word]
    for parsed in OverridesParser.create().parse_overrides(overrides):
        line = str(parsed.input_line)
        values = parsed.sweep_string_iterator() if parsed.is_sweep_override() else [line.partition("=")[2]]
        assert not [found for value in values if (found := unknown(parsed.key_or_group, str(value)))], line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_key_in_inline_code_exists(page):
    for span in documents.spans(page):
        for key, value in re.findall(r"(?:^|\s)['+]*([a-z][\w./]*)=([^\s']*)", span):
            group = key.split(".")[0]
            if "." in key and group in GROUPS or key in choices.groups():
                assert not unknown(key, value), span


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_quoted_for_zsh_as_well(page):
    """zsh reads [ ] * ? ( ) outside of quotes as a pattern, refuses one without a match, and keeps $A one word."""
    lines = [command.line for command in documents.commands(page)]
    lines += [span for span in documents.spans(page) if re.match(r"[+\w./]+=\[", span)]
    lines += [line for line in documents.blocks(page) if line.startswith("pip install")]
    for line in lines:
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", documents.uncommented(line))
        assert not re.search(r"[\[\]*?(){}$]", bare), line
