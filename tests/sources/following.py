"""A log that is written and rotated, and one who follows it in this process."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loopback import Clock

from cubehook.sources import SourceEvent
from cubehook.sources._checkpoint import Checkpoint
from cubehook.sources.follow import LogFollower


def line(number: int, **fields: Any) -> bytes:
    """One of CubeAPI's log: no two have the same time."""
    moment = f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000000001Z"
    entry = {"timestamp": moment, "level": "info", "event": "sandbox.created", "n": number}
    return json.dumps(entry | fields).encode() + b"\n"


class Log:
    """A folder with a log, whose lines are numbered."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.written = 0
        self.path = folder / "app.log"

    def write(self, count: int = 1, path: Path | None = None) -> None:
        with open(path or self.path, "ab") as file:
            for _ in range(count):
                file.write(line(self.written))
                self.written += 1

    def copytruncate(self, name: str) -> None:
        shutil.copyfile(self.path, self.folder / name)
        self.truncate()

    def truncate(self, size: int = 0) -> None:
        with open(self.path, "r+b") as file:
            file.truncate(size)

    def rename(self, name: str) -> None:
        self.path.rename(self.folder / name)


class Taken:
    """In the place of a `Feed`: keeps what it is given. ends_after: so many events more are taken,
    and then it is to stop."""

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.events: list[SourceEvent] = []
        self.ends_after: int | None = None
        self.batches: list[int] = []

    def deliver(self, events: Sequence[SourceEvent]) -> bool:
        assert 0 < len(events) <= self.room
        self.batches.append(len(events))
        if self.ends_after is not None and len(events) > self.ends_after:
            self.events += events[: self.ends_after]
            return False
        self.events += events
        if self.ends_after is not None:
            self.ends_after -= len(events)
        return True

    @property
    def numbers(self) -> list[Any]:
        return [one.fields["n"] for one in self.events]


class Following:
    """Makes followers, one after the other: each goes on where the last one was.

    pattern: the log, and whatever is named as it is, and more.
    """

    def __init__(self, log: Log, checkpoint: Path, clock: Clock) -> None:
        self.pattern = log.folder / "app.log*"
        self.checkpoint = checkpoint
        self.clock = clock
        self.feed = Taken()

    @contextmanager
    def start(self, **options: Any) -> Iterator[LogFollower]:
        with Checkpoint(self.checkpoint) as checkpoint:
            follower = LogFollower(
                str(self.pattern),
                self.feed,  # type: ignore[arg-type]
                checkpoint,
                threading.Event(),
                **{"at_end": False, "clock": self.clock, **options},
            )
            try:
                yield follower
            finally:
                follower._series.close()

    def once(self, **options: Any) -> bool:
        """One that delivers what is there."""
        with self.start(**options) as follower:
            return follower.drain()


def looks(follower: LogFollower) -> None:
    """Look until nothing more is to be done at once."""
    while follower.look():
        pass
