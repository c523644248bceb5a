"""Table of the official tasks: nine of GLUE (Wang et al. 2019) and four others of the papers.

Metrics are those of the GLUE server. Label names are in the official index order, as in the Hub's copies. Hub revisions
are full commit hashes, so that downloads are reproducible.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kdlab.errors import UserError, nearest
from kdlab.types import TaskShape

HELD_OUT = 0.1  # of train, where a set has no dev split


@dataclass(frozen=True)
class HubSet:
    """Location of a task on the Hub.

    `name`, `config`, `revision`: of the data set; `columns`: its text columns; `splits`: split names of kdlab to those
    of the Hub.
    """

    name: str
    config: str | None
    revision: str
    columns: tuple[str, ...]
    splits: dict[str, str]


@dataclass(frozen=True)
class Task:
    """An official task.

    `name`: key in `TASKS`; `title`: published spelling; `shape`: texts, labels and metrics; `hub`: its location on the
    Hub; `glue`: file name of each test split in a GLUE submission; `glue_names`: a submission writes classes as names,
    not as numbers; `dev_share`: share of train that is dev where no dev split was published.
    """

    name: str
    title: str
    shape: TaskShape
    hub: HubSet
    glue: dict[str, str]
    glue_names: bool = False
    dev_share: float = HELD_OUT

    @property
    def dev(self) -> tuple[str, ...]:
        """Splits for evaluation: matched and mismatched of MNLI; empty if none was published (train is split then)."""
        return tuple(split for split in self.hub.splits if split.startswith("dev"))


_GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
_THREE = {"train": "train", "dev": "validation", "test": "test"}
_NO_DEV = {"train": "train", "test": "test"}
_MNLI = {
    "train": "train",
    "dev": "validation_matched",
    "dev_mismatched": "validation_mismatched",
    "test": "test_matched",
    "test_mismatched": "test_mismatched",
}
_ENTAILMENT = ("entailment", "not_entailment")


def _glue(
    name: str,
    title: str,
    columns: tuple[str, ...],
    labels: tuple[str, ...] | None,
    metrics: tuple[str, ...] = ("accuracy",),
    glue_names: bool = False,
) -> Task:
    hub = HubSet("nyu-mll/glue", name, _GLUE_REVISION, columns, _MNLI if name == "mnli" else _THREE)
    mnli = {"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}
    files = mnli if name == "mnli" else {"test": f"{title}.tsv"}
    return Task(name, title, TaskShape(len(columns), labels, metrics), hub, files, glue_names)


def _other(name: str, title: str, hub: HubSet, labels: tuple[str, ...], dev_share: float = HELD_OUT) -> Task:
    shape = TaskShape(len(hub.columns), labels, ("accuracy",))
    return Task(name, title, shape, hub, {}, dev_share=dev_share)


_PAIR = ("sentence1", "sentence2")
_EMOTIONS = ("sadness", "joy", "love", "anger", "fear", "surprise")
_SENTIMENTS = ("very negative", "negative", "neutral", "positive", "very positive")
_SST5 = HubSet("SetFit/sst5", None, "e51bdcd8cd3a30da231967c1a249ba59361279a3", ("text",), _THREE)
_IMDB = HubSet("stanfordnlp/imdb", "plain_text", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31", ("text",), _NO_DEV)
_EMOTION = HubSet("dair-ai/emotion", "split", "cab853a1dbdf4c42c2b3ef2173804746df8825fe", ("text",), _THREE)
_AG_NEWS = HubSet("fancyzhx/ag_news", None, "eb185aade064a813bc0b7f42de02595523103ca4", ("text",), _NO_DEV)

TASKS = {
    task.name: task
    for task in (
        _glue("cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"), ("matthews",)),
        _glue("sst2", "SST-2", ("sentence",), ("negative", "positive")),
        _glue("mrpc", "MRPC", _PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        _glue("stsb", "STS-B", _PAIR, None, ("pearson", "spearman")),
        _glue("qqp", "QQP", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        _glue("mnli", "MNLI", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), glue_names=True),
        _glue("qnli", "QNLI", ("question", "sentence"), _ENTAILMENT, glue_names=True),
        _glue("rte", "RTE", _PAIR, _ENTAILMENT, glue_names=True),
        _glue("wnli", "WNLI", _PAIR, ("not_entailment", "entailment")),
        _other("sst5", "SST-5", _SST5, _SENTIMENTS),
        _other(
            "imdb", "IMDb", _IMDB, ("negative", "positive"), 0.2
        ),  # 20,000 and 5,000: Dynamic KD Table 3, DeKD Table 2
        _other("emotion", "Emotion", _EMOTION, _EMOTIONS),
        _other("agnews", "AG News", _AG_NEWS, ("World", "Sports", "Business", "Sci/Tech")),
    )
}
GLUE = tuple(name for name, task in TASKS.items() if task.glue)
# GLUE's diagnostic set, which has no training rows: a student of MNLI predicts it
AX = Task(
    "ax",
    "AX",
    TaskShape(2, TASKS["mnli"].shape.labels, ("matthews",)),
    HubSet("nyu-mll/glue", "ax", _GLUE_REVISION, ("premise", "hypothesis"), {"test": "test"}),
    {"test": "AX.tsv"},
    glue_names=True,
)


def find(name: str) -> Task:
    """Look up a task by name, in any case and with any hyphens (SST-2, sst2, ag_news); UserError if there is none."""
    plain = plain_name(name)
    if plain not in TASKS:
        raise UserError(f"data.task: no task is called {name!r}; {nearest(plain, TASKS)}")
    return TASKS[plain]


def plain_name(name: str) -> str:
    """Normalize a task name to lower-case letters and digits: SST-2 becomes sst2."""
    return re.sub(r"[\W_]+", "", name).casefold()
