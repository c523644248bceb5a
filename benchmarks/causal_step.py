"""One distillation step of a decoder: kdlab's against a plain loop on transformers models, and against TRL's GKD loss.

    python -m benchmarks.causal_step                       # a model of SmolLM2-135M's shape, 10 of 30 layers, 4 rows of 128 tokens
    python -m benchmarks.causal_step --trl                 # pip install trl: the loss of its GKDTrainer too
    python -m benchmarks.causal_step --device cuda --batch 16 --length 512

Every way has the same rows, student, teacher, precision and AdamW, and the generalised Jensen-Shannon divergence with beta 0.5 at
every predicted token. "plain loop": one padded batch through `model(...)`, logits at every position. "kdlab, 0.2 of the
positions": random ones. Ways take turns. Memory: each way in a process of its own, the rise of resident memory
in one step, on a GPU the peak of what is allocated. The losses of the first step are printed, to be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from benchmarks.measuring import clock_of, in_turns, machine, milliseconds, rise_of, table, times, wait_for
from benchmarks.steps import Loss, Ours, looped
from kdlab.errors import UserError
from kdlab.methods.knowledge.divergences import jensen_shannon
from kdlab.models.student import student_from
from kdlab.modules.objective import WeightedTerm
from kdlab.runtime.devices import precision_of
from kdlab.types import IGNORE, Batch

PLAIN, TRL, PADDED, PACKED, SOME = (
    "plain loop",
    "TRL's GKD loss",
    "kdlab padded",
    "kdlab packed",
    "kdlab packed, 0.2 of the positions",
)
Step = Callable[[Batch], float]  # rows -> the loss, before the update


@dataclass(frozen=True)
class Shape:
    """The models: `hidden` width, `layers` of student and teacher, words; SmolLM2-135M's by default. `precision`: Lightning's name."""

    hidden: int = 576
    student: int = 10
    teacher: int = 30
    vocab: int = 49152
    device: str = "cpu"
    precision: str = "32-true"

    def built(self) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedModel]:
        """A student to train and a frozen teacher, the same at each call."""
        torch.manual_seed(0)
        heads = max(1, self.hidden // 64)
        config = transformers.LlamaConfig(
            vocab_size=self.vocab, hidden_size=self.hidden, intermediate_size=self.hidden * 8 // 3, num_hidden_layers=self.teacher,
            num_attention_heads=heads, num_key_value_heads=heads if heads % 3 else heads // 3, tie_word_embeddings=True,
            max_position_embeddings=2048,
        )  # fmt: skip
        teacher = transformers.LlamaForCausalLM(config).to(torch.device(self.device))  # pyright: ignore[reportArgumentType]
        student = student_from(teacher, np.linspace(0, self.teacher - 1, self.student).round().astype(int).tolist())
        return student.train(), teacher.eval().requires_grad_(False)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def knowledge(self) -> dict[str, WeightedTerm]:
        return {"soft": WeightedTerm(partial(jensen_shannon, beta=0.5), 1.0)}


def generalised_jsd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """GKD's divergence, beta 0.5, mean over the predicted tokens, as one writes it: at every position, then the mask."""
    q, p = (F.log_softmax(logits.float(), -1) for logits in (student, teacher))
    m = torch.logaddexp(p, q) - np.log(2)
    each = 0.5 * (F.kl_div(m, p, reduction="none", log_target=True) + F.kl_div(m, q, reduction="none", log_target=True))
    mask = labels != IGNORE
    return each.sum(-1)[mask].sum() / mask.sum()


def trl_loss() -> Loss:
    """The loss of TRL's GKDTrainer. UserError where trl is not installed."""
    try:
        from trl.experimental.gkd import GKDTrainer  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("--trl needs the package trl (pip install trl)") from None

    def loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return GKDTrainer.generalized_jsd_loss(student.float(), teacher.float(), labels=labels, beta=0.5)

    return loss


def ours(shape: Shape, execution: str, share: float = 1.0) -> Step:
    """kdlab's step, without Lightning; with a random `share` of the positions."""
    made = Ours(shape, execution)

    def step(b: Batch) -> float:
        if share < 1:
            b = b.narrowed(torch.rand(b.labels.shape, device=b.labels.device) < share)
        return made.learn(b)

    return step


def ways_of(shape: Shape, with_trl: bool) -> dict[str, Callable[[], Step]]:
    """What makes each step that is compared."""
    return {
        PLAIN: partial(looped, shape, generalised_jsd),
        **({TRL: lambda: looped(shape, trl_loss())} if with_trl else {}),
        PADDED: partial(ours, shape, "padded"),
        PACKED: partial(ours, shape, "packed"),
        SOME: partial(ours, shape, "packed", 0.2),
    }


