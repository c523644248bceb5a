"""The Markdown pages of the project: their links, anchors and commands, for tests."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlab.sweeps import files
from tests.support.sweeps import choices

ROOT = Path(__file__).parents[2]
PAGES = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "SECURITY.md",
            "CODE_OF_CONDUCT.md",
            "benchmarks/README.md",
        )
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "experiments").rglob("*.md")),
]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_INDENTED = re.compile(r"(?:^ {4}\S.*\n)+", re.M)
_LEFT_OUT = re.compile(r"\.\.\.|\[--|\w\|\w|=$")  # a synopsis: `FOLDER...`, `[--out DIR]`, `list|verify`, `+exp=`


@dataclass(frozen=True)
class Command:
    """A command of kdlab on a page: its module (`run`, `report`, ...) and its words as the shell passes them; `line` as
    the page has it."""

    page: Path
    line: str
    module: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.line}"


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.M)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


def links(page: Path) -> list[str]:
    """The targets of a page's links and images, those of reference style included."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.M)


def spans(page: Path) -> list[str]:
    """The inline code of a page."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def blocks(page: Path) -> list[str]:
    """The logical lines of a page's code that a shell would run: `$` and comments of their own left out."""
    text = page.read_text(encoding="utf-8")
    found = [body for language, body in _FENCED.findall(text) if language in ("", "bash")]
    found += _INDENTED.findall(_FENCED.sub("", text))
    lines = [line.strip().removeprefix("$ ") for body in found for line in body.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def commands(page: Path) -> list[Command]:
    """Every whole command of kdlab on a page, in blocks and in inline code; those with parts left out are not."""
    found = []
    text = page.read_text(encoding="utf-8")
    arrays = {name: " ".join(body.split()) for name, body in re.findall(r"^(\w+)=\(([^)]*)\)$", text, re.M)}
    for line in [*blocks(page), *spans(page)]:
        if line.startswith("+exp="):
            line = f"python -m kdlab.run {line}"
        if line.startswith(("next:", "kdlab:")):  # a printed line that ends with a command
            line = line[line.find("python -m") :]
        for part in re.split(r" && | \| |; ", line):
            named = re.match(r"(?:\w+=\S+ )*(?:python -m kdlab\.(\w+)|kdlab (\w+))(?= |$)(.*)", part.strip(), re.S)
            if named is None or _LEFT_OUT.search(uncommented(part)):
                continue
            rest = named[3].replace('"$@"', "")
            for name, body in arrays.items():
                rest = rest.replace(f'"${{{name}[@]}}"', body)
            words = shlex.split(rest, comments=True)
            found.append(Command(page, part.strip(), named[1] or named[2], tuple(words)))
    return found


def uncommented(line: str) -> str:
    """A line of a shell without its comment."""
    return re.sub(r"(?:^|\s)#.*$", "", line, flags=re.S)


def jobs(command: Command) -> list[list[str]]:
    """The overrides of jobs that a `run` command starts, one for each grid of a sweep; none for those that compose nothing."""
    overrides = [word for word in command.words if "=" in word]
    if not overrides or {"--config-dir", "--code", "--repeat", "--explain"} & set(command.words):
        return []
    named = [word for word in overrides if re.match(r"\+?sweep=", word)]
    grids = files.grids(named[0].partition("=")[2], [o for o in overrides if o not in named]) if named else [overrides]
    return [[values[0] for values in choices(grid).values()] for grid in grids]


def notebook_cells(file: Path) -> list[dict[str, Any]]:
    """The cells of a notebook of format 4."""
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return content["cells"]
