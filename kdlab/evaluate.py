"""`python -m kdlab.evaluate RUN`: score a finished run's student again, from the files in its folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdlab.finished import command, config_of, result_of


def main(argv: Sequence[str] | None = None) -> int:
    """Print the student's held-out loss and accuracy beside those of its result.json; 1 if they differ, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m kdlab.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--rows", type=int, default=None, help="held-out rows to read (default: as the run did)")
    arguments = parser.parse_args(argv)

    def body() -> int:
        result, config = result_of(arguments.run), config_of(arguments.run)
        from kdlab import models
        from kdlab.build import Bench
        from kdlab.distill import masked_lm_score
        from kdlab.errors import UserError

        if arguments.rows is not None:
            if arguments.rows < 1:
                raise UserError(f"--rows {arguments.rows}: at least 1")
            config.data.heldout_rows = arguments.rows
        bench = Bench(config, print)
        bench.source.check()
        encoder = models.Encoder(models.load_masked_lm(arguments.run / "student")).eval()
        data = bench.data_module(1, None)
        found = masked_lm_score(encoder, data.heldout_batches())
        kept = result["metrics"]["student"]
        print(f"{'held-out text':<24}{'loss':>10}{'accuracy':>12}   rows {data.heldout_rows}")
        print(f"{'student, now':<24}{found['loss']:>10.4f}{found['accuracy']:>12.2%}")
        print(f"{'student, as recorded':<24}{kept['loss']:>10.4f}{kept['accuracy']:>12.2%}")
        if arguments.rows is None and abs(found["loss"] - kept["loss"]) > 1e-3 * max(1.0, kept["loss"]):
            print(
                "kdlab: the scores differ: were the student, the data or the machine's precision changed?",
                file=sys.stderr,
            )
            return 1
        return 0

    return command(body)


if __name__ == "__main__":
    sys.exit(main())
