"""Modules of the user's own whose functions and classes a configuration may name.

Two ways lead here, both outside of any configuration and run folder: `--code MODULE` or `--code FILE.py` on the command
line, and the entry points `kdlab.plugins` of installed packages. A file is a module of the file's name.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import keyword
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kdlab.errors import UserError
from kdlab.plugins import places
from kdlab.storage.files import sha256_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

OPTION = "--code"
HELP = "a file or module of your own, whose functions the configuration names (docs/own_code.md); may be given again"
GROUP = "kdlab.plugins"  # of entry points; each names a module
DIGITS = 12  # of a hash in a message
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class NamedModule:
    """A module that configurations may name: its dotted `name`, `given` as on the command line (None: an entry point),
    the sha256 of its code, the `version` of its package (None: it has none)."""

    name: str
    given: str | None
    sha256: str
    version: str | None

    @property
    def file(self) -> str | None:
        """The file as on the command line; None for a module that was named by its dotted name."""
        return self.given if self.given is not None and self.given.endswith(".py") else None

    def record(self) -> dict[str, str | None]:
        """The entry in the list `code` of result.json."""
        return {"module": self.name, "file": self.file, "sha256": self.sha256, "version": self.version}


_named: dict[str, NamedModule] = {}  # by dotted name: those of this process's command line
_installed: dict[str, NamedModule] = {}  # those of entry points that a configuration has named
_imported: set[str] = set()  # names in sys.modules that `load` has put there


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into its other arguments and the values of `--code`. UserError for one without a value."""
    rest, given = [], []
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, value = argument.partition("=")
        if option != OPTION:
            rest.append(argument)
            continue
        value = value if equals else next(remaining, "")
        if not value or value.startswith("-"):
            raise UserError(f"{OPTION} takes a file, such as my_strategies.py, or the name of a module")
        given.append(value)
    return rest, given


def load(given: Sequence[str]) -> None:
    """Import the modules that `--code` names, and allow them and no others. UserError, with file and line, for one that
    cannot be imported."""
    _forget()
    for one in given:
        before = set(sys.modules)
        try:
            own = _from_file(one) if one.endswith(".py") else _from_name(one)
        finally:
            _imported.update(name for name in set(sys.modules) - before if _is_below(name, _name_of(one)))
        _named[own.name] = own


def of_target(target: str) -> NamedModule | None:
    """The module of the user's own that the dotted name of a function or class lies in; None for all other code.

    A package includes the modules below it. Imports the module of an entry point. UserError where that fails.
    """
    module = target.rpartition(".")[0]
    for own in (*_named.values(), *_installed.values()):
        if _is_below(module, own.name):
            return own
    if not module or module.split(".")[0] == "kdlab":
        return None
    for point in _entry_points():
        if _is_below(module, point.module):
            version = None if point.dist is None else point.dist.version
            _installed[point.module] = _imported_by_name(point.module, f"the plug-in {point.name}", None, version)
            return _installed[point.module]
    return None


def public_names(module: str) -> tuple[str, ...]:
    """Public functions and classes that a module of the user's own defines; UserError where it cannot be imported."""
    found = sys.modules.get(module) or _import(module, f"the module {module}")
    kinds = (inspect.isfunction, inspect.isclass)
    return tuple(
        sorted(
            name
            for name, value in vars(found).items()
            if not name.startswith("_") and any(is_kind(value) for is_kind in kinds) and is_own(value)
        )
    )


def is_own(code: Any) -> bool:
    """True if a function, a class or an instance of a class is defined in a module of the user's own."""
    named = code if hasattr(code, "__qualname__") else type(code)
    module = str(getattr(named, "__module__", ""))
    return any(_is_below(module, own) for own in (*_named, *_installed))


def sha256_of_target(target: str) -> str | None:
    """The sha256 of the user's own code that a target names; None for all other code."""
    own = of_target(target)
    return None if own is None else own.sha256


def records() -> list[dict[str, str | None]]:
    """The modules of the user's own in this process, as result.json lists them."""
    return [own.record() for own in (*_named.values(), *_installed.values())]


def options() -> list[str]:
    """The options of this process's command line that name the modules, as they were given."""
    return [word for own in _named.values() for word in (OPTION, str(own.given))]


def options_elsewhere() -> list[str]:
    """`options` for another process, in whatever folder: paths of files are absolute."""
    given = [own.given or "" for own in _named.values()]
    return [word for one in given for word in (OPTION, str(Path(one).absolute()) if one.endswith(".py") else one)]


def difference(recorded: Sequence[Mapping[str, Any]]) -> str:
    """A clause on the first module of a run's record that is missing or has other code now; "" where all are the same."""
    now = {str(one["module"]): one for one in records()}
    for one in recorded:
        name, before = str(one.get("module")), str(one.get("sha256"))
        title = one.get("file") or name
        if name not in now:
            return f"used {title} (sha256 {before[:DIGITS]}), which {OPTION} does not name now: add {OPTION} {title}"
        if (after := str(now[name]["sha256"])) != before:
            return f"used {title} as it was with sha256 {before[:DIGITS]}, and its sha256 is {after[:DIGITS]} now"
    return ""


