"""Whatever becomes of the files of a log: no line is lost, and none is taken twice."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from following import Following, Log, line, looks
from loopback import Clock

from cubehook.sources import _series
from cubehook.sources._lines import MAX_LINE_BYTES


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


@pytest.fixture
def following(log: Log, tmp_path: Path, clock: Clock) -> Following:
    return Following(log, tmp_path / "checkpoint.json", clock)


@pytest.fixture
def exactly(following: Following) -> Following:
    """A follower of the one file, not of what it is renamed to."""
    following.pattern = following.pattern.with_name("app.log")
    return following


class TestNewFiles:
    def test_a_new_day(self, log: Log, following: Following) -> None:
        following.pattern = log.folder / "cube-api-*.log"
        with following.start() as follower:
            for day in (1, 2, 3):
                log.path = log.folder / f"cube-api-2026-01-0{day}.log"
                log.write(3)
                looks(follower)
                log.write(2)
            looks(follower)
        assert following.feed.numbers == list(range(15))

    def test_the_old_one_is_read_to_its_end_first(self, log: Log, following: Following) -> None:
        following.pattern = log.folder / "cube-api-*.log"
        log.path = log.folder / "cube-api-2026-01-01.log"
        log.write()
        with following.start() as follower:
            looks(follower)
            log.write(500)
            log.path = log.folder / "cube-api-2026-01-02.log"
            log.write(3)
            looks(follower)
        assert following.feed.numbers == list(range(504))

    def test_several_that_came_meanwhile(self, log: Log, following: Following) -> None:
        log.write(2)
        assert following.once()
        for name in ("app.log.2", "app.log.1"):  # alphabetically, the order is another one
            log.write(2)
            log.rename(name)
        log.write(2)
        assert following.once()
        assert following.feed.numbers == list(range(8))

    def test_without_times_it_is_the_order_of_the_files(
        self, log: Log, following: Following
    ) -> None:
        for number, name in enumerate(["app.log.2", "app.log.1", "app.log"]):
            path = log.folder / name
            path.write_text(json.dumps({"event": "a.b", "n": number}) + "\n")
            os.utime(path, (1000 + number, 1000 + number))
        assert following.once()
        assert following.feed.numbers == [0, 1, 2]

    def test_a_file_that_appears_later(self, log: Log, following: Following) -> None:
        with following.start(at_end=True) as follower:
            looks(follower)
            log.write(2)
            looks(follower)
        assert following.feed.numbers == [0, 1]

    def test_a_folder_that_appears_later(self, log: Log, following: Following) -> None:
        following.pattern = log.folder / "*" / "app.log"
        with following.start(at_end=True) as follower:
            looks(follower)
            log.path = log.folder / "new" / "app.log"
            log.path.parent.mkdir()
            log.write(2)
            looks(follower)
        assert following.feed.numbers == [0, 1]

    def test_no_more_files_stay_open_than_needed(
        self, log: Log, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_series, "HELD", 2)
        paths = [log.folder / f"app.log.{number}" for number in range(10)]
        for path in paths:
            log.write(1, path)
        with following.start() as follower:
            looks(follower)
            assert sum(tail.opened for tail in follower._series.tails) == 2
            log.write(1, paths[0])
            looks(follower)
        assert following.feed.numbers == list(range(11))

    def test_nor_while_they_are_read(
        self, log: Log, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process may have a thousand open, and the checkpoint needs one."""
        monkeypatch.setattr("os.fsync", lambda _: None)
        monkeypatch.setattr(_series, "HELD", 3)
        for number in range(20):
            log.write(1, log.folder / f"app.log.{number}")
        opened: list[int] = []
        deliver = following.feed.deliver
        with following.start() as follower:

            def counted(events: Any) -> bool:
                opened.append(sum(tail.opened for tail in follower._series.tails))
                return deliver(events)

            monkeypatch.setattr(following.feed, "deliver", counted)
            looks(follower)
            assert sum(tail.opened for tail in follower._series.tails) == 3
        assert following.feed.numbers == list(range(20))
        assert max(opened) <= 4


