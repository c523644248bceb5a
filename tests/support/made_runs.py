"""Run folders for reports, as runs write them, with scores and costs that a test can work out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ARMS = ("entropy", "margin")


def made_run(
    folder: Path,
    score: float,
    seed: int = 1,
    select: str = "random",
    ratio: float = 0.1,
    task: str = "sst2",
    stage: str = "finetune",
    knowledge: str = "response",
    queries: int = 1200,
    changes: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    results: dict[str, Any] | None = None,
) -> Path:
    """The files of a finished run, as far as they are read. `changes`: of its configuration, by dotted key."""
    config: dict[str, Any] = {
        "scale": {"name": "demo"},
        "data": {"stage": stage, "path": "/rows", "task": task, "batch_size": 64},
        "teachers": {"name": "bert", "path": None, "cache": "off"},
        "student": {"layers": [0, 2, 4], "path": None},
        "select": {"ratio": ratio, "interval": 10, "arms": {select: {"_target_": f"kdlab.methods.selection.strategies.{select}"}}, "name": select},
        "knowledge": {"name": knowledge, "terms": {"soft": {"weight": 0.5, "term": {"temperature": 1.0}}}},
        "trainer": {"max_steps": 200, "threads": seed, "probes": seed},
        "logger": {"name": "csv"}, "name": "adads_finetune", "seed": seed, "artifacts": f"artifacts{seed}",
    }  # fmt: skip
    for key, value in (changes or {}).items():
        node = config
        *parts, last = key.split(".")
        for part in parts:
            node = node[part]
        node[last] = value
    name = "loss" if stage == "pretrain" else "score"
    teacher = {} if knowledge == "labels" else {"teacher": {name: 0.9}}
    result = {
        "status": "finished", "name": "adads_finetune", "seed": seed, "stage": stage, "knowledge": knowledge,
        "select": {"name": select, "ratio": ratio}, "data": {"task": task, "path": "/rows", "source": "TaskFolder"},
        "metrics": {"student": {name: score, **(metrics or {})}, **teacher}, "preparation": [],
        "ledger": {"teacher_queries": {"total": queries}, "flops": {"total": 3e12 + seed}, "seconds": {"training": 9.0}},
        **(results or {}),
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def reported(
    folder: Path,
    score: float,
    *which: Any,
    taken: list[tuple[int, str]] | None = None,
    curve: list[tuple[float, float]] | None = None,
    flops: float = 1e12,
    gains: tuple[float | None, float | None, float | None] = (10.0, 3.0, None),
    seconds: float = 60.0,
    steps: int = 100,
    layers: Any = 6,
    **given: Any,
) -> Path:
    """A finished run, `which` and `given` as in `made_run` (seed, select, ratio). `taken`: (step, arm) rows of selector.csv; `curve`: (FLOPs, score) rows of metrics.csv; `gains`:
    its speed-ups in queries, FLOPs and wall-clock."""
    ratio = which[2] if len(which) > 2 else given.get("ratio")
    queries = given.get("queries", 12000 if ratio == 1 else 1200)
    ledger = {
        "teacher_queries": {"total": queries},
        "flops": {"total": flops},
        "seconds": {"training": seconds},
        "speedup": dict(zip(("queries", "flops", "wallclock"), gains, strict=True)),
    }
    results = {"ledger": ledger, "steps": steps, "student": {"layers": layers}} | given.pop("results", {})
    made_run(folder, score, *which, results=results, **{**given, "queries": queries})
    lines = ["step,arm", *(f"{step},{arm}" for step, arm in taken or [])]
    (folder / "selector.csv").write_text("\n".join(lines) + "\n")
    metric = "loss" if given.get("stage") == "pretrain" else "score"
    lines = [f"step,heldout_{metric},flops", *(f"{i},{y},{x}" for i, (x, y) in enumerate(curve or []))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def nine(home: Path, **given: Any) -> Path:
    """Random, AdaDS and entropy at a tenth and full data, two seeds each: means 0.70, 0.76, 0.66 and 0.82."""
    for select, ratio, scores, flops in (
        ("random", 0.1, (0.68, 0.72), 1e12),
        ("adads", 0.1, (0.75, 0.77), 3e12),
        ("entropy", 0.1, (0.65, 0.67), 2.5e12),
        ("all", 1.0, (0.81, 0.83), 1e13),
    ):
        gains = (1.0, 1.0, 1.0) if ratio == 1 else (10.0, 1e13 / flops, None)
        taken = [(0, "entropy"), (50, "margin")] if select == "adads" else [(0, select)]
        for seed, score in enumerate(scores, 1):
            more = {"curve": [(0, 0.5), (2e12, 0.7), (4e12, 0.8), (1e13, score)]} if ratio == 1 else {}
            folder = home / f"seed={seed},select={select}"
            reported(folder, score, seed, select, ratio, taken=taken, flops=flops, gains=gains, **more, **given)
    return home


def hostile(home: Path) -> Path:
    """A run whose names try to be markup, script, Markdown and mathematics."""
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>|`**$x_1${{7*7}}\"'"
    folder = home / "]<script>alert(3)<"
    reported(folder, 0.5, 1, evil, 0.1, taken=[(0, evil), (50, "margin")], task='sst2"><iframe src="http://x.test">')
    result = json.loads((folder / "result.json").read_text())
    result["metrics"]["<b>teacher</b>"] = {"score": 0.9}
    (folder / "result.json").write_text(json.dumps(result))
    return folder