def advice(target: str) -> str:
    """A clause that says how a target outside of kdlab is allowed, and by which option where its file is here."""
    name = target.split(".")[0]
    here = _DOTTED.fullmatch(name) is not None and Path(f"{name}.py").is_file()
    return f"add {OPTION} {name}.py" if here else f"{OPTION} FILE.py allows code of your own (docs/own_code.md)"


@cache
def _entry_points() -> EntryPoints:
    from importlib import metadata  # slow to import, and most commands name no code of the user's own

    return metadata.entry_points(group=GROUP)


# ---- import


def _forget() -> None:
    """Forget the modules of an earlier command line in this process: a file may have changed since."""
    for name in _imported:
        sys.modules.pop(name, None)
    for known in (_named, _installed, _imported):
        known.clear()
    _entry_points.cache_clear()


def _name_of(given: str) -> str:
    return Path(given).stem if given.endswith(".py") else given


def _is_below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _from_file(given: str) -> NamedModule:
    path, name = Path(given).absolute(), _name_of(given)
    if not path.is_file():
        raise UserError(f"{OPTION} {given}: there is no such file")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UserError(f"{OPTION} {given}: {name} cannot name a module: letters, digits and _, no digit first")
    if (other := other_module(name, path)) is not None:
        raise UserError(f"{OPTION} {given}: {name} is the name of a module already ({other}); rename the file")
    source = path.read_bytes()  # what is hashed is what runs, also where the file is written meanwhile
    spec = util.spec_from_file_location(name, path)
    assert spec is not None
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    _one_line(f"{OPTION} {given}", lambda: exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__))
    return NamedModule(name, given, hashlib.sha256(source).hexdigest(), _version(module))


def other_module(name: str, path: Path) -> str | None:
    """The place of another module of the name of a file; None where there is none."""
    if name in sys.stdlib_module_names or name == "kdlab":
        return "Python's own" if name != "kdlab" else "this package"
    loaded = sys.modules.get(name)
    try:
        spec = None if loaded is not None else util.find_spec(name)
    except (ImportError, ValueError):
        return None
    origin = getattr(loaded, "__file__", None) if loaded is not None else spec.origin if spec is not None else None
    return None if origin is None or Path(origin).absolute() == path else origin


def _from_name(given: str) -> NamedModule:
    if not _DOTTED.fullmatch(given):
        raise UserError(f"{OPTION} {given}: neither a file that ends in .py nor the dotted name of a module")
    top = given.split(".")[0]
    if top == "kdlab" or top in sys.stdlib_module_names:
        raise UserError(f"{OPTION} {given}: this is for code of your own, not for kdlab's or Python's")
    if util.find_spec(top) is None:
        file = f"{given.replace('.', '/')}.py"
        here = f"; {OPTION} {file} names the file" if Path(file).is_file() else ""
        raise UserError(f"{OPTION} {given}: no module of that name is installed{here}")
    return _imported_by_name(given, f"{OPTION} {given}", given, None)


def _imported_by_name(name: str, title: str, given: str | None, version: str | None) -> NamedModule:
    module = _import(name, title)
    return NamedModule(name, given, _sha256(module), version or _version(module))


def _import(name: str, title: str) -> ModuleType:
    spec = util.find_spec(name.split(".")[0])
    home = str(Path(spec.origin).parent) if spec is not None and spec.submodule_search_locations and spec.origin else ""

    def is_own(file: str) -> bool:
        return places.is_foreign(file) or bool(home) and file.startswith(home)

    return _one_line(title, lambda: importlib.import_module(name), is_own)


def _one_line(title: str, imported: Callable[[], Any], is_own: Callable[[str], bool] = places.is_foreign) -> Any:
    """The result of an import; UserError of one line for whatever it raises, a call of sys.exit included."""
    try:
        return imported()
    except (Exception, SystemExit) as error:
        raise UserError(f"{title}: {places.raised(error, is_own)}") from error


def _sha256(module: ModuleType) -> str:
    """The sha256 of a module's file; of a package that of the names and hashes of all its Python files."""
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    if not folders:
        file = getattr(module, "__file__", None)
        return sha256_of(Path(file)) if file else hashlib.sha256(module.__name__.encode()).hexdigest()
    total = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            total.update(f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n".encode())
    return total.hexdigest()


def _version(module: ModuleType) -> str | None:
    """The version of the package that a module belongs to; None where it names none."""
    top = module.__name__.split(".")[0]
    version = getattr(sys.modules.get(top), "__version__", None)
    if isinstance(version, str):
        return version
    from importlib import metadata

    names = metadata.packages_distributions().get(top, []) if "site-packages" in str(module.__file__) else []
    return metadata.version(names[0]) if names else None
