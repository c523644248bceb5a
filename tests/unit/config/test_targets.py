"""Attempts to leave the allow-list of targets are refused, and so are secrets in a configuration."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from kdlab.config import targets
from kdlab.config.composition import CONF, composition
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.run import main

BASE = ["+exp=adads_pretrain", "teachers.path=somewhere"]
POLICY = "select.policy._target_"
# what an escape sets, and to what
ESCAPES: dict[str, tuple[str, object]] = {
    "another package": (POLICY, "os.system"),
    "a module that a room has imported": (POLICY, "kdlab.runs.single.os.system"),
    "the same of an allowed room": (POLICY, "kdlab.methods.selection.strategies.torch.hub.load"),
    "a function that an allowed room has imported": (POLICY, "kdlab.methods.ksm.module.atomic_write_bytes"),
    "a room of kdlab that starts programs": (POLICY, "kdlab.runs.process.launch"),
    "a room of kdlab that removes files": (POLICY, "kdlab.storage.checkpoints.remove"),
    "a method": (POLICY, "kdlab.methods.ksm.module.KSM.load"),
    "an attribute of a class": (POLICY, "kdlab.methods.selection.policies.Fixed.__init__.__globals__"),
    "something private": (POLICY, "kdlab.methods.ksm.module._mlp"),
    "the package itself": (POLICY, "kdlab"),
    "a prefix only": (POLICY, "kdlab."),
    "a namesake": (POLICY, "kdlab_evil.strategies.entropy"),
    "torch beyond its optimizers": (POLICY, "torch.optim.sgd.torch.hub.load"),
    "torch.load": (POLICY, "torch.load"),
    "deep in lists and dicts": (
        "select.arms.x",
        {
            "_target_": "kdlab.methods.selection.strategies.Ensemble",
            "members": {"a": {"b": [1, {"c": {"_target_": "os.system"}}]}},
        },
    ),
    "by way of another key": ("select.arms.x", {"_target_": "${student.pick}"}),
    "an interpolation that the target's own resolving sees": (
        "select.arms.x",
        {"_target_": "kdlab.methods.selection.strategies.Ensemble", "members": r"\${oc.create:{_target_:os.system}}"},
    ),
    "no text": ("select.arms.x", {"_target_": ["os", "system"]}),
    "a term": ("knowledge.terms.soft.term._target_", "builtins.eval"),
    "a source": ("data.source._target_", "subprocess.check_output"),
    "an adoption rule": ("adopt.arms.x", {"_target_": "shutil.rmtree", "_args_": ["/nowhere"]}),
    "a weighing rule": ("weigh.arms.x", {"_target_": "pickle.loads", "_partial_": True}),
}


@pytest.fixture(scope="module")
def base() -> DictConfig:
    composed = composition(BASE)[0]
    OmegaConf.set_struct(composed, False)
    return composed


def with_value(base: DictConfig, key: str, value: object) -> DictConfig:
    composed = copy.deepcopy(base)
    OmegaConf.update(composed, key, value, force_add=True)
    return composed


@pytest.mark.parametrize("way", ESCAPES)
def test_no_way_leads_to_other_code(way: str, base: DictConfig) -> None:
    with pytest.raises(UserError, match=r"may only name code of kdlab|no function or class of kdlab|escaped interp"):
        checked(with_value(base, *ESCAPES[way]))


def test_every_target_that_kdlab_has_is_allowed() -> None:
    named = {
        target
        for file in CONF.rglob("*.yaml")
        if "hydra" not in file.relative_to(CONF).parts[:1]
        for target in re.findall(r"_target_: *([\w.]+)", file.read_text())
    }
    assert len(named) > 30
    for target in sorted(named):
        targets._check_target("here._target_", target)
    targets._check_target("here._target_", "torch.optim.AdamW")


def test_what_an_allowed_room_offers_is_its_own() -> None:
    """Read from the source, and the same as at run time: no name of another module, nothing that writes."""
    import importlib

    for room in targets.MODULES:
        module = importlib.import_module(f"kdlab.{room}")
        assert targets.public_names(room)
        for name in targets.public_names(room):
            home = getattr(module, name).__module__
            assert home == f"kdlab.{room}" or home.startswith(f"kdlab.{room}."), (
                name
            )  # a package has modules of its own


@pytest.mark.parametrize(
    "file",
    [
        "callbacks: {x: {_target_: os.system}}",
        "launcher: {_target_: subprocess.call}",
        "sweeper: {_target_: kdlab.runs.single.os.system}",
        "job_logging: {handlers: {x: {(): os.system, command: id}}}",
        "job_logging: {handlers: {x: {class: os.popen}}}",
        "hydra_logging: {formatters: {x: {class: shutil.rmtree}}}",
        "job: {env_set: {LD_PRELOAD: ./evil.so}}",
        "job: {env_set: {PYTHONSTARTUP: evil.py}}",
        "run: {dir: /elsewhere}",
        "run: {dir: ../elsewhere}",
    ],
)
def test_a_strangers_file_cannot_use_hydras_own_settings(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs" / "exp").mkdir(parents=True)
    text = f"# @package _global_\nhydra:\n  {file}\n"
    assert yaml.safe_load(text)
    (tmp_path / "theirs" / "exp" / "evil.yaml").write_text(text)
    assert main(["--config-dir", "theirs", "+exp=evil", "teachers.path=x", "data.path=x"]) == 2
    shown = capsys.readouterr().err
    assert re.search("plug-ins only|other programs|outside of", shown), shown
    assert len(shown.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "../../elsewhere"), ("name", "/etc/kdlab"), ("name", "a/../../b"), ("name", "."), ("name", ""),
        ("name", "a\tb\0"), ("teachers.path", "a\udc80b"), ("data.path", "a\x1b[31mred"),
    ],
)  # fmt: skip
def test_texts_that_cannot_be_written_or_lead_outside(key: str, value: str, base: DictConfig) -> None:
    with pytest.raises(UserError) as caught:
        checked(with_value(base, key, value))
    assert "\n" not in str(caught.value)
    str(caught.value).encode("utf-8")


SECRETS = {
    "select.arms.entropy.token": "plain",
    "data.source.api_key": "abc",
    "teachers.revision": "hf_abcdefghijklmnopqrstuvwx",
    "teachers.name": "https://me:hunter2hunter2@example.org/model",
    "logger.entity": "0123456789abcdef0123456789abcdef01234567",
    "logger.project": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "name": "a-value-of-the-environment",
}


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_in_a_setting_is_refused_and_not_shown(
    key: str, base: DictConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "a-value-of-the-environment")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="looks like a secret") as caught:
        checked(with_value(base, key, SECRETS[key]))
    assert SECRETS[key] not in str(caught.value)
    assert main([*BASE, f"++{key}='{SECRETS[key]}'"]) == 2
    shown = capsys.readouterr().err
    assert "looks like a secret" in shown
    assert SECRETS[key] not in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [["hunter2"], r"\${x} hf_hunter2hunter2hunter2"])
def test_a_secret_in_a_list_or_beside_an_escape_is_not_shown_either(value: object, base: DictConfig) -> None:
    with pytest.raises(UserError, match="looks like a secret") as caught:
        checked(with_value(base, "select.arms.entropy.access_token", value))
    assert "hunter2" not in str(caught.value)


def test_what_only_resembles_a_secret_is_left_alone(base: DictConfig) -> None:
    composed = copy.deepcopy(base)
    for key, value in {
        "teachers.revision": "0123456789abcdef0123456789abcdef01234567",
        "data.path": "/cache/models--x/snapshots/0123456789abcdef0123456789abcdef01234567",
        "data.text_column": "token",
        "teachers.name": "org/task-skilled-key-value-model",
    }.items():
        OmegaConf.update(composed, key, value)
    assert checked(composed).data.text_column == "token"
