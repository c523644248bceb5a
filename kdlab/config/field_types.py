"""Types of the configuration's fields: the group of a field, and lists, for which a user may write their one value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def group_in(hint: Any) -> type | None:
    """The dataclass in a field's type: `X`, `X | None` or `dict[str, X]`; None without one."""
    return next((one for one in (hint, *get_args(hint)) if isinstance(one, type) and is_dataclass(one)), None)


def single_values(config: Mapping[Any, Any], group: type, where: str = "") -> Iterator[tuple[str, list[Any]]]:
    """The dotted keys of `config` whose type in the dataclass `group` is a list and whose value is one text or number
    (`data.columns=question`), each with the list of it. An interpolation or an empty text is none."""
    for name, (takes_list, inner) in _fields(group).items():
        value = config.get(name)
        if isinstance(value, Mapping) and inner is not None:
            yield from single_values(value, inner, f"{where}{name}.")
        elif takes_list and isinstance(value, str | int | float) and value != "" and "${" not in str(value):
            yield f"{where}{name}", [value]


@cache
def _fields(group: type) -> dict[str, tuple[bool, type | None]]:
    """For each field of a dataclass whether it takes a list, and the dataclass of its value where that is a group."""
    return {
        name: (_takes_list(hint), None if get_origin(hint) is dict else group_in(hint))
        for name, hint in get_type_hints(group).items()
    }


def _takes_list(hint: Any) -> bool:
    one_of_several = get_origin(hint) in (Union, UnionType)
    return any(get_origin(one) is list for one in (get_args(hint) if one_of_several else (hint,)))
