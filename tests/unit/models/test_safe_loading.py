"""Untrusted files run no code: model folders, checkpoints, and calls inside the package."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import kdlab
from kdlab.errors import UserError
from kdlab.models import loading, safe_loading
from kdlab.storage import checkpoints
from tests.conftest import write_teacher

WRITTEN = "was-run"


class Payload:
    """Object that makes a folder in the current folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (WRITTEN,)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_teacher(tmp_path / "model")


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def only_pickle(model: Path, name: str) -> None:
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps({"weights": Payload()}))


def auto_map(model: Path) -> None:
    (model / "evil.py").write_text(f"import os\nos.mkdir({WRITTEN!r})\nclass Evil: pass\n")
    change(model / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForMaskedLM": "evil.Evil"})


def unknown_type(model: Path) -> None:
    auto_map(model)
    change(model / "config.json", model_type="evil")


def tokenizer_code(model: Path) -> None:
    auto_map(model)
    change(model / "config.json", auto_map=None)
    change(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class="Evil")


def linked(model: Path) -> None:
    (model.parent / "private").write_text("{}")
    (model / "README.md").symlink_to(model.parent / "private")


def index(model: Path) -> None:
    (model / "model.safetensors").rename(model.parent / "private")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../private"}}))


def no_index(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": ["model.safetensors"]}))


def adapter(model: Path) -> None:
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/model"}))


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle of torch": (lambda model: only_pickle(model, "pytorch_model.bin"), "pytorch_model.bin and not in safetensors"),
    "a .pt": (lambda model: only_pickle(model, "weights.pt"), "can run any code"),
    "a .pkl": (lambda model: only_pickle(model, "weights.pkl"), "can run any code"),
    "a pickle called safetensors": (lambda model: only_pickle(model, "model.safetensors"), "cannot load"),
    "code with the config": (auto_map, "auto_map.*never run"),
    "code for a family of its own": (unknown_type, "auto_map.*never run"),
    "code with the tokenizer": (tokenizer_code, "tokenizer_config.json has auto_map"),
    "a kernel from elsewhere": (lambda model: change(model / "config.json", attn_implementation="evil/kernel"), "kernel"),
    "a link that leads out": (linked, "README.md is a link that leads out"),
    "an index that leads out": (index, "no file of the folder"),
    "an index that is none": (no_index, "cannot load a masked-LM model"),
    "an adapter of another model": (adapter, "adapter"),
}  # fmt: skip


@pytest.mark.parametrize("what", STRANGE)
def test_an_untrusted_model_runs_no_code_and_is_refused_with_the_reason(what: str, model: Path) -> None:
    prepare, reason = STRANGE[what]
    prepare(model)
    with pytest.raises(UserError, match=reason) as caught:
        loading.load_config(model)
        loading.load_masked_lm(model)
    assert "\n" not in str(caught.value)
    if what == "code with the tokenizer":
        with pytest.raises(UserError, match=reason):
            loading.load_tokenizer(model)
    assert not Path(WRITTEN).exists()


@pytest.mark.parametrize("path", ["outputs/words/student", "./model", "/nowhere/model"])
def test_a_path_where_nothing_is_is_no_name_of_the_hub(path):
    with pytest.raises(UserError, match=f"^there is no model folder {path}$"):
        safe_loading.check(path)


@pytest.mark.parametrize("name", ["bert-base-uncased", "google/bert_uncased_L-2"])
def test_a_name_of_the_hub_passes(name):
    assert not safe_loading.is_missing(name)
    safe_loading.check(name)


def test_ordinary_folders_pass(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))  # beside safetensors: never read
    (model / "vocab.txt").write_text("")
    (model / "vocab-link.txt").symlink_to("vocab.txt")
    loading.load_config(model)
    loading.load_masked_lm(model)
    loading.load_tokenizer(model)
    hub = model.parent / "models--a--b"  # the Hub's own cache links from snapshots to blobs
    (hub / "snapshots").mkdir(parents=True)
    (hub / "blobs").mkdir()
    for file in model.iterdir():
        file.rename(hub / "blobs" / file.name)
    (hub / "snapshots" / "0123").mkdir()
    for file in (hub / "blobs").iterdir():
        (hub / "snapshots" / "0123" / file.name).symlink_to(f"../../blobs/{file.name}")
    safe_loading.check(hub / "snapshots" / "0123")
    loading.load_masked_lm(hub / "snapshots" / "0123")
    safe_loading.check("a/hub-name")
    assert not Path(WRITTEN).exists()


@pytest.mark.parametrize("old_format", [False, True])
def test_an_untrusted_checkpoint_runs_no_code(
    old_format: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "step-00000001.ckpt"
    torch.save({"state_dict": {"a": Payload()}}, file, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(UserError, match="refused, only tensors and plain values are read: it needs posix.mkdir"):
        checkpoints.load(file)
    assert not Path(WRITTEN).exists()
    torch.load(file, weights_only=False)  # the payload is a real one
    assert Path(WRITTEN).exists()


# calls that run code of a file or a shell, and the argument that makes the same call harmless
DANGEROUS = {
    r"(pickle|cPickle|dill|joblib|shelve|marshal|pandas)\.(loads?|open|read_pickle|Unpickler)": None,
    r"torch\.load": "weights_only=True",
    r"(eval|exec|compile|__import__)": None,
    r"os\.(system|popen|exec\w*|spawn\w*)": None,
    r"yaml\.(load|unsafe_load|full_load|load_all)": "Loader",
    r"(np|numpy)\.load": "!allow_pickle=True",
    r"tarfile\.\w+|zipfile\.ZipFile|\w+\.extract(all)?|shutil\.unpack_archive": "'w'",
    r"subprocess\.\w+": "!shell=True",
    r"\w+\.from_pretrained": "!trust_remote_code=True",
    r"torch\.hub\.\w+": None,
    r"importlib\.import_module": "f'kdlab.",  # a module of the package itself
}

# calls of files whose task they are
INTENDED = {
    "plugins/own_modules.py": (
        "exec",
        "compile",
        "importlib.import_module",
    ),  # code that --code names on the command line
    "__main__.py": ("importlib.import_module",),  # the modules of COMMANDS
    "runs/process.py": ("importlib.import_module",),  # kdlab.run, by its name
    # what the process that started the server sends over the socket that only these two have, and module names of its own
    "runtime/fork_server.py": ("importlib.import_module", "pickle.loads"),
}


FILES = sorted(Path(kdlab.__file__).parent.rglob("*.py"))


def test_all_files_of_the_package_are_checked() -> None:
    assert len(FILES) > 150
    assert len({file.parent for file in FILES}) > 20


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(Path(kdlab.__file__).parent)))
def test_the_package_calls_no_function_that_runs_code_of_a_file(file: Path) -> None:
    intended = INTENDED.get(file.relative_to(Path(kdlab.__file__).parent).as_posix(), ())
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) in intended:
            continue
        call = ast.unparse(node)
        for name, harmless in DANGEROUS.items():
            if re.fullmatch(name, ast.unparse(node.func)):
                assert harmless is not None, call
                assert (harmless[1:] not in call) if harmless.startswith("!") else (harmless in call), call
