"""One file that is followed: how it is known, how far it was read, and whether it still is itself.

A file is known by device and inode, and by hashes of its first line and of the last one that was
taken: so it is noticed when it was cut to nothing, or when the inode is another file's by now.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from cubehook.sources._cubeapi import json_object, moment
from cubehook.sources._lines import Line, Lines

Identity: TypeAlias = "tuple[int, int]"
"""Device and inode."""

CHUNK_BYTES = 256 * 1024
HEAD_BYTES = 16 * 1024
"""Of a first line, what is looked at."""

LAST_BYTES = 1024
"""Of the last line that was taken, what is looked at again."""

_NOWHERE = -1
_NAMESPACE = uuid.UUID("0a1e6a4e-5f0c-5d6b-8f0e-3c2f6f0f9b21")
_COMPRESSED = (
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
    b"PK\3\4",
)


class ReplacedError(Exception):
    """The file no longer holds what was read of it."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a file, known by its hash: the text may hold secrets, and is not kept."""

    start: int
    length: int
    digest: str

    @classmethod
    def of(cls, start: int, text: bytes) -> Span:
        """The one with this text."""
        return cls(start, len(text), hashlib.sha256(text).hexdigest()[:32])

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Span:
        """As in a `Place`."""
        start, length = int(given["start"]), int(given["length"])
        if start < 0 or not 0 < length <= HEAD_BYTES:
            raise ValueError
        return cls(start, length, str(given["digest"]))

    def to_mapping(self) -> dict[str, object]:
        """The same."""
        return {"start": self.start, "length": self.length, "digest": self.digest}

    def is_in(self, fd: int) -> bool:
        """Whether an open file has that text there."""
        return Span.of(self.start, os.pread(fd, self.length, self.start)) == self


@dataclass(frozen=True, slots=True)
class Head:
    """A file's first line. time: where it has one, no other file begins with this line, but for
    copies."""

    span: Span
    time: float | None

    @classmethod
    def read(cls, fd: int) -> Head | None:
        """That of an open file; None while its line is not complete, or where the file is a
        compressed one."""
        data = os.pread(fd, HEAD_BYTES, 0)
        if data.startswith(_COMPRESSED):
            return None
        end = data.find(b"\n", len(data) - len(data.lstrip()))
        line = (data if end < 0 else data[:end]).rstrip()
        found = json_object(line)
        if end < 0 and found is None and len(data) < HEAD_BYTES:
            return None
        return cls(Span.of(0, line or data), moment(found.get("timestamp")) if found else None)


@dataclass(frozen=True, slots=True)
class Place:
    """How far a file was read: what a checkpoint holds of it.

    generation: how often its inode was another file's before. since: what files are ordered by,
    the time of the first line or else of the file. key: what makes the ids of its events its own.
    """

    path: str
    device: int
    inode: int
    generation: int
    since: float
    key: str
    head: Span
    offset: int = 0
    last: Span | None = None

    @classmethod
    def at_start(cls, path: str, state: os.stat_result, head: Head, generation: int) -> Place:
        """That of a file of which nothing was read."""
        key, since = head.span.digest, head.time
        if since is None:  # such a line may begin any file
            key, since = f"{key}:{state.st_ino}:{generation}", state.st_mtime
        return cls(path, state.st_dev, state.st_ino, generation, since, key, head.span)

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Place:
        """The one that `to_mapping` was called for. Raises LookupError, TypeError or ValueError."""
        head, last = given["head"], given["last"]
        place = cls(
            path=str(given["path"]),
            device=int(given["device"]),
            inode=int(given["inode"]),
            generation=int(given["generation"]),
            since=float(given["since"]),
            key=str(given["key"]),
            head=Span.from_mapping(head),
            offset=int(given["offset"]),
            last=None if last is None else Span.from_mapping(last),
        )
        if place.offset < 0:
            raise ValueError
        return place

    def to_mapping(self) -> dict[str, object]:
        """In what JSON can say. By hand: `dataclasses.asdict` costs 20 times as much, and a year
        of logs has hundreds of these, all of them written after each part that was delivered."""
        return {
            "path": self.path,
            "device": self.device,
            "inode": self.inode,
            "generation": self.generation,
            "since": self.since,
            "key": self.key,
            "head": self.head.to_mapping(),
            "offset": self.offset,
            "last": None if self.last is None else self.last.to_mapping(),
        }

    @property
    def identity(self) -> Identity:
        """How the file system knows it."""
        return self.device, self.inode

    @property
    def unique(self) -> bool:
        """Whether a file that begins like this one is this one, or a copy of it."""
        return self.key == self.head.digest

    @property
    def detached(self) -> bool:
        """Whether the file that it was in holds something else by now."""
        return self.device == _NOWHERE

    def is_in(self, fd: int) -> bool:
        """Whether an open file holds what was read."""
        spans = (self.head, self.last)
        return all(span is None or span.is_in(fd) for span in spans)

    def id_of(self, line: Line) -> str:
        """The id of an event that brings none: the same whenever the line is read, another one for
        any other line, and for the same text elsewhere. A UUID of version 5 (RFC 9562)."""
        name = f"{self.key}:{line.start}:".encode() + (line.text or b"").rstrip()
        digest = hashlib.sha1(_NAMESPACE.bytes + name, usedforsecurity=False).digest()
        return str(uuid.UUID(bytes=digest[:16], version=5))


