"""Memory of one masked-LM distillation step: score, loss, backward at ratio 1, against computing every position.

    python -m benchmarks.mlm_memory [--rows 32] [--length 128] [--repeats 3]

Each measurement is a fresh process: random weights of MiniLM's sizes (teacher 6 layers, student 3, hidden 384,
vocabulary 30,522), a warm-up on two rows, then one step whose peak of resident memory is read from the kernel (Linux).
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
from pathlib import Path

VOCABULARY = 30522


def peak_of(work) -> float:
    """Gigabytes by which resident memory rises at its highest while `work()` runs."""
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here

    def read(name: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))

    before = read("VmRSS")
    work()
    return (read("VmHWM") - before) / 2**20


def measure(way: str, rows: int, length: int, dropout: float) -> None:
    import torch
    import torch.nn.functional as F
    import transformers

    from kdlab.methods.knowledge import hidden_states, logits
    from kdlab.methods.selection import strategies
    from kdlab.models.encoder import Encoder
    from kdlab.models.student import set_dropout, student_from
    from kdlab.modules.objective import WeightedTerm
    from kdlab.modules.optimizer import OptimizerSettings
    from kdlab.modules.student import StudentModule
    from kdlab.teachers.teacher import Teacher
    from kdlab.types import IGNORE, Batch

    torch.manual_seed(0)
    torch.set_num_threads(1)  # two stall each other on a busy machine; the memory is the same
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    whole = transformers.AutoModelForMaskedLM.from_config(config)
    small = student_from(whole, [0, 2, 4])
    set_dropout(small, dropout)
    student = Encoder(small)
    teacher = Teacher("teacher", Encoder(whole))
    knowledge = {
        "soft": WeightedTerm(functools.partial(logits.soft_cross_entropy, temperature=2.0), 5.0),
        "mlm": WeightedTerm(logits.label_cross_entropy, 2.0),
        "cosine": WeightedTerm(hidden_states.cosine, 1.0, "tokens"),
    }
    module = StudentModule(student, knowledge, OptimizerSettings(lr=1e-4), 10, [teacher])

    def batch(n: int) -> Batch:
        ids = torch.randint(1000, VOCABULARY, (n, length))
        labels = torch.where(torch.rand(n, length) < 0.15, ids, torch.tensor(IGNORE))
        labels[:, 1] = ids[:, 1]
        return Batch(torch.arange(n), 0, ids, torch.ones_like(ids), labels, torch.ones(n, dtype=torch.bool))

    def ours(b: Batch) -> None:
        with torch.no_grad():
            hidden = module.encode(b)
            torch.cat([strategies.entropy(part) for part in module.evidence(b, hidden)])
        module.loss(b, local=True).backward()

    def every_position(b: Batch) -> None:
        with torch.no_grad():
            p = student.model(input_ids=b.input_ids, attention_mask=b.attention_mask).logits.log_softmax(-1)
            (p.exp() * p).sum(-1)
            del p
            told = whole(input_ids=b.input_ids, attention_mask=b.attention_mask, output_hidden_states=True)
        shown = student.model(input_ids=b.input_ids, attention_mask=b.attention_mask, output_hidden_states=True)
        masked = b.labels != IGNORE
        soft = 4 * F.kl_div(F.log_softmax(shown.logits / 2, -1), F.softmax(told.logits / 2, -1), reduction="none").sum(
            -1
        )
        mlm = F.cross_entropy(shown.logits.transpose(1, 2), b.labels, ignore_index=IGNORE)
        cosine = 1 - F.cosine_similarity(shown.hidden_states[-1], told.hidden_states[-1], dim=-1)
        (5 * soft[masked].mean() + 2 * mlm + cosine.mean()).backward()

    step = {"kdlab": ours, "every position": every_position}[way]
    step(batch(2))  # gradients, buffers and code that every later step reuses
    print(json.dumps(peak_of(lambda: step(batch(rows)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--dropout", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        return measure(arguments.way, arguments.rows, arguments.length, arguments.dropout)
    print(f"rise of resident memory in one step, B={arguments.rows}, L={arguments.length}, V={VOCABULARY}, ratio 1")
    print(f"{'way':<16}{'dropout':>9}{'median GB':>11}{'min':>7}{'max':>7}")
    for dropout in (0.0, 0.1):
        for way in ("kdlab", "every position"):
            found = []
            for _ in range(arguments.repeats):
                command = [sys.executable, "-m", "benchmarks.mlm_memory", "--way", way, "--dropout", str(dropout)]
                command += ["--rows", str(arguments.rows), "--length", str(arguments.length)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found.append(float(done.stdout.split()[-1]))
            middle = statistics.median(found)
            print(f"{way:<16}{dropout:>9}{middle:>11.2f}{min(found):>7.2f}{max(found):>7.2f}", flush=True)


if __name__ == "__main__":
    main()
