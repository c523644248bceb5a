"""`python -m kdlab.config.reference [FILE]`: write docs/configuration.md from the dataclasses and from conf/.

`kdlab run --explain` prints the same content key by key. A test keeps the committed file equal to the generated one.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from kdlab import ranges
from kdlab.config import choices, explain
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
`+teachers.others.small.layers=4`. The columns `demo` and `paper` are the values of a command without other overrides,
that is of pre-training, at `scale=demo` (the default) and at `scale=paper`; experiments and recipes set others, which
`--explain KEY` lists. `-` stands for a key that is there only with some choices, `required` for one that has to be set.
`NAME` is a name that you choose.

The type of a number has its range. A number over the one in `(over N: confirm)` would take longer, or more memory, than any
known use, and is refused until `'confirm=[KEY]'` says that it is meant. A value is typed as it is, also beyond ASCII; one with
`, = ( ) [ ] { } ' " \\ $` is quoted for Hydra and for the shell: `'data.path="a=b"'`.
"""


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
            *("## The run", "", *_table(top)),
            *(line for key in [*schema, *suite] for line in _section(key)),
            *("## Other groups", "", "They set keys of several groups, or of Hydra.", ""),
            *(line for group in others for line in (f"### `{_typed(group)}`", "", *_choices(group))),
            *("## Arguments of code", "", ARGUMENTS, "", *_arguments()),
        ]
    )


def _section(key: Key) -> Iterator[str]:
    assert key.group is not None
    yield from (f"## `{key.name}`", "", f"{(key.group.__doc__ or '').strip()}", "")
    if key.name in choices.groups():
        yield from _choices(key.name)
    yield from _table([one for one in keys().values() if one.name.startswith(f"{key.name}.")])


def _table(rows: Sequence[Key]) -> Iterator[str]:
    yield from ("| key | type | demo | paper | meaning |", "|---|---|---|---|---|")
    for key in rows:
        defaults = explain.default_words(key)
        cells = [f"`{key.name}`", key.type, *(_value(key, defaults[scale]) for scale in SCALES), key.line]
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
    yield from ("| code | argument | valid | default |", "|---|---|---|---|")
    for target in code_names():
        for argument in arguments_of(target).values():
            if ranges.is_plain(argument.hint):
                required = argument.default is inspect.Parameter.empty
                default = "required" if required else f"`{explain.value_words(argument.default)}`"
                code = target.removeprefix("kdlab.").rpartition(".")
                valid = ranges.words(argument.hint)
                yield f"| `{code[0]}.{code[2]}` | `{argument.name}` | {valid} | {default} |"
    yield ""


def _typed(group: str) -> str:
    """A group as a command names it: with + where the configuration leaves it out by default."""
    by_default = choices.default_choice(group, "demo") is not None or group.startswith("hydra")
    return f"{'' if by_default else '+'}{group}="


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
