"""How a configuration is checked: a table of checks is run over a mapping, all problems at once.

A check takes a value and returns it normalised, or raises ``ValueError`` with a phrase that
follows the key's name and never holds the value.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from cubehook._values import redact_text

Check: TypeAlias = Callable[[Any], Any]

_LONGEST_SECONDS = 31_622_400.0  # a leap year; longer waits overflow some platforms' timers


def run(
    checks: Mapping[str, Check],
    given: Mapping[Any, object],
    place: str,
    problems: list[str],
    others: Sequence[str] = (),
) -> dict[str, Any]:
    """The normalised values of ``given``; what is wrong is added to ``problems``.

    ``place`` stands before each problem, such as ``endpoint 'ops': `` or nothing; ``others`` are
    keys that are checked elsewhere, but may be what an unknown one was to be.
    """
    values: dict[str, Any] = {}
    for key, value in given.items():
        check = checks.get(key) if isinstance(key, str) else None
        if check is None:
            problems.append(place + _unknown(key, (*checks, *others)))
            continue
        try:
            values[key] = check(value)
        except ValueError as error:
            problems.append(f"{place}{key}: {error}")
    return values


def flag(value: object) -> bool:
    """True or false, and nothing that merely looks so: ``"false"`` is a true string."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {kind(value)}")
    return value


def seconds(value: object) -> float:
    """A number of seconds above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number of seconds, not {kind(value)}")
    if not 0 < value < math.inf:  # nor NaN
        raise ValueError("must be greater than 0 and finite")
    if value > _LONGEST_SECONDS:
        raise ValueError(f"must be at most {_LONGEST_SECONDS:.0f} seconds")
    return float(value)


def whole(least: int, most: int) -> Check:
    """A whole number from ``least`` to ``most``."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, not {kind(value)}")
        if value < least:
            raise ValueError(f"must be at least {least}")
        if value > most:
            raise ValueError(f"must be at most {most}")
        return value

    return check


def one_of(*names: str) -> Check:
    """One of these strings."""

    def check(value: object) -> str:
        if string(value) not in names:
            raise ValueError(f"must be one of: {', '.join(names)}")
        return str(value)

    return check


def string(value: object) -> str:
    """A string that is not empty."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {kind(value)}")
    if not value:
        raise ValueError("must not be empty")
    return value


def strings(value: object) -> tuple[str, ...]:
    """A list of strings."""
    if not is_list(value):
        raise ValueError(f"must be a list of strings, not {kind(value)}")
    items: tuple[object, ...] = tuple(value)  # type: ignore[arg-type]
    for item in items:
        if not isinstance(item, str) or not item:
            raise ValueError("must hold strings only, none of them empty")
    return items  # type: ignore[return-value]


def is_list(value: object) -> bool:
    """Whether ``value`` is what YAML and JSON call a list."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def kind(value: object) -> str:
    """The type of ``value``, in the words of YAML and JSON."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, Mapping):
        return "a mapping"
    if is_list(value):
        return "a list"
    names = {int: "a whole number", float: "a number", str: "a string"}
    return names.get(type(value), type(value).__name__)


def _unknown(key: object, known: Sequence[str]) -> str:
    if not isinstance(key, str):
        return f"a key must be a string, not {kind(key)}"
    # A long or odd key is a value in the wrong place, perhaps a secret.
    plain = len(key) <= 40 and key.isidentifier() and redact_text(key) == key
    shown = f"unknown key {key!r}" if plain else "unknown key"
    near = difflib.get_close_matches(key[:40], known, n=1)
    return f"{shown} (did you mean {near[0]!r}?)" if near else shown
