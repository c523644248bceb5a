"""Rows of the causal stage: text, prompts with completions, or conversations, tokenised once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from kdlab.config.groups.data import DataConfig
from kdlab.data.causal import dataset
from kdlab.data.causal.datamodule import CausalDataModule
from kdlab.data.causal.encoding import REFUSE, ends, example_documents
from kdlab.data.causal.examples import ExampleFolder
from kdlab.data.text.sources import TextFolder
from kdlab.errors import UserError
from kdlab.stages.components import build_target
from kdlab.stages.inputs import vocabulary_hash
from kdlab.stages.text_inputs import CorpusInputs

FIRST = 200  # examples that are tokenised before anything is loaded or written


class CausalRows(CorpusInputs):
    """The rows of a run that predicts next tokens, from its configuration."""

    @cached_property
    def source(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        data = self.config.data
        if data.path is None:
            if data.source is None:
                raise UserError(
                    "no text: give data.path= (.txt or .parquet text, or .jsonl of text, prompts with completions, or messages)"
                )
            return build_target(data.source, "data.source", "text")
        return source_of(data, data.path)

    @property
    def has_examples(self) -> bool:
        """True for prompts with completions and conversations, False for plain text."""
        return hasattr(self.source, "examples")

    def check_rows(self) -> None:
        """UserError for a tokenizer without an end token, and for what is wrong with the first examples: too long a prompt,
        a conversation without a chat template."""
        ends(self.tokenizer)
        if not self.has_examples or self.store.find("corpus", self.corpus_parts) is not None:
            return
        first = itertools.islice(self.source.examples(), FIRST)
        data = self.config.data
        documents = list(example_documents(first, self.tokenizer, data.max_length, data.long_prompts))
        if not documents:
            raise UserError(f"data.path: {data.path or self.data_name} has no row")

    @cached_property
    def corpus_parts(self) -> dict[str, Any]:
        data = self.config.data
        names = ("min_length", "max_length", "heldout", "split_seed", "pack")
        return {
            "stage": "causal",
            "text": self.source.fingerprint(),
            "tokenizer": vocabulary_hash(self.tokenizer),
            "end": self.tokenizer.eos_token_id,
            **({"template": self.tokenizer.chat_template} if self.has_examples else {}),
            **({} if data.long_prompts == REFUSE else {"long_prompts": data.long_prompts}),
            **{name: getattr(data, name) for name in names},
        }

    def named_teachers(self) -> Iterable[str]:
        if not isinstance(self.source, ExampleFolder) or self.config.data.pack:
            return super().named_teachers()
        return (str(example.teacher) for example in self.source.examples())

    def row_teachers(self) -> list[str]:
        return dataset.TokenizedDocuments(self.corpus_folder, "train").teachers()

    @cached_property
    def corpus_folder(self) -> Path:
        data = self.config.data

        def build(out: Path) -> None:
            dataset.prepare(
                self.source,
                self.tokenizer,
                out,
                max_length=data.max_length,
                min_length=data.min_length,
                heldout=data.heldout,
                seed=data.split_seed,
                pack=data.pack,
                long_prompts=data.long_prompts,
            )

        folder = self.store.get("corpus", self.corpus_parts, build, "tokenised text")
        self._say_cut(dataset.read_stats(folder))
        return folder

    def _say_cut(self, stats: dataset.CausalStats) -> None:
        """Print how many examples lost their end or were dropped."""
        if stats.cut:
            self.notify(
                f"{stats.cut:,} of {stats.documents:,} completions are cut at data.max_length={self.max_length} tokens"
            )
        if self.has_examples and stats.dropped:
            self.notify(
                f"{stats.dropped:,} of {stats.documents:,} rows are dropped: their prompts fill data.max_length"
            )

    def data_module(
        self, batches: int | None, epochs: int | None, seed: int | None = None, batch_size: int | None = None
    ) -> CausalDataModule:
        data = self.config.data
        tokenizer: Any = self.tokenizer
        pad = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
        return self.hold_out(
            CausalDataModule(
                self.corpus_folder,
                int(pad),
                batch_size or data.batch_size,
                self.config.seed if seed is None else seed,
                batches,
                epochs,
                heldout_rows=data.heldout_rows,
                workers=data.workers,
                grouped=data.order == "length",
            )
        )

    @property
    def rows_parts(self) -> dict[str, Any]:
        return self.corpus_parts


def source_of(data: DataConfig, path: str) -> ExampleFolder | TextFolder:
    """The text or the examples at a path, as the configuration describes them. UserError for rows with neither."""
    columns = data.prompt_column, data.completion_column, data.messages_column
    examples = ExampleFolder(path, *columns, data.encoding, data.teacher_column)
    if examples.is_given(data.text_column):
        return examples
    return TextFolder(path, data.document, data.text_column, data.group, data.encoding)
