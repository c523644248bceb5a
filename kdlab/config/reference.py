"""`python -m kdlab.config.reference [FILE]`: write docs/configuration.md from the dataclasses and from conf/.

`kdlab run --explain` prints the same content key by key. A test keeps the committed file equal to the generated one.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import kdlab.config.composition  # noqa: F401  # registers the resolvers that defaults name
from kdlab import ranges
from kdlab.config import choices, explain
from kdlab.config.argument_lines import line_of
from kdlab.config.arguments import arguments_of, code_names
from kdlab.config.choices import SCALES
from kdlab.config.documentation import Key, keys
from kdlab.storage.files import atomic_write_text

FILE = Path("docs/configuration.md")
INTRODUCTION = """\
# Configuration

Every key and every choice. This page is written by `python -m kdlab.config.reference` from the schema in `kdlab/config`
and from `conf/`; change those, not this page. The same, for one key or group:

```bash
python -m kdlab.run --explain select               # a group: its choices and keys
python -m kdlab.run --explain select.ratio         # a key: its type, defaults, and the choices that set it
python -m kdlab.run +exp=dekd --cfg job            # the configuration of a command, without running it
```

`KEY=VALUE` sets a key, `GROUP=CHOICE` takes a choice of a group, `+KEY=VALUE` adds a key that has no default, such as
`+teachers.others.small.layers=4`. The last columns are the defaults at each scale (`scale=demo` is the default), of pre-training
and, after "tasks:" where it differs, of fine-tuning on a task. Experiments and recipes set others, which `--explain KEY`
lists. `-` stands for a key that is there only with some choices, `required` for one that has to be set. `NAME` is a name that
you choose.

