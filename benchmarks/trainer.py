"""Cost of the training loop: a whole kdlab run against a hand-written loop over the same kernels, and HF's Trainer.

    python -m benchmarks.trainer [--data FOLDER] [--task SST-2] [--batch 8] [--steps 120] [--minutes 9] [--hf]

"kdlab run": `kdlab.runs.single` as the command line starts it, with its callbacks, ledger, tables, progress, and checkpoints when
they are due (none in the first minute: --steps for longer, or --set trainer.checkpoint_every=25); evaluations and all-data
probes are left out of its seconds, because the loop has none. "Loop": the same data module, the same student module's loss,
autocast, clipping, fused AdamW and schedule, and nothing else; or with a plain torch.save as often as the run has written a
checkpoint. "HF Trainer" (--hf, needs accelerate): transformers.Trainer around the same loss and batches, with its own
checkpoints as often. Each turn makes its models anew; times are from the first batch to the last, data loading and
checkpoints included. Rows are made words with the lengths of the task's.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.measuring import (
    clock_of,
    in_turns,
    lengths_of,
    machine,
    milliseconds,
    parser_of,
    quartiles,
    table,
)
from benchmarks.steps import Sizes
from kdlab.config.composition import composition, to_plain
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.modules.student import StudentModule
from kdlab.runs import single
from kdlab.runtime.ledger import Ledger
from kdlab.stages.base import Stage
from kdlab.stages.registry import stage_of

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LABELS = ("no", "yes")
Clock = Callable[[], float]
Training = Callable[[], dict[str, float]]  # seconds of its steps, by the name of the way


# ---- a teacher and rows for it


def write_teacher(folder: Path, sizes: Sizes) -> None:
    """A classifier of random weights, and a tokenizer that knows the words of `write_rows`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [*SPECIAL, *(f"w{i}" for i in range(sizes.vocab - len(SPECIAL)))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    inner.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=512, **named).save_pretrained(folder)
    teacher = sizes.built()[1]
    teacher.config.id2label, teacher.config.label2id = dict(enumerate(LABELS)), {n: i for i, n in enumerate(LABELS)}
    teacher.save_pretrained(folder)


