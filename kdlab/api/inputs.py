"""Arguments of `kdlab.distill` as files and overrides: rows and models that lie in memory are written to a folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.data.names import GIVEN_ROWS
from kdlab.errors import UserError
from kdlab.storage.artifacts import ArtifactStore
from kdlab.storage.files import sha256_of, user_path

if TYPE_CHECKING:
    import pandas
    from datasets import Dataset
    from transformers import PreTrainedModel

    Rows = str | Path | Dataset | pandas.DataFrame | Sequence[Mapping[str, Any]]
    Model = str | Path | PreTrainedModel

# kind and description of the artifacts that hold what lay in memory, by key of the configuration
KINDS = {
    "data.path": (GIVEN_ROWS, "the rows given"),
    "teachers.path": ("given_model", "the teacher given"),
    "student.path": ("given_model", "the student given"),
}
ROWS = "a folder or file, a datasets.Dataset, a pandas DataFrame or a list of dicts"


def is_path(value: Any) -> bool:
    """True for a folder, a file or a Hub name."""
    return isinstance(value, str | Path)


def check(train: Any, dev: Any, teacher: Any, student: Any) -> None:
    """UserError for rows or models of a type that cannot be read."""
    check_rows(train, dev)
    check_model("teacher", teacher)
    check_model("student", student, number="a number of the teacher's layers")


def check_rows(train: Any, dev: Any) -> None:
    """UserError for rows of a type that cannot be read, and for dev rows beside a folder, which has its own."""
    for name, rows in (("train", train), ("dev", dev)):
        if rows is None or is_path(rows):
            continue
        kind = type(rows).__name__
        if kind in ("DatasetDict", "IterableDatasetDict"):
            known = ", ".join(map(str, rows))
            raise UserError(f"{name}: a {kind} with the splits {known}; give one of them, as {name}=data[{known!r}]")
        if kind == "IterableDataset":
            raise UserError(f"{name}: an IterableDataset has no fixed rows; give a datasets.Dataset")
        if not (_is_dataset(rows) or _is_frame(rows) or isinstance(rows, list | tuple)):
            raise UserError(f"{name}: {kind}; give {ROWS}")
    if is_path(train) and dev is not None:
        raise UserError("dev: a folder of rows has its own dev file (dev.csv beside train.csv); leave dev out")
    if train is None and dev is not None:
        raise UserError(f"dev without train: give train {ROWS}")
    if is_path(dev):
        raise UserError("dev: a path beside train rows in memory; give the dev rows in memory too")


def check_model(name: str, model: Any, number: str = "") -> None:
    """UserError for a model that is neither a transformers model nor a folder or Hub name (None: the default);
    `number`: what an int stands for, where one may be given."""
    if model is None or is_path(model) or _is_pretrained(model):
        return
    if number and isinstance(model, int) and not isinstance(model, bool):
        return
    also = f"{number}, " if number else ""
    raise UserError(f"{name}: {type(model).__name__}; give {also}a transformers model, its folder or its Hub name")


def paths(train: Any, teacher: Any, student: Any) -> dict[str, str]:
    """The overrides of rows and models that lie in folders or on the Hub."""
    found = {} if not is_path(train) else {"data.path": _expanded(train)}
    if is_path(teacher):
        text = _expanded(teacher)
        is_folder = isinstance(teacher, Path) or Path(text).is_dir() or text.startswith((".", "/"))
        found["teachers.path" if is_folder else "teachers.name"] = text
    if is_path(student):
        found["student.path"] = _expanded(student)
    return found


def write(train: Any, dev: Any, teacher: Any, student: Any, tokenizer: Any, folder: Path) -> dict[str, Path]:
    """Write what lies in memory into `folder`; returns the places by their keys of the configuration.

    `tokenizer`: that of the models in memory (None: of the folder or Hub name that each was loaded from; a student
    without one has the teacher's). UserError for rows that are no table, and for a teacher without a tokenizer.
    """
    written: dict[str, Path] = {}
    if train is not None and not is_path(train):
        written["data.path"] = _new(folder / "rows")
        for name, rows in (("train", train), ("dev", dev)):
            if rows is not None:
                _write_table(rows, name, written["data.path"] / f"{name}.parquet")
    for key, name, model in (("teachers.path", "teacher", teacher), ("student.path", "student", student)):
        if not _is_pretrained(model):
            continue
        own = tokenizer
        if own is None and name == "student" and not model.name_or_path:
            own = _tokenizer_of(teacher if _is_pretrained(teacher) else None, "student", str(teacher or ""))
        own = own or _tokenizer_of(model, name)
        written[key] = _new(folder / name)
        model.save_pretrained(written[key])
        own.save_pretrained(written[key])
    return written


@contextmanager
def named_as_given(folder: Path) -> Iterator[None]:
    """Name rows that were written into `folder` as the caller gave them, train or dev, in the UserErrors of the
    block."""
    try:
        yield
    except UserError as error:
        text, rows = str(error), folder / "rows"
        if str(rows) not in text:
            raise
        for name in ("train", "dev"):
            text = text.replace(f"{rows / name}.parquet", name)
        raise UserError(text.replace(str(rows), "train")) from None


def places(written: Mapping[str, Path], store: ArtifactStore) -> dict[str, Path]:
    """The places by key that `keep` gives the folders of `write`, which may not exist yet."""
    return {key: store.place(KINDS[key][0], _parts(place)) for key, place in written.items()}


def keep(written: Mapping[str, Path], store: ArtifactStore) -> None:
    """Copy the folders of `write` into the artifact store, each once for all runs."""
    for key, place in written.items():
        kind, what = KINDS[key]
        store.get(kind, _parts(place), partial(_copy, place), what)


def _parts(place: Path) -> dict[str, Any]:
    """The key parts of a folder that was written from memory: its files."""
    files = [file for file in sorted(place.rglob("*")) if file.is_file()]
    return {"files": {str(file.relative_to(place)): sha256_of(file) for file in files}}


def _copy(place: Path, out: Path) -> None:
    shutil.copytree(place, out, dirs_exist_ok=True)


def _expanded(path: str | Path) -> str:
    return str(user_path(path))


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _tokenizer_of(model: Any, name: str, source: str = "") -> Any:
    """The tokenizer of the folder or Hub name that a model was loaded from. UserError where there is none."""
    from kdlab.models import loading

    source = source or getattr(model, "name_or_path", "")
    if not source:
        raise UserError(f"{name}: a model that was loaded from no folder has no tokenizer; give tokenizer= as well")
    try:
        return loading.load_tokenizer(source)
    except UserError as error:
        raise UserError(f"{name}: {error}; give tokenizer= as well") from error


def _write_table(rows: Any, name: str, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if _is_dataset(rows):
        if len(rows) == 0:
            raise UserError(f"{name}: no rows")
        rows.to_parquet(file)  # with the names of the classes
        return
    try:
        if _is_frame(rows):
            table = pa.Table.from_pandas(rows, preserve_index=False)
        else:
            _check_dicts(rows, name)
            table = pa.Table.from_pylist([dict(row) for row in rows])
    except (pa.ArrowException, TypeError) as error:
        raise UserError(f"{name}: no table of rows: {str(error).splitlines()[0]}") from error
    if table.num_rows == 0:
        raise UserError(f"{name}: no rows")
    parquet.write_table(table, file)


def _check_dicts(rows: Sequence[Any], name: str) -> None:
    """UserError unless all rows are dicts with the same texts as keys."""
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not all(isinstance(key, str) for key in row):
            raise UserError(
                f"{name}[{number}]: {type(row).__name__}; a row is a dict such as {{'text': ..., 'label': ...}}"
            )
        if row.keys() != rows[0].keys():
            differing = sorted(row.keys() ^ rows[0].keys())[0]
            raise UserError(f"{name}[{number}]: {differing!r} is in this row or in {name}[0], and not in both")


def _is_frame(rows: Any) -> bool:
    pandas = sys.modules.get("pandas")  # whoever has a data frame has imported it
    return pandas is not None and isinstance(rows, pandas.DataFrame)


def _is_dataset(rows: Any) -> bool:
    datasets = sys.modules.get("datasets")
    return datasets is not None and isinstance(rows, datasets.Dataset)


def _is_pretrained(model: Any) -> bool:
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(model, transformers.PreTrainedModel)
