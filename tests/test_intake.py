"""Out of the application's thread: the snapshot, the bounded queue and its listener."""

from __future__ import annotations

import collections
import gc
import logging
import logging.handlers
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cubehook.threads
from cubehook import Endpoint, Event, intake
from cubehook.event import MAX_SNAPSHOT_ITEMS, Attributes
from cubehook.intake import (
    MOST_BEHIND,
    EventQueueHandler,
    EventQueueListener,
    Mark,
    Subscriptions,
)

PATIENCE = 10.0


def record(**attributes: Any) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "app", "msg": "a message", "event": "a.b", "levelno": logging.INFO, **attributes}
    )


def endpoint(name: str, *events: str, **keys: Any) -> Endpoint:
    return Endpoint(name=name, url="https://example.com", events=events, **keys)


class Queue:
    """A queue handler and what it has queued."""

    def __init__(self, capacity: int = 100) -> None:
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.handler = EventQueueHandler(self.queue, capacity)

    def drain(self) -> list[Attributes]:
        return [self.queue.get_nowait() for _ in range(self.queue.qsize())]

    def counts(self) -> dict[str, int]:
        dropped = {reason: tally.value() for reason, tally in self.handler.dropped.items()}
        return {reason: count for reason, count in dropped.items() if count}


def queued(one: logging.LogRecord) -> Attributes:
    """What comes out of the queue for the record."""
    made = Queue()
    made.handler.emit(one)
    (attributes,) = made.drain()
    assert made.counts() == {}
    return attributes


def fields(attributes: Attributes) -> dict[str, object]:
    event = Event.from_attributes(attributes)
    assert event is not None
    return dict(event.fields)


# --- The stdlib's pair ---


def test_both_are_real_subclasses_of_the_stdlib() -> None:
    assert issubclass(EventQueueHandler, logging.handlers.QueueHandler)
    assert issubclass(EventQueueListener, logging.handlers.QueueListener)


