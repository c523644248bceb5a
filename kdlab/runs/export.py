"""Write the student of a finished run as an ordinary transformers model folder (`python -m kdlab.export`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from kdlab.errors import UserError
from kdlab.models.head import Head, head_of_result
from kdlab.runs.finished import finished_result
from kdlab.runs.keeping import check_student
from kdlab.storage.files import flush_tree, fsync_folder, user_errors
from kdlab.storage.locks import sole_writer


def export_student(run: Path, out: Path, say: Callable[[str], None] = print) -> int:
    """Write the run's student to the new folder `out`, verified by loading it again; returns the exit code 0.

    `say` takes the line that says how to load it.
    UserError for an unfinished run or a folder `out` with content; the run's own folder is left as it is.
    """
    result = finished_result(run)
    check_student(run, result)
    with user_errors("exporting", out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} is not empty: choose a new folder")
        head = head_of_result(result)
        _export(run / "student", out, head)
    say(
        f"exported to {out}: {head.auto_class}.from_pretrained({str(out)!r}) gives the run's student, output for output"
    )
    return 0


def _export(student: Path, out: Path, head: Head) -> None:
    """Copy a model by way of transformers into a temporary folder, compare its logits on a sentence, rename the folder."""
    import torch

    from kdlab.models import loading

    masks = not head.causal
    model, tokenizer = loading.load_with_head(student, head).eval(), loading.load_tokenizer(student, masks=masks)
    temporary = out.with_name(f".{out.name}.tmp")
    with user_errors("exporting", out.parent):
        if temporary.exists():  # of an export that was killed
            shutil.rmtree(temporary)
        temporary.mkdir()
    try:
        with user_errors("exporting", out.parent):
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            if (student / "README.md").is_file():
                shutil.copyfile(student / "README.md", temporary / "README.md")
        copy = loading.load_with_head(temporary, head).eval()
        copy_tokenizer = loading.load_tokenizer(temporary, masks=masks)
        probe = head.probe.format(mask=tokenizer.mask_token)
        with torch.no_grad():
            before = model(**tokenizer(probe, return_tensors="pt", return_token_type_ids=False)).logits
            after = copy(**copy_tokenizer(probe, return_tensors="pt", return_token_type_ids=False)).logits
        if before.shape != after.shape or not torch.equal(before, after):
            raise UserError(
                f"the exported model differs in its logits from the student in {student}: nothing was written"
            )
        with user_errors("exporting", out.parent):
            flush_tree(temporary)
            temporary.rename(out)  # which may be an empty folder
            fsync_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
