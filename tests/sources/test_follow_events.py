"""What a follower makes of lines, when its checkpoint moves; and any log, followed anyhow."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from following import Following, Log, Taken, line, looks
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loopback import Clock

from cubehook.errors import ConfigError
from cubehook.sources import SourceEvent, _tail
from cubehook.sources._checkpoint import Checkpoint
from cubehook.sources.follow import LogFollower

PLANTED = "planted-secret"


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


@pytest.fixture
def following(log: Log, tmp_path: Path, clock: Clock) -> Following:
    return Following(log, tmp_path / "checkpoint.json", clock)


class TestEvents:
    def test_what_is_in_them(self, log: Log, following: Following) -> None:
        log.path.write_bytes(
            b'\xef\xbb\xbf{"timestamp":"2026-07-01T08:00:00Z","level":"error","event":"a.b","x":1}\r\n'
            b"\n"
            b'{"timestamp":1782892800500,"event":"a.c","event_id":"mine","x":"\xff"}\n'
            b'{"event":"a.d"}\n'
        )
        before = time.time()
        assert following.once()
        first, second, third = following.feed.events
        assert (first.name, first.level, first.time) == ("a.b", logging.ERROR, 1782892800.0)
        assert (first.fields, second.fields) == ({"x": 1}, {"x": "\ufffd"})
        assert (second.id, second.time) == ("mine", 1782892800.5)
        assert before <= third.time <= time.time()

    def test_no_line_is_told_and_all_are_counted(
        self, log: Log, following: Following, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "cubehook")
        long = b'{"event":"a.b","x":"' + b"x" * 1024 * 1024 + b'"}\n'
        bad = f'{{"event":"{PLANTED} "}}\n'.encode()
        log.path.write_bytes(line(0) + f"{PLANTED}\n".encode() + line(1) + bad + long + bad)
        with following.start() as follower:
            follower.drain()
        assert following.feed.numbers == [0, 1]
        counts = "1 no JSON object, 1 too long, 2 without a legal event name"
        assert f"stopped: 2 events; skipped: {counts}" in caplog.messages
        warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert PLANTED not in caplog.text
        assert PLANTED not in following.checkpoint.read_text()

    def test_a_line_that_is_too_long_is_never_in_memory(
        self, log: Log, following: Following
    ) -> None:
        with log.path.open("wb") as file:
            for _ in range(64):
                file.write(b"x" * 512 * 1024)
            file.write(b"\n")
        log.write(1)
        tracemalloc.start()
        assert following.once()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert following.feed.numbers == [0]
        assert peak < 8 * 1024 * 1024

    def test_no_more_at_once_than_there_is_room(self, log: Log, following: Following) -> None:
        following.feed.room = 7
        log.write(20)
        assert following.once()
        assert following.feed.batches == [7, 7, 6]


class TestIds:
    def test_the_same_line_has_the_same_one(self, log: Log, following: Following) -> None:
        log.write(20)
        assert following.once()
        following.checkpoint.unlink()
        shutil.copyfile(log.path, log.folder / "copy")
        (log.folder / "copy").rename(log.path)
        following.feed.room = 3
        assert following.once()
        ids = [one.id for one in following.feed.events]
        assert ids[:20] == ids[20:]
        assert len(set(ids)) == 20

    def test_the_id_of_a_sandbox_is_none(self, log: Log, following: Following) -> None:
        """An outbox would take all but the first one for repetitions."""
        log.path.write_bytes(line(0, id="sandbox-123") + line(1, id="sandbox-123"))
        assert following.once()
        assert len({one.id for one in following.feed.events} - {"sandbox-123"}) == 2

    def test_equal_lines_have_different_ones(self, log: Log, following: Following) -> None:
        entry = b'{"timestamp":"2026-07-01T08:00:00Z","event":"a.b"}\n'
        log.path.write_bytes(entry * 3)
        (log.folder / "app.log.2").write_bytes(line(7) + entry)
        assert following.once()
        assert len({one.id for one in following.feed.events}) == 5

    def test_files_without_times_may_be_equal(self, log: Log, following: Following) -> None:
        for name in ("app.log", "app.log.1", "app.log.2"):
            (log.folder / name).write_bytes(b'{"event":"a.b","n":1}\n')
        assert following.once()
        assert len({one.id for one in following.feed.events}) == 3


class TestCheckpoint:
    def test_it_stays_when_the_feed_is_to_stop(self, log: Log, following: Following) -> None:
        following.feed.room = 4
        following.feed.ends_after = 6
        log.write(20)
        assert not following.once()
        assert following.feed.numbers == list(range(6))
        following.feed.ends_after = None
        assert following.once()
        assert following.feed.numbers == [*range(6), *range(4, 20)]
        ids = [one.id for one in following.feed.events]
        assert ids[4:6] == ids[6:8]

    def test_it_is_waited_for(
        self,
        log: Log,
        following: Following,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr("cubehook.sources.follow.RETRY_SECONDS", 0.001)
        following.feed.room = 5
        save, attempts, delivered = Checkpoint.save, [0], []

        def full(self: Checkpoint, content: dict[str, object]) -> None:
            attempts[0] += 1
            if 2 <= attempts[0] < 6:
                delivered.append(len(following.feed.events))
                raise OSError(errno.ENOSPC, "No space left on device")
            save(self, content)

        monkeypatch.setattr(Checkpoint, "save", full)
        log.write(20)
        assert following.once()
        assert following.feed.numbers == list(range(20))
        assert delivered == [5, 5, 5, 5]
        assert "cannot be written (No space left on device)" in caplog.text

    def test_once_it_is_not_waited_for_without_end(
        self, log: Log, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cubehook.sources.follow.RETRY_SECONDS", 0.001)
        log.write(3)
        with following.start() as follower:
            monkeypatch.setattr(Checkpoint, "save", _full)
            with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\)"):
                follower.drain()

    def test_it_is_not_waited_for_when_it_is_to_stop(
        self, log: Log, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log.write(20)
        with following.start() as follower:
            follower._stopping.set()
            monkeypatch.setattr(Checkpoint, "save", _full)
            assert not follower.drain()

    def test_one_that_cannot_be_written_at_the_start(
        self, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Checkpoint, "save", _full)
        with pytest.raises(ConfigError, match="No space"):
            following.once()

    @pytest.mark.parametrize(
        "change",
        [
            lambda content: content.pop("files"),
            lambda content: content.update(files=7),
            lambda content: content.update(files=[7]),
            lambda content: content["files"][0].pop("offset"),
            lambda content: content["files"][0].update(offset="here"),
            lambda content: content["files"][0].update(offset=-1),
            lambda content: content["files"][0].pop("path"),
            lambda content: content["files"][0].update(since=None),
            lambda content: content["files"][0].update(head=None),
            lambda content: content["files"][0].update(head={"start": 0}),
            lambda content: content["files"][0]["last"].update(length=10**12),
            lambda content: content["files"][0]["last"].update(start=-1),
        ],
    )
    def test_a_damaged_one_is_left_alone(
        self, log: Log, following: Following, change: Callable[[Any], object]
    ) -> None:
        log.write(1)
        assert following.once()
        content = json.loads(following.checkpoint.read_text())
        change(content)
        following.checkpoint.write_text(json.dumps(content))
        with pytest.raises(ConfigError, match="damaged"):
            following.once()
        assert json.loads(following.checkpoint.read_text()) == content

    def test_a_file_that_cannot_be_read_is_left_for_later(
        self,
        log: Log,
        following: Following,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        log.write(3)
        log.rename("app.log.1")
        log.write(3)
        with monkeypatch.context() as patched:
            patched.setattr(_tail.Head, "read", _denied)
            assert not following.once()
        assert following.once()
        with (log.folder / "app.log.1").open("ab") as file:
            file.write(line(6))
        with monkeypatch.context() as patched:
            patched.setattr(_tail.Tail, "_open", _denied)
            assert not following.once()
        assert following.once()
        assert following.feed.numbers == list(range(7))
        assert "cannot be read (Permission denied)" in caplog.text

    @pytest.mark.parametrize("pattern", ["app.log", "app.log*"])
    def test_a_folder_that_must_not_be_looked_into(
        self,
        log: Log,
        following: Following,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        pattern: str,
    ) -> None:
        log.write(3)
        following.pattern = log.folder / pattern
        with monkeypatch.context() as patched:
            for name in ("scandir", "stat", "lstat"):
                patched.setattr(os, name, _closed(getattr(os, name), log.folder))
            assert not following.once()
        assert "cannot be read (Permission denied)" in caplog.text
        assert following.once()
        assert following.feed.numbers == [0, 1, 2]

    def test_no_start_at_the_end_of_what_cannot_be_read(
        self, log: Log, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Once it can be, all that it holds would be new."""
        log.write(3)
        with monkeypatch.context() as patched:
            patched.setattr(_tail.Head, "read", _denied)
            with pytest.raises(ConfigError, match="no start from here"):
                following.once(at_end=True)
        assert following.once(at_end=True)
        log.write(1)
        assert following.once(at_end=True)
        assert following.feed.numbers == [3]


