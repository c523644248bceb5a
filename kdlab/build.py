"""From a checked configuration to objects: the only place that instantiates targets and hands plain values on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import transformers
from hydra.utils import instantiate
from pytorch_lightning.strategies import SingleDeviceStrategy

from kdlab import corpus, models
from kdlab.artifacts import Store
from kdlab.callbacks import Progress
from kdlab.config import Config, Prepare
from kdlab.datamodules import CorpusDataModule
from kdlab.distill import Distiller, Optim, Weighted
from kdlab.embedded import PACKAGES
from kdlab.errors import UserError, nearest
from kdlab.files import atomic_write_json, sha256_of
from kdlab.ledger import Ledger
from kdlab.masking import Masker
from kdlab.models import Encoder
from kdlab.seeding import reseed
from kdlab.sources import TextFolder
from kdlab.strategies import needs_of
from kdlab.teacher import Teacher
from kdlab.terms import label_cross_entropy


@dataclass
class Selection:
    """The instantiated parts of the select group."""

    arms: dict[str, Any]
    policy: Any
    reward: Any


class Bench:
    """Everything a run needs, made when it is first asked for, from plain values of the configuration."""

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        self.config = config
        self.say = say
        self.store = Store(Path(config.artifacts), say)

    # ---- what can be checked before anything is loaded or written

    def check(self) -> None:
        """UserError for inputs that are missing, damaged or contradict each other. Reads little, writes nothing."""
        self.selection()
        self.terms()
        self.source.check()
        _ = self.tokenizer
        models.has_head(self.teacher_source, self.teacher_config)
        depth = self.teacher_config.num_hidden_layers
        if self.config.student.path is None:
            models.pick_layers(self.config.student.layers, depth)
        else:
            theirs = models.load_tokenizer(self.config.student.path).get_vocab()
            if theirs != self.tokenizer.get_vocab():
                raise UserError(
                    f"the student in {self.config.student.path} and the teacher {self.teacher_name} have different tokenizers "
                    f"({len(theirs)} and {len(self.tokenizer.get_vocab())} tokens, not the same): distillation needs the same vocabulary"
                )
        longest = getattr(self.teacher_config, "max_position_embeddings", None)
        if longest and self.config.data.max_length > longest:
            raise UserError(
                f"data.max_length={self.config.data.max_length}: the teacher reads at most {longest} tokens"
            )

    def selection(self) -> Selection:
        """Arms, policy and reward; UserError for arms that do not exist or a policy that cannot use them."""
        select = self.config.select
        if not select.arms:
            raise UserError("select.arms is empty: give it strategies, or choose select=random")
        arms = {name: _made(target, f"select.arms.{name}") for name, target in select.arms.items()}
        for name, arm in arms.items():
            if not callable(arm):
                raise UserError(f"select.arms.{name} is not a strategy (a function of Evidence)")
            needs_of(arm)  # pyright: ignore[reportArgumentType]
        policy = _made(select.policy, "select.policy", arms=list(arms))
        reward = _made(select.reward, "select.reward") if select.reward is not None else None
        if hasattr(policy, "learn") and reward is None:
            raise UserError(
                f"select.reward is missing: {type(policy).__name__} learns from rewards, e.g. kdlab.rewards.LossDecay"
            )
        return Selection(arms, policy, reward)

    def terms(self) -> dict[str, Weighted]:
        """The knowledge terms with a weight above 0."""
        terms = {name: t for name, t in self.config.knowledge.terms.items() if t.weight > 0}
        return {
            name: Weighted(_made(t.term, f"knowledge.terms.{name}.term"), t.weight, t.at) for name, t in terms.items()
        }

    # ---- text

    @cached_property
    def source(self) -> Any:
        data = self.config.data
        if data.path is not None:
            return TextFolder(path=data.path, document=data.document, text_column=data.text_column, group=data.group)
        if data.source is None:
            raise UserError("no text: give data.path= (a folder of .txt, .jsonl or .parquet)")
        return _made(data.source, "data.source")

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerFast:
        return models.load_tokenizer(self.teacher_source, self.config.teachers.revision)

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
        """The rows a run trains on, for a number of micro-batches or of passes."""
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

    # ---- teacher

    @property
    def teacher_name(self) -> str:
        teachers = self.config.teachers
        return teachers.name if teachers.path is None and teachers.name else Path(str(teachers.path)).name

    @cached_property
    def teacher_source(self) -> str | Path:
        """Where the teacher's files are: a local folder, or a Hub name. A package's weights are checked here."""
        teachers = self.config.teachers
        if teachers.path is not None:
            folder = Path(teachers.path)
            if not (folder / "config.json").is_file():
                raise UserError(f"teachers.path={teachers.path}: a model folder with a config.json was expected")
            return folder
        if teachers.name in PACKAGES:
            return PACKAGES[teachers.name].path()
        return str(teachers.name)

    @cached_property
    def teacher_config(self) -> Any:
        try:
            return transformers.AutoConfig.from_pretrained(
                str(self.teacher_source), revision=self.config.teachers.revision, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            known = nearest(str(self.teacher_name), PACKAGES)
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"cannot find the teacher {self.teacher_source} ({reason}); without the Hub, {known}"
            ) from error

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
        heldout = _read_json(folder / "heldout.json")
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
        progress = Progress(prepare.max_steps, Ledger(len(data.train)), None, "preparing teacher")
        trainer = pl.Trainer(
            strategy=SingleDeviceStrategy(device=_first_device(self.config.trainer.accelerator)),
            max_steps=prepare.max_steps,
            max_epochs=1,
            callbacks=[progress],
            **QUIET,
        )
        trainer.fit(module, train_dataloaders=data.train_dataloader())
        heldout = module.task_loss(data.heldout_batches())
        encoder.model.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        atomic_write_json(out / "heldout.json", heldout)

    def teacher(self, ledger: Ledger) -> Teacher:
        """The frozen teacher, counted by `ledger`."""
        encoder = Encoder(models.load_masked_lm(self.teacher_folder, self._revision))
        return Teacher(self.teacher_name, encoder, ledger.ask)

    @property
    def _revision(self) -> str | None:
        return None if isinstance(self.teacher_folder, Path) else self.config.teachers.revision

    # ---- student

    def student(self, teacher: Teacher) -> Encoder:
        """The student before training, with what the configuration freezes frozen."""
        given = self.config.student
        if given.path is not None:
            model = models.load_masked_lm(given.path)
        else:
            layers = models.pick_layers(given.layers, self.teacher_config.num_hidden_layers)
            model = models.student_from(teacher.encoder.model, layers)
        models.freeze(model, given.freeze)
        if given.dropout is not None:
            models.set_dropout(model, given.dropout)
        return Encoder(model.train())

    def optim(self) -> Optim:
        given = asdict(self.config.optim)
        scaled = self.config.trainer.precision == "16-mixed"
        return Optim(**{**given, "betas": tuple(given["betas"]), "fused": not scaled})


# Lightning without what kdlab does itself: order of the data, checkpoints, tables, evaluation.
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "use_distributed_sampler": False,
}


def _made(target: Any, where: str, **more: Any) -> Any:
    """One target of the configuration; the UserError of a constructor goes through, other failures name the place."""
    try:
        return instantiate(target, _convert_="all", **more)
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{where}: {str(cause).splitlines()[0]}") from error


def vocabulary_hash(tokenizer: Any) -> str:
    """A hash of everything a fast tokenizer does (its whole serialisation)."""
    import hashlib

    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    import json

    return json.loads(path.read_text())


def _first_device(accelerator: str) -> torch.device:
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpu else torch.device("cpu")
