"""Hostile input for everything that reads a file or a setting: success or one `UserError`, at once, and nothing left.

Each target is a strategy of inputs and a function that takes one in a folder of its own. `fuzz` runs a target on as many
cases as are requested; the sample in tests/property and the long run in tests/nightly share all of it.
"""

from __future__ import annotations

import bz2
import copy
import json
import math
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdlab import artifacts
from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.data.augmentation.word_vectors import read_word_table
from kdlab.data.tasks.sources import TaskFolder
from kdlab.data.text import mediawiki
from kdlab.data.text.sources import TextFolder
from kdlab.errors import UserError
from kdlab.methods.ksm.module import KSM
from kdlab.models import head_keys, loading
from kdlab.reporting import seed_groups
from kdlab.run import main
from kdlab.runs import finished, folders
from kdlab.runs.artifact_maintenance import uses_of
from kdlab.storage import checkpoints, redaction, tables
from kdlab.storage.artifacts import ArtifactStore, discard
from tests.conftest import write_teacher

SLOW, HANGS = 15.0, 240  # seconds of this process, imports included; the alarm that ends a case which never would


@dataclass(frozen=True)
class Target:
    """`inputs`: a strategy; `read(input, folder)` uses it; `weight`: its share of the cases."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any, Path], object]
    weight: int = 10


class Hanging(BaseException):
    """Raised by the alarm: no handler for Exceptions may catch it."""


def fuzz(target: Target, cases: int, seed: int = 0) -> int:
    """Run `cases` inputs through a target; how many were run. AssertionError, with the input, for what must not be."""
    run = 0

    @seeded(seed)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def each(value: Any) -> None:
        nonlocal run
        run += 1
        one_case(target, value)

    each()
    return run


def one_case(target: Target, value: Any) -> None:
    """One input in an empty folder: no error but `UserError` of one line, no hang, nothing else written."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    here, home = os.getcwd(), Path(tempfile.mkdtemp(prefix="kdlab-fuzz-", dir=parent))
    before = signal.signal(signal.SIGALRM, _ring)
    signal.alarm(HANGS)
    began = time.process_time()
    try:
        os.chdir(home)
        said = "all well"
        try:
            target.read(value, home)
        except UserError as error:
            said = str(error)
        assert said and "\n" not in said, f"not one line: {said}"
        said.encode("utf-8")
        assert time.process_time() - began < SLOW, f"took {time.process_time() - began:.1f} s"
        left = [path for path in home.rglob("*") if path.is_file() and not path.name.startswith("in.")]
        assert not left, f"left behind: {left}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        os.chdir(here)
        shutil.rmtree(home, ignore_errors=True)


def _ring(*_: object) -> None:
    raise Hanging


# ---- inputs

ODD = ["", " ", "\0", "\ufeff", "\x1b[0m", "\u2028", "\ud800", "é", "a" * 5000, "-1", "nan", "1e999", "9" * 5000, "[" * 3000,
       '{"a":' * 3000, "${x}", "${oc.env:HOME}", "\\${oc.create:1}", "???", "../../x", "/dev/zero", "~", "null", "!!python/object/apply:os.getcwd []"]  # fmt: skip
texts = st.sampled_from(ODD) | st.text(max_size=30)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
hostile = scalars | st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)


def files(*lines: str) -> st.SearchStrategy[bytes]:
    """Bytes of a text file out of these pieces and odd ones."""
    pieces = st.sampled_from([*lines, *ODD, "\n", "\n", "\t", "\r\n"])
    written = st.lists(pieces, max_size=30).map(lambda some: "".join(some).encode("utf-8", "surrogatepass"))
    return written | st.binary(max_size=60) | st.tuples(written, st.binary(max_size=10), written).map(b"".join)


def damaged(whole: Callable[[], bytes]) -> st.SearchStrategy[bytes]:
    """A good file with bytes changed, cut out, cut off or put in."""
    change = st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=12))

    def apply(changes: Sequence[tuple[float, int, bytes]]) -> bytes:
        data = bytearray(whole())
        for place, kind, new in changes:
            at = int(place**4 * len(data))  # headers more often than contents
            if kind == 0:
                data[at : at + len(new)] = new
            elif kind == 1:
                del data[at : at + 1 + len(new) ** 2]
            elif kind == 2:
                data[at:at] = new
            else:
                data = data[: max(at, 1)]
        return bytes(data)

    return st.lists(change, max_size=4).map(apply)