def _closed(called: Callable[[Any], object], folder: Path) -> Callable[[Any], object]:
    """As it answers for a folder without permission."""

    def call(path: Any, *rest: Any, **options: Any) -> object:
        if str(path).startswith(str(folder)):
            _denied()
        return called(path, *rest, **options)

    return call


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _denied(*_: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_it_looks_for_more_until_it_is_to_stop(log: Log, tmp_path: Path) -> None:
    stopping, came = threading.Event(), threading.Event()

    class Fed(Taken):
        def deliver(self, events: Any) -> bool:
            super().deliver(events)
            came.set()
            return True

    feed = Fed()
    with Checkpoint(tmp_path / "checkpoint.json") as checkpoint:
        follower = LogFollower(
            str(log.folder / "app.log"),
            feed,  # type: ignore[arg-type]
            checkpoint,
            stopping,
            poll=0.01,
        )
        thread = threading.Thread(target=follower.run)
        thread.start()
        for number in range(3):
            came.clear()
            log.write(1)
            assert came.wait(10.0), number
        stopping.set()
        thread.join()
    assert feed.numbers == [0, 1, 2]


# --- Any log, followed anyhow ---


class CrashError(Exception):
    """In the place of kill -9."""


class Crashing(Taken):
    """Takes what it is given, and may crash right before, in the middle or after."""

    def __init__(self) -> None:
        super().__init__(room=4)
        self.crash_after: int | None = None

    def deliver(self, events: Any) -> bool:
        if self.crash_after is None:
            return super().deliver(events)
        taken = events[: self.crash_after]
        self.events += taken
        self.crash_after -= len(taken)
        if self.crash_after == 0:
            raise CrashError
        return True


STEPS = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 9)),
    st.tuples(st.just("tear"), st.integers(1, 60)),
    st.sampled_from([("look", 0), ("rename", 0), ("copy", 0), ("restart", 0)]),
    st.tuples(st.just("crash"), st.integers(1, 12)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, max_size=25), st.integers(20, 400))
