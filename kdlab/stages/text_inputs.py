"""Inputs of tokenised text, and those of the pre-training stage: rows whose masks are drawn anew each epoch."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from kdlab.data.datamodules import CorpusDataModule
from kdlab.data.text import corpus
from kdlab.data.text.masking import Masker
from kdlab.data.text.sources import TextFolder
from kdlab.errors import UserError
from kdlab.models import head_keys, loading
from kdlab.models.head import MASKED_LM
from kdlab.modules.evaluation import MaskedLMScore
from kdlab.runtime.seeding import reseed
from kdlab.stages.components import build_target
from kdlab.stages.inputs import Inputs, vocabulary_hash
from kdlab.storage.files import read_json


class CorpusInputs(Inputs):
    """Inputs whose rows are text that is tokenised once, to a corpus in the artifact store."""

    @property
    def example(self) -> tuple[int, Tensor]:
        return 2, torch.zeros(1, dtype=torch.long)

    @cached_property
    def corpus_parts(self) -> dict[str, Any]:
        """The key parts of the tokenised text."""
        raise NotImplementedError

    @cached_property
    def corpus_folder(self) -> Path:
        """The folder of the tokenised text; made at its first use."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.data_name,
            "source": type(self.source).__name__,
            "path": self.config.data.path,
            "fingerprint": self.corpus_parts["text"],
            **read_json(self.corpus_folder / "stats.json"),
        }


class TextInputs(CorpusInputs):
    """Plain text and its tokenised corpus."""

    head = MASKED_LM
    fixed_inputs = False

    @property
    def score(self) -> MaskedLMScore:  # pyright: ignore[reportIncompatibleVariableOverride]
        return MaskedLMScore()

    def load(
        self, source: str | Path, revision: str | None = None, seed: int | None = None
    ) -> transformers.PreTrainedModel:
        if not head_keys.has_head(source, loading.load_config(source, revision)):
            self.notify(f"{source} has no masked-LM head: the model starts with a new one")
        reseed(self.config.seed if seed is None else seed, "student head")
        return loading.load_masked_lm(source, revision, new_head=True)

    @cached_property
    def source(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        data = self.config.data
        if data.path is not None:
            return TextFolder(data.path, data.document, data.text_column, data.group, data.encoding)
        if data.source is None:
            raise UserError("no text: give data.path= (a folder of .txt, .jsonl or .parquet)")
        return build_target(data.source, "data.source", "text")

    @cached_property
    def corpus_parts(self) -> dict[str, Any]:
        data = self.config.data
        return {
            "text": self.source.fingerprint(),
            "tokenizer": vocabulary_hash(self.tokenizer),
            **{name: getattr(data, name) for name in ("min_length", "max_length", "heldout", "split_seed")},
            **({} if data.max_unknown is None else {"max_unknown": data.max_unknown}),  # older keys lack it
        }

    @cached_property
    def corpus_folder(self) -> Path:
        data = self.config.data

        def build(out: Path) -> None:
            corpus.prepare(
                self.source,
                self.tokenizer,
                out,
                min_length=data.min_length,
                max_length=data.max_length,
                heldout=data.heldout,
                seed=data.split_seed,
                max_unknown=data.max_unknown,
            )

        return self.store.get("corpus", self.corpus_parts, build, "tokenised text")

    def data_module(
        self, batches: int | None, epochs: int | None, seed: int | None = None, batch_size: int | None = None
    ) -> CorpusDataModule:
        data = self.config.data
        seed = self.config.seed if seed is None else seed
        size, grouped = batch_size or data.batch_size, data.order == "length"
        return self.hold_out(self.rows_of(seed, size, data.mask_probability, batches, epochs, grouped=grouped))

    @property
    def rows_parts(self) -> dict[str, Any]:
        names = ("masking", "mask_probability")
        return {**self.corpus_parts, **{name: getattr(self.config.data, name) for name in names}}

    def rows_of(
        self,
        seed: int,
        batch_size: int,
        probability: float,
        batches: int | None,
        epochs: int | None = None,
        crop: int | None = None,
        grouped: bool = True,
    ) -> CorpusDataModule:
        """The tokenised text, for a number of micro-batches or of epochs, masked with `probability`.

        `crop`: rows of at most so many tokens; `grouped`: by similar length.
        """
        data = self.config.data
        folder = self.corpus_folder
        facts = {
            "mask_id": self.tokenizer.mask_token_id,
            "special_ids": self.tokenizer.all_special_ids,
            "vocab_size": len(self.tokenizer),
        }
        counts = np.load(folder / "token_counts.npy") if data.masking == "rare" else None
        return CorpusDataModule(
            folder=folder,
            masker=Masker(**facts, seed=seed, probability=probability, counts=counts),
            heldout_masker=Masker(**facts, seed=self.config.data.split_seed),
            pad=int(self.tokenizer.pad_token_id or 0),  # pyright: ignore[reportArgumentType]
            batch_size=batch_size,
            seed=seed,
            batches=batches,
            epochs=epochs,
            heldout_rows=data.heldout_rows,
            workers=data.workers,
            crop=crop,
            grouped=grouped,
        )
