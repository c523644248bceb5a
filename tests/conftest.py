"""Mark tests by folder; make the small models and data that they share (`kdlab.testing.tiny`)."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest
import torch

from kdlab.testing.tiny import (  # noqa: F401
    SYLLABLES,
    WORDS,
    generated_text,
    task_rows,
    tiny_config,
    tiny_tokenizer,
    write_decoder,
    write_task,
    write_teacher,
    write_text,
)

torch.set_num_threads(1)

TESTS = Path(__file__).parent
MARKERS = {  # folder -> marker (pyproject.toml describes them)
    "unit": "unit", "property": "property", "end_to_end": "e2e", "ddp": "ddp", "faults": "faults", "nightly": "nightly",
}  # fmt: skip


def marker_of(file: Path) -> str:
    """Marker of a test file, by the folder of tests/ that holds it. UsageError for a file in another place."""
    folder = file.relative_to(TESTS).parts[0]
    if folder not in MARKERS:
        raise pytest.UsageError(f"{file}: tests lie in tests/{{{','.join(MARKERS)}}}, which set their markers")
    return MARKERS[folder]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/nightly unread where its marker is deselected: each worker would compute its cases to drop them."""
    return True if collection_path == TESTS / "nightly" and config.option.markexpr == "not nightly" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder, before `-m` is applied. A test may be `nightly` in any folder by a mark of its own."""
    for item in items:
        item.add_marker(marker_of(item.path))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect tests without garbage collection, and leave what is there then, modules and tests, out of those to come."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_terminal_summary(terminalreporter) -> None:
    """A line for each kind of hostile input: its cases in parts without a failure, and how many parts have one."""
    told: dict[str, list[float]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, cases in (value for key, value in report.user_properties if key == "fuzzed"):
                counts = told.setdefault(name, [0, 0, 0])
                added = (cases, outcome == "failed", report.duration)
                told[name] = [count + more for count, more in zip(counts, added, strict=True)]
    told = dict(sorted(told.items()))
    if told:
        told["all"] = [sum(column) for column in zip(*told.values(), strict=True)]
        terminalreporter.section("hostile input")
        terminalreporter.write_line(f"{'kind':28} {'cases':>8} {'failed parts':>12} {'seconds':>8}")
    for name, (cases, failed, seconds) in told.items():
        terminalreporter.write_line(f"{name:28} {cases:8} {failed:12} {seconds:8.0f}")


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="session")
def four_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of four classes, so that two specialists have two each."""
    return write_task(tmp_path_factory.mktemp("four"), classes=4)


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))
