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

    Neither is shown: the source of a literal is the secret itself. stamp: of the file it was read
    from, which differs when the file has changed; None for one that is in no file.
    """

    source: str = field(repr=False)
    value: str = field(repr=False)
    stamp: tuple[int, ...] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def read(cls, source: str) -> Secret:
        """The secret that ``source`` names. Raises ValueError, without any value in its text."""
        stamp = _stamp(source)  # before the reading: what is written meanwhile is read again
        value = _read(source)
        if not value:
            raise ValueError("is empty")
        if not value.isprintable() and _SURROGATE.search(value):
            raise ValueError("is not valid Unicode")
        return cls(source, value, stamp)

    @property
    def changed(self) -> bool:
        """Whether its file is there, and another one now than the one it was read from."""
        return self.stamp is not None and self.stamp_now() not in (None, self.stamp)

    def stamp_now(self) -> tuple[int, ...] | None:
        """The stamp of its file as it is now; None where there is none."""
        return _stamp(self.source)

    def __repr__(self) -> str:
        return "Secret(…)"


def variable(name: str) -> str | None:
    """The value of an environment variable; None where it is not set."""
    try:
        return os.environ.get(name)
    except ValueError:  # a name that no variable can have
        return None


def _stamp(source: str) -> tuple[int, ...] | None:
    kind, _, path = source.partition(":")
    if kind != "file":
        return None
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


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
