"""Names of data sets in titles: no class of ours."""

from __future__ import annotations

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