class Tail:
    """A file that is read from its place on.

    gone_since: when the pattern ceased to lead to it; None: it does. tried: how far a line without
    an end was looked at.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.gone_since: float | None = None
        self.tried = -1
        self._looked: tuple[int, int] | None = None  # size and time, when it was read to its end
        self._found: os.stat_result | None = None
        self._lines = Lines(place.offset)
        self._fd = -1

    @property
    def opened(self) -> bool:
        """Whether it can be read wherever it goes."""
        return self._fd >= 0

    @property
    def lost(self) -> bool:
        """Whether it is not known where it is."""
        return self.gone_since is not None and not self.opened

    @property
    def rest(self) -> Line | None:
        """A line without an end, after all others."""
        return self._lines.rest

    @property
    def unread(self) -> bool:
        """Whether it had more when it was last looked at."""
        known = self._found.st_size if self._found else 0
        return known > self.place.offset

    def look(self, now: float, path: str = "", state: os.stat_result | None = None) -> None:
        """Where the pattern has led to it, if it has."""
        if state is None:
            self.gone_since = now if self.gone_since is None else self.gone_since
        else:
            self.place = replace(self.place, path=path)
            self.gone_since, self._found = None, state

    def gone_for(self, now: float) -> float:
        """So many seconds the pattern does not lead to it."""
        return 0.0 if self.gone_since is None else now - self.gone_since

    def is_in(self, fd: int) -> bool:
        """Whether an open file holds what was read of this one."""
        return os.fstat(fd).st_size >= self.place.offset and self.place.is_in(fd)

    def size(self) -> int:
        """How long it is; -1 where that is not known."""
        return -1 if self.lost else self._state().st_size

    def changed(self) -> bool:
        """Whether there may be something to read."""
        state = self._state()
        return self._looked != (state.st_size, state.st_mtime_ns)

    def chunks(self, now: float) -> Iterator[list[Line]]:
        """What has come, up to the size that the file has now, as lines that have ended.

        Raises `ReplacedError`, and OSError: FileNotFoundError for one that has just been renamed.
        """
        self._open()
        self._found = state = os.fstat(self._fd)
        self._check(self._lines.position)
        while self._lines.position < state.st_size:
            self.gone_since = self.gone_since and now
            position = self._lines.position
            data = os.pread(self._fd, min(CHUNK_BYTES, state.st_size - position), position)
            # Afterwards: what was read before it was replaced is none of the new file.
            self._check(position + len(data))
            if not data:
                return
            yield list(self._lines.cut(data))
        self._looked = state.st_size, state.st_mtime_ns

    def advance(self, line: Line) -> None:
        """What ends with this line is done."""
        last = Span.of(line.start, line.text[:LAST_BYTES]) if line.text else self.place.last
        self.place = replace(self.place, offset=line.end, last=last)

    def take_rest(self) -> None:
        """The `rest` is done, though its end has not come."""
        self._lines.take_rest()

    def skip_to_end(self) -> None:
        """Go on after the last line that has ended. Raises OSError."""
        self._open()
        end = os.fstat(self._fd).st_size
        while end > 0:
            start = max(end - CHUNK_BYTES, 0)
            found = os.pread(self._fd, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        self.place = replace(self.place, offset=end)
        self._lines = Lines(end)

    def go_on_in(self, path: str, state: os.stat_result) -> None:
        """Another file holds what this one did, and more."""
        self.close()
        self.place = replace(self.place, path=path, device=state.st_dev, inode=state.st_ino)
        self.gone_since, self._found, self._looked = None, state, None
        self._lines, self.tried = Lines(self.place.offset), -1

    def detach(self, now: float) -> None:
        """The file holds something else; what was not read may be in a copy."""
        self.close()
        self.place = replace(self.place, device=_NOWHERE)
        self.gone_since = now

    def was_cut_back(self) -> bool:
        """Whether only some of its end was taken away. If so, it goes on from there."""
        if not self.place.unique or not self.place.head.is_in(self._fd):
            return False
        size = os.fstat(self._fd).st_size
        if size >= self._lines.position:
            return False
        self.place = replace(self.place, offset=size, last=None)
        self._lines = Lines(size)
        return True

    def close(self) -> None:
        """Until it has changed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _state(self) -> os.stat_result:
        if self.opened or self._found is None:
            return os.fstat(self._fd)
        return self._found

    def _open(self) -> None:
        if self.opened:
            return
        self._fd = os.open(self.place.path, os.O_RDONLY | os.O_NONBLOCK)
        state = os.fstat(self._fd)
        if (state.st_dev, state.st_ino) != self.place.identity:
            self.close()
            raise FileNotFoundError

    def _check(self, needed: int) -> None:
        if os.fstat(self._fd).st_size < needed or not self.place.is_in(self._fd):
            raise ReplacedError
