"""Test a finished run's decoder on multiple-choice questions, on prompts with one right completion, in lm-evaluation-harness."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.errors import UserError, install
from kdlab.models.head import head_of_result
from kdlab.runs.finished import config_of, finished_result
from kdlab.runs.keeping import check_student
from kdlab.storage.files import user_path

if TYPE_CHECKING:
    from kdlab.config.schema import Config


def _checked(run: Path, option: str) -> Config:
    """The configuration of a run with a decoder. UserError for any other."""
    result, config = finished_result(run, "metrics.student.loss"), config_of(run)
    if not (head := head_of_result(result)).causal:
        raise UserError(f"{option}: {run} has a {head.title}; a causal language model is needed (+exp=causal_pretrain)")
    check_student(run, result)
    return config


def _student(run: Path, config: Config) -> tuple[Any, Any]:
    """The student and its tokenizer, on the run's device."""
    from kdlab.models import loading
    from kdlab.runtime.devices import first_device

    loading.silence_transformers()
    model: Any = loading.load_causal_lm(run / "student").eval()
    return model.to(first_device(config.trainer.accelerator)), loading.load_tokenizer(run / "student", masks=False)


def _file(path: Path, option: str) -> Path:
    file = user_path(path)
    if not file.is_file():
        raise UserError(f"{option} {path}: there is no such file")
    return file


def answer_questions(run: Path, path: Path) -> int:
    """Print how many questions of a file the student answers rightly by log-likelihood. Returns the exit code 0."""
    config, file = _checked(run, "--questions"), _file(path, "--questions")
    from kdlab.data.causal import questions
    from kdlab.modules.causal.ranking import rank

    asked = questions.read(file)
    found = rank(*_student(run, config), asked)
    print(f"{file}, {len(asked):,} questions")
    print(f"accuracy {found.accuracy:.4f}, per character {found.accuracy_norm:.4f}, by guessing {found.chance:.4f}")
    return 0


def match_completions(run: Path, path: Path) -> int:
    """Print how many completions of a .jsonl file the student writes exactly, by greedy generation. Returns the code 0."""
    config, file = _checked(run, "--exact-match"), _file(path, "--exact-match")
    from kdlab.data.causal.encoding import prompts
    from kdlab.data.causal.examples import ExampleFolder
    from kdlab.modules.causal.generation import continuations, exact_match

    data = config.data
    columns = (data.prompt_column, data.completion_column, data.messages_column)
    examples = list(ExampleFolder(str(file), *columns, data.encoding).examples())
    model, tokenizer = _student(run, config)
    pairs = list(prompts(examples, tokenizer))
    references = [reference for _, reference in pairs]
    longest = max(len(ids) for ids in tokenizer(references, add_special_tokens=False)["input_ids"])
    texts = continuations(model, tokenizer, [prompt for prompt, _ in pairs], longest + 1)
    print(f"{file}, {len(examples):,} prompts")
    print(f"exact match {exact_match(texts, references):.4f}")
    return 0


def in_harness(run: Path, tasks: str) -> int:
    """Print the student's scores on comma-separated `tasks` of lm-evaluation-harness. Returns the exit code 0.

    A task is named, or is a YAML file of your own. UserError without that package, and for tasks that it does not know.
    """
    config = _checked(run, "--lm-eval")
    if find_spec("lm_eval") is None:
        raise UserError(f"--lm-eval: lm-evaluation-harness is not installed; {install('lm-eval')}")
    import lm_eval  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    from lm_eval.utils import make_table  # pyright: ignore[reportMissingImports]

    from kdlab.runtime.devices import first_device

    given = [name.strip() for name in tasks.split(",") if name.strip()]
    files = {name: Path(name).resolve() for name in given if name.endswith((".yaml", ".yml"))}
    names = [_task_of(name, files[name]) if name in files else name for name in given]
    manager = TaskManager(include_path=[str(file.parent) for file in files.values()] or None)
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown or not names:
        raise UserError(
            f"--lm-eval {tasks}: no such task{' ' + unknown[0] if unknown else ''}; lm-eval ls tasks lists them"
        )
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(run / "student"), "dtype": "float32"},
        tasks=names,
        device=str(first_device(config.trainer.accelerator)),
        task_manager=manager,
    )
    print(make_table(found))
    return 0


def _task_of(name: str, file: Path) -> str:
    """The task that a YAML file of the harness names; its other tags are the harness's own. UserError without one."""
    if not file.is_file():
        raise UserError(f"--lm-eval {name}: no such file")
    found = re.search(
        r"^task:[ \t]*['\"]?([^'\"#\n]+?)['\"]?[ \t]*(#.*)?$", file.read_text(encoding="utf-8"), re.MULTILINE
    )
    if found is None:
        raise UserError(f"--lm-eval {name}: the file has no line `task: NAME`, as the harness's own tasks do")
    return found[1]
