"""Files of a release: one version, complete citations, the README's commands, pinned actions, parsable templates."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import kdlab
from tests.support.documents import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text(encoding="utf-8")
CITING = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT["project"] and PROJECT["project"]["dynamic"] == ["version"]
    assert ROOT / PROJECT["tool"]["hatch"]["version"]["path"] == Path(kdlab.__file__)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == kdlab.__version__  # copies that other tools read: they follow
    assert f"version = {{{kdlab.__version__}}}" in CITING
    assert re.search(
        rf"^## (Unreleased: )?{re.escape(kdlab.__version__)}( |$)", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


def test_the_citation_names_the_software_and_the_four_papers_as_the_docs_do():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert citation["license"] == PROJECT["project"]["license"]
    entries = re.findall(r"^@(\w+)\{([\w-]+),\n(.*?)^\}", CITING, re.M | re.S)
    papers = [body for kind, _, body in entries if kind != "software"]
    assert len(papers) == len(citation["references"]) == 4
    for body, reference in zip(papers, citation["references"], strict=True):
        flat = re.sub(r"[{}]", "", body)
        assert reference["title"] in flat
        authors = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in reference["authors"])
        assert authors in flat
        assert len({tuple(one.items()) for one in reference["authors"]}) == len(
            reference["authors"]
        )  # the schema's rule
        assert re.findall(r"\bdoi *= ([^\s,]+)", flat) == ([reference["doi"]] if "doi" in reference else [])


def test_the_readmes_two_commands_install_the_tested_versions():
    blocks = dict(re.findall(r"<!-- (run|test) -->\s*\n```[a-z]*\n(.*?)\n```", README, re.S))
    assert blocks == {
        "run": 'pip install -e ".[demo]" -c constraints.txt && python -m kdlab.run +exp=adads_pretrain',
        "test": 'pip install -e ".[dev]" -c constraints.txt && pytest',
    }


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.name)
def test_actions_are_pinned_by_commit_and_permissions_are_narrow(workflow):
    text = workflow.read_text()
    used = re.findall(r"uses: (.+)$", text, re.M)
    assert used
    for one in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one), one
    parsed = yaml.safe_load(text)
    assert parsed["permissions"] == {"contents": "read"}
    wider = {name: job["permissions"] for name, job in parsed["jobs"].items() if "permissions" in job}
    assert wider == ({"publish": {"id-token": "write"}} if workflow.name == "release.yml" else {})


def test_an_action_has_the_same_commit_everywhere():
    pins = {tuple(one.split("@")) for file in WORKFLOWS for one in re.findall(r"uses: (.+)$", file.read_text(), re.M)}
    assert len({action for action, _ in pins}) == len(pins) >= 5


def test_a_release_is_published_only_after_its_checks():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    build = "\n".join(step.get("run", "") for step in jobs["build"]["steps"])
    assert jobs["publish"]["needs"] == "build"
    for wanted in ("verify-tag", "hatchling version", "twine check --strict", "HOST/OWNER", "+exp=adads_pretrain"):
        assert wanted in build
    assert not [
        step for step in jobs["publish"]["steps"] if "run" in step
    ]  # nothing but upload has the right to publish


def test_every_night_the_newest_versions_are_tested():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())["jobs"]
    steps = [step.get("run", "") for step in jobs["newest"]["steps"]]
    assert any("--upgrade-strategy eager" in step and "constraints" not in step for step in steps)
    assert any(re.search(r"\bpytest$", step) for step in steps)


def test_issue_templates_ask_for_what_a_report_needs():
    for file in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")):
        parsed = yaml.safe_load(file.read_text())
        assert file.name == "config.yml" or {"name", "description", "body"} <= set(parsed)
    text = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()
    assert "result.json" in text and "SECURITY.md" in text


def test_classifiers_agree_with_the_python_versions_that_are_tested():
    project = PROJECT["project"]
    (matrix,) = re.findall(r"python: (\[.*\])", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    versions = yaml.safe_load(matrix)
    assert [f"Programming Language :: Python :: {one}" for one in versions] == [
        one for one in project["classifiers"] if re.search(r":: 3\.\d+$", one)
    ]
    assert project["requires-python"] == f">={versions[0]},<3.{int(versions[-1].split('.')[1]) + 1}"


def test_the_readmes_python_is_a_call_that_exists():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    call, *rest = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    calls = {ast.unparse(one.func): [word.arg for word in one.keywords] for one in (call, *rest)}
    assert set(calls) == {"kdlab.distill", "print", "result.save"}
    inspect.signature(kdlab.distill).bind(**dict.fromkeys(map(str, calls["kdlab.distill"])))
    assert callable(kdlab.Result.save) and kdlab.Result.__str__ is not object.__str__
