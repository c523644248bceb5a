"""The pre-training stage: plain text, masked-LM teachers and students (AdaDS section 4.2, the DistilBERT recipe)."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from kdlab import corpus, models
from kdlab.bench import Bench, made, read_json, vocabulary_hash
from kdlab.config import Prepare
from kdlab.datamodules import CorpusDataModule
from kdlab.distill import Distiller, Optim, Weighted
from kdlab.errors import UserError
from kdlab.files import atomic_write_json, sha256_of
from kdlab.ledger import Ledger
from kdlab.masking import Masker
from kdlab.models import Encoder
from kdlab.scoring import MaskedLMScore
from kdlab.seeding import reseed
from kdlab.sources import TextFolder
from kdlab.teacher import Teacher
from kdlab.terms import label_cross_entropy


class TextBench(Bench):
    """What a run on text needs."""

    head = transformers.AutoModelForMaskedLM
    fixed_inputs = False

    @property
    def score(self) -> MaskedLMScore:  # pyright: ignore[reportIncompatibleVariableOverride]
        return MaskedLMScore()

    @property
    def answer(self) -> tuple[int, Tensor]:
        return 2, torch.zeros(1, dtype=torch.long)

    def load(self, source: str | Path, revision: str | None = None) -> transformers.PreTrainedModel:
        return models.load_masked_lm(source, revision)

    def backbone(self, teacher: Teacher | None) -> transformers.PreTrainedModel:
        if teacher is not None:
            return teacher.encoder.model
        return models.load_masked_lm(self.teacher_folder, self._revision)

    def teacher_on_heldout(self, module: Distiller, teacher: Teacher, data: CorpusDataModule) -> dict[str, float]:
        return module.measure(data.heldout_splits(final=True)[""], teacher=teacher)

    def facts(self) -> dict[str, Any]:
        """What is known of the text."""
        return {
            "source": type(self.source).__name__,
            "path": self.config.data.path,
            "fingerprint": self.corpus_parts["text"],
            **read_json(self.corpus_folder / "stats.json"),
        }

    @cached_property
    def source(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        data = self.config.data
        if data.path is not None:
            return TextFolder(path=data.path, document=data.document, text_column=data.text_column, group=data.group)
        if data.source is None:
            raise UserError("no text: give data.path= (a folder of .txt, .jsonl or .parquet)")
        return made(data.source, "data.source")

    @cached_property
    def corpus_parts(self) -> dict[str, Any]:
        data = self.config.data
        return {
            "text": self.source.fingerprint(),
            "tokenizer": vocabulary_hash(self.tokenizer),
            **{name: getattr(data, name) for name in ("min_length", "max_length", "heldout", "split_seed")},
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
            )

        return self.store.get("corpus", self.corpus_parts, build, "tokenised text")

    def data_module(self, batches: int | None, epochs: int | None) -> CorpusDataModule:
        data = self.config.data
        return self._data_module(self.config.seed, data.batch_size, data.mask_probability, batches, epochs)

    def _data_module(
        self,
        seed: int,
        batch_size: int,
        probability: float,
        batches: int | None,
        epochs: int | None = None,
        crop: int | None = None,
    ) -> CorpusDataModule:
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
        )

    @cached_property
    def teacher_folder(self) -> str | Path:
        """A teacher with a masked-LM head: as it was given, or prepared once and kept in the artifact store."""
        if models.has_head(self.teacher_source, self.teacher_config):
            return self.teacher_source
        prepare = self.config.teachers.prepare
        if prepare is None:
            raise UserError(
                f"the teacher {self.teacher_name} has no masked-LM head, and teachers.prepare says nothing about training one"
            )
        parts = {
            "model": sha256_of(Path(self.teacher_source) / "model.safetensors"),
            "corpus": self.corpus_parts,
            "recipe": asdict(prepare),
        }
        folder = self.store.get(
            "teacher", parts, lambda out: self._prepare(out, prepare), "the teacher's masked-LM head"
        )
        heldout = read_json(folder / "heldout.json")
        self.say(
            f"teacher {self.teacher_name}: held-out masked-LM loss {heldout['loss']:.3f}, accuracy {heldout['accuracy']:.1%}"
        )
        return folder

    def _prepare(self, out: Path, prepare: Prepare) -> None:
        """Train a masked-LM head, and the encoder with it, on the corpus; one process, whatever the run uses."""
        reseed(prepare.seed, "prepare")
        counts = np.load(self.corpus_folder / "token_counts.npy")
        model = models.with_new_head(self.teacher_source, counts, self.tokenizer.mask_token_id)  # pyright: ignore
        models.freeze(model, prepare.freeze)
        models.set_dropout(model, prepare.dropout)
        encoder = Encoder(model)
        data = self._data_module(
            prepare.seed, prepare.batch_size, prepare.mask_probability, prepare.max_steps, crop=prepare.max_length
        )
        terms = {"mlm": Weighted(label_cross_entropy, 1.0)}
        optim = Optim(lr=prepare.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, warmup=prepare.warmup)
        module = Distiller(encoder, terms, optim, prepare.max_steps, seed=prepare.seed)
        self.fit(module, data, prepare.max_steps, "preparing teacher")
        heldout = module.measure(data.heldout_splits()[""])
        encoder.model.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        atomic_write_json(out / "heldout.json", heldout)

    def teacher(self, ledger: Ledger | None) -> Teacher:
        encoder = Encoder(models.load_masked_lm(self.teacher_folder, self._revision))
        return Teacher(self.teacher_name, encoder, ledger.ask if ledger else None)

    @property
    def _revision(self) -> str | None:
        return None if isinstance(self.teacher_folder, Path) else self.config.teachers.revision
