"""Held-out rows of a finished causal run, or other text and rows, on which its student is scored again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdlab.data.causal import dataset
from kdlab.data.causal.datamodule import heldout_batches
from kdlab.data.loading import FixedBatches
from kdlab.errors import UserError
from kdlab.models import loading
from kdlab.stages.causal.rows import source_of
from kdlab.stages.registry import stage_of


def heldout_rows(
    run: Path, config: Any, place: Path | None, data: Path | None, rows: int | None, folder: Path
) -> tuple[FixedBatches, int]:
    """Batches of the held-out rows, and their number.

    `place`: the run's tokenised rows, None where they are gone; `data`: other text or rows; `rows` at most (None: as in the
    run); what has to be tokenised goes to the empty `folder`. UserError where the run's own text is gone.
    """
    tokenizer: Any = loading.load_tokenizer(run / "student", masks=False)
    given = config.data
    if data is not None or place is None:
        place = folder
        source = source_of(given, str(data)) if data is not None else stage_of(config, print).inputs.source
        try:
            source.check()
        except UserError as error:
            if data is not None:
                raise
            raise UserError(f"{run}: its text is not there ({error}); --data FILE names other text") from error
        options = {"max_length": given.max_length, "min_length": given.min_length, "pack": given.pack}
        share = None if data is not None else given.heldout
        dataset.prepare(
            source, tokenizer, folder, heldout=share, seed=given.split_seed, long_prompts=given.long_prompts, **options
        )
    held = dataset.TokenizedDocuments(place, "heldout")
    limit = rows or (given.heldout_rows if data is None else None) or len(held)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return heldout_batches(held, int(pad), limit, given.batch_size), min(limit, len(held))
