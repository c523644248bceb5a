"""Peak memory and speed of preparing a corpus: `python -m benchmarks.prepare_memory [--data FOLDER]`.

Without --data it makes text of Zipf-distributed made-up words in one .txt file (the worst case for memory) and a tiny
WordPiece tokenizer that knows most of them; --tokenizer names a real one. The preparation runs in a process of its own,
whose peak resident memory is printed: it must stay under 1.5 GB for 1 GB of text.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

SYLLABLES = ["".join(letters) for letters in product("bdfgklmnprstvz", "aeiou")]
KNOWN = 20_000  # words that the made tokenizer knows whole; rarer ones fall into syllables


def made_words() -> np.ndarray:
    """60,000 words of one to four syllables, most frequent first."""
    rng = np.random.default_rng(0)
    words = {"".join(rng.choice(SYLLABLES, size=rng.integers(1, 5))): None for _ in range(80_000)}
    return np.array(list(words)[:60_000])


def make_text(folder: Path, megabytes: int) -> None:
    words = made_words()
    share = np.cumsum(1 / np.arange(1, len(words) + 1))
    rng = np.random.default_rng(1)
    with (folder / "made.txt").open("w") as file:
        written = 0
        while written < megabytes * 10**6:
            drawn = words[np.searchsorted(share, rng.random(200_000) * share[-1])]
            drawn[::17] = "."
            text = " ".join(drawn.tolist()).replace(" . ", ".\n") + "\n"
            written += file.write(text)


def make_tokenizer() -> Any:
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."]
    pieces = [*special, *made_words()[:KNOWN].tolist(), *SYLLABLES, *("##" + syllable for syllable in SYLLABLES)]
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(dict.fromkeys(pieces))})


def child(data: str, out: str, tokenizer: str | None) -> None:
    """Prepare `data` and print what it took, as one line of JSON."""
    from transformers import AutoTokenizer

    from kdlab.data.text.corpus import prepare, read_stats
    from kdlab.data.text.sources import TextFolder

    source = TextFolder(data)
    source.check()
    chosen = AutoTokenizer.from_pretrained(tokenizer) if tokenizer else make_tokenizer()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    prepare(source, chosen, Path(out), seed=0)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stats = read_stats(Path(out))
    print(
        json.dumps({"before": before, "peak": peak, "seconds": seconds, "bytes": source.size(), "tokens": stats.tokens})
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder of .txt, .jsonl or .parquet files (default: text is made)")
    parser.add_argument("--megabytes", type=int, default=1000, help="how much text to make")
    parser.add_argument("--tokenizer", help="a model's name or folder (default: one is made)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.data, options.child, options.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        text, out = Path(folder, "text"), Path(folder, "out")
        text.mkdir()
        out.mkdir()
        if not options.data:
            make_text(text, options.megabytes)
        command = [sys.executable, "-m", "benchmarks.prepare_memory", "--data", options.data or str(text)]
        command += ["--child", str(out)] + (["--tokenizer", options.tokenizer] if options.tokenizer else [])
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        size = found["bytes"] / 10**6
        arrow = sum(file.stat().st_size for file in out.rglob("*.arrow")) / 10**6
        print(f"text            {size:10.0f} MB")
        print(f"tokens          {found['tokens'] / 10**6:10.1f} million, {arrow:.0f} MB of Arrow")
        print(f"peak memory     {found['peak'] * 1024 / 10**6:10.0f} MB resident")
        print(f"  of it imports {found['before'] * 1024 / 10**6:10.0f} MB, before the preparation")
        print(f"time            {found['seconds']:10.0f} s, {size / found['seconds']:.1f} MB/s")


if __name__ == "__main__":
    main()
