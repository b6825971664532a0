"""What pydantic's models hold, as they dump themselves: they know what is excluded and masked."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

_ITEMS = (list, tuple, deque, set, frozenset)


def dump(model: Any) -> Any:
    """The fields of a model of pydantic's, version 2 or in the style of version 1."""
    if not hasattr(model, "model_dump"):
        return model.dict()
    try:
        # Its warnings quote the values that they complain about.
        dumped = model.model_dump(warnings=False)
    except TypeError:
        dumped = model.model_dump()
    return _with_names(model, dumped)


def is_namedtuple(value: object) -> bool:
    """Whether the items of a tuple have names."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _with_names(raw: Any, dumped: Any) -> Any:
    """What was dumped, with the named tuples of ``raw``: the dump has lost their names."""
    if getattr(type(raw), "__pydantic_root_model__", False):
        raw = raw.root
    if is_namedtuple(raw):
        return raw if isinstance(dumped, tuple) else dumped
    if isinstance(dumped, dict):
        return _members_with_names(raw, dumped)
    if not (isinstance(raw, _ITEMS) and isinstance(dumped, _ITEMS) and len(raw) == len(dumped)):
        return dumped
    if isinstance(raw, set | frozenset):  # in any order
        return raw if any(map(is_namedtuple, raw)) else dumped
    return [_with_names(item, plain) for item, plain in zip(raw, dumped, strict=True)]


def _members_with_names(raw: Any, dumped: dict[Any, Any]) -> dict[Any, Any]:
    if not isinstance(raw, Mapping):  # a model or a dataclass
        return {
            name: _with_names(getattr(raw, name, None), plain) for name, plain in dumped.items()
        }
    if len(raw) != len(dumped):
        return dumped
    return {
        _with_names(key, plain_key): _with_names(value, plain)
        for (key, value), (plain_key, plain) in zip(raw.items(), dumped.items(), strict=True)
    }
