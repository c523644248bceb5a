"""Facts about the trained models of an artifact store: model, layers, data, score, length of the training.

They come from the artifact's own files, from the scores that the store has of its weights, and from result.json of a run
that used it; an older artifact lacks some, and those are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlab.runs.finished import inside, read_result
from kdlab.storage.artifacts import ABOUT, COST, entries, read_manifest

_LOSSES = ("loss", "score", "average")  # of scores.json: no metrics
_WEIGHTS = "model.safetensors"


def facts_of(folder: Path, manifest: Mapping[str, Any], runs: Sequence[str], scores: Mapping[str, Any]) -> str:
    """One line of facts about a trained model in `folder`, "" for an artifact of another kind.

    `runs`: run folders that used it; `scores`: `scores_by_weights` of its store.
    """
    if _WEIGHTS not in manifest["files"]:
        return ""
    known = _known(folder, runs)
    texts = [part(folder, manifest, known) for part in (_model, _data, _labels)]
    texts += [_score(folder, manifest, known, scores), _training(folder, manifest)]
    return "; ".join(text for text in texts if text)


def scores_by_weights(root: Path) -> dict[str, dict[str, float]]:
    """The dev scores that a store has of classifiers, by the SHA-256 of their weights."""
    found = {}
    for folder in entries(root):
        if folder.parent.name == "scores" and isinstance(manifest := read_manifest(folder), dict):
            found[str(manifest["parts"].get("teacher"))] = _json(folder / "scores.json")
    return found


def _known(folder: Path, runs: Sequence[str]) -> dict[str, Any]:
    """The names of model and data that were recorded with the artifact, else those in the result of a run that used it."""
    if about := _json(folder / ABOUT):
        return about
    for run in runs:
        result, _ = read_result(Path(run))
        if result is not None:
            data, teacher = result.get("data") or {}, result.get("teacher") or {}
            names = {"data": data.get("task") or data.get("path") or data.get("source")}
            return names | ({"model": teacher.get("name")} if folder.parent.name != "ksm" else {})
    return {}


def _model(folder: Path, manifest: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    config = _json(folder / "config.json")
    layers = config.get("num_hidden_layers") or config.get("n_layers")
    name = known.get("model") or config.get("model_type")
    return ", ".join([*([str(name)] if name else []), *([f"{layers} layers"] if layers else [])])


def _data(folder: Path, manifest: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    if known.get("data"):
        return f"data {known['data']}"
    rows = inside(manifest["parts"], "task.rows") or inside(manifest["parts"], "corpus.text")
    return f"data with fingerprint {rows[:8]}" if isinstance(rows, str) else ""


def _labels(folder: Path, manifest: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    config = _json(folder / "config.json")
    if config.get("problem_type") == "regression":
        return "regression"
    labels = config.get("id2label") if inside(manifest["parts"], "task") else None
    return f"{len(labels)} classes" if isinstance(labels, dict) else ""


def _score(folder: Path, manifest: Mapping[str, Any], known: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    heldout = _json(folder / "heldout.json")
    if "loss" in heldout:
        return f"held-out loss {heldout['loss']:.3f}"
    found = scores.get(manifest["files"][_WEIGHTS]["sha256"]) or {}
    names = [name for name in found if name not in _LOSSES and not name.startswith("loss")]
    chosen = [known["metric"]] if known.get("metric") in names else names
    return ", ".join(f"{name} {found[name]:.3f}" for name in chosen) + " on dev" if chosen else ""


def _training(folder: Path, manifest: Mapping[str, Any]) -> str:
    recipe, cost = manifest["parts"].get("recipe") or {}, _json(folder / COST)
    return ", ".join(_length(cost.get("steps") or recipe.get("max_steps"), recipe.get("max_epochs")))


def _length(steps: Any, epochs: Any) -> Iterator[str]:
    if steps:
        yield f"{steps:,} steps"
    if epochs:
        yield f"{epochs} epochs at most"


def _json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