def write_rows(folder: Path, lengths: np.ndarray, vocab: int, rows: int) -> None:
    """train.tsv and a short dev.tsv of random words, as many in a row as make its number of tokens."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", rows), ("dev", 64)):
        lines = ["sentence\tlabel"]
        for length in rng.choice(lengths, count):
            words = rng.integers(0, vocab - len(SPECIAL), max(1, length - 2))
            lines.append(" ".join(f"w{word}" for word in words) + f"\t{rng.choice(LABELS)}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def overrides_of(folder: Path, arguments: Any) -> list[str]:
    """The command line of the run."""
    student = Sizes.of(arguments).student
    return [
        "+exp=adads_finetune", "select=all", "knowledge=response", f"exec={arguments.exec}", "no_kd_baseline=false",
        f"teachers.path={folder / 'teacher'}", "teachers.sanity=false", f"data.path={folder / 'rows'}",
        f"artifacts={folder / 'artifacts'}", f"student.layers={student}", f"student.freeze=[{','.join(arguments.freeze)}]", "data.heldout_rows=16",
        f"data.max_length={arguments.max_length}", f"data.batch_size={arguments.batch}", "trainer.precision=bf16-mixed",
        f"trainer.max_steps={arguments.steps}", f"trainer.evaluate_every={arguments.steps}", "trainer.probes=0",
        f"trainer.threads={arguments.threads}", "trainer.accelerator=cpu", f"hydra.run.dir={folder / 'run'}", "overwrite=true", *arguments.set,
    ]  # fmt: skip


# ---- the ways: each gives the seconds of its steps


def kdlab_run(overrides: list[str], folder: Path) -> Training:
    def train() -> dict[str, float]:
        composed, _ = composition(overrides)
        with contextlib.redirect_stdout(io.StringIO()):
            single.run(checked(composed), to_plain(composed), folder, overrides)
        seconds = json.loads((folder / "result.json").read_text())["ledger"]["seconds"]
        whole = seconds["total"] - seconds.get("evaluation", 0.0)
        return {"kdlab run": whole, "kdlab run, less checkpoints": whole - seconds.get("checkpoint", 0.0)}

    return train


def prepared(overrides: list[str]) -> tuple[Stage, StudentModule, Any]:
    """The module that the run trains, and its rows."""
    stage = stage_of(checked(composition(overrides)[0]), lambda line: None)
    steps = stage.config.trainer.max_steps
    assert steps is not None
    teachers = stage.teachers(None)
    data = stage.inputs.data_module(steps, None)
    module = stage.student_module(stage.student(*teachers), teachers, Ledger(len(data.train)), steps)
    return stage, module, data


def saves_every(folder: Path, steps: int) -> int:
    """Steps between as many checkpoints, evenly spread, as the run in `folder` has written; 0 if it wrote none."""
    written = json.loads((folder / "result.json").read_text())["checkpoints"]["written"]
    return -(-steps // (written + 1)) if written else 0


def loop(overrides: list[str], folder: Path, clock: Clock) -> Training:
    def train() -> dict[str, float]:
        stage, module, data = prepared(overrides)
        made = module.configure_optimizers()
        optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
        module.train()
        every = saves_every(folder, module.total_steps)
        saving, started = 0.0, clock()
        for step, batch in enumerate(data.train_dataloader(), 1):
            with torch.autocast("cpu", torch.bfloat16):
                loss = module.loss(batch, local=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), module.optimization.settings.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if every and step % every == 0 and step < module.total_steps:
                before = clock()
                torch.save({"student": module.state_dict(), "optimizer": optimizer.state_dict()}, folder / "loop.pt")
                saving += clock() - before
        whole = clock() - started
        return {"loop": whole - saving, "loop, torch.save": whole}

    return train


def hf_trainer(overrides: list[str], folder: Path, clock: Clock) -> Training:
    """UserError where accelerate, which transformers.Trainer needs, is not installed."""
    try:
        import accelerate  # noqa: F401  # pyright: ignore
    except ImportError:
        raise UserError("--hf: transformers.Trainer needs accelerate, which is not installed") from None

    class Timed(transformers.TrainerCallback):
        started = ended = saving = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = clock()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.ended = clock()

    def train() -> dict[str, float]:
        stage, module, data = prepared(overrides)
        made = module.configure_optimizers()

        timed = Timed()

        class Distilling(transformers.Trainer):
            def _save_checkpoint(self, *given: Any, **named: Any) -> None:
                before = clock()
                super()._save_checkpoint(*given, **named)
                timed.saving += clock() - before

            def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
                return module.loss(inputs["batch"], local=True)

            def get_train_dataloader(self) -> Any:
                loader = data.train_dataloader()
                collate = loader.collate_fn
                loader.collate_fn = lambda rows: {"batch": collate(rows)}
                return loader

        every = saves_every(folder, module.total_steps)
        given = transformers.TrainingArguments(
            output_dir=str(folder / "hf"), max_steps=module.total_steps, bf16=True, use_cpu=True, max_grad_norm=module.optimization.settings.clip,
            save_strategy="steps" if every else "no", save_steps=max(1, every), save_total_limit=2, logging_steps=50,
            report_to=[], remove_unused_columns=False,
        )  # fmt: skip
        trainer = Distilling(
            module.student.model, given, callbacks=[timed], optimizers=(made["optimizer"], made["lr_scheduler"]["scheduler"])
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
        whole = timed.ended - timed.started
        return {"HF Trainer": whole, "HF Trainer, less checkpoints": whole - timed.saving}

    return train


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, minutes=9)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=120, help="of each training (default 120)")
    parser.add_argument("--exec", default="packed", choices=("packed", "bucketed", "padded"))
    parser.add_argument("--set", nargs="*", default=[], help="more overrides of the run, KEY=VALUE")
    parser.add_argument("--hf", action="store_true", help="time transformers.Trainer as well")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    clock = clock_of(arguments.clock)
    lengths = lengths_of(arguments.data, arguments.max_length, arguments.task)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_teacher(folder / "teacher", Sizes.of(arguments))
        write_rows(folder / "rows", lengths, arguments.vocab, arguments.batch * arguments.steps)
        overrides = overrides_of(folder, arguments)
        trainings = {"kdlab": kdlab_run(overrides, folder / "run"), "loop": loop(overrides, folder / "run", clock)}
        if arguments.hf:
            trainings["HF"] = hf_trainer(overrides, folder / "run", clock)
        taken: dict[str, list[float]] = {}

        def noting(training: Training) -> Callable[[int], None]:
            def train(turn: int) -> None:
                for name, seconds in training().items():
                    taken.setdefault(name, []).append(seconds / arguments.steps)

            return train

        ways = {name: noting(training) for name, training in trainings.items()}
        in_turns(ways, arguments.minutes, arguments.turns, clock, least=2)
    print(machine(arguments.threads, arguments.clock))
    print(
        f"{len(taken['loop']) - 1} turns of {arguments.steps} steps of {arguments.batch} rows, exec={arguments.exec}\n"
    )
    print(table(["way", "ms a step", "quartiles", "more than the loop", "quartiles", "ms more"], lines(taken)))


def lines(taken: dict[str, list[float]]) -> list[list[str]]:
    """A line for each way from the seconds of a step in each turn, the first of which is left out."""
    made = []
    base = taken["loop"][1:]
    for name, seconds in taken.items():
        seconds = seconds[1:]
        low, middle, high = quartiles([s / b - 1 for s, b in zip(seconds, base, strict=True)])
        more = 1000 * quartiles([s - b for s, b in zip(seconds, base, strict=True)])[1]
        made.append(
            [name, *milliseconds(seconds, 1), f"{middle:+.1%}", f"{low:+.1%} to {high:+.1%}", f"{more:+.2f}"]
        )  # fmt: skip
    return made


if __name__ == "__main__":
    main()