The type of a number has its range. A number over the one in `(over N: confirm)` would take longer, or more memory, than any
known use, and is refused until `'confirm=[KEY]'` says that it is meant. A value is typed as it is, also beyond ASCII; one with
`, = ( ) [ ] { } ' " \\ $` is quoted for Hydra and for the shell: `'data.path="a=b"'`.
"""

TOPICS = {
    "How many rows query the teacher, and which": ("select", "select.ratio", "select.pool", "knowledge.labels_on"),
    "How long a training is": ("trainer.max_steps", "trainer.max_epochs", "data.train_rows"),
    "What a run may cost": ("budget.queries", "budget.flops", "budget.seconds", "budget.like", "budget.preparation"),
    "Your own data": (
        "data.path",
        "data.task",
        "data.columns",
        "data.label_column",
        "data.regression",
        "data.max_length",
    ),
    "The score": ("data.metric", "no_kd_baseline", "trainer.evaluate_every", "data.heldout_rows"),
    "The teacher": ("teachers.name", "teachers.path", "teachers.finetune", "teachers.others", "adopt"),
    "The size of the student": ("student.layers", "student.hidden", "student.path"),
    "The loss": ("knowledge", "knowledge.terms.NAME.weight", "knowledge.terms.NAME.term", "weigh"),
    "The optimizer": ("optim.lr", "optim.warmup", "data.batch_size", "trainer.accumulate"),
    "GPUs, memory and speed": (
        "trainer.devices",
        "trainer.precision",
        "exec",
        "teachers.cache",
        "trainer.shard_teacher",
        "trainer.shard_student",
    ),
    "Repeating and resuming": ("seed", "resume", "overwrite", "trainer.checkpoint_every"),
    "Logging": ("logger", "trainer.log_every", "trainer.evaluate_every", "trainer.trace_every"),
    "Many runs": ("sweep", "hydra/launcher", "hydra/sweeper", "suite.tasks"),
}

ARGUMENTS = """\
A `_target_` names a strategy, policy, reward, rule, term or row source; these arguments may stand beside it, such as
`knowledge.terms.soft.term.temperature=2`. Each is checked against its range before anything is read or loaded. Code of
your own declares ranges alike, in its annotations (`kdlab.ranges`)."""


def main(arguments: Sequence[str]) -> int:
    """Write the page to the file of `arguments`, by default docs/configuration.md."""
    file = Path(arguments[0]) if arguments else FILE
    atomic_write_text(file, page())
    print(f"kdlab: wrote {file}")
    return 0


def page() -> str:
    """The page as Markdown."""
    values = [key for key in keys().values() if "." not in key.name and key.name not in choices.groups()]
    top = [key for key in values if key.group is None]
    suite = [key for key in values if key.group is not None]
    schema = [keys()[name] for name in keys() if name in choices.groups()]
    others = [group for group in choices.groups() if group not in keys()]
    return "\n".join(
        [
            INTRODUCTION,
            *_topics(),
            *("## The run", "", *_table(top)),
            *(line for key in [*schema, *suite] for line in _section(key)),
            *("## Other groups", "", "They set keys of several groups, or of Hydra.", ""),
            *(line for group in others for line in (f"### `{_typed(group)}`", "", *_choices(group))),
            *("## Arguments of code", "", ARGUMENTS, "", *_arguments()),
        ]
    )


def _topics() -> Iterator[str]:
    """The keys and groups of each topic, with links to their sections."""
    yield from ("| topic | keys and groups |", "|---|---|")
    for topic, names in TOPICS.items():
        yield f"| {topic} | {', '.join(f'[`{name}`](#{_anchor(name)})' for name in names)} |"
    yield ""


def _anchor(name: str) -> str:
    """The anchor of the section that has a key or a group."""
    group = name if name in choices.groups() else name.partition(".")[0]
    if group in choices.groups() or keys()[group].group is not None:
        return group.replace("/", "")
    return "the-run"


def _section(key: Key) -> Iterator[str]:
    assert key.group is not None
    yield from (f"## `{key.name}`", "", f"{(key.group.__doc__ or '').strip()}", "")
    if key.name in choices.groups():
        yield from _choices(key.name)
    yield from _table([one for one in keys().values() if one.name.startswith(f"{key.name}.")])


def _table(rows: Sequence[Key]) -> Iterator[str]:
    yield from (f"| key | type | meaning | {' | '.join(SCALES)} |", f"|---|---|---|{'---|' * len(SCALES)}")
    for key in rows:
        text, tasks = explain.default_words(key), explain.default_words(key, stage="finetune")
        cells = [f"`{key.name}`", key.type, key.line]
        for scale in SCALES:
            value, other = _value(key, text[scale]), _value(key, tasks[scale])
            cells.append(value if value == other else f"{value}, tasks: {other}")
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _value(key: Key, words: str) -> str:
    return "below" if key.group is not None and words not in ("-", "null", "{}") else f"`{words}`"


def _choices(group: str) -> Iterator[str]:
    yield from (f"| `{_typed(group)}` | |", "|---|---|")
    for name in choices.groups()[group]:
        mark = " (default)" if name == choices.default_choice(group, "demo") else ""
        yield f"| `{name}`{mark} | {choices.summary(group, name).replace('|', chr(92) + '|')} |"
    yield ""


def _arguments() -> Iterator[str]:
    yield from ("| code | argument | valid | meaning | default |", "|---|---|---|---|---|")
    for target in code_names():
        for argument in arguments_of(target).values():
            if ranges.is_plain(argument.hint):
                required = argument.default is inspect.Parameter.empty
                default = "required" if required else f"`{explain.value_words(argument.default)}`"
                code = target.removeprefix("kdlab.").rpartition(".")
                valid = ranges.words(argument.hint)
                line = line_of(target, argument.name).replace("|", chr(92) + "|")
                yield f"| `{code[0]}.{code[2]}` | `{argument.name}` | {valid} | {line} | {default} |"
    yield ""


def _typed(group: str) -> str:
    """A group as a command names it: with + where the configuration leaves it out by default."""
    by_default = choices.default_choice(group, "demo") is not None or group.startswith("hydra")
    return f"{'' if by_default else '+'}{group}="


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
