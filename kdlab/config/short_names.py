"""The keys that a user means by a short name, or by the name that another tool gives them: lr, epochs, fp16."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from kdlab.errors import nearest

# a key, and the names that are taken for it
_MEANT = {
    "optim.lr": "lr learning_rate",
    "optim.weight_decay": "wd decay",
    "optim.warmup": "warmup_ratio warmup_steps",
    "optim.clip": "max_grad_norm grad_clip gradient_clip_val",
    "trainer.max_epochs": "epoch epochs num_epochs n_epochs num_train_epochs",
    "trainer.max_steps": "step steps num_steps iterations iters patience early_stopping",
    "trainer.devices": "device gpu gpus num_gpus n_gpu ngpu",
    "trainer.accelerator": "cpu cuda",
    "trainer.precision": "bf16 fp16 fp32 amp half dtype",
    "trainer.accumulate": "accumulation grad_accum gradient_accumulation_steps accumulate_grad_batches",
    "trainer.evaluate_every": "eval_steps eval_every val_check_interval",
    "trainer.checkpoint_every": "save_steps save_every",
    "data.batch_size": "batch bs bsz batchsize train_batch_size per_device_train_batch_size",
    "data.max_length": "max_len maxlen length max_seq_length seq_len seq_length",
    "data.path": "dataset data_path data_dir train_file train_path",
    "data.workers": "num_workers n_workers",
    "data.metric": "metrics metric_for_best_model",
    "data.label_column": "label labels",
    "data.columns": "column text_columns",
    "select": "selection strategy",
    "select.ratio": "selection_ratio fraction",
    "select.explore": "exploration random_share",
    "select.warmup": "random_steps",
    "select.replay": "echo rehearsal repeat_rows",
    "student.start": "student_init init_from",
    "select.look": "candidates candidate_ratio scored look_ratio",
    "student.path": "model model_name model_name_or_path student_model",
    "student.layers": "num_layers n_layers num_hidden_layers depth",
    "student.hidden": "hidden_size width",
    "teachers.path": "teacher teacher_model teacher_path teacher_name",
    "teachers.finetune.lr": "teacher_lr",
    "knowledge.terms": "temperature temp tau alpha loss",
    "knowledge": "terms objective",
    "hydra.run.dir": "output_dir out_dir output out outdir save_dir run_dir",
    "logger": "wandb tensorboard report_to",
    "seed": "seeds random_seed",
    "exp": "experiment",
}
SYNONYMS = {name: target for target, names in _MEANT.items() for name in names.split()}
NOTES = {
    "patience": "a run has no early stopping",
    "early_stopping": "a run has no early stopping",
    "temperature": "a term's is knowledge.terms.NAME.term.temperature",
    "temp": "a term's is knowledge.terms.NAME.term.temperature",
}


def meant(name: str, known: Collection[str]) -> str:
    """A clause with the key of `known` that an unknown key `name` means: by `SYNONYMS`, else the keys that end with its last
    part, else those that look like it."""
    last = name.rpartition(".")[2].casefold().replace("-", "_")
    if (target := SYNONYMS.get(last)) in known:
        return f"did you mean {target}?" + (f" ({NOTES[last]})" if last in NOTES else "")
    ends: dict[str, list[str]] = {}
    for key in sorted(known, key=lambda key: (key.count("."), key)):
        ends.setdefault(key.rpartition(".")[2], []).append(key)
    begins = [end for end in ends if last and end.startswith(f"{last}_")]
    close = (
        [last] if last in ends else begins[:2] if begins else difflib.get_close_matches(last, ends, n=2, cutoff=0.75)
    )
    found = [key for end in close for key in ends[end]][:3]
    return f"did you mean {' or '.join(found)}?" if found else nearest(name, known)
