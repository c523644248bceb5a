"""Names of data sets in titles: no class of ours."""

from __future__ import annotations

import re

import pytest

from kdlab.config.composition import composition
from kdlab.data import names
from kdlab.runs.loggers import content


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"task": "sst2", "path": "data/x", "source": "TaskFolder"}, "SST-2"),
        ({"task": None, "path": "my rows/", "source": "TaskFolder"}, "my rows"),
        ({"path": "/texts/a.txt", "source": "TextFolder"}, "a.txt"),
        ({"path": None, "source": "WordNetGlosses"}, "WordNet nouns"),
        ({"path": None, "source": "WikipediaExcerpt"}, "Wikipedia excerpt"),
        ({"name": "kept", "path": "elsewhere", "source": "TaskFolder"}, "kept"),
        ({"path": "artifacts/given_rows/3f9a2c77", "source": "TaskFolder"}, "rows in memory 3f9a2c"),
        ({"source": "mine.Rows"}, "mine.Rows"),
    ],
)
def test_a_result_names_its_data(data, name):
    assert names.name_in(data) == name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["+exp=adads_finetune"], "WordNet nouns"),
        (["+exp=adads_pretrain"], "Wikipedia excerpt"),
        (["+exp=adads_finetune", "data=glue", "data.task=mrpc"], "MRPC"),
        (["+exp=adads_finetune", "data.path=rows/mine"], "mine"),
        (["+exp=adads_pretrain", "scale=paper"], "wikimedia/wikipedia and rojagtap/bookcorpus"),
    ],
)
def test_a_configuration_names_its_data(overrides, name):
    from kdlab.config.schema import checked

    config = checked(composition(overrides)[0])
    assert content.data_of(config) == name
    assert content.tags(config) == [name, config.data.stage, "seed 1"] and content.title(config).startswith(f"{name} ")


def test_every_source_of_ours_has_a_name_for_readers():
    """A class with the methods of a source in kdlab.data has an entry, and no name is that of a class."""
    from pathlib import Path

    text = "\n".join(file.read_text(encoding="utf-8") for file in Path(names.__file__).parent.rglob("*.py"))
    classes = re.findall(r"(?m)^class (\w+)(?:\(.*\))?:\n(?:(?!^class ).*\n)*?    def fingerprint\(", text)
    ours = {one for one in classes if not one.endswith("Source")}
    assert {"TaskFolder", "TextFolder", "Mixture", "WordNetGlosses"} <= ours <= set(names.SOURCES)
    assert not set(names.SOURCES.values()) & set(names.SOURCES)


@pytest.mark.parametrize(
    ("exp", "name"), [("adads_finetune", "WordNet nouns"), ("adads_pretrain", "Wikipedia excerpt")]
)
def test_a_shared_group_of_a_logger_names_the_corpus(exp, name):
    from kdlab.config.composition import to_plain

    assert content.compared(to_plain(composition([f"+exp={exp}"])[0])).startswith(f"{name}, ")