@example([("write", 5), ("look", 0), ("write", 5), ("copy", 0), ("write", 9), ("crash", 3)], 100)
@example([("write", 5), ("crash", 2), ("rename", 0), ("write", 2), ("copy", 0), ("write", 2)], 50)
def test_no_line_is_lost_and_none_has_two_ids(steps: list[tuple[str, int]], chunk: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(_tail, "CHUNK_BYTES", chunk)
        patched.setattr("os.fsync", lambda _: None)
        scene = _Scene(Path(folder))
        for what, number in steps:
            getattr(scene, what)(number)
        scene.end()
        scene.check()


class _Scene:
    """A log, who writes and rotates it, and who follows it and may crash."""

    def __init__(self, folder: Path) -> None:
        self.log = Log(folder / "log")
        self.following = Following(self.log, folder / "checkpoint.json", Clock())
        self.feed = self.following.feed = Crashing()
        self.torn = b""
        self.rotated = 0
        self.crashes = 0
        self.restart(0)

    def restart(self, _: int) -> None:
        if hasattr(self, "follower"):
            self.follower._series.close()
            self.lock.__exit__(None, None, None)
        self.lock = Checkpoint(self.following.checkpoint).__enter__()
        self.follower = LogFollower(
            str(self.following.pattern),
            self.feed,  # type: ignore[arg-type]
            self.lock,
            threading.Event(),
            at_end=False,
        )

    def write(self, count: int) -> None:
        self._complete()
        self.log.write(count)

    def tear(self, size: int) -> None:
        self._complete()
        text = line(self.log.written)
        self.log.written += 1
        self._append(text[:size])
        self.torn = text[size:]

    def look(self, _: int) -> None:
        looks(self.follower)

    def rename(self, _: int) -> None:
        self._complete()
        if self.log.path.exists():
            self.rotated += 1
            self.log.rename(f"app.log.{self.rotated}")

    def copy(self, _: int) -> None:
        self._complete()
        if self.log.path.exists():
            self.rotated += 1
            self.log.copytruncate(f"app.log.{self.rotated}")

    def crash(self, after: int) -> None:
        self.feed.crash_after = after
        with suppress(CrashError):
            looks(self.follower)
        self.crashes += self.feed.crash_after == 0
        self.feed.crash_after = None
        self.restart(0)

    def end(self) -> None:
        self._complete()
        self.restart(0)
        assert self.follower.drain()
        self.lock.__exit__(None, None, None)

    def check(self) -> None:
        by_number: dict[int, SourceEvent] = {}
        for event in self.feed.events:
            number = event.fields["n"]
            assert isinstance(number, int)
            assert by_number.setdefault(number, event) == event
        assert sorted(by_number) == list(range(self.log.written))
        assert len({one.id for one in by_number.values()}) == self.log.written
        twice = len(self.feed.events) - self.log.written
        assert twice <= self.crashes * self.feed.room
        if not self.crashes:
            assert self.feed.numbers == list(range(self.log.written))

    def _complete(self) -> None:
        self._append(self.torn)
        self.torn = b""

    def _append(self, text: bytes) -> None:
        if text:
            with self.log.path.open("ab") as file:
                file.write(text)
