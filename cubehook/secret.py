"""A signing secret and where it comes from: a literal, ``env:NAME`` or ``file:PATH``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

_MAX_FILE_LENGTH = 65_536
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret as configured, and its value as it was when it was read.

    Neither is shown: the source of a literal is the secret itself.
    """

    source: str = field(repr=False)
    value: str = field(repr=False)

    @classmethod
    def read(cls, source: str) -> Secret:
        """The secret that ``source`` names. Raises ValueError, without any value in its text."""
        value = _read(source)
        if not value:
            raise ValueError("is empty")
        if not value.isprintable() and _SURROGATE.search(value):
            raise ValueError("is not valid Unicode")
        return cls(source, value)

    def __repr__(self) -> str:
        return "Secret(…)"


def variable(name: str) -> str | None:
    """The value of an environment variable; None where it is not set."""
    try:
        return os.environ.get(name)
    except ValueError:  # a name that no variable can have
        return None


def _read(source: str) -> str:
    kind, colon, place = source.partition(":")
    if not colon:
        return source
    if kind == "env":
        value = variable(place)
        if value is None:
            raise ValueError("names an environment variable that is not set")
        return value
    if kind == "file":
        return _read_file(place)
    return source


def _read_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MAX_FILE_LENGTH + 1)
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        raise ValueError(f"names a file that cannot be read ({type(error).__name__})") from None
    if len(text) > _MAX_FILE_LENGTH:
        raise ValueError(f"names a file of over {_MAX_FILE_LENGTH} characters")
    # (utf-8-sig above: Windows editors begin a file with a mark that is no part of it either.)
    # Editors and `echo` end a file with a line end that is not part of the secret.
    return text.rstrip("\r\n")