def test_the_lock_of_the_queue_handler_holds_nobody_up() -> None:
    """``logging.shutdown`` flushes a handler with its lock held; others must not wait for that."""
    made = Queue()
    made.handler.acquire()
    thread = threading.Thread(target=made.handler.handle, args=(record(),), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert len(made.drain()) == 1


# --- The snapshot ---


class Point(collections.namedtuple("Point", "x y")):
    """A named tuple."""


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ({"a": 1}, lambda value: value.update(a="changed")),
        ({"a": {"b": [1]}}, lambda value: value["a"]["b"].append("changed")),
        ([1, [2]], lambda value: value[1].append("changed")),
        ({1, 2}, lambda value: value.add("changed")),
        (bytearray(b"abc"), lambda value: value.extend(b"changed")),
        (collections.deque([1, [2]]), lambda value: value[1].append("changed")),
        (collections.OrderedDict(a=[1]), lambda value: value["a"].append("changed")),
        (collections.defaultdict(list, a=[1]), lambda value: value["b"].append("changed")),
        (([1], 2), lambda value: value[0].append("changed")),
        (Point([1], 2), lambda value: value.x.append("changed")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_later_changes_do_not_reach_the_snapshot(
    value: Any, change: Callable[[Any], object]
) -> None:
    attributes = queued(record(field=value, msg={"event": "a.b", "nested": value}))
    nested = queued(record(event=None, msg={"event": "a.b", "field": value}))
    change(value)
    assert "changed" in repr(value)
    assert "changed" not in repr(fields(attributes))
    assert "changed" not in repr(fields(nested))


def test_the_record_itself_may_change_after() -> None:
    one = record(field="first")
    attributes = queued(one)
    one.__dict__["field"] = "changed"
    one.__dict__["event"] = "changed.too"
    assert fields(attributes) == {"field": "first"}
    assert attributes["event"] == "a.b"


def test_the_record_is_not_touched() -> None:
    one = record(args=("a",), exc_info=(ValueError, ValueError("x"), None), field=[1])
    before = dict(vars(one))
    queued(one)
    assert vars(one) == before


def test_nothing_is_formatted() -> None:
    class Never:
        def __str__(self) -> str:
            raise AssertionError("formatted in the application's thread")

        __repr__ = __format__ = __str__  # type: ignore[assignment]

    queued(record(msg="%s", args=(Never(),), field=Never()))


def test_frames_and_arguments_are_not_kept_alive() -> None:
    class Big:
        pass

    def fail() -> None:
        big = Big()
        raise ValueError(big)

    try:
        fail()
    except ValueError as error:
        one = record(args=(Big(),), exc_info=(type(error), error, error.__traceback__))
    attributes = queued(one)
    del one
    gc.collect()
    assert [each for each in gc.get_objects() if type(each) is Big] == []
    assert attributes["event"] == "a.b"


def test_a_cycle_is_copied_once() -> None:
    cyclic: dict[str, Any] = {}
    cyclic["self"] = cyclic
    copied = queued(record(field=cyclic))["field"]
    assert copied is not cyclic
    assert copied["self"] is copied


def test_what_no_payload_can_hold_is_dropped_and_counted() -> None:
    made = Queue()
    made.handler.emit(record(field=[[0] * 1000] * (MAX_SNAPSHOT_ITEMS // 1000)))
    made.handler.emit(record(field=[0] * (MAX_SNAPSHOT_ITEMS + 1)))
    made.handler.emit(record(a=[0] * MAX_SNAPSHOT_ITEMS, b=[0]))
    assert made.counts() == {"too_large": 2}
    assert made.handler.offered.value() - made.handler.drops().total() == 1


def test_a_record_class_of_the_application() -> None:
    class Mine(logging.LogRecord):
        def __init__(self, *args: Any, **kw: Any) -> None:
            self.early = [1]
            super().__init__(*args, **kw)

    one = Mine("app", logging.INFO, "", 1, "a message", (), None)
    one.__dict__.update(event="a.b", late=[2])
    attributes = queued(one)
    one.early.append(9)
    one.__dict__["late"].append(9)
    assert fields(attributes) == {"early": [1], "late": [2]}


# --- The queue ---


def test_a_full_queue_drops_the_newest_and_counts() -> None:
    made = Queue(capacity=3)
    for number in range(5):
        made.handler.emit(record(number=number))
    assert [attributes["number"] for attributes in made.drain()] == [0, 1, 2]
    assert made.counts() == {"queue_full": 2}
    assert made.handler.offered.value() - made.handler.drops().total() == 3
    assert made.handler.dropping is True
    made.handler.emit(record(number=5))
    assert [attributes["number"] for attributes in made.drain()] == [5]


@pytest.mark.parametrize("raise_exceptions", [True, False])
def test_an_error_is_counted_and_printed_nowhere(
    raise_exceptions: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", raise_exceptions)
    made = Queue()

    def fail(one: logging.LogRecord) -> Attributes:
        raise ValueError("planted")

    monkeypatch.setattr(made.handler, "prepare", fail)
    made.handler.emit(record(secret="planted"))
    made.handler.handleError(record(secret="planted"))
    assert made.counts() == {"error": 2}
    assert capsys.readouterr() == ("", "")


def test_counts_are_exact_with_many_threads() -> None:
    made = Queue(capacity=1000)
    ready = threading.Barrier(8)

    def log() -> None:
        ready.wait(PATIENCE)
        for _ in range(500):
            made.handler.emit(record())

    threads = [threading.Thread(target=log) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken, dropped = (
        made.handler.offered.value() - made.handler.drops().total(),
        made.counts()["queue_full"],
    )
    assert taken == made.queue.qsize()
    # The check and the put are two steps: a thread may get in between, never many.
    assert 1000 <= taken <= 1000 + 8
    assert taken + dropped == 4000
    assert made.handler.offered.value() - made.handler.drops().total() == taken, (
        "reading does not count"
    )


def test_a_del_that_logs_while_the_queue_is_in_use_waits_for_nothing() -> None:
    """With a ``queue.Queue`` this deadlocks: its lock is held while the collector runs."""
    made = Queue(capacity=100_000)

    class Logs:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            made.handler.emit(record(late=True))

    def log() -> None:
        for number in range(300):
            Logs()
            made.handler.emit(record(number=number))

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        threads = [threading.Thread(target=log, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert made.queue.qsize() == 1200


# --- The listener ---


class Heard:
    """A listener that notes what it takes, and fails where told to."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.taken: list[Any] = []
        self.threads: set[tuple[int, bool]] = set()
        # Anything with ``handle`` will do.
        self.listener = EventQueueListener(self.queue, self)

    def handle(self, attributes: Attributes) -> None:
        self.threads.add((threading.get_ident(), cubehook.threads.is_own()))
        if "error" in attributes:
            raise attributes["error"]
        self.taken.append(attributes["number"])

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.queue.put({"number": number})

    def reached(self) -> threading.Event:
        event = threading.Event()
        self.queue.put(Mark(event.set))
        return event


@pytest.fixture
def heard() -> Iterator[Heard]:
    made = Heard()
    yield made
    made.listener.leave()
    assert made.listener.join(PATIENCE)


def test_listener_takes_in_order_in_a_thread_of_its_own(heard: Heard) -> None:
    heard.put(1, 2)
    heard.listener.start()
    heard.put(3)
    assert heard.reached().wait(PATIENCE)
    assert heard.taken == [1, 2, 3]
    ((ident, own),) = heard.threads
    assert ident != threading.get_ident()
    assert own is True
    assert heard.listener.running


def test_listener_survives_what_it_takes(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    heard.listener.start()
    heard.queue.put({"error": ValueError("planted")})
    heard.put(1)
    assert heard.reached().wait(PATIENCE)
    assert heard.taken == [1]
    assert "ValueError" in caplog.text
    assert "planted" not in caplog.text


def test_listener_survives_a_handler_of_the_application_that_raises(
    heard: Heard, root_raises: None
) -> None:
    heard.listener.start()
    heard.queue.put({"error": ValueError()})
    heard.put(1)
    assert heard.reached().wait(2.0)
    assert heard.taken == [1]


def test_listener_leaves_after_what_is_queued_and_waits_for_nothing(heard: Heard) -> None:
    go_on = threading.Event()
    heard.listener.start()
    heard.queue.put(Mark(lambda: go_on.wait(PATIENCE)))
    heard.put(*range(10))
    heard.listener.leave()
    assert heard.listener.join(0) is False
    go_on.set()
    assert heard.listener.join(PATIENCE) is True
    assert heard.taken == list(range(10))
    assert not heard.listener.running


def test_listener_stop_is_that_of_the_stdlib(heard: Heard) -> None:
    heard.listener.start()
    heard.put(1, 2)
    heard.listener.stop()
    assert heard.taken == [1, 2]
    assert not heard.listener.running


def test_listener_drains_in_the_calling_thread(heard: Heard) -> None:
    heard.put(1, 2)
    reached = heard.reached()
    heard.queue.put(None)  # the sentinel
    heard.put(3)
    heard.listener.drain()
    assert heard.taken == [1, 2, 3]
    assert reached.is_set()
    assert heard.threads == {(threading.get_ident(), True)}
    assert not cubehook.threads.is_own()


def test_listener_says_that_no_thread_can_be_started(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*args: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(cubehook.threads, "start", start)
    with pytest.raises(RuntimeError):
        heard.listener.start()
    assert not heard.listener.running


# --- Subscriptions ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sandbox.created", ["exact", "prefix", "all"]),
        ("sandbox.timeout.updated", ["prefix", "all"]),
        ("sandbox", ["all"]),
        ("sandboxes.created", ["all"]),
        ("sandbox.created.twice", ["prefix", "all"]),
        ("api.request", ["all"]),
    ],
)
def test_subscriptions_by_pattern(name: str, expected: list[str]) -> None:
    subscriptions = Subscriptions(
        (
            endpoint("exact", "sandbox.created"),
            endpoint("prefix", "sandbox.*"),
            endpoint("all", "*"),
            endpoint("off", "*", enabled=False),
        )
    )
    for _ in range(2):  # the second time from memory
        assert [one.name for one in subscriptions[name]] == expected


def test_subscriptions_remember_a_bounded_number_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_REMEMBERED_NAMES", 10)
    subscriptions = Subscriptions((endpoint("all", "*"),))
    for number in range(50):
        assert len(subscriptions[f"event.n{number}"]) == 1
    assert len(subscriptions) == 10


def test_subscriptions_do_not_remember_names_without_end() -> None:
    """An illegal name may be a text of any length; 4,096 of them must not fill the memory."""
    subscriptions = Subscriptions((endpoint("all", "*"),))
    for number in range(10):
        _ = subscriptions[f"{number}" * 1_000_000]
    assert sum(map(len, subscriptions)) < 1_000_000


# --- Pauses ---


class Pausing(Heard):
    """One that is told when nothing more is queued."""

    def pause(self) -> None:
        self.taken.append(-1)


def test_a_pause_is_told_when_nothing_more_is_queued() -> None:
    made = Pausing()
    made.put(1, 2, 3)
    made.listener.drain()
    assert made.taken == [1, 2, 3, -1, -1]


def test_marks_share_a_pause_with_what_is_queued_behind_them() -> None:
    made = Pausing()
    made.put(1)
    first = made.reached()
    made.put(2)
    second = made.reached()
    made.listener.leave()
    made.listener.start()
    assert made.listener.join(PATIENCE)
    assert first.is_set()
    assert second.is_set()
    assert made.taken == [1, 2, -1]


def test_a_mark_is_come_to_although_there_is_always_more() -> None:
    made = Pausing()
    reached = made.reached()
    made.put(*range(1, MOST_BEHIND + 5))
    made.listener.handle(made.queue.get())
    while not reached.is_set():
        made.listener.handle(made.queue.get())
    assert made.taken[-1] == -1
    assert len(made.taken) == MOST_BEHIND
    assert made.queue.qsize() == 5