def rows_of(size: int, length: int, vocab: int, mixed: bool, seed: int) -> Batch:
    """`size` rows of random tokens, all `length` long or, `mixed`, from a quarter of that to all."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(length // 4, length + 1, size) if mixed else np.full(size, length)
    lengths[0] = length
    mask = torch.arange(length) < torch.from_numpy(lengths).unsqueeze(1)
    ids = torch.from_numpy(rng.integers(3, vocab, mask.shape)) * mask
    labels = following(ids, mask)
    return Batch(torch.arange(size), 0, ids, mask.long(), labels, torch.ones(size, dtype=torch.bool))


def following(ids: Tensor, mask: Tensor) -> Tensor:
    """Labels (B, L): the token after each, IGNORE at the last of a row and at padding; `mask` (B, L) bool."""
    return F.pad(ids[:, 1:], (0, 1)).masked_fill(~F.pad(mask[:, 1:], (0, 1)), IGNORE)


def memory_of(step: Step, shape: Shape, chosen: Any) -> float:
    """Gigabytes of one step, after one on two rows, by which models and optimizer are in place."""
    device = torch.device(shape.device)
    step(rows_of(2, chosen.length, shape.vocab, chosen.mixed, 0).to(device))
    batch = rows_of(chosen.batch, chosen.length, shape.vocab, chosen.mixed, 1).to(device)
    return rise_of(lambda: step(batch), shape.device)


def memories(names: Sequence[str], argv: Sequence[str], repeats: int) -> Iterator[tuple[str, float]]:
    """The memory of each way, the median of processes of its own."""
    for name in names:
        given = [sys.executable, "-m", "benchmarks.causal_step", *argv, "--way", name]
        done = [subprocess.run(given, check=True, capture_output=True, text=True).stdout for _ in range(repeats)]
        yield name, statistics.median(float(text.split()[-1]) for text in done)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--length", type=int, default=128)
    made.add_argument("--mixed", action="store_true", help="rows of a quarter of the length to all of it")
    made.add_argument("--hidden", type=int, default=576)
    made.add_argument("--layers", default="10,30", help="of student and teacher (default 10,30)")
    made.add_argument("--vocab", type=int, default=49152)
    made.add_argument("--trl", action="store_true", help="TRL's loss too")
    made.add_argument("--precision", default="auto", help="auto, 32-true or bf16-mixed (default auto)")
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--turns", type=int, default=5)
    made.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    made.add_argument("--repeats", type=int, default=1, help="processes behind each memory (default 1)")
    made.add_argument("--no-memory", action="store_true", help="leave the memory out")
    made.add_argument("--way", help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if argv is None else argv)
    options = parser()
    chosen = options.parse_args(given)
    torch.set_num_threads(chosen.threads)
    clock = clock_of(chosen.clock)
    student, teacher = (int(n) for n in chosen.layers.split(","))
    shape = Shape(chosen.hidden, student, teacher, chosen.vocab, chosen.device)
    shape = replace(shape, precision=precision_of(chosen.precision, chosen.device))
    ways = ways_of(shape, chosen.trl)
    if chosen.way:
        print(memory_of(ways[chosen.way](), shape, chosen))
        return
    try:
        steps = {name: make() for name, make in ways.items()}
    except UserError as error:
        options.error(str(error))
    device = torch.device(chosen.device)
    losses: dict[str, list[float]] = {name: [] for name in ways}

    def taking(name: str) -> Callable[[int], None]:
        def take(turn: int) -> None:
            rows = rows_of(chosen.batch, chosen.length, shape.vocab, chosen.mixed, turn).to(device)
            losses[name].append(steps[name](rows))
            wait_for(chosen.device)

        return take

    found = in_turns({name: taking(name) for name in ways}, 0, chosen.turns, clock)
    memory = {} if chosen.no_memory else dict(memories(list(ways), given, chosen.repeats))
    kind = f"a quarter of {chosen.length} to {chosen.length}" if chosen.mixed else f"{chosen.length}"
    print(f"{machine(chosen.threads, chosen.clock, chosen.device)}; {shape.precision}")
    print(
        f"{chosen.batch} rows of {kind} tokens, {student} of {teacher} layers, hidden {chosen.hidden}, {chosen.vocab:,} words, {chosen.turns} turns\n"
    )
    lines = [
        [name, *milliseconds(seconds), f"{times(found[PLAIN], seconds):.2f}x", f"{memory.get(name, float('nan')):.2f}", f"{losses[name][0]:.5f}"]
        for name, seconds in found.items()
    ]  # fmt: skip
    print(table(["way", "ms", "quartiles", "faster than the plain loop", "GB of a step", "first loss"], lines))


if __name__ == "__main__":
    main()
