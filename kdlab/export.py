"""`python -m kdlab.export RUN OUT`: the student as an ordinary transformers model folder, checked by loading it again."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kdlab.runs.finished import command, finished_result


def main(argv: Sequence[str] | None = None) -> int:
    """Write OUT and compare what it answers with what the run's student answers; 2 for bad input, nothing is lost."""
    parser = argparse.ArgumentParser(prog="python -m kdlab.export", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("out", type=Path, help="a folder to make")
    arguments = parser.parse_args(argv)

    def body() -> int:
        from kdlab.errors import UserError

        run, out = arguments.run, arguments.out
        result = finished_result(run)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} is not empty: choose a new folder")
        text = result["stage"] == "pretrain"
        _export(run / "student", out, text)
        kind = "AutoModelForMaskedLM" if text else "AutoModelForSequenceClassification"
        print(f"exported to {out}: {kind}.from_pretrained({str(out)!r}) gives the run's student, output for output")
        return 0

    return command(body)


def _export(student: Path, out: Path, text: bool) -> None:
    import torch

    from kdlab.errors import UserError
    from kdlab.models import loading
    from kdlab.storage.files import user_errors

    load = loading.load_masked_lm if text else loading.load_classifier
    model, tokenizer = load(student).eval(), loading.load_tokenizer(student)
    with user_errors("exporting", out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        with user_errors("exporting", out.parent):
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
            if (student / "README.md").is_file():
                shutil.copyfile(student / "README.md", beside / "README.md")
        again, words = load(beside).eval(), loading.load_tokenizer(beside)
        probe = f"Paris is the {tokenizer.mask_token} of France."
        with torch.no_grad():
            before = model(**tokenizer(probe, return_tensors="pt", return_token_type_ids=False)).logits
            after = again(**words(probe, return_tensors="pt", return_token_type_ids=False)).logits
        if before.shape != after.shape or not torch.equal(before, after):
            raise UserError(f"the exported model answers otherwise than the student in {student}: nothing was written")
        with user_errors("exporting", out.parent):
            if out.is_dir():
                out.rmdir()
            beside.chmod(0o755)
            beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
