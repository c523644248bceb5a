"""YAML files of a composition: parsed as OmegaConf parses them, once in a process, and again when they have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hydra._internal.core_plugins import file_config_source
from hydra.errors import HydraException
from omegaconf import OmegaConf

from kdlab.config.composition import CONF, FileConfigSource, composition, error_line
from tests.support.runs import command


def test_every_file_is_read_as_hydra_reads_it():
    ours, hydras = (
        source("test", f"file://{CONF}") for source in (FileConfigSource, file_config_source.FileConfigSource)
    )
    files = sorted(CONF.rglob("*.yaml"))
    assert len(files) > 150
    for file in files:
        name = str(file.relative_to(CONF))
        found, wanted = ours.load_config(name), hydras.load_config(name)
        assert OmegaConf.to_container(found.config) == OmegaConf.to_container(wanted.config), name
        assert (found.header, found.path, found.provider) == (wanted.header, wanted.path, wanted.provider), name


def read(source: type, folder: Path) -> str:
    """What a source reads of a.yaml in `folder`, or the kind of its error."""
    try:
        return str(source("test", f"file://{folder}").load_config("a").config)
    except (yaml.YAMLError, RecursionError) as error:
        return type(error).__name__


@pytest.mark.parametrize(
    "text", ["a: 1\t\n", "a:\t1\n", '{"a": 1,\n\t"b": 2}', "\ufeff\ufeffa: 1\n", "a: !\n", "{a: x?y}\n", ""]
)
def test_unusual_files_are_read_as_hydra_reads_them(text, tmp_path):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    assert read(FileConfigSource, tmp_path) == read(file_config_source.FileConfigSource, tmp_path)


def test_a_deep_file_does_not_end_the_process(tmp_path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "mine.yaml").write_text(f"a: {'[' * 40_000}", encoding="utf-8")
    done = command(["--config-dir", str(tmp_path), "+exp=mine"], tmp_path / "here")
    assert (done.code, done.output) == (2, "kdlab: a configuration file is nested too deeply\n")


def composed(folder: Path, text: str) -> object:
    (folder / "exp").mkdir(exist_ok=True)
    file = folder / "exp" / "mine.yaml"
    file.write_text(f"# @package _global_\n{text}")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + len(text)))  # whatever the clock of the file system can tell apart
    return composition([f"hydra.searchpath=[file://{folder}]", "+exp=mine"])[0].select.ratio


def test_a_file_that_has_changed_is_read_again_and_what_is_made_of_it_is_ones_own(tmp_path):
    assert composed(tmp_path, "select: {ratio: 0.5}\n") == 0.5
    assert composed(tmp_path, "select: {ratio: 0.25}\n") == 0.25
    first = composition(["select=entropy"])[0]
    first.select.name = "changed"
    assert composition(["select=entropy"])[0].select.name == "entropy"


@pytest.mark.parametrize(("text", "said"), [("a: [1\nb: }", "mine.yaml"), ("a: 1\na: 2\n", "found duplicate key a")])
def test_a_file_that_cannot_be_read_is_named(text, said, tmp_path):
    with pytest.raises(yaml.YAMLError) as caught:
        composed(tmp_path, text)
    assert said in error_line(caught.value) and "mine.yaml" in error_line(caught.value)


def test_a_key_that_other_choices_have_is_not_called_its_own_nearest_name():
    with pytest.raises(HydraException) as caught:
        composition(["+exp=adads_pretrain", "knowledge=ksm", "knowledge.terms.cosine.weight=0"])
    assert error_line(caught.value) == (
        "unknown key knowledge.terms.cosine: the default choices have it, those given do not; leave it out"
    )
