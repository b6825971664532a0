"""A consumer of a stream in a real Redis: what it acknowledges, and when; what it survives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import streams
from loopback import PATIENCE
from streams import Stream

pytest.importorskip("redis")

from cubehook.errors import ConfigError
from cubehook.sources import Feed, _redis, redis_stream
from cubehook.sources._lifecycle import event_of
from cubehook.sources._redis import RefusedError, UnreachableError
from cubehook.sources.redis_stream import BusyError, Counts, Place, RedisStream

Consumers = Callable[..., Any]
Eventually = Callable[..., None]
PLANTED = "planted-password"


def ids(stream: Stream, *entries: str) -> list[str]:
    """The ids of the events of these entries."""
    made = [event_of(stream.name, one, {"op": "create", "sandbox_id": "sb-1"}) for one in entries]
    return [one.id for one in made if one is not None]


def safe(consumer: Any) -> list[str]:
    return [one.id for one in consumer.feed.safe]


class TestAcknowledging:
    def test_in_order_and_once_they_are_safe(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        stream.make_group()
        added = [stream.add("create", f"sb-{number}") for number in range(5)]
        one = consumer()
        one.feed.hold()
        one.start().feed.wait_for_offer(5)
        assert stream.pending() == {"one": added}
        one.feed.release()
        one.feed.wait_for(5)
        eventually(lambda: not stream.pending())
        assert safe(one) == ids(stream, *added)
        later = stream.add("delete")
        assert safe_ids(one.feed.wait_for(6)) == ids(stream, *added, later)
        assert one.stop().source.counts == Counts(events=6)

    def test_what_a_signal_cuts_off_stays_pending(
        self, stream: Stream, consumer: Consumers
    ) -> None:
        stream.make_group()
        added = stream.add("create")
        one = consumer()
        one.feed.hold()
        one.start().feed.wait_for_offer(1)
        one.stop()
        assert stream.pending() == {"one": [added]}
        again = consumer().start()
        assert safe_ids(again.feed.wait_for(1)) == ids(stream, added)

    def test_a_consumer_with_nothing_pending_leaves(
        self, stream: Stream, consumer: Consumers
    ) -> None:
        stream.make_group()
        stream.add("create")
        one = consumer().start()
        one.feed.wait_for(1)
        one.stop()
        assert stream.consumers() == set()

    def test_more_than_a_batch(self, stream: Stream, consumer: Consumers) -> None:
        stream.make_group()
        added = [stream.add("create") for _ in range(redis_stream.BATCH * 2 + 3)]
        one = consumer().start()
        assert safe_ids(one.feed.wait_for(len(added))) == ids(stream, *added)

    def test_what_tells_of_no_event_is_acknowledged(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        stream.make_group()
        stream.add("rename")
        stream.add("state", payload="{broken")
        stream.redis.xadd(stream.name, {b"\xff": b"\xfe", "": ""})
        stream.redis.xadd(stream.name, {"op": b"\xff", "sandbox_id": b"\xff", "ts": b"\xff"})
        stream.add("create", payload="{broken")
        one = consumer().start()
        assert one.feed.wait_for(1)[0].fields == {"sandbox_id": "sb-1"}
        eventually(lambda: not stream.pending())
        assert one.stop().source.counts == Counts(events=1, skipped=4)


def safe_ids(events: Any) -> list[str]:
    return [one.id for one in events]


class TestStart:
    def test_own_pending_entries_come_first(self, stream: Stream, consumer: Consumers) -> None:
        stream.make_group()
        added = [stream.add("create") for _ in range(3)]
        assert stream.read_as("one", 2) == added[:2]  # and was killed
        one = consumer().start()
        assert safe_ids(one.feed.wait_for(3)) == ids(stream, *added)

    @pytest.mark.parametrize("from_start", [True, False])
    def test_where_a_new_group_begins(
        self, stream: Stream, consumer: Consumers, eventually: Eventually, from_start: bool
    ) -> None:
        old = stream.add("create")
        one = consumer(from_start=from_start).start()
        eventually(lambda: stream.redis.xinfo_groups(stream.name))
        new = stream.add("delete")
        expected = [old, new] if from_start else [new]
        assert safe_ids(one.feed.wait_for(len(expected))) == ids(stream, *expected)

    def test_a_stream_that_is_not_there_yet(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        one = consumer().start()
        eventually(lambda: stream.redis.exists(stream.name))
        added = stream.add("create")
        assert safe_ids(one.feed.wait_for(1)) == ids(stream, added)

    def test_a_group_that_is_there_goes_on(self, stream: Stream, consumer: Consumers) -> None:
        stream.make_group()
        added = stream.add("create")
        one = consumer(from_start=False).start()
        assert safe_ids(one.feed.wait_for(1)) == ids(stream, added)


class TestGone:
    @pytest.mark.parametrize("who", ["one", "dead"])
    def test_entries_trimmed_while_pending(
        self, stream: Stream, consumer: Consumers, eventually: Eventually, who: str
    ) -> None:
        stream.make_group()
        stream.add("create")
        stream.add("create")
        kept = stream.add("create")
        stream.read_as(who)
        stream.redis.xtrim(stream.name, maxlen=1, approximate=False)
        one = consumer().start()
        assert safe_ids(one.feed.wait_for(1)) == ids(stream, kept)
        eventually(lambda: not stream.pending())
        assert one.stop().source.counts == Counts(events=1, gone=2)

    def test_trimmed_while_it_is_being_delivered(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        stream.make_group()
        added = stream.add("create")
        one = consumer()
        one.feed.hold()
        one.start().feed.wait_for_offer(1)
        stream.redis.xtrim(stream.name, maxlen=0)
        one.feed.release()
        assert safe_ids(one.feed.wait_for(1)) == ids(stream, added)
        eventually(lambda: not stream.pending())

    def test_the_stream_is_deleted(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        stream.make_group()
        stream.add("create")
        one = consumer(from_start=False).start()
        one.feed.wait_for(1)
        stream.redis.delete(stream.name)
        later = stream.add("delete")  # before it has noticed
        assert safe_ids(one.feed.wait_for(2))[1:] == ids(stream, later)

    def test_a_new_stream_with_lower_ids(self, stream: Stream, consumer: Consumers) -> None:
        stream.make_group()
        stream.add("create")
        one = consumer(from_start=False).start()
        one.feed.wait_for(1)
        with stream.redis.pipeline() as at_once:
            at_once.delete(stream.name)
            at_once.xadd(stream.name, {"op": "delete", "sandbox_id": "sb-1"}, id="5-1")
            at_once.execute()
        assert safe_ids(one.feed.wait_for(2))[1:] == ids(stream, "5-1")

    def test_the_group_is_deleted(self, stream: Stream, consumer: Consumers) -> None:
        stream.make_group()
        old = stream.add("create")
        one = consumer(from_start=True).start()
        one.feed.wait_for(1)
        with stream.redis.pipeline() as at_once:
            at_once.xgroup_destroy(stream.name, stream.group)
            at_once.xadd(stream.name, {"op": "delete", "sandbox_id": "sb-1"})
            later = at_once.execute()[1].decode()
        assert safe_ids(one.feed.wait_for(2)) == ids(stream, old, later)

    def test_deleted_while_it_is_being_delivered(self, stream: Stream, consumer: Consumers) -> None:
        stream.make_group()
        one = consumer()
        one.feed.hold()
        stream.add("create")
        one.start().feed.wait_for_offer(1)
        stream.redis.delete(stream.name)
        later = stream.add("delete")
        one.feed.release()
        assert safe_ids(one.feed.wait_for(2))[1:] == ids(stream, later)


class TestSeveral:
    def test_one_works_and_the_other_stands_by(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        stream.make_group()
        first, second = consumer("first", min_idle=5.0).start(), consumer("second", min_idle=5.0)
        eventually(lambda: stream.consumers() == {"first"})
        second.start()
        added = [stream.add("create") for _ in range(3)]
        first.feed.wait_for(3)
        first.stop()
        more = [stream.add("delete") for _ in range(3)]
        second.feed.wait_for(3)
        assert safe(first) == ids(stream, *added)
        assert safe(second) == ids(stream, *more)

    def test_what_the_dead_had_is_taken_over_in_order(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        stream.make_group()
        added = [stream.add("create") for _ in range(6)]
        stream.read_as("one", 1)
        stream.read_as("dead", 2)
        stream.read_as("one", 1)
        stream.read_as("dead too", 1)
        one = consumer().start()
        assert one.feed.safe == []  # they may yet live
        assert safe_ids(one.feed.wait_for(6)) == ids(stream, *added)
        eventually(lambda: stream.consumers() == {"one"})  # and the dead are removed

    def test_what_is_left_behind_while_it_works_is_taken_over(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        stream.make_group()
        one = consumer(min_idle=0.5).start()
        eventually(lambda: stream.consumers() == {"one"})
        one.feed.hold()
        stream.add("create")
        one.feed.wait_for_offer(1)
        left = stream.add("delete")
        assert stream.read_as("somebody") == [left]
        one.feed.release()
        assert safe_ids(one.feed.wait_for(2))[1:] == ids(stream, left)

    def test_a_long_delivery_is_not_taken_over(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        stream.make_group()
        added = stream.add("create")
        first = consumer("first", min_idle=1.2)
        first.feed.hold()
        first.start().feed.wait_for_offer(1)
        second = consumer("second", min_idle=1.2).start()
        long_after = time.monotonic() + 1.7
        eventually(lambda: time.monotonic() >= long_after)
        assert stream.pending() == {"first": [added]}
        (about,) = stream.redis.xpending_range(stream.name, stream.group, "-", "+", 1)
        assert about["time_since_delivered"] < 1200  # nor may others, who ask for that alone
        first.feed.release()
        first.feed.wait_for(1)
        first.stop()
        later = stream.add("delete")
        assert safe_ids(second.feed.wait_for(1)) == ids(stream, later)

    def test_two_of_one_name_do_not_work_at_once(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        stream.make_group()
        added = [stream.add("create") for _ in range(3)]
        first = consumer(min_idle=5.0)
        first.feed.hold()
        first.start().feed.wait_for_offer(3)
        second = consumer(min_idle=5.0).start()
        long_after = time.monotonic() + 0.8  # the silence of one's own name is 0.5
        eventually(lambda: time.monotonic() >= long_after)
        assert second.feed.safe == []
        first.feed.release()
        first.feed.wait_for(3)
        first.stop()
        later = stream.add("delete")
        assert safe_ids(second.feed.wait_for(1)) == ids(stream, later)
        assert safe(first) == ids(stream, *added)

    def test_a_process_that_stood_still_goes_on_if_nobody_took_over(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        stream.make_group()
        added = stream.add("create")
        one = consumer()
        one.feed.hold()
        one.start().feed.wait_for_offer(1)
        one.source._turn._heard_at -= 10.0
        assert not one.source._turn.ours
        eventually(lambda: one.source._turn.ours)  # while the delivery still goes on
        one.feed.release()
        one.feed.wait_for(1)
        eventually(lambda: not stream.pending())
        assert safe(one.stop()) == ids(stream, added)

    def test_who_was_not_heard_of_waits_for_its_turn(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        stream.make_group()
        first = consumer("first", min_idle=1.0)
        first.feed.hold()
        added = stream.add("create")
        first.start().feed.wait_for_offer(1)
        standing = first.source._turn._group  # as if the process stood still
        standing.touch = standing.take_turn = _stand_still
        second = consumer("second", min_idle=1.0).start()
        assert safe_ids(second.feed.wait_for(1)) == ids(stream, added)
        first.feed.release()
        first.feed.wait_for(1)
        later = stream.add("delete")
        second.feed.wait_for(2)
        assert safe(second) == ids(stream, added, later)
        assert safe(first) == ids(stream, added)  # with the id that the receiver knows


def _stand_still(*_: object) -> bool:
    raise UnreachableError("the process stands still")


class TestOnce:
    def drain(self, stream: Stream, name: str = "one", **options: Any) -> tuple[bool, RedisStream]:
        place = Place(stream.name, stream.group, name, **{"min_idle": 0.3, **options})
        source = RedisStream(stream.url, place, Feed([], threading.Event()), threading.Event())
        try:
            return source.drain(), source
        finally:
            source.close()

    def test_reads_what_is_there(self, stream: Stream) -> None:
        stream.make_group()
        for _ in range(3):
            stream.add("create")
        stream.read_as("one", 1)
        stream.add("rename")
        done, source = self.drain(stream)
        assert done
        assert source.counts == Counts(events=3, skipped=1)
        assert (stream.pending(), stream.consumers()) == ({}, set())

    def test_where_there_is_nothing(self, stream: Stream) -> None:
        assert self.drain(stream)[0]

    def test_while_another_one_works(
        self, stream: Stream, consumer: Consumers, eventually: Eventually
    ) -> None:
        stream.make_group()
        consumer("other").start()
        eventually(lambda: stream.consumers() == {"other"})
        with pytest.raises(BusyError):
            self.drain(stream)

    def test_without_redis(self, tmp_path: Path) -> None:
        url = f"unix://{tmp_path}/none.sock"
        place = Place("s", "g", "c")
        source = RedisStream(url, place, Feed([], threading.Event()), threading.Event())
        with pytest.raises(UnreachableError) as raised:
            source.drain()
        assert str(raised.value) == "Redis cannot be reached (FileNotFoundError)"


class TestRefused:
    def test_another_type_of_key(self, stream: Stream, consumer: Consumers) -> None:
        stream.redis.set(stream.name, "text")
        one = consumer().start()
        one.join()
        assert isinstance(one.failure, RefusedError)
        assert str(one.failure) == "the key is not a stream"

    @pytest.fixture
    def user(self, stream: Stream) -> Iterator[Callable[..., Stream]]:
        """A user of that name with these rules; the stream as that one reaches it."""
        name = stream.name.rpartition(":")[2]

        def make(*rules: str, password: str = PLANTED) -> Stream:
            given = ("reset", "on", f">{PLANTED}", f"~{stream.name}", *rules)
            stream.redis.execute_command("ACL SETUSER", name, *given)
            scheme, _, place = stream.url.partition("://")
            place = place.rpartition("@")[2]
            return Stream(f"{scheme}://{name}:{password}@{place}", stream.name)

        made: list[Stream] = []
        yield lambda *rules, **options: made.append(make(*rules, **options)) or made[-1]
        for one in made:
            one.redis.close()
        stream.redis.execute_command("ACL DELUSER", name)

    COMMANDS = (
        "+xreadgroup",
        "+xack",
        "+xautoclaim",
        "+xclaim",
        "+xgroup|create",
        "+xgroup|delconsumer",
        "+xinfo|consumers",
        "+xinfo|groups",
        "+xinfo|stream",
        "+eval",
    )

    def test_the_documented_permissions_are_enough(
        self, stream: Stream, consumer: Consumers, user: Callable[..., Stream]
    ) -> None:
        page = Path(__file__).parents[2] / "docs" / "consume.md"
        assert " ".join(self.COMMANDS) in page.read_text(encoding="utf-8")
        restricted = user(*self.COMMANDS)
        one = consumer(on=restricted, from_start=True).start()
        stream.add("create")
        one.feed.wait_for(1)
        stream.redis.delete(stream.name)
        stream.add("create")
        one.feed.wait_for(2)
        one.stop()
        assert one.failure is None
        assert stream.consumers() == set()

    @pytest.mark.parametrize("missing", COMMANDS)
    def test_a_permission_is_missing(
        self, consumer: Consumers, user: Callable[..., Stream], stream: Stream, missing: str
    ) -> None:
        stream.add("create")
        restricted = user(*(one for one in self.COMMANDS if one != missing))
        one = consumer(on=restricted, from_start=True).start()
        stream.add("create")
        if missing in ("+xinfo|stream", "+xgroup|delconsumer"):  # not at the start
            one.feed.wait_for(2)
            return
        one.join()
        assert isinstance(one.failure, RefusedError)
        assert "does not permit" in str(one.failure)
        assert PLANTED not in str(one.failure)

    def test_a_wrong_password(self, consumer: Consumers, user: Callable[..., Stream]) -> None:
        one = consumer(on=user("+@all", password="wrong")).start()
        one.join()
        assert isinstance(one.failure, RefusedError)
        assert str(one.failure) == "Redis refuses the user or the password, or wants one"

    @pytest.mark.parametrize(
        "url",
        [
            "http://h/0",
            "redis:/h",
            f"redis://:{PLANTED}@h:port/0",
            f"redis://h/0?socket_timeout={PLANTED}",
            f"redis://h/0?{PLANTED}=1",
            f"redis://:{PLANTED}@[h/0",
        ],
    )
    def test_a_url_that_is_none(self, url: str) -> None:
        with pytest.raises(ConfigError) as raised:
            _redis.Group(url, "s", "g", "c")
        assert PLANTED not in str(raised.value)

    def test_options_of_the_url_are_no_way_around_ours(self, stream: Stream) -> None:
        url = f"{stream.url}?protocol=3&decode_responses=yes&retry_on_timeout=yes"
        group = _redis.Group(url, stream.name, "g", "c")
        stream.add("create")
        group.create("0")
        assert [one.fields for one in group.read_new(1)] != [None]
        group.close()


class TestReconnecting:
    def test_after_a_restart_of_redis(
        self, tmp_path: Path, consumer: Consumers, caplog: pytest.LogCaptureFixture
    ) -> None:
        with streams.served(tmp_path) as server, streams.opened(server.url) as stream:
            one = consumer(on=stream, from_start=True, min_idle=0.3).start()
            one.feed.hold()
            wait_until_it_answers(stream)
            added = [stream.add("create") for _ in range(2)]
            one.feed.wait_for_offer(1)
            server.stop()
            one.feed.release()
            one.feed.wait_for(1)  # and cannot be acknowledged
            server.start()
            wait_until_it_answers(stream)
            added.append(stream.add("delete"))
            one.feed.wait_for(3)
            one.stop()
            assert stream.pending() == {}
        assert safe(one) == ids(stream, *added)
        lines = [record.getMessage() for record in caplog.records]
        assert len([line for line in lines if "tries again" in line]) == 1
        assert not [line for line in lines if "redis.sock" in line]

    def test_a_server_that_is_not_there_yet(self, tmp_path: Path, consumer: Consumers) -> None:
        with streams.served(tmp_path) as server, streams.opened(server.url) as stream:
            wait_until_it_answers(stream)
            server.stop()
            one = consumer(on=stream, from_start=True).start()
            server.start()
            wait_until_it_answers(stream)
            added = stream.add("create")
            assert safe_ids(one.feed.wait_for(1)) == ids(stream, added)
            one.stop()


def wait_until_it_answers(stream: Stream) -> None:
    from redis.exceptions import ConnectionError

    pause = threading.Event()
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            stream.redis.ping()
            return
        except ConnectionError:
            assert time.monotonic() < ends
            pause.wait(0.01)
