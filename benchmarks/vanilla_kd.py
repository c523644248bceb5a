"""Vanilla distillation from rows to a student: HF's Trainer, written by hand, against one kdlab command.

    python -m benchmarks.vanilla_kd [--rows 5000] [--batch 64] [--steps 100] [--precision 32-true] [--data FOLDER] [--minutes 20]

Both read the same train.tsv, start from the same layers of the same teacher, and learn 0.5 CE + 0.5 KL(teacher || student) with
AdamW, the same learning rate, warm-up, clipping and precision, dropout included. "HF Trainer" is what one writes with
transformers: padded batches, DataCollatorWithPadding, a Trainer whose compute_loss runs the teacher; "similar length" is the
same with group_by_length. "kdlab" is `python -m kdlab.run +exp=adads_finetune select=all knowledge=response`, in this process,
with everything a run writes. Whole: from the files to the saved student, tokenization and the scores of dev included, nothing
cached from an earlier turn. Steps: the training alone. Needs accelerate (`pip install accelerate`), which Trainer needs.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from benchmarks.measuring import clock_of, in_turns, lengths_of, machine, parser_of, quartiles, table, times
from benchmarks.steps import Sizes
from benchmarks.trainer import LABELS, Clock, write_rows, write_teacher
from kdlab.config.composition import composition, to_plain
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.models.student import freeze, pick_layers
from kdlab.runs import single

LR, WARMUP, DECAY, CLIP = 3e-4, 0.1, 0.01, 1.0  # of both, as in recipe=finetune_demo
Way = Callable[[int], float]  # a turn -> seconds of its training steps


def vanilla_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """0.5 CE + 0.5 KL(teacher || student) of logits (B, C) at temperature 1, means over rows."""
    soft = F.kl_div(F.log_softmax(student, -1), F.log_softmax(teacher, -1), reduction="batchmean", log_target=True)
    return 0.5 * F.cross_entropy(student, labels) + 0.5 * soft


def shallow(teacher: transformers.PreTrainedModel, layers: int) -> transformers.PreTrainedModel:
    """The teacher with evenly spaced layers alone, those of `student.layers=N`."""
    stack: Any = teacher.bert.encoder.layer  # pyright: ignore[reportAttributeAccessIssue]
    chosen = [stack[place] for place in pick_layers(layers, len(stack))]
    teacher.bert.encoder.layer = torch.nn.ModuleList(chosen)  # pyright: ignore[reportAttributeAccessIssue]
    teacher.config.num_hidden_layers = layers
    return teacher


def hf_trainer(folder: Path, arguments: Any, clock: Clock, **sampling: Any) -> Way:
    """The hand-written script; `sampling` goes to TrainingArguments. UserError where accelerate is not installed."""
    try:
        import accelerate  # noqa: F401  # pyright: ignore
    except ImportError:
        raise UserError("transformers.Trainer needs accelerate, which is not installed") from None

    class Distilling(transformers.Trainer):
        teacher: Any

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            with torch.no_grad():
                taught = self.teacher(**inputs).logits
            loss = vanilla_loss(outputs.logits.float(), taught.float(), labels)
            return (loss, outputs) if return_outputs else loss

    class Timed(transformers.TrainerCallback):
        started = ended = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = clock()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.ended = clock()

    def run(turn: int) -> float:
        load = transformers.AutoModelForSequenceClassification.from_pretrained
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "teacher")
        train, dev = (rows_of(folder / "rows" / name, tokenizer, arguments.max_length) for name in SPLITS)
        student = shallow(load(folder / "teacher"), Sizes.of(arguments).student)
        freeze(student, arguments.freeze)
        given = transformers.TrainingArguments(
            output_dir=str(folder / "hf"), max_steps=arguments.steps, per_device_train_batch_size=arguments.batch,
            per_device_eval_batch_size=arguments.batch, learning_rate=LR, warmup_steps=WARMUP, weight_decay=DECAY,
            max_grad_norm=CLIP, bf16=arguments.precision == "bf16-mixed", use_cpu=True, seed=turn + 1, save_strategy="no",
            logging_steps=50, report_to=[], disable_tqdm=True, dataloader_pin_memory=False, **sampling,
        )  # fmt: skip
        timed = Timed()
        trainer = Distilling(
            student, given, train_dataset=train, eval_dataset=dev, callbacks=[timed],
            data_collator=transformers.DataCollatorWithPadding(tokenizer), processing_class=tokenizer,
        )  # fmt: skip
        trainer.teacher = load(folder / "teacher").eval().requires_grad_(False)
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
            trainer.evaluate()
        trainer.save_model(str(folder / "hf" / "student"))
        return timed.ended - timed.started

    return run


SPLITS = ("train.tsv", "dev.tsv")


def rows_of(file: Path, tokenizer: Any, limit: int) -> Any:
    """The rows of a file as Trainer takes them."""
    with open(file, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    tokens = tokenizer([row["sentence"] for row in rows], truncation=True, max_length=limit)
    labels = [LABELS.index(row["label"]) for row in rows]
    columns = {**tokens, "labels": labels}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def overrides_of(folder: Path, arguments: Any, turn: int) -> list[str]:
    """The command line of a turn."""
    return [
        "+exp=adads_finetune", "select=all", "knowledge=response", "no_kd_baseline=false", f"seed={turn + 1}",
        f"teachers.path={folder / 'teacher'}", "teachers.sanity=false", f"data.path={folder / 'rows'}",
        f"student.layers={Sizes.of(arguments).student}", "student.pick=even", f"student.freeze=[{','.join(arguments.freeze)}]",
        f"student.dropout={arguments.dropout}", f"data.max_length={arguments.max_length}", f"data.batch_size={arguments.batch}",
        f"optim.lr={LR}", f"optim.warmup={WARMUP}", f"optim.weight_decay={DECAY}", f"optim.clip={CLIP}",
        f"trainer.precision={arguments.precision}", f"trainer.max_steps={arguments.steps}", "trainer.accelerator=cpu",
        f"trainer.evaluate_every={arguments.steps}", f"trainer.threads={arguments.threads}", "trainer.probes=0",
        f"artifacts={folder / 'kdlab' / 'artifacts'}", f"hydra.run.dir={folder / 'kdlab' / 'run'}", *arguments.set,
    ]  # fmt: skip


def kdlab_run(folder: Path, arguments: Any) -> Way:
    """The command. A turn has run folder and artifacts of its own, so that it finds nothing prepared."""

    def run(turn: int) -> float:
        shutil.rmtree(folder / "kdlab", ignore_errors=True)
        overrides = overrides_of(folder, arguments, turn)
        composed, _ = composition(overrides)
        with contextlib.redirect_stdout(io.StringIO()):
            single.run(checked(composed), to_plain(composed), folder / "kdlab" / "run", overrides)
        seconds = json.loads((folder / "kdlab" / "run" / "result.json").read_text())["ledger"]["seconds"]
        return seconds["total"] - seconds.get("evaluation", 0.0)

    return run


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, minutes=20)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100, help="of each training (default 100)")
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed"), help="of all ways")
    parser.add_argument("--set", nargs="*", default=[], help="more overrides of the kdlab run, KEY=VALUE")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    clock = clock_of(arguments.clock)
    lengths = lengths_of(arguments.data, arguments.max_length, arguments.task)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_teacher(folder / "teacher", Sizes.of(arguments))
        write_rows(folder / "rows", lengths, arguments.vocab, arguments.rows)
        ways = {
            "HF Trainer": hf_trainer(folder, arguments, clock),
            "HF Trainer, similar length": hf_trainer(
                folder, arguments, clock, train_sampling_strategy="group_by_length"
            ),
            "kdlab": kdlab_run(folder, arguments),
        }
        steps: dict[str, list[float]] = {way: [] for way in ways}

        def noting(way: str) -> Callable[[int], None]:
            return lambda turn: steps[way].append(ways[way](turn))

        whole = in_turns({way: noting(way) for way in ways}, arguments.minutes, arguments.turns, clock, least=2)
    print(machine(arguments.threads, arguments.clock))
    print(
        f"{len(whole['kdlab'])} turns of {arguments.steps} steps of {arguments.batch} rows out of {arguments.rows}, "
        f"{arguments.precision}\n"
    )
    taken = {way: (whole[way], steps[way][1:]) for way in ways}
    print(table(["way", "whole s", "quartiles", "of kdlab", "steps s", "quartiles", "of kdlab"], lines(taken)))


def lines(taken: dict[str, tuple[list[float], list[float]]]) -> list[list[str]]:
    """A line for each way from its seconds in each turn, whole and of the steps: medians, quartiles, quotients with kdlab."""
    made = []
    for way, both in taken.items():
        cells = [way]
        for seconds, ours in zip(both, taken["kdlab"], strict=True):
            low, middle, high = quartiles(seconds)
            cells += [f"{middle:.1f}", f"{low:.1f} to {high:.1f}", f"{times(seconds, ours):.2f}x"]
        made.append(cells)
    return made


if __name__ == "__main__":
    main()
