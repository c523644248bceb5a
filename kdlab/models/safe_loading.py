"""Check untrusted model folders: refuse those whose loading could run code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kdlab.errors import UserError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".joblib", ".npy", ".npz")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json")


def first_line(error: Exception) -> str:
    """The first line of an error's message, 300 characters at most; the name of its class where it has none."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def check(source: str | Path, weights: bool = True) -> None:
    """Raise UserError for a local model folder that is not there or is not plain data; a Hub name passes (see `check_config`).

    Refused: weights in pickles only (if `weights`, which the caller is about to load), configs that refer to Python
    code in the folder, adapters that refer to another model, an index or a link that leads out of the folder.
    """
    folder = Path(source)
    if not folder.is_dir():
        if is_missing(source):
            raise UserError(f"there is no model folder {source}")
        return
    for name in _CONFIGS:
        _check_code(folder, name, _json(folder / name))
    if "base_model_name_or_path" in _json(folder / "adapter_config.json"):
        raise UserError(f"{folder} holds an adapter, which loads another model besides: merge it into its model first")
    shards = _json(folder / WEIGHTS[1]).get("weight_map")
    for name in shards.values() if isinstance(shards, dict) else ():  # transformers reports another type
        if not isinstance(name, str) or os.path.basename(name) != name:
            raise UserError(f"{folder / WEIGHTS[1]} names {str(name)[:80]!r}, which is no file of the folder")
    _check_links(folder)
    if weights and not any((folder / name).is_file() for name in WEIGHTS):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
        if pickles:
            raise UserError(
                f"{folder} has its weights in {pickles[0]} and not in safetensors: reading a pickle can run any code, so it "
                "is refused; where you trust it, load it with transformers and save_pretrained() it into a new folder"
            )


def is_missing(source: str | Path) -> bool:
    """True for a path where nothing is; False for what may be a name on the Hub, NAME or OWNER/NAME."""
    is_path = str(source).startswith(("/", ".", "~")) or str(source).count("/") > 1
    return is_path and not Path(source).exists()


def check_config(source: str | Path, config: Any) -> None:
    """Raise UserError for a loaded config, also of a Hub name, that refers to Python code of the model."""
    names = ("auto_map", "_attn_implementation")
    _check_code(source, "config.json", {name: getattr(config, name, None) for name in names})


def _check_code(source: str | Path, name: str, config: dict[str, Any]) -> None:
    if config.get("auto_map") or config.get("custom_pipelines"):
        raise UserError(
            f"the model in {source} needs Python code that came with it ({name} has auto_map), and such code is never run; "
            "use a model of a family that transformers knows"
        )
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        if "/" in str(config.get(key) or ""):
            raise UserError(
                f"the model in {source} loads a kernel from elsewhere ({name}: {key}={config[key]}): remove that"
            )


def _json(file: Path) -> dict[str, Any]:
    """Object of a JSON file; empty if the file is missing or damaged, which transformers reports when it loads it."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _check_links(folder: Path) -> None:
    """Raise UserError for a link that leads out of the folder; the blobs folder of the Hub's cache is allowed."""
    root = folder.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink():
                target = path.resolve()
                if not (target.is_relative_to(root) or target.is_relative_to(blobs)):
                    raise UserError(f"{path} is a link that leads out of the model folder: put the file itself there")