class TestRenaming:
    def test_it_is_read_on(self, log: Log, following: Following) -> None:
        log.write(2)
        with following.start() as follower:
            looks(follower)
            log.rename("app.log.1")
            log.write(2, log.folder / "app.log.1")  # its writer has not noticed yet
            looks(follower)
            log.write(2)
            looks(follower)
            log.write(1, log.folder / "app.log.1")
            looks(follower)
        assert following.feed.numbers == list(range(7))

    def test_to_what_the_pattern_does_not_match(self, log: Log, exactly: Following) -> None:
        log.write(2)
        with exactly.start() as follower:
            looks(follower)
            log.write(2)
            log.rename("old.1")
            log.write(2)
            looks(follower)
            log.write(1, log.folder / "old.1")
            looks(follower)
        assert exactly.feed.numbers == list(range(7))

    def test_while_nobody_follows(self, log: Log, exactly: Following) -> None:
        log.write(2)
        assert exactly.once()
        log.write(2)
        log.rename("old.1")
        log.write(2)
        assert exactly.once()
        log.write(1, log.folder / "old.1")
        assert exactly.once()
        assert exactly.feed.numbers == list(range(7))

    def test_a_deleted_one_is_read_to_its_end(self, log: Log, exactly: Following) -> None:
        log.write(2)
        with exactly.start() as follower:
            looks(follower)
            log.write(2)
            log.path.unlink()
            log.write(2)
            looks(follower)
        assert exactly.feed.numbers == list(range(6))

    def test_one_that_is_gone_is_forgotten(
        self, log: Log, following: Following, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "cubehook")
        log.write(2)
        log.rename("app.log.1")
        log.write(2)
        with following.start() as follower:
            looks(follower)
            (log.folder / "app.log.1").unlink()
            looks(follower)
            clock.advance(_series.LINGER_SECONDS)
            looks(follower)
            assert [tail.place.path for tail in follower._series.tails] == [str(log.path)]
        assert "'app.log.1' is gone" in caplog.messages
        assert len(json.loads(following.checkpoint.read_text())["files"]) == 1

    def test_what_was_not_read_of_it_is_warned_of(
        self, log: Log, following: Following, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        log.write(2)
        log.path.write_bytes(log.path.read_bytes() + b'{"torn')
        log.rename("app.log.1")
        log.write(2)
        with following.start() as follower:
            looks(follower)
            (log.folder / "app.log.1").unlink()
            looks(follower)
            clock.advance(_series.LINGER_SECONDS)
            looks(follower)
        assert "'app.log.1' is gone, and was not read to its end" in caplog.messages

    def test_where_all_have_gone_none_is_forgotten(
        self, log: Log, following: Following, clock: Clock
    ) -> None:
        log.write(2)
        with following.start() as follower:
            looks(follower)
            follower._series.close()
            log.folder.rename(log.folder.with_name("unmounted"))
            looks(follower)
            clock.advance(24 * 3600)
            looks(follower)
            log.folder.with_name("unmounted").rename(log.folder)
            log.write(2)
            looks(follower)
        assert following.feed.numbers == list(range(4))


class TestCopying:
    @pytest.mark.parametrize("copy", ["app.log.1", "old.1"])
    def test_what_was_not_read_yet_is_in_the_copy(
        self, log: Log, following: Following, copy: str
    ) -> None:
        log.write(2)
        with following.start() as follower:
            looks(follower)
            log.write(3)
            log.copytruncate(copy)
            looks(follower)
            log.write(2)
            looks(follower)
        assert following.feed.numbers == list(range(7))

    @pytest.mark.parametrize("copy", ["app.log.1", "old.1"])
    def test_it_is_longer_again_than_it_was(
        self, log: Log, following: Following, copy: str
    ) -> None:
        log.write(2)
        with following.start() as follower:
            looks(follower)
            log.write(3)
            log.copytruncate(copy)
            log.write(50)
            looks(follower)
        assert following.feed.numbers == list(range(55))

    def test_by_a_writer_that_goes_on_where_it_was(self, log: Log, following: Following) -> None:
        """Not to append leaves a hole, which reads as zeros, and may be longer than a line."""
        many, pad = 1100, "x" * (MAX_LINE_BYTES // 1024)
        with log.path.open("wb", buffering=0) as file, following.start() as follower:
            file.writelines(line(number, pad=pad) for number in range(many))
            looks(follower)
            file.write(line(many))
            log.copytruncate("app.log.1")
            file.write(line(many + 1) + line(many + 2))
            looks(follower)
        log.written = many + 3
        log.write(1)
        assert following.once()
        assert following.feed.numbers == list(range(many + 4))

    def test_several_times_while_nobody_follows(self, log: Log, following: Following) -> None:
        log.write(2)
        assert following.once()
        for name in ("app.log.2", "app.log.1"):
            log.write(3)
            log.copytruncate(name)
        log.write(3)
        assert following.once()
        assert following.feed.numbers == list(range(11))

    def test_in_the_middle_of_a_look(
        self, log: Log, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is cut off while its lines are being delivered."""
        monkeypatch.setattr("cubehook.sources._tail.CHUNK_BYTES", 300)
        monkeypatch.setattr("os.fsync", lambda _: None)
        log.write(100)
        deliver, names = following.feed.deliver, iter(["app.log.2", "app.log.1"])

        def cut_off(events: list[object]) -> bool:
            if len(following.feed.events) in (10, 20, 21):
                name = next(names, None)
                if name:
                    log.copytruncate(name)
                    log.write(100)
            return deliver(events)  # type: ignore[arg-type]

        monkeypatch.setattr(following.feed, "deliver", cut_off)
        following.feed.room = 1
        assert following.once()
        assert following.feed.numbers == list(range(log.written))
        assert log.written > 100

    def test_a_copy_that_is_being_made_is_none_of_the_files(
        self, log: Log, following: Following
    ) -> None:
        log.write(10)
        text = log.path.read_bytes()
        copy = log.folder / "app.log.1"
        with following.start() as follower:
            looks(follower)
            log.write(2)
            text = log.path.read_bytes()
            for size in (1, len(text) // 2, len(text)):
                copy.write_bytes(text[:size])
                looks(follower)
            log.truncate()
            looks(follower)
            log.write(2)
            looks(follower)
        assert following.feed.numbers == list(range(14))

    def test_a_backup_is_none_of_the_files(self, log: Log, following: Following) -> None:
        log.write(3)
        with following.start() as follower:
            looks(follower)
            shutil.copyfile(log.path, log.folder / "app.log.bak")
            log.write(3)
            looks(follower)
        log.write(3)
        assert following.once()
        assert following.feed.numbers == list(range(9))

    def test_a_backup_that_is_seen_first(self, log: Log, following: Following) -> None:
        log.write(3)
        log.rename("app.log.0")
        shutil.copyfile(log.folder / "app.log.0", log.folder / "app.log")
        log.write(3)
        assert following.once()
        log.write(3)
        assert following.once()
        assert sorted(following.feed.numbers) == list(range(9))

    def test_files_may_move_to_another_volume(self, log: Log, following: Following) -> None:
        log.write(3)
        assert following.once()
        moved = log.folder / "copy"
        shutil.copyfile(log.path, moved)
        moved.rename(log.path)
        log.write(3)
        assert following.once()
        assert following.feed.numbers == list(range(6))

    def test_the_device_may_have_another_number(self, log: Log, following: Following) -> None:
        entries = [json.dumps({"event": "a.b", "n": number}) + "\n" for number in range(4)]
        log.path.write_text("".join(entries[:2]))  # without times: any file may begin so
        assert following.once()
        content = json.loads(following.checkpoint.read_text())
        content["files"][0]["device"] += 1
        following.checkpoint.write_text(json.dumps(content))
        with log.path.open("a") as file:
            file.writelines(entries[2:])
        assert following.once()
        assert following.feed.numbers == list(range(4))

    @pytest.mark.parametrize("compressed", [gzip.compress, lambda text: b"\x28\xb5\x2f\xfd" + text])
    def test_a_compressed_one_is_not_read(
        self, log: Log, following: Following, compressed: object
    ) -> None:
        log.write(3)
        with following.start() as follower:
            looks(follower)
            log.rename("app.log.1")
            log.write(2)
            looks(follower)
            text = (log.folder / "app.log.1").read_bytes()
            (log.folder / "app.log.1.gz").write_bytes(compressed(text))  # type: ignore[operator]
            (log.folder / "app.log.1").unlink()
            looks(follower)
        assert following.once()
        assert following.feed.numbers == list(range(5))


class TestTruncation:
    def test_it_begins_anew(self, log: Log, exactly: Following) -> None:
        log.write(3)
        with exactly.start() as follower:
            looks(follower)
            log.truncate()
            log.write(1)
            looks(follower)
            log.truncate()
            looks(follower)
            log.write(1)
            looks(follower)
        assert exactly.feed.numbers == list(range(5))

    def test_while_nobody_follows(self, log: Log, exactly: Following) -> None:
        log.write(3)
        assert exactly.once()
        log.truncate()
        log.write(9)
        assert exactly.once()
        assert exactly.feed.numbers == list(range(12))

    def test_an_inode_that_is_used_again(self, log: Log, exactly: Following) -> None:
        log.write(3)
        assert exactly.once()
        log.path.write_bytes(b"".join(map(line, range(100, 110))))  # in the same inode
        assert exactly.once()
        assert exactly.feed.numbers == [0, 1, 2, *range(100, 110)]

    def test_files_that_all_begin_alike(self, log: Log, exactly: Following) -> None:
        """The first line does not tell one from another: the last one that was taken does."""
        first = b'{"event":"log.opened","n":"first"}\n'
        log.path.write_bytes(first + line(0) + line(1))
        assert exactly.once()
        log.path.write_bytes(first + b"".join(map(line, range(2, 6))))
        assert exactly.once()
        assert exactly.feed.numbers == ["first", 0, 1, "first", 2, 3, 4, 5]
        assert len({one.id for one in exactly.feed.events}) == 8

    def test_the_same_text_again_is_other_events(self, log: Log, exactly: Following) -> None:
        entry = b'{"event":"a.b","n":1}\n'
        log.path.write_bytes(entry)
        for _ in range(3):
            assert exactly.once()
            log.truncate()
            assert exactly.once()
            log.path.write_bytes(entry)
        with exactly.start() as follower:
            looks(follower)
            log.truncate()
            looks(follower)
            log.path.write_bytes(entry)
            looks(follower)
        ids = [one.id for one in exactly.feed.events]
        assert len(ids) == len(set(ids)) == 5

    def test_the_end_was_taken_away(self, log: Log, exactly: Following) -> None:
        log.write(3)
        with exactly.start() as follower:
            looks(follower)
            log.truncate(len(line(0)) * 2)
            looks(follower)
            log.write(2)
            looks(follower)
        assert exactly.feed.numbers == list(range(5))

    def test_a_file_that_was_edited(self, log: Log, exactly: Following, clock: Clock) -> None:
        """It begins as before, and does not go on so: it is read again, with the same ids."""
        log.write(4)
        with exactly.start() as follower:
            looks(follower)
            edited = log.folder / "edited"
            edited.write_bytes(line(0) + line(1) + line(3))
            edited.rename(log.path)
            looks(follower)
            assert exactly.feed.numbers == list(range(4))
            clock.advance(_series.LINGER_SECONDS)
            looks(follower)
            looks(follower)
            log.write(1)
            looks(follower)
        assert exactly.feed.numbers == [0, 1, 2, 3, 0, 1, 3, 4]
        ids = [one.id for one in exactly.feed.events]
        assert ids[4:6] == ids[:2]
        assert len(set(ids)) == 6


class TestLastLines:
    def test_one_without_an_end_is_waited_for(self, log: Log, following: Following) -> None:
        text = line(0)
        with following.start() as follower:
            for at in range(0, len(text), 10):
                looks(follower)
                assert following.feed.events == []
                with log.path.open("ab") as file:
                    file.write(text[at : at + 10])
            looks(follower)
        assert following.feed.numbers == [0]

    @pytest.mark.parametrize("end", [b"", b"\r", b"\n", b"\r\n", b"  \n"])
    def test_one_in_a_file_that_is_over(self, log: Log, following: Following, end: bytes) -> None:
        log.write(2)
        with log.path.open("ab") as file:
            file.write(line(2).rstrip())
        with following.start() as follower:
            looks(follower)
            assert following.feed.numbers == [0, 1]
            log.rename("app.log.1")
            looks(follower)
            assert following.feed.numbers == [0, 1]
            log.path.write_bytes(line(3))
            looks(follower)
            assert following.feed.numbers == [0, 1, 2, 3]
            with (log.folder / "app.log.1").open("ab") as file:
                file.write(end)
            looks(follower)
        assert following.once()
        assert following.feed.numbers == [0, 1, 2, 3]

    def test_a_file_that_is_nothing_but_one(self, log: Log, following: Following) -> None:
        log.path.write_bytes(line(0).rstrip())
        assert following.once()
        assert following.feed.events == []
        log.rename("app.log.1")
        log.path.write_bytes(line(1))
        assert following.once()
        assert following.feed.numbers == [0, 1]

    def test_one_that_is_torn(self, log: Log, following: Following) -> None:
        log.write(1)
        with log.path.open("ab") as file:
            file.write(line(1)[:-5])
        log.rename("app.log.1")
        log.path.write_bytes(line(2))
        with following.start() as follower:
            looks(follower)
            looks(follower)
            assert following.feed.numbers == [0, 2]
            with (log.folder / "app.log.1").open("ab") as file:
                file.write(line(1)[-5:])
            looks(follower)
        assert following.feed.numbers == [0, 2, 1]


class TestStart:
    def test_at_the_end(self, log: Log, following: Following) -> None:
        log.write(3)
        with log.path.open("ab") as file:
            file.write(line(3)[:20])
        with following.start(at_end=True):
            pass  # killed before the first event
        with log.path.open("ab") as file:
            file.write(line(3)[20:])
        log.written += 1
        log.write(2)
        assert following.once(at_end=True)
        assert following.feed.numbers == [3, 4, 5]

    def test_the_end_of_a_long_file(
        self, log: Log, following: Following, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cubehook.sources._tail.CHUNK_BYTES", 7)
        log.write(30)
        with log.path.open("ab") as file:
            file.write(line(30)[:-1])
        with following.start(at_end=True) as follower:
            with log.path.open("ab") as file:
                file.write(b"\n")
            looks(follower)
        assert following.feed.numbers == [30]

    def test_at_the_start(self, log: Log, following: Following) -> None:
        log.write(3)
        assert following.once(at_end=False)
        assert following.feed.numbers == [0, 1, 2]

    def test_what_it_writes_is_none_of_the_files(self, log: Log, following: Following) -> None:
        following.checkpoint = log.folder / "checkpoint.json"
        following.pattern = log.folder / "*"
        log.write(3)
        with following.start() as follower:
            looks(follower)
            looks(follower)
            assert [Path(one.place.path).name for one in follower._series.tails] == ["app.log"]

    def test_what_is_no_file(self, log: Log, following: Following) -> None:
        os.mkfifo(log.folder / "app.log.fifo")
        (log.folder / "app.log.d").mkdir()
        (log.folder / "app.log.link").symlink_to(log.path)
        (log.folder / "app.log.nowhere").symlink_to(log.folder / "nowhere")
        log.write(3)
        assert following.once()
        assert following.feed.numbers == [0, 1, 2]
