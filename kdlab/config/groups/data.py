"""Configuration groups of the data and its augmentation, as `kdlab.config.groups` for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from kdlab.config.validators import at_least, one_of
from kdlab.data.tasks.metric_names import OF_CLASSES, OF_NUMBERS, choices
from kdlab.data.tasks.registry import find
from kdlab.data.text.lines import check_encoding
from kdlab.errors import UserError, nearest
from kdlab.ranges import (
    Count,
    InnerShare,
    Probability,
    Range,
    Rows,
    Share,
    Whole,
)

AUTO = "auto"  # data.max_length: chosen from the training rows


@dataclass
class AugmentConfig:
    """Augmented copies of training rows (TinyBERT: Jiao et al. 2020, Algorithm 1)."""

    copies: Annotated[int, Range(1, usual=1000)] = 20
    "Augmented copies of each training row (Dynamic KD section 3.2.2: 20)"
    replace: Share = 0.4
    "Probability that a word is replaced (TinyBERT, Algorithm 1)"
    candidates: Annotated[int, Range(1, usual=10_000)] = 15
    "Candidates from which a replacement is drawn (TinyBERT: 15)"
    model: str | None = None
    "Folder of a masked LM that proposes whole words; null: the teacher's backbone"
    table: str | None = None
    "GloVe file for words of several pieces; null: the masked LM's input embeddings"
    batch_size: Rows = 64
    "Rows in a forward of the masked LM"
    seed: Whole = 0
    "Seed of the replacements, independent of the run's seed"


@dataclass
class DataConfig:
    """Rows to learn from: plain text (stage pretrain), labelled rows (stage finetune), text to continue (stage causal)."""

    stage: str = "pretrain"
    "pretrain: masked words of text; finetune: classes or numbers of labelled rows; causal: next tokens of text"
    source: Any = None
    "Row source that the package provides (a _target_), used where path is null"
    path: str | None = None
    "File or folder of your own rows, used instead of source; finetune: also a folder with one folder per task"
    encoding: str = "utf-8"
    "Encoding of your own .txt, .tsv, .csv and .jsonl files, by its name in Python: utf-8, cp1252, utf-16"
    max_length: Annotated[Any, Literal["auto"] | Annotated[int, Range(3, usual=1_000_000)]] = 128
    "Tokens of a row at most; longer rows are truncated (auto: 95 % are whole), longer plain texts become several rows"
    batch_size: Rows = 32
    "Rows in a micro-batch on each device, before selection"
    order: str = "random"
    "Order of the training rows: random, or length (batches of similar length, with less padding)"
    workers: Annotated[int, Range(0, usual=256)] = 0
    "Data loader processes on each rank; 0 loads in the main process"
    heldout_rows: Count | None = 256
    "Held-out rows of an evaluation during training; null: all, as in the last evaluation of a task"
    teacher_column: str | None = None
    "adopt=by_column: column or key with each row's teacher, its name or number (0: the smallest); null: none"
    # pretrain
    document: str = "file"
    "pretrain: one document of a .txt file is the file, a block (between blank lines) or a line"
    text_column: str = "text"
    "pretrain: column or key with the text in .jsonl and .parquet files"
    group: Count = 1
    "pretrain: consecutive rows of .jsonl and .parquet files that form one document"
    min_length: Annotated[int, Range(3)] = 12
    "pretrain: tokens below which a text is dropped (DistilBERT script: 12)"
    max_unknown: Share | None = None
    "pretrain: share of unknown tokens from which a text is dropped (DistilBERT script: 0.5); null: none"
    masking: str = "uniform"
    "pretrain: masked tokens are drawn uniform, or rare: weighted by token count ** -0.7 (DistilBERT script)"
    mask_probability: InnerShare = 0.15
    "pretrain: share of the tokens that is masked (BERT, DistilBERT: 0.15)"
    heldout: InnerShare = 0.05
    "pretrain: share of the documents held out for evaluation"
    split_seed: Whole = 0
    "pretrain: seed of the held-out documents, independent of the run's seed"
    # causal: text as in pretrain, or rows of .jsonl
    prompt_column: str = "prompt"
    "causal: key with the prompt in .jsonl files, which is read and not learnt"
    completion_column: str = "completion"
    "causal: key with the completion of the prompt, which is learnt"
    messages_column: str = "messages"
    "causal: key with the messages of a conversation, of which the assistant's are learnt"
    pack: bool = True
    "causal: short documents share a row of max_length tokens (each sees itself alone); false: each has a row of its own"
    long_prompts: str = "refuse"
    "causal: rows whose prompt fills max_length: refuse them, or drop them"
    generated: Probability = 0.0
    "causal: share of the batches whose completions the student writes itself, before selection (GKD's lambda)"
    samples: Annotated[int, Range(0, usual=100)] = 4
    "causal: held-out prompts that the student continues at the end of a run, in samples.jsonl; 0: none"
    # finetune
    task: str | None = None
    "finetune: cola sst2 mrpc stsb qqp mnli qnli rte wnli sst5 imdb emotion agnews; null: inferred from your own rows"
    columns: list[str] | None = None
    "finetune: text column of your own files, or two for pairs, [a,b]; null: the usual names (sentence, text, ...)"
    label_column: str | None = None
    "finetune: label column of your own files; null: the usual names (label, labels, score, ...)"
    regression: bool | None = None
    "finetune: whether labels are numbers to predict; null: inferred from the labels"
    metric: str | None = None
    "finetune: the metric that is the score: accuracy, macro_f1, ... (docs/scores.md); null: the mean of the task's"
    dev_share: InnerShare | None = None
    "finetune: share of train held out as dev where there is no dev split; null: 0.1, of IMDb 0.2 (its papers)"
    train_rows: Count | None = None
    "finetune: number of training rows to use; null: all"
    augment: AugmentConfig | None = None
    "finetune: augmented copies of the training rows, labelled by the teacher (+augment=tinybert); null: none"

    def check(self) -> None:
        """UserError for a value out of range, or a task where the stage has none."""
        one_of("data.stage", self.stage, ("pretrain", "finetune", "causal"))
        text = self.stage != "finetune"
        if self.task is not None and text:
            what = "pre-training" if self.stage == "pretrain" else "causal language modelling"
            raise UserError(
                f"data.task={self.task}: {what} reads plain text and has no task; data.path= names the text, "
                "+exp=adads_finetune learns a task"
            )
        if self.task is not None:
            find(self.task)
        check_encoding(self.encoding)
        if self.metric is not None:
            self._check_metric(self.metric)
        one_of("data.order", self.order, ("random", "length"))
        one_of("data.document", self.document, ("file", "block", "line"))
        one_of("data.masking", self.masking, ("uniform", "rare"))
        one_of("data.long_prompts", self.long_prompts, ("refuse", "drop"))
        if self.generated and (self.stage != "causal" or self.pack):
            raise UserError(
                f"data.generated={self.generated:g}: a student writes completions of prompts, each in a row of its own "
                "(+exp=causal_finetune, data.pack=false)"
            )
        if self.max_length != AUTO:
            at_least("data.max_length", self.max_length, self.min_length if text else 3)
        elif text:
            raise UserError(
                "data.max_length=auto: chosen from the rows of a task, which are truncated; plain text is cut into rows and "
                "loses none of it: give a number of tokens"
            )
        if self.columns is not None and not 1 <= len(self.columns) <= 2:
            raise UserError(f"data.columns={self.columns}: one text column, or two for pairs")

    def _check_metric(self, metric: str) -> None:
        """UserError for a metric of text, or one that the official task does not have."""
        if self.stage != "finetune":
            raise UserError(f"data.metric={metric}: text has no metric to choose, a task has (data.task=, data.path=)")
        task = None if self.task is None else find(self.task)
        known = (*OF_CLASSES, *OF_NUMBERS) if task is None else choices(task.shape)
        if metric not in known:
            whose = "there is no such metric" if task is None else f"{task.title} has no such metric"
            raise UserError(f"data.metric={metric}: {whose}; {nearest(metric, known)}")