def damaged_json(whole: Callable[[], Any]) -> st.SearchStrategy[bytes]:
    """A JSON file with values of it replaced, removed or added; or damaged as bytes."""

    def replaced(changes: Sequence[tuple[int, str, Any]]) -> bytes:
        found = copy.deepcopy(whole())
        for number, name, value in changes:
            node, key = found, name
            for _ in range(4):
                if isinstance(node, dict) and node:
                    key = list(node)[number % len(node)]
                    if not isinstance(node[key], dict) or number % 3 == 0:
                        break
                    node = node[key]
                    number //= 2
            if isinstance(node, dict):
                node[key if number % 5 else name] = value
                if number % 7 == 0:
                    node.pop(key, None)
        return json.dumps(found).encode()

    changes = st.lists(st.tuples(st.integers(0, 10**6), texts, hostile), min_size=1, max_size=3)
    return changes.map(replaced) | damaged(lambda: json.dumps(whole()).encode())


# ---- what reads them


@cache
def base() -> Any:
    composed, _ = composition(["+exp=adads_finetune", "teachers.path=nowhere", "data.path=nowhere"])
    OmegaConf.set_struct(composed, False)
    return composed


def keys() -> list[str]:
    def below(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        return [name for key, value in node.items() for name in (prefix + str(key), *below(value, f"{prefix}{key}."))]

    more = ["suite", "suite.tasks", "suite.seeds", "data.augment", "adopt.assistant", "adopt.assistant.layers",
            "teachers.others", "teachers.others.x.layers", "student.hidden", "weigh.arms", "new", "select.arms.new"]  # fmt: skip
    return [*below(OmegaConf.to_container(base()), ""), *more]


def a_setting(value: tuple[str, Any], _: Path) -> None:
    composed = copy.deepcopy(base())
    try:
        OmegaConf.update(composed, value[0], value[1], force_add=True)
    except (OmegaConfBaseException, AssertionError, RecursionError, ValueError):
        return  # it never becomes a configuration
    checked(composed)


def an_override(value: tuple[str, Any, str], _: Path) -> None:
    key, given, sign = value
    said = StringIO()
    with redirect_stderr(said), redirect_stdout(StringIO()):
        code = main(["+exp=adads_finetune", "teachers.path=nowhere", "data.path=nowhere", f"{sign}{key}={given}"])
    assert code == 2, said.getvalue()
    assert len(said.getvalue().strip("\n").split("\n")) == 1, said.getvalue()
    assert said.getvalue().startswith("kdlab: ")


def rows_of(suffix: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        for name in ("train", "dev"):
            (folder / f"in.{name}").mkdir()
        file = folder / f"in.rows{suffix}"
        file.write_bytes(data)
        source = TaskFolder(str(file))
        source.check()
        source.fingerprint()
        source.read()

    return read


def text_of(suffix: str, document: str = "file") -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        (folder / f"in.a{suffix}").write_bytes(data)
        source = TextFolder(str(folder), document)
        source.check()
        source.fingerprint()
        source.size()
        for document_ in source.documents():
            document_.encode("utf-8")

    return read


def word_vectors(data: bytes, folder: Path) -> None:
    (folder / "in.vectors").write_bytes(data)
    read_word_table(folder / "in.vectors")


def label_names(data: bytes, folder: Path) -> None:
    (folder / "labels.txt").write_bytes(data)
    (folder / "train.tsv").write_text("sentence\tlabel\na b\t0\nc d\t1\n")
    try:
        source = TaskFolder(str(folder))
        source.check()
        source.read()
    finally:
        for name in ("labels.txt", "train.tsv"):
            (folder / name).unlink()


def export(data: bytes, folder: Path) -> None:
    (folder / "in.xml").write_bytes(data)
    for _, text in mediawiki.articles(folder / "in.xml"):
        text.encode("utf-8")


@contextmanager
def made(folder: Path, **inside: bytes) -> Iterator[Path]:
    """A new folder with these files for as long as it is read; what a reader leaves beside it is found by `one_case`."""
    folder.mkdir()
    try:
        for name, data in inside.items():
            (folder / name).write_bytes(data)
        yield folder
    finally:
        shutil.rmtree(folder)


def a_result(data: bytes, folder: Path) -> None:
    inside = {"result.json": data, "config.yaml": b"name: x\nseed: 1\n"}
    with made(folder / "in.run", **inside) as run:
        folders.status(run)
        uses_of(folder)
        _quietly(lambda: finished.finished_result(run))
        _quietly(lambda: seed_groups.read([folder]))
        with suppress(UserError):
            found = seed_groups.read([folder])[0]
            _quietly(lambda: seed_groups.grouped(found))


def a_config(data: bytes, folder: Path) -> None:
    inside = {"config.yaml": data, "result.json": b'{"status": "running"}'}
    with made(folder / "in.finished", **{**inside, "result.json": json.dumps(RESULT).encode()}) as run:
        _quietly(lambda: seed_groups.grouped(seed_groups.read([run])[0]))
    with made(folder / "in.run", **inside) as run:
        _quietly(lambda: finished.config_of(run))
        folders.same_run(run, {"name": "x"})
        _quietly(lambda: folders.choose({"name": "x"}, run, True, False, True))


def _quietly(action: Callable[[], object]) -> None:
    """So that the first of several readers that refuses does not keep the others from trying."""
    with suppress(UserError):
        action()


@cache
def checkpoint_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        state = {"state_dict": {"a": torch.arange(12.0).view(3, 4)}, "step": 3, "names": ["a", "b"], "lr": 0.5}
        return checkpoints.save(state, Path(folder), 3).read_bytes()


def a_checkpoint(data: bytes, folder: Path) -> None:
    with made(folder / "in.c", **{"step-00000003.ckpt": data}) as inside:
        file = inside / "step-00000003.ckpt"
        checkpoints.checksum_file(file).write_bytes(data[-80:])
        assert checkpoints.newest_valid(file.parent, lambda line: None) is None
        _quietly(lambda: checkpoints.load(file))
        checkpoints.checksum_file(file).unlink()
        checkpoints.load(file)


@cache
def model_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_teacher(Path(folder))
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def a_model(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        with made(folder / "in.model", **{**model_files(), name: data}) as model:
            if name == "model.safetensors":
                config = loading.load_config(model)
                _quietly(lambda: head_keys.has_head(model, config))
                loading.load_masked_lm(model)
            elif name == "config.json":
                loading.load_config(model)
            else:
                loading.load_tokenizer(model)

    return read


@cache
def ksm_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        KSM(["a", "b"], 4, [4], features=3, hidden=5).save(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def a_ksm(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        with made(folder / "in.ksm", **{**ksm_files(), name: data}) as ksm:
            KSM.load(ksm)

    return read


def a_table(data: bytes, folder: Path) -> None:
    file = folder / "in.table.csv"
    file.write_bytes(data)
    _quietly(lambda: tables.read(file))
    table = tables.Table(file, ["step", "loss"])
    table.rewind(1)
    table.write({"step": 1, "loss": 0.5})
    assert tables.read(file)[-1] == {"step": "1", "loss": "0.5"}


PARTS = {"n": 1}


@cache
def manifest() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore(Path(folder), lambda line: None)
        kept = store.get("kind", PARTS, lambda out: (out / "in.a").write_text("x") and None)
        return json.loads((kept / "manifest.json").read_text())


def an_artifact(data: bytes, folder: Path) -> None:
    store = ArtifactStore(folder / "in.store", lambda line: None)
    kept = store.get("kind", PARTS, lambda out: (out / "in.a").write_text("x") and None)
    (kept / "manifest.json").write_bytes(data)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            for action in (["list"], ["verify"], ["prune", "--delete"]):
                assert artifacts.main([*action, "--root", str(store.root)]) in (0, 1)
        kept = store.get("kind", PARTS, lambda out: (out / "in.a").write_text("x") and None)
        assert (kept / "in.a").read_text() == "x"
    finally:
        discard(kept)
        shutil.rmtree(folder / "in.store")


@cache
def parquet_bytes() -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as parquet

    sink = io.BytesIO()
    parquet.write_table(pa.table({"text": ["a b", "c d", "é"] * 9, "label": [0, 1, 2] * 9}), sink)
    return sink.getvalue()


RESULT = {
    "status": "finished", "name": "x", "seed": 1, "stage": "finetune", "steps": 8, "artifacts": ["corpus/0123456789abcdef"],
    "select": {"name": "random", "ratio": 0.5}, "policy": {"name": "fixed", "reward_data": None}, "knowledge": "response",
    "data": {"task": None, "path": "rows", "source": "TaskFolder", "splits": {"dev": {"rows": 5}}},
    "metrics": {"student": {"loss": 1.0, "score": 0.5}, "teacher": {"loss": 0.5, "score": 0.75}},
    "ledger": {"teacher_queries": {"total": 5}, "flops": {"total": 9}, "seconds": {"training": 1.0}, "speedup": {}},
}  # fmt: skip
XML = "<mediawiki><page><title>a</title><ns>0</ns><revision><text>"
PAGES = XML.encode() + b"Words of a sentence, with [[links|shown]] and {{templates}}. " * 40
WIKI = [
    "{{",
    "}}",
    "[[",
    "]]",
    "{|",
    "|}",
    "|",
    "==",
    "''",
    "* ",
    "<ref>",
    "</ref>",
    "<!--",
    "-->",
    "<nowiki>",
    "&#91;",
    "word ",
]
CSV = ["sentence", "label", "sentence1", "sentence2", "\t", ",", '"', "0", "1", "a b c", "\n"]

TARGETS: dict[str, Target] = {
    "a setting": Target(st.tuples(st.sampled_from(keys()), hostile), a_setting, 8),
    "an override": Target(
        st.tuples(st.sampled_from([*keys(), "hydra.run.dir", "+exp", "~select", "hydra.sweep.dir"]), texts | scalars,
                  st.sampled_from(["", "+", "++", "~"])), an_override, 1),
    "a .tsv": Target(files(*CSV, "sentence\tlabel\n", "a b\t0\n", "c d\t1\n"), rows_of(".tsv")),
    "a .csv": Target(files(*CSV, "sentence,label\n", "a b,0\n", '"c d",1\n'), rows_of(".csv")),
    "labelled .jsonl": Target(
        files('{"text": "a b", "label": 0}\n', '{"text": "c", "label": 1}\n', '{"text":', '"label"', "[", "{", "}"),
        rows_of(".jsonl")),
    "labels.txt": Target(files("index\tvalue\tname\n", "0\t0\ta\n", "1\t1\tb\n", "\t"), label_names),
    "labelled .parquet": Target(damaged(parquet_bytes), rows_of(".parquet"), 3),
    "a .txt": Target(files("A line of words.\n", "\n\n"), text_of(".txt")),
    "a .txt of blocks": Target(files("A line of words.\n", "\n\n"), text_of(".txt", "block")),
    "a .jsonl of text": Target(files('{"text": "a b"}\n', '{"text": null}\n', '{"text":', "[", "{", "}"), text_of(".jsonl")),
    "a .parquet of text": Target(damaged(parquet_bytes), text_of(".parquet"), 3),
    "word vectors": Target(files("the 0.1 0.2\n", "of 1 2\n", "3 2\n", " ", "0.5", "inf"), word_vectors),
    "Wikipedia markup": Target(st.lists(st.sampled_from([*WIKI, *ODD, "\n"]) | st.text(max_size=9), max_size=60)
                               .map("".join), lambda text, _: mediawiki.prose(text).encode("utf-8", "surrogatepass")),
    "a Wikipedia export": Target(
        damaged(lambda: PAGES + b"</text></revision></page></mediawiki>") | damaged(lambda: bz2.compress(PAGES))
        | files("<mediawiki>", "<page>", "</page>", "<text>", "</text>", "&lt;", "<!DOCTYPE a [<!ENTITY b 'c'>]>", "&b;"), export),
    "a result.json": Target(damaged_json(lambda: RESULT), a_result, 8),
    "a config.yaml": Target(
        damaged(lambda: yaml.safe_dump(OmegaConf.to_container(base(), resolve=True)).encode())
        | files("name: x\n", "seed: 1\n", "  a: b\n", "- ", "[", "{", "&a ", "*a ", "!!python/name:os.system ", "<<: "), a_config, 4),
    "a checkpoint": Target(damaged(checkpoint_bytes), a_checkpoint, 8),
    "model.safetensors": Target(damaged(lambda: model_files()["model.safetensors"]), a_model("model.safetensors"), 2),
    "a model's config.json": Target(damaged_json(lambda: json.loads(model_files()["config.json"])), a_model("config.json"), 1),
    "a tokenizer.json": Target(damaged_json(lambda: json.loads(model_files()["tokenizer.json"])), a_model("tokenizer.json"), 1),
    "a tokenizer_config.json": Target(
        damaged_json(lambda: json.loads(model_files()["tokenizer_config.json"])), a_model("tokenizer_config.json"), 1),
    "a KSM's weights": Target(damaged(lambda: ksm_files()["ksm.safetensors"]), a_ksm("ksm.safetensors"), 4),
    "a KSM's settings": Target(damaged_json(lambda: json.loads(ksm_files()["ksm.json"])), a_ksm("ksm.json"), 4),
    "a table": Target(files("step,loss\n", "0,0.5\n", "1,0.25\n", ",", '"'), a_table),
    "a manifest": Target(damaged_json(manifest), an_artifact, 6),
    "a text with secrets": Target(
        hostile | st.dictionaries(st.sampled_from(["token", "a", "api_key"]), hostile),
        lambda value, _: redaction.redact(value), 6),
}  # fmt: skip


def shares(total: int) -> dict[str, int]:
    """Minimum number of the `total` cases for each target."""
    whole = sum(target.weight for target in TARGETS.values())
    return {name: max(1, math.ceil(total * target.weight / whole)) for name, target in TARGETS.items()}


def parts(total: int, size: int = 5000) -> list[tuple[str, int, int]]:
    """(target, part, cases): `total` cases in parts of about `size` over all targets, for several processes."""
    count = math.ceil(total / size)
    return [(name, part, cases) for part in range(count) for name, cases in shares(math.ceil(total / count)).items()]
