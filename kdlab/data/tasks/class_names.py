"""Class names that stand with the files of a folder, and the code of each file: its labels go by name.

A labels.txt names the classes for all files. Without one, `datasets` may have written class names into a .parquet file,
in that file's own order, which is the meaning of its numbers and of no other file's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdlab.data.tasks.files import FileRow, place
from kdlab.data.tasks.labels import ClassCodes, align, canonical, codes, is_whole
from kdlab.data.tasks.registry import Task
from kdlab.errors import UserError, nearest


@dataclass(frozen=True)
class ClassNames:
    """`listed`: file, values and names of a labels.txt (None without one); `named`: the names in each .parquet file."""

    listed: tuple[Path, tuple[str, ...], tuple[str, ...]] | None
    named: dict[Path, tuple[str, ...]]

    def of_files(self, files: Sequence[Path]) -> tuple[str, ...] | None:
        """The classes that labels.txt or, without one, the .parquet files among `files` name; None if nothing does."""
        if self.listed is not None:
            return self.listed[2]
        names = dict.fromkeys(name for file in files for name in self.named.get(file, ()))
        return tuple(names) or None

    def codes(self, classes: tuple[str, ...], task: Task | None = None) -> FileCodes:
        """The codes of the files for `classes`, those of the official `task` or the user's own. UserError if the names
        are other ones than the task's, or contradict each other."""
        general = self._general(classes, task)
        names = codes(classes, classes)
        found: dict[Path, dict[str, int | None]] = {}
        for file, own in self.named.items():
            # a name that labels.txt or the official order has as a value counts as well
            indices = {name: names.index(name) for name in own}
            found[file] = {name: general.index(name) if i is None else i for name, i in indices.items()}
        if task is not None and self.listed is None:
            for file, own in self.named.items():
                if None in found[file].values():
                    raise UserError(f"{file} names the classes {', '.join(own)}; {task.title} has {', '.join(classes)}")
        if self.listed is not None and not any(i is not None for one in found.values() for i in one.values()):
            self._check_one_numbering()
            return FileCodes(general, {}, {})
        return FileCodes(general, self.named, found, self.listed is not None)

    def _general(self, classes: tuple[str, ...], task: Task | None) -> ClassCodes:
        """The codes of a file without names of its own."""
        if self.listed is None:
            return codes(classes, None if task is not None else classes)
        file, values, names = self.listed
        numbers = [canonical(value) for value in values]
        if len(set(numbers)) < len(numbers):
            raise UserError(f"{file}: two classes are written alike: {', '.join(values)}")
        try:
            order = align(classes, names)  # the files may number the classes of a task in another order
        except UserError as error:
            title = task.title if task is not None else "the data"
            raise UserError(f"{file} names the classes {', '.join(names)}; {title} has {', '.join(classes)}") from error
        try:
            return codes(classes, [values[index] for index in order])
        except UserError as error:
            raise UserError(f"{file}: {error}") from error

    def _check_one_numbering(self) -> None:
        """UserError where files have names that labels.txt lacks, in orders that differ, so that numbers are ambiguous."""
        (first, names), *others = self.named.items() or [(Path(), ())]
        for file, own in others:
            if own != names:
                raise UserError(
                    f"{first} numbers the classes {', '.join(names)}, {file} {', '.join(own)}: write these names into "
                    "labels.txt, so that labels go by name"
                )


@dataclass(frozen=True)
class FileCodes:
    """The codes of all files of a folder.

    `general`: of files without names of their own; `named`: the names in the others, in the order of their numbers;
    `indices`: the class of each of these names (None: no class of the data); `listed`: True if a labels.txt says what
    the numbers of files without names mean.
    """

    general: ClassCodes
    named: dict[Path, tuple[str, ...]]
    indices: dict[Path, dict[str, int | None]]
    listed: bool = True

    def code(self, file: Path, records: Sequence[FileRow]) -> ClassCodes:
        """The code of a file. UserError with file and line for a class that train lacks, and for a number in a file
        without class names, where other files have names and could number them otherwise."""
        if file not in self.named:
            self._check_numbers(file, records)
            return self.general
        names, indices = self.named[file], self.indices[file]
        named = {str(number): name for number, name in enumerate(names)}
        for record in records:
            label = canonical(record.label or "")
            name = named.get(label)
            if name is not None and indices[name] is None:
                known = nearest(name, self.general.written)
                raise UserError(
                    f"{place(file, record.line)}: the class {name!r} ({label} in this file) is new; {known}"
                )
        numbers = {number: indices[name] for number, name in named.items()}
        written = {name: index for name, index in indices.items() if name not in numbers} | numbers
        return ClassCodes.of({value: index for value, index in written.items() if index is not None})

    def _check_numbers(self, file: Path, records: Sequence[FileRow]) -> None:
        other = next((one for one in self.named if not self._numbered_alike(one)), None)
        if self.listed or other is None:
            return
        for record in records:
            label = canonical(record.label or "")
            if is_whole(label) and label != "-1":
                raise UserError(
                    f"{place(file, record.line)}: the label is the number {label} without a name, and {other} names its "
                    f"numbers ({', '.join(self.named[other][:6])}): write names here too, or give a labels.txt"
                )

    def _numbered_alike(self, file: Path) -> bool:
        """True if the numbers of a file with names mean the same in a file without."""
        names = enumerate(self.named[file])
        return all(self.general.index(str(number)) == self.indices[file][name] is not None for number, name in names)
