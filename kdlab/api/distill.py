"""`kdlab.distill`: a distillation run in one call, in this process; the command line's run, bit for bit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from kdlab.api import inputs
from kdlab.api.isolation import process_as_it_was
from kdlab.api.result import Result
from kdlab.config import choices, quoting, targets
from kdlab.config.composition import composition, error_line, to_plain
from kdlab.config.schema import Config, checked
from kdlab.errors import UserError
from kdlab.runs import budget, folders, single
from kdlab.runs.prepare import device_count
from kdlab.runs.process import is_first_process, notify
from kdlab.runtime import signals
from kdlab.stages.registry import stage_of
from kdlab.stages.validation import check
from kdlab.storage.artifacts import ArtifactStore
from kdlab.storage.redaction import redact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kdlab.api.inputs import Model, Rows

EXPERIMENT = "adads_finetune"


def distill(
    *,
    train: Rows | None,
    dev: Rows | None = None,
    teacher: Model | None = None,
    student: int | Model | None = None,
    select: str = "adads",
    ratio: float = 0.1,
    knowledge: str = "response",
    max_steps: int = 500,
    seed: int = 1,
    out: str | Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overrides: Sequence[str] = (),
) -> Result:
    """Distil a student on labelled rows while a policy chooses the rows that query the teacher; returns the `Result`.

    `train`: a folder of rows (docs/tasks.md), a `datasets.Dataset`, a pandas DataFrame or a list of dicts, with one or
    two columns of text and a label; None: the demo's rows. `dev`: rows as `train`, in memory like them; None: those of
    the folder, else a tenth of train. `teacher`: a transformers model, a folder or a Hub name; one that is no
    classifier of these labels yet is fine-tuned first; None: the bundled model. `student`: a number of the teacher's
    layers, or a model to start from; None: that of the configuration. `select`, `knowledge`: choices of these groups;
    `ratio` in (0, 1]: share of the rows that query the teacher (`select="all"`: every row). `max_steps`: optimizer
    steps. `out`: the run folder; None: a temporary one, which lives as long as the Result. `tokenizer`: that of a
    teacher in memory, where the folder it came from has none. `overrides`: further settings as on the command line,
    `["optim.lr=1e-4"]`; they have the last word.

    The run is `python -m kdlab.run` with the overrides in `Result.content["command"]`, on one device of this process.
    What it has to train first is kept in `artifacts=` (default: artifacts/ here), with the rows and models that lay in
    memory. With a teacher of yours the settings are those of `scale=own`. UserError for all that a user can correct,
    before anything is written; KeyboardInterrupt for Ctrl-C: the same call with `out` resumes.
    """
    inputs.check(train, dev, teacher, student)
    _check(out, overrides)
    settings = {
        "+exp": EXPERIMENT,
        "scale": "demo" if teacher is None else "own",
        "select": select,
        **({} if select == "all" else {"select.ratio": ratio}),
        "knowledge": knowledge,
        "trainer.max_steps": max_steps,
        "trainer.devices": 1,
        "seed": seed,
        **({"student.layers": student} if isinstance(student, int) else {}),
        **inputs.paths(train, teacher, student),
    }
    with process_as_it_was(), _user_errors(), signals.handling(), _run_folder(out) as folder:
        with tempfile.TemporaryDirectory(prefix="kdlab-given-") as place, inputs.named_as_given(Path(place)):
            written = inputs.write(train, dev, teacher, student, tokenizer, Path(place))
            words = _words({**settings, **written, "hydra.run.dir": folder}, overrides)
            config, resolved = _composed(words)
            if written:
                store, staged = ArtifactStore(Path(config.artifacts), notify), config
                words = _words({**settings, **inputs.places(written, store), "hydra.run.dir": folder}, overrides)
                config, resolved = _composed(words)
                folders.choose(resolved, folder, True, config.overwrite, config.resume)
                _check_staged(staged)
                inputs.keep(written, store)
        single.start(config, resolved, folder, True, words, present=lambda *_: None)
    return Result(folder, temporary=out is None)


def _check(out: Any, overrides: Any) -> None:
    """UserError for a run folder or overrides of another type."""
    if out is not None and not inputs.is_path(out):
        raise UserError(f"out={out!r}: a folder, or None for a temporary one")
    if isinstance(overrides, str) or not all(isinstance(one, str) and "=" in one for one in overrides):
        raise UserError(f"overrides={overrides!r}: a list of KEY=VALUE, such as ['optim.lr=1e-4']")


def _check_staged(config: Config) -> None:
    """UserError for all that a run refuses before it begins, with the rows and models that were written for the
    check."""
    stage = stage_of(config, lambda line: None)
    check(stage)
    budget.check(stage, 1)


def _words(settings: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """The words of the command line: the settings, without those that `overrides` sets, and the overrides."""
    given = {one.partition("=")[0].lstrip("+") for one in overrides}
    own = {key: value for key, value in settings.items() if key.lstrip("+") not in given}
    words = [
        quoting.override(key, value) if isinstance(value, str | Path) else f"{key}={value}"
        for key, value in own.items()
    ]
    return [*words, *map(choices.spelled, overrides)]


def _composed(words: list[str]) -> tuple[Config, dict[str, Any]]:
    """The checked configuration of a command line, and the same in plain containers. UserError for several tasks or
    devices."""
    targets.check_overrides(words)
    composed, _ = composition(words)
    config = checked(composed)
    if config.suite is not None:
        raise UserError("kdlab.distill trains one student: start a suite of tasks by python -m kdlab.run")
    trainer = config.trainer
    if device_count(trainer.accelerator, trainer.devices) * trainer.num_nodes > 1 or not is_first_process():
        raise UserError(
            f"trainer.devices={trainer.devices}: kdlab.distill trains in this process, on one device; several are "
            "started by python -m kdlab.run, with the same settings"
        )
    return config, to_plain(composed)


@contextmanager
def _run_folder(out: str | Path | None) -> Iterator[Path]:
    """The folder `out`, or a temporary one, which is removed if the block fails."""
    if out is not None:
        yield Path(out)
        return
    folder = Path(tempfile.mkdtemp(prefix="kdlab-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn the errors of Hydra, OmegaConf and YAML into a UserError, and a signal into what Python raises for it."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(redact(error_line(error))) from (None if isinstance(error, UserError) else error)
    except signals.Stopped as stop:
        raise KeyboardInterrupt(str(stop)) from stop
