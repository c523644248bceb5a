"""`kdlab new KIND NAME`: write the code, the YAML and the test of a strategy, policy, term or adoption rule to start from."""

from __future__ import annotations

import argparse
import keyword
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template

from kdlab.config import choices, quoting
from kdlab.errors import UserError, as_typed
from kdlab.plugins import own_modules
from kdlab.runtime.command_line import CommandLine
from kdlab.storage.files import user_errors

# Each kind: the group of its choice, and an experiment in which it is tried
KINDS = {
    "strategy": ("select", "adads_finetune"),
    "policy": ("select", "adads_finetune"),
    "term": ("knowledge", "adads_finetune"),
    "adoption": ("adopt", "dynamickd_teacher"),
}
HERE = Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files and print how they are tested and run; returns the exit code, 2 for bad input."""
    chosen = parser().parse_args(argv)
    try:
        print(written(chosen.kind, chosen.name, chosen.folder))
        return 0
    except UserError as error:
        print(f"kdlab: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The parser of the arguments."""
    made = CommandLine(prog="python -m kdlab new", description=__doc__)
    made.add_argument("kind", choices=tuple(KINDS), metavar="KIND", help=", ".join(KINDS))
    made.add_argument("name", metavar="NAME", help="of the function, its file and its choice, such as my_margin")
    made.add_argument("--folder", type=Path, default=Path("."), help="an existing folder (default: the present one)")
    return made


def written(kind: str, name: str, folder: Path) -> str:
    """Write the files of a new `kind` called `name`; three lines on what was written and how it is used.

    UserError, before anything is written, for a name that is taken or cannot be one, and for files that exist.
    """
    group, experiment = KINDS[kind]
    _check(kind, name, folder)
    files = {
        folder / f"{name}.py": f"{kind}.py.txt",
        folder / group / f"{name}.yaml": f"{kind}.yaml.txt",
        folder / f"test_{name}.py": f"test_{kind}.py.txt",
    }
    for file in files:
        if file.exists() or file.is_symlink():
            raise UserError(f"{file} exists, and is kept: choose another name, or another --folder")
    words = {"name": name, "Class": "".join(part.capitalize() for part in name.split("_"))}
    with user_errors("writing the new files", folder):
        for file, template in files.items():
            text = Template((HERE / template).read_text(encoding="utf-8")).substitute(words)
            file.parent.mkdir(exist_ok=True)
            with file.open("x", encoding="utf-8") as new:
                new.write(text)
    code, test = folder / f"{name}.py", folder / f"test_{name}.py"
    run = [f"+exp={experiment}", f"{group}={name}", own_modules.OPTION, code, "--config-dir", folder]
    return "\n".join(
        [
            f"wrote {', '.join(map(str, files))}",
            f"test:  python -m pytest {as_typed(str(test))}",
            f"run:   {quoting.command(run)}",
        ]
    )


def _check(kind: str, name: str, folder: Path) -> None:
    """UserError for a name that is no module's or is taken, and for a folder that does not exist."""
    group, _ = KINDS[kind]
    if (
        not name.isascii()
        or not name.isidentifier()
        or keyword.iskeyword(name)
        or name != name.lower()
        or name[0] == "_"
    ):
        raise UserError(f"{kind} {name}: small letters, digits and _, a letter first, such as my_{kind}")
    if not folder.is_dir():
        raise UserError(f"--folder {folder}: there is no such folder")
    if name in choices.groups()[group]:
        raise UserError(f"{kind} {name}: {group}={name} is a choice of kdlab's; choose another name")
    if (other := own_modules.other_module(name, (folder / f"{name}.py").absolute())) is not None:
        raise UserError(f"{kind} {name}: {name} is the name of a module already ({other}); choose another")


if __name__ == "__main__":
    sys.exit(main())
