"""A stream of bytes cut into lines, the same ones whatever the pieces are that it comes in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

MAX_LINE_BYTES = 1024 * 1024


class Line(NamedTuple):
    """A line. text: without its end; None: it was longer than `MAX_LINE_BYTES`.

    start, end: where it and the next one begin.
    """

    start: int
    end: int
    text: bytes | None

    @property
    def blank(self) -> bool:
        """Whether there is nothing on it."""
        return self.text is not None and not self.text.strip()


class Lines:
    """Cuts what is read, from ``start`` on. Of a line that is too long, nothing is kept.

    Zeros are no part of the line that follows them: a writer that does not append leaves a hole of
    any size where its file was cut to nothing.
    """

    def __init__(self, start: int, longest: int = MAX_LINE_BYTES) -> None:
        self.start = start
        self._longest = longest
        self._parts: list[bytes] = []
        self._length = 0  # of the line under way, so far

    @property
    def position(self) -> int:
        """How far was read."""
        return self.start + self._length

    @property
    def rest(self) -> Line | None:
        """What there is of a line whose end has not come."""
        return Line(self.start, self.position, self._text()) if self._length else None

    def cut(self, data: bytes) -> Iterator[Line]:
        """The lines that end in ``data``, which continues what was given before."""
        *whole, rest = data.split(b"\n")
        for piece in whole:
            self._keep(piece)
            yield self._ended(self.position + 1)
        self._keep(rest)

    def take_rest(self) -> None:
        """What there is of a line was taken: the next one begins here."""
        self._ended(self.position)

    def _keep(self, piece: bytes) -> None:
        if not self._length and piece.startswith(b"\0"):
            text = piece.lstrip(b"\0")
            self.start += len(piece) - len(text)
            piece = text
        self._length += len(piece)
        if self._length > self._longest:
            self._parts.clear()
        elif piece:
            self._parts.append(piece)

    def _text(self) -> bytes | None:
        return b"".join(self._parts) if self._length <= self._longest else None

    def _ended(self, end: int) -> Line:
        line = Line(self.start, end, self._text())
        self.start, self._length = end, 0
        self._parts.clear()
        return line
