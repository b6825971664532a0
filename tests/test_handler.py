"""`WebhookHandler` from the application's side, against a real receiver on loopback."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import socket
import statistics
import threading
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

import cubehook.threads
from cubehook import ConfigError, Endpoint, Stats, WebhookFormatter, WebhookHandler, pipeline

if TYPE_CHECKING:
    from conftest import Receiver

PATIENCE = 10.0
DEFAULT_EVENTS = ["sandbox.created", "sandbox.deleted", "sandbox.paused", "sandbox.resumed"]

Make = Callable[..., WebhookHandler]


def log(logger: logging.Logger, event: object = "a.b", **fields: Any) -> None:
    logger.info("a message", extra={"event": event, **fields})


def total(stats: Stats) -> int:
    return stats.delivered + stats.dead + sum(stats.dropped.values()) + stats.pending


class Gate(WebhookFormatter):
    """A format that holds the listener up while the gate is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.open = threading.Event()

    def payload(self, event: Any) -> Any:
        self.entered.set()
        assert self.open.wait(PATIENCE)
        return super().payload(event)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


# --- What is an event, and for whom ---


def test_a_tagged_record_arrives_signed_with_its_fields(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    log(logger, "sandbox.created", event_id="id-1", sandbox_id="sb-1", template_id="t-1")
    (request,) = receiver.wait_for(1)
    assert request.json == {
        "id": "id-1",
        "timestamp": request.json["timestamp"],
        "level": "info",
        "event": "sandbox.created",
        "sandbox_id": "sb-1",
        "template_id": "t-1",
    }
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-cube-webhook-event"] == "sandbox.created"
    assert request.headers["x-cube-webhook-delivery"] == "id-1"
    assert request.headers["user-agent"].startswith("cubehook/")
    assert made.flush(PATIENCE) is True
    assert made.stats().delivered == 1


def test_an_untagged_record_is_none_of_its_business(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    logger.info("untagged")
    logger.info("number", extra={"event": 5})
    logger.info("nothing", extra={"event": None})
    logger.info("dict", extra={"extra": {"event": "two words"}})
    logger.info({"event": "an ordinary log line"})
    assert made.flush(PATIENCE)
    assert made.stats().received == 0
    assert receiver.received() == []


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (DEFAULT_EVENTS, DEFAULT_EVENTS),
        (None, DEFAULT_EVENTS),
        (["sandbox.*"], [*DEFAULT_EVENTS, "sandbox.refreshed"]),
        (["api.request"], ["api.request"]),
        (["*"], [*DEFAULT_EVENTS, "sandbox.refreshed", "api.request"]),
    ],
)
def test_only_subscribed_events_are_taken(
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    events: list[str] | None,
    expected: list[str],
) -> None:
    endpoint = receiver.endpoint(ordered=False, max_concurrency=1)
    del endpoint["events"]
    made = handler([endpoint if events is None else endpoint | {"events": events}])
    for name in [*DEFAULT_EVENTS, "sandbox.refreshed", "api.request"]:
        log(logger, name)
    assert made.flush(PATIENCE)
    assert [request.json["event"] for request in receiver.received()] == expected
    assert made.stats().received == len(expected), "what nobody subscribed to costs nothing"


def test_each_endpoint_gets_what_it_subscribed_to(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler(
        [
            receiver.endpoint("/all"),
            receiver.endpoint("/one", events=["a.one"]),
            receiver.endpoint("/off", enabled=False),
        ]
    )
    log(logger, "a.one", event_id="1")
    log(logger, "a.two", event_id="2")
    assert made.flush(PATIENCE)
    assert {one.json["id"] for one in receiver.received("/all")} == {"1", "2"}
    assert {one.json["id"] for one in receiver.received("/one")} == {"1"}
    assert receiver.received("/off") == []
    bodies = {one.body for one in receiver.received() if one.json["id"] == "1"}
    assert len(bodies) == 1, "the same bytes for every endpoint"


def test_a_level_turns_records_away(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler(level="WARNING")
    log(logger, event_id="1")
    logger.error("worse", extra={"event": "a.b", "event_id": "2"})
    assert made.flush(PATIENCE)
    assert [one.json["id"] for one in receiver.received()] == ["2"]


def test_a_filter_turns_records_away(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    made.addFilter(lambda record: getattr(record, "wanted", False))
    log(logger, event_id="1")
    log(logger, event_id="2", wanted=True)
    assert made.flush(PATIENCE)
    assert [one.json["id"] for one in receiver.received()] == ["2"]


def test_a_filter_may_tag_the_record(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    class Tags(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            record.__dict__.update(event="a.tagged", sandbox_id=record.getMessage())
            return True

    made = handler()
    made.addFilter(Tags())
    logger.info("sb-1")
    assert made.flush(PATIENCE)
    assert [(one.json["event"], one.json["sandbox_id"]) for one in receiver.received()] == [
        ("a.tagged", "sb-1")
    ]


def test_a_filter_may_replace_the_record(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    """``filter`` may return a record from Python 3.12 on; here it is asked directly."""

    class Replaces(WebhookHandler):
        def filter(self, record: logging.LogRecord) -> Any:
            return logging.makeLogRecord({**vars(record), "event": "a.replaced"})

    made = Replaces([receiver.endpoint()])
    made.addFilter(lambda record: True)
    logger.addHandler(made)
    logger.info("untagged")
    assert made.flush(PATIENCE)
    made.close()
    assert [one.json["event"] for one in receiver.received()] == ["a.replaced"]


@pytest.mark.parametrize("name", ["cubehook", "cubehook.dispatcher"])
def test_what_cubehook_logs_is_never_an_event(handler: Make, receiver: Receiver, name: str) -> None:
    made = handler()
    own = logging.getLogger(name)
    own.addHandler(made)
    try:
        own.warning("tagged", extra={"event": "a.b"})
        assert made.flush(PATIENCE)
    finally:
        own.removeHandler(made)
    assert made.stats().received == 0


def test_what_an_own_thread_logs_is_never_an_event(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    class Logs(WebhookFormatter):
        def payload(self, event: Any) -> Any:
            log(logger, "a.second")
            return super().payload(event)

    made = handler()
    made.setFormatter(Logs())
    log(logger, "a.first")
    assert made.flush(PATIENCE)
    assert [one.json["event"] for one in receiver.received()] == ["a.first"]
    assert made.stats().received == 1


def test_on_the_root_logger_at_debug_it_does_not_feed_itself(
    handler: Make, receiver: Receiver
) -> None:
    """With urllib3's debug lines on, which a worker writes for each of its POSTs."""
    receiver.script(500, 500)
    made = handler()
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(made)
    root.setLevel(logging.DEBUG)
    try:
        for number in range(20):
            log(root, number=number)
        assert made.flush(PATIENCE)
    finally:
        root.removeHandler(made)
        root.setLevel(level)
    assert made.stats().received == 20
    assert len(receiver.received()) == 22


@pytest.mark.parametrize("name", ["two words", "a..b", "ü", "a/b", ".", "x" * 129, "a\r\nb: c"])
def test_an_illegal_event_name_is_counted(
    handler: Make, logger: logging.Logger, receiver: Receiver, name: str
) -> None:
    made = handler()
    log(logger, name)
    log(logger, "a.b")
    assert made.flush(PATIENCE)
    assert made.stats().dropped == {"invalid_name": 1}
    assert len(receiver.received()) == 1


# --- The queue is full ---


def fill(handler: WebhookHandler, logger: logging.Logger, gate: Gate, count: int) -> None:
    """Log events while the listener stands still, with one in its hands that is too large."""
    handler.setFormatter(gate)
    log(logger, text="x" * 1000)
    assert gate.entered.wait(PATIENCE)
    for number in range(count):
        log(logger, number=number)


def test_the_newest_events_are_dropped_counted_and_warned_of(
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = handler(queue_capacity=10, max_payload_bytes=1000)
    fill(made, logger, gate, 15)
    assert made.stats().dropped == {"queue_full": 5}
    gate.open.set()
    assert made.flush(PATIENCE)
    assert sorted(one.json["number"] for one in receiver.received()) == list(range(10))
    (warning,) = [one for one in caplog.records if one.name.startswith("cubehook")]
    assert warning.levelno == logging.WARNING
    assert "5 queue_full, 1 too_large" in warning.getMessage()
    assert made.stats().received == 16


def test_drops_are_warned_of_once_in_thirty_seconds(
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = SimpleNamespace(later=0.0)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + now.later)
    monkeypatch.setattr(pipeline, "time", clock)
    made = handler(queue_capacity=10, max_payload_bytes=1000)

    def overflow(later: float) -> list[str]:
        now.later = later
        caplog.clear()
        gate.entered.clear()
        gate.open.clear()
        fill(made, logger, gate, 12)
        gate.open.set()
        assert made.flush(PATIENCE)
        return [one.getMessage() for one in caplog.records if "dropped" in one.getMessage()]

    assert ["2 queue_full, 1 too_large" in text for text in overflow(0)] == [True]
    assert overflow(29) == []
    assert ["4 queue_full, 2 too_large" in text for text in overflow(31)] == [True]
    assert made.stats().dropped == {"queue_full": 6, "too_large": 3}


def test_the_warning_may_come_back_to_the_handler_itself(
    handler: Make, receiver: Receiver, gate: Gate
) -> None:
    """Trap 3: with the handler on the root logger, the warning reaches the full queue's handler."""
    made = handler(queue_capacity=5, max_payload_bytes=1000)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(made)
    root.setLevel(logging.DEBUG)
    try:
        fill(made, root, gate, 20)
        gate.open.set()
        assert made.flush(PATIENCE)
    finally:
        root.removeHandler(made)
        root.setLevel(level)
    assert made.stats().received == 21
    assert len(receiver.received()) == 5


def test_a_handler_of_the_application_that_raises_loses_nothing(
    handler: Make, logger: logging.Logger, receiver: Receiver, root_raises: None
) -> None:
    receiver.script(500)
    made = handler()
    for number in range(5):
        log(logger, number=number)
    log(logger, "not legal")
    for number in range(5):
        log(logger, number=number)
    assert made.flush(2.0) is True
    assert made.stats().delivered == 10


# --- Size ---


@pytest.mark.parametrize("text", ["x", "漢", "😀", '"', "\\", "\n", "\x00", "é", "\ud800"])
@pytest.mark.parametrize("over", [0, 1])
def test_the_size_limit_counts_the_bytes_sent(
    handler: Make, logger: logging.Logger, receiver: Receiver, text: str, over: int
) -> None:
    written = {
        "id": "i",
        "timestamp": "2026-07-01T08:00:00.123456Z",
        "level": "info",
        "event": "a.b",
        "text": text.replace("\ud800", "\ufffd") * 100,
    }
    size = len(json.dumps(written, ensure_ascii=False, separators=(",", ":")).encode())
    made = handler(max_payload_bytes=size - over)
    log(logger, event_id="i", text=text * 100)
    assert made.flush(PATIENCE)
    stats = made.stats()
    if over:
        assert (stats.delivered, stats.dropped) == (0, {"too_large": 1})
        assert receiver.received() == []
    else:
        (request,) = receiver.received()
        assert len(request.body) == size == int(request.headers["content-length"])


def test_too_large_for_all_endpoints_and_warned_of(
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = handler([receiver.endpoint("/a"), receiver.endpoint("/b")], max_payload_bytes=200)
    log(logger, text="planted" * 100)
    log(logger, text="fits")
    assert made.flush(PATIENCE)
    assert made.stats().dropped == {"too_large": 2}
    assert {one.dropped["too_large"] for one in made.stats().endpoints.values()} == {1}
    assert len(receiver.received()) == 2
    assert "2 too_large" in caplog.text
    assert "planted" not in caplog.text


# --- Without endpoints ---


def test_without_endpoints_it_is_inert(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBE_API_WEBHOOK_ENDPOINTS", raising=False)
    started: list[str] = []
    monkeypatch.setattr(cubehook.threads, "start", lambda name, target: started.append(name))
    made = WebhookHandler()
    logger.addHandler(made)
    for _ in range(100):
        log(logger)
    assert made.flush(0.1) is True
    stats = made.stats()
    assert (stats.received, stats.pending, stats.dropped, stats.endpoints) == (0, 0, {}, {})
    made.close()
    assert started == []


def test_no_thread_is_started_before_the_first_event(
    handler: Make, logger: logging.Logger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    start = cubehook.threads.start

    def counted(name: str, target: Callable[[], None]) -> threading.Thread:
        started.append(name)
        return start(name, target)

    monkeypatch.setattr(cubehook.threads, "start", counted)
    made = handler()
    logger.info("untagged")
    assert started == []
    log(logger)
    assert made.flush(PATIENCE)
    assert started == ["listener", "worker-0"]


def test_where_no_thread_can_be_started_who_flushes_delivers(
    handler: Make, logger: logging.Logger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the interpreter's end from Python 3.12 on."""

    def start(name: str, target: Callable[[], None]) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(cubehook.threads, "start", start)
    receiver.script(503)
    made = handler()
    for number in range(5):
        log(logger, sandbox_id="sb", number=number)
    assert receiver.received() == []
    assert made.stats().queued == 5
    assert made.flush(PATIENCE) is True
    stats = made.stats()
    assert (stats.delivered, stats.retried, stats.dropped) == (5, 1, {})
    assert [one.json["number"] for one in receiver.received()] == [0, 0, 1, 2, 3, 4]


# --- Endpoints at run time ---


def test_update_endpoints_from_none_to_one_to_another(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler([])
    log(logger, event_id="nobody")
    made.update_endpoints([receiver.endpoint("/a")])
    log(logger, event_id="1")
    assert made.flush(PATIENCE)
    made.update_endpoints([Endpoint(**receiver.endpoint("/b"))])
    log(logger, event_id="2")
    assert made.flush(PATIENCE)
    assert [(one.path, one.json["id"]) for one in receiver.received()] == [("/a", "1"), ("/b", "2")]
    stats = made.stats()
    assert list(stats.endpoints) == ["b"]
    assert (stats.delivered, stats.received) == (2, 2), "what the old one did still counts"


def test_update_endpoints_keeps_the_backlog_by_name(
    handler: Make, logger: logging.Logger, receiver: Receiver, dead_url: str
) -> None:
    made = handler([receiver.endpoint(url=dead_url)])
    for number in range(5):
        log(logger, sandbox_id="sb", number=number)
    assert made.flush(0.1) is False
    made.update_endpoints([receiver.endpoint()])
    assert made.flush(PATIENCE) is True
    assert [one.json["number"] for one in receiver.received()] == list(range(5))


def test_update_endpoints_drops_what_a_removed_one_had_waiting(
    handler: Make, logger: logging.Logger, receiver: Receiver, dead_url: str
) -> None:
    dead = receiver.endpoint("/dead", url=dead_url, backoff_initial=600.0)
    made = handler([dead, receiver.endpoint("/alive")])
    for _ in range(3):
        log(logger)
    made.flush(0.5)
    made.update_endpoints([receiver.endpoint("/alive")])
    assert made.flush(PATIENCE) is True
    assert made.stats().dropped == {"endpoint_removed": 3}
    assert total(made.stats()) == made.stats().received == 6


def test_update_endpoints_disabled_is_as_good_as_removed(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    made.update_endpoints([receiver.endpoint(enabled=False)])
    log(logger)
    assert made.flush(PATIENCE)
    assert made.stats().received == 0


def test_an_endpoint_that_is_gone_is_on_again_after_an_update(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    receiver.script(410)
    made = handler()
    log(logger, event_id="1")
    assert made.flush(PATIENCE)
    log(logger, event_id="2")
    assert made.flush(PATIENCE)
    assert made.stats().endpoints["hook"].state == "off"
    assert made.stats().dropped == {"switched_off": 1}
    made.update_endpoints([receiver.endpoint()])
    log(logger, event_id="3")
    assert made.flush(PATIENCE)
    assert [one.json["id"] for one in receiver.received()] == ["1", "3"]


def broken() -> list[object]:
    good = {"url": "https://example.com"}
    return [
        5,
        "nonsense",
        [5],
        [{"url": "https://example.com", "secret": ""}],
        [{"url": "https://user:planted@example.com"}],
        [{**good, "name": "x"}, {**good, "name": "x"}],
        [{**good, "events": ["*", "a.b"]}],
        [{**good, "format": "no.such.thing"}],
    ]


@pytest.mark.parametrize("endpoints", broken(), ids=range(len(broken())))
def test_a_config_error_changes_nothing(
    handler: Make, logger: logging.Logger, receiver: Receiver, endpoints: Any
) -> None:
    made = handler()
    before = repr(made), made.stats()
    with pytest.raises(ConfigError):
        made.update_endpoints(endpoints)
    assert (repr(made), made.stats()) == before
    log(logger)
    assert made.flush(PATIENCE)
    assert len(receiver.received()) == 1


class NeedsArguments(logging.Formatter):
    def __init__(self, template: str) -> None:
        super().__init__(template)


def test_a_format_that_cannot_be_made_is_a_config_error(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    endpoint = receiver.endpoint(name="other", format=f"{__name__}.NeedsArguments")
    with pytest.raises(ConfigError, match="format"):
        WebhookHandler([endpoint])
    made = handler()
    before = repr(made)
    with pytest.raises(ConfigError, match="format"):
        made.update_endpoints([endpoint])
    assert repr(made) == before


# --- Nothing comes back to the application ---


class Raises:
    """Whatever is asked of it, it raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("planted")

    def _raise(self, *args: object) -> Any:
        raise RuntimeError("planted")

    __str__ = __repr__ = __format__ = __bool__ = __len__ = __iter__ = __eq__ = __hash__ = _raise
    __getitem__ = __contains__ = __reduce__ = __dir__ = __call__ = _raise


class RaisesInText:
    def __str__(self) -> str:
        raise RuntimeError("planted")

    __repr__ = __str__


class OddDict(dict[str, Any]):
    def _raise(self, *args: object) -> Any:
        raise RuntimeError("planted")

    get = __getitem__ = __iter__ = keys = items = values = __contains__ = _raise


def cyclic() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def deep() -> list[Any]:
    made: list[Any] = []
    for _ in range(5000):
        made = [made]
    return made


HOSTILE: dict[str, Callable[[], Any]] = {
    "raises": Raises,
    "raises in text": RaisesInText,
    "odd dict": lambda: OddDict(event="a.b"),
    "cyclic": cyclic,
    "deep": deep,
    "huge": lambda: [0] * 600_000,
    "huge number": lambda: 10**6000,
    "claims to be a str": lambda: mock.Mock(spec=str),
    "claims to be a dict": lambda: mock.MagicMock(spec=dict),
    "class": lambda: Raises,
    "generator": lambda: (1 for _ in range(3)),
    "lone surrogate": lambda: "\ud800",
    "weakref": lambda: weakref.ref(logging.getLogger()),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize(
    "place", ["field", "nested", "event", "message", "extra", "sandbox_id", "event_id"]
)
def test_logging_never_raises_and_the_next_event_arrives(
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    place: str,
) -> None:
    made = handler()
    thing = HOSTILE[kind]()
    if place == "message":
        logger.info(thing)
    elif place == "event":
        logger.info("a message", extra={"event": thing})
    elif place == "nested":
        log(logger, field=[{"inner": thing}])
    elif place == "extra":
        logger.info("a message", extra={"extra": thing})
    else:
        log(logger, **{place: thing})
    log(logger, event_id="next")
    assert made.flush(PATIENCE)
    assert receiver.received()[-1].json["id"] == "next"
    assert capsys.readouterr().err == ""
    assert total(made.stats()) == made.stats().received


@pytest.mark.parametrize(
    "kind", ["raises", "raises in text", "cyclic", "deep", "claims to be a str"]
)
def test_a_hostile_field_does_not_cost_the_event(
    handler: Make, logger: logging.Logger, receiver: Receiver, kind: str
) -> None:
    made = handler()
    log(logger, field=HOSTILE[kind](), sandbox_id="sb-1")
    assert made.flush(PATIENCE)
    (request,) = receiver.received()
    assert request.json["sandbox_id"] == "sb-1"
    assert b"planted" not in request.body


def test_a_record_made_by_hand_may_lack_everything(handler: Make, receiver: Receiver) -> None:
    made = handler()
    made.handle(logging.makeLogRecord({"event": "a.b"}))
    made.handle(logging.makeLogRecord({}))
    assert made.flush(PATIENCE)
    assert len(receiver.received()) == 1


@pytest.mark.parametrize("raise_exceptions", [True, False])
def test_errors_print_no_payload(
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raise_exceptions: bool,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", raise_exceptions)
    made = handler()

    def fail(record: logging.LogRecord) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(made._pipeline.intake, "prepare", fail)
    logger.info("planted %s", "planted", extra={"event": "a.b", "field": "planted"})
    made.handleError(logging.makeLogRecord({"msg": "planted"}))
    assert capsys.readouterr() == ("", "")
    assert made.stats().dropped == {"error": 2}


def test_a_field_whose_text_logs_an_event(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    """It is asked for its text in the listener's thread, where nothing is an event."""

    class Logs:
        def __str__(self) -> str:
            log(logger, event_id="inner")
            return "text"

    made = handler()
    log(logger, event_id="outer", field=Logs())
    assert made.flush(PATIENCE)
    assert [(one.json["id"], one.json["field"]) for one in receiver.received()] == [
        ("outer", "text")
    ]


def test_a_message_whose_text_logs_an_event(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    """Another handler formats the message in the application's thread: an event inside an event."""

    class Logs:
        def __str__(self) -> str:
            log(logger, event_id="inner")
            return "text"

    class Formats(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            self.format(record)

    made = handler()
    logger.addHandler(Formats())
    logger.info("%s", Logs(), extra={"event": "a.b", "event_id": "outer"})
    assert made.flush(PATIENCE)
    assert sorted(one.json["id"] for one in receiver.received()) == ["inner", "outer"]


def test_fields_changed_by_another_thread_meanwhile(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    shared: dict[str, Any] = {"numbers": list(range(50))}
    over = threading.Event()

    def change() -> None:
        number = 0
        while not over.is_set():
            number += 1
            shared[f"key-{number % 50}"] = number
            shared.pop(f"key-{(number + 7) % 50}", None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(200):
            log(logger, shared=shared)
    finally:
        over.set()
        thread.join()
    assert made.flush(PATIENCE)
    assert made.stats().delivered == 200


# --- Counts ---


def test_stats_are_a_frozen_snapshot(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    before = made.stats()
    log(logger)
    log(logger, "not legal")
    assert made.flush(PATIENCE)
    after = made.stats()
    assert (before.received, after.received) == (0, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.received = 5  # type: ignore[misc]
    for frozen in (after.dropped, after.endpoints, after.endpoints["hook"].dropped):
        with pytest.raises(TypeError):
            frozen["hook"] = 5  # type: ignore[index]


def test_stats_show_every_state(
    handler: Make, logger: logging.Logger, receiver: Receiver, dead_url: str
) -> None:
    receiver.script(404, path="/dead")
    made = handler(
        [
            receiver.endpoint("/good"),
            receiver.endpoint("/dead"),
            receiver.endpoint("/down", url=dead_url, backoff_initial=600.0),
        ]
    )
    log(logger)
    assert made.flush(PATIENCE) is False
    stats = made.stats()
    assert (stats.received, stats.delivered, stats.dead) == (3, 1, 1)
    assert (stats.waiting, stats.retried, stats.pending) == (1, 1, 1)
    assert {name: one.failures_in_row for name, one in stats.endpoints.items()} == {
        "good": 0,
        "dead": 1,
        "down": 1,
    }


def test_the_counts_balance_at_any_moment_and_end_right(
    handler: Make, logger: logging.Logger, receiver: Receiver, dead_url: str
) -> None:
    receiver.script(*[500, 404, 204] * 20, path="/bad")
    made = handler(
        [
            receiver.endpoint("/good"),
            receiver.endpoint("/bad", backoff_initial=0.001, max_retries=2),
            receiver.endpoint("/down", url=dead_url, backoff_initial=0.001, max_retries=1),
        ],
        queue_capacity=50,
        max_payload_bytes=2000,
    )
    over, wrong = threading.Event(), []

    def sample() -> None:
        while not over.wait(0.001):
            stats = made.stats()
            if total(stats) != stats.received:
                wrong.append(stats)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        for number in range(200):
            log(logger, "not legal" if number % 10 == 0 else "a.b", text="x" * (number * 20))
        made.flush(1.0)
        made.update_endpoints([receiver.endpoint("/good")])
        assert made.flush(PATIENCE)
    finally:
        over.set()
        sampler.join()
    assert wrong == []
    stats = made.stats()
    assert stats.pending == 0
    assert total(stats) == stats.received
    early = {"queue_full", "invalid_name"}
    events = sum(count for reason, count in stats.dropped.items() if reason in early)
    assert stats.received - events == (200 - events) * 3
    assert stats.endpoints["good"].delivered == len(receiver.received("/good"))


# --- Many threads ---


def test_sixty_four_threads_each_event_once_and_in_order(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler(queue_capacity=5000)
    ready = threading.Barrier(64)

    def work(worker: int) -> None:
        ready.wait(PATIENCE)
        for number in range(15):
            log(logger, sandbox_id=f"sb-{worker}", number=number)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.flush(PATIENCE) is True
    requests = receiver.received()
    assert Counter(one.json["id"] for one in requests).most_common(1)[0][1] == 1
    by_key: dict[str, list[int]] = defaultdict(list)
    for one in requests:
        by_key[one.json["sandbox_id"]].append(one.json["number"])
    assert by_key == {f"sb-{worker}": list(range(15)) for worker in range(64)}


def test_order_by_key_survives_retries(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    receiver.script(500, 204, 503, 500, 204, 429)
    made = handler()
    for number in range(4):
        for key in ("x", "y"):
            log(logger, sandbox_id=key, number=number)
    assert made.flush(PATIENCE) is True
    for key in ("x", "y"):
        numbers = [
            one.json["number"] for one in receiver.received() if one.json["sandbox_id"] == key
        ]
        assert numbers == sorted(numbers)
        assert set(numbers) == set(range(4))
    assert len(receiver.received()) == 12


def test_retries_carry_the_same_bytes_and_id_each_signed_anew(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    receiver.script(500, 500, 500)
    made = handler()
    log(logger, sandbox_id="sb")
    assert made.flush(PATIENCE) is True
    requests = receiver.received()
    assert len(requests) == 4
    assert len({one.body for one in requests}) == 1
    assert len({one.headers["x-cube-webhook-delivery"] for one in requests}) == 1
    stats = made.stats()
    assert (stats.delivered, stats.retried) == (1, 3)


# --- The application goes on at once ---


@pytest.fixture
def silent() -> Iterator[str]:
    """A URL that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


@pytest.mark.parametrize("kind", ["up", "refuses", "hangs", "errors", "unresolvable"])
def test_logging_returns_at_once(
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    dead_url: str,
    silent: str,
    kind: str,
) -> None:
    receiver.script(default=500 if kind == "errors" else 204)
    url = {
        "refuses": dead_url,
        "hangs": silent,
        "unresolvable": "http://nowhere.invalid/hook",
    }.get(kind, receiver.url())
    handler([receiver.endpoint(url=url)])
    rounds = []
    for _ in range(9):
        started = time.perf_counter()
        for _ in range(100):
            log(logger, sandbox_id="sb", field="x" * 100)
        rounds.append(time.perf_counter() - started)
    assert statistics.median(rounds) < 0.05


# --- Flush and close ---


def test_flush_of_an_idle_handler(handler: Make, receiver: Receiver) -> None:
    assert handler().flush(0) is True


def test_flush_is_bounded_and_waits(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    receiver.hold()
    log(logger)
    receiver.wait_for(1)
    started = time.monotonic()
    assert made.flush(0.2) is False
    assert 0.2 <= time.monotonic() - started < 1.0
    receiver.release()
    assert made.flush(PATIENCE) is True


def test_flush_takes_flush_timeout_by_itself(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler(flush_timeout=0.2)
    receiver.hold()
    log(logger)
    started = time.monotonic()
    assert made.flush() is False
    assert 0.2 <= time.monotonic() - started < 1.0
    receiver.release()


def test_flush_says_at_once_that_what_is_left_is_due_later(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    receiver.script((503, {"Retry-After": "60"}))
    made = handler()
    log(logger)
    started = time.monotonic()
    assert made.flush(PATIENCE) is False
    assert time.monotonic() - started < PATIENCE / 2


def test_flush_never_waits_under_loggings_own_lock(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    receiver.hold()
    log(logger)
    receiver.wait_for(1)
    started = time.monotonic()
    with logging._lock:  # type: ignore[attr-defined]
        assert made.flush(PATIENCE) is False
    assert time.monotonic() - started < 1.0
    receiver.release()
    assert made.flush(PATIENCE) is True


def test_flush_from_an_own_thread_does_not_wait_for_itself(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    answers: list[bool] = []

    class Flushes(WebhookFormatter):
        def payload(self, event: Any) -> Any:
            answers.append(made.flush(PATIENCE))
            return super().payload(event)

    made = handler()
    made.setFormatter(Flushes())
    log(logger)
    started = time.monotonic()
    assert made.flush(PATIENCE) is True
    assert time.monotonic() - started < PATIENCE / 2
    assert answers == [False]


def test_logging_goes_on_while_another_thread_flushes(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    receiver.hold()
    log(logger)
    receiver.wait_for(1)
    flusher = threading.Thread(target=made.flush, args=(PATIENCE,))
    flusher.start()
    started = time.monotonic()
    for _ in range(100):
        log(logger)
    assert time.monotonic() - started < 1.0
    receiver.release()
    flusher.join(PATIENCE)
    assert not flusher.is_alive()


def test_its_lock_holds_nobody_up(handler: Make, receiver: Receiver) -> None:
    """``logging.shutdown`` holds it while it waits in ``flush``."""
    made = handler()
    made.acquire()
    other = threading.Thread(target=made.acquire, daemon=True)
    other.start()
    other.join(PATIENCE)
    assert not other.is_alive()


def test_close_delivers_what_was_taken(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler(flush_timeout=PATIENCE)
    for number in range(100):
        log(logger, number=number)
    made.close()
    assert len(receiver.received()) == 100
    assert made.stats().delivered == 100


def test_close_gives_what_waits_for_a_retry_a_last_chance(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    receiver.script(500)
    made = handler([receiver.endpoint(backoff_initial=600.0)], flush_timeout=PATIENCE)
    log(logger)
    assert made.flush(PATIENCE) is False
    made.close()
    assert made.stats().delivered == 1


def test_close_says_in_one_line_what_is_left(
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.script(default=500)
    made = handler([receiver.endpoint(backoff_initial=600.0)])
    log(logger, sandbox_id="sb", text="planted")
    log(logger, sandbox_id="sb", text="planted")
    assert made.flush(PATIENCE) is False
    caplog.clear()
    made.close()
    (line,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert line.getMessage() == (
        "closed with 2 undelivered: 1 queued, 0 in flight, 1 waiting for a retry"
    )
    assert made.stats().pending == 2


def test_close_twice_is_close_once(
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """``logging.shutdown`` flushes and closes what the application has closed before."""
    made = handler(flush_timeout=0.5)
    receiver.hold()
    log(logger)
    receiver.wait_for(1)
    made.close()
    caplog.clear()
    started = time.monotonic()
    made.close()
    made.flush()
    made.close()
    took = time.monotonic() - started
    receiver.release()
    assert took < 0.4
    assert "undelivered" not in caplog.text


def test_events_after_close_are_counted(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    log(logger)
    made.close()
    log(logger)
    log(logger)
    assert made.stats().dropped == {"closed": 2}
    assert made.stats().received == 3
    assert len(receiver.received()) == 1


def test_close_ends_the_threads(
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []
    start = cubehook.threads.start

    def kept(name: str, target: Callable[[], None]) -> threading.Thread:
        threads.append(start(name, target))
        return threads[-1]

    monkeypatch.setattr(cubehook.threads, "start", kept)
    made = handler()
    for number in range(50):
        log(logger, number=number)
    made.flush(PATIENCE)
    made.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(threads) >= 2
    assert not any(thread.is_alive() for thread in threads)


def test_close_closes_the_connections(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    """A closed handler may live on in the application; its sockets must not."""
    made = handler()
    log(logger)
    assert made.flush(PATIENCE)
    made.close()
    assert receiver.wait_for_disconnects(2.0), "idle connections are left open"


def test_update_endpoints_closes_the_connections_of_those_removed(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    log(logger)
    assert made.flush(PATIENCE)
    made.update_endpoints([])
    assert receiver.wait_for_disconnects(2.0), "idle connections are left open"


def test_a_handler_dropped_without_close_still_delivers(
    logger: logging.Logger, receiver: Receiver
) -> None:
    made = WebhookHandler([receiver.endpoint()])
    logger.addHandler(made)
    receiver.hold()
    for _ in range(20):
        log(logger)
    receiver.wait_for(1)
    logger.removeHandler(made)
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None, "something keeps the handler alive"
    receiver.release()
    receiver.wait_for(20)
    assert receiver.wait_for_disconnects(), "its threads and connections are gone too"


# --- Formats ---


class Custom(WebhookFormatter):
    content_type = "application/vnd.custom+json"

    def payload(self, event: Any) -> Any:
        return {"type": event.name, "data": dict(event.fields)}


class Record(logging.Formatter):
    """A formatter that knows nothing of events, and shows all it is given."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"message": record.getMessage(), "record": repr(vars(record))})


class Fails(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        raise ValueError("planted")


def test_set_formatter_a_subclass(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    made.setFormatter(Custom())
    log(logger, sandbox_id="sb", password="planted")
    assert made.flush(PATIENCE)
    (request,) = receiver.received()
    assert request.body == b'{"type":"a.b","data":{"sandbox_id":"sb"}}'
    assert request.headers["content-type"] == "application/vnd.custom+json"


def test_set_formatter_any_formatter_gets_a_redacted_record(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler(redact=["customer"])
    made.setFormatter(Record())
    logger.info(
        "planted %s",
        "planted",
        extra={"event": "a.b", "password": "planted", "customer": "planted", "colour": "blue"},
    )
    assert made.flush(PATIENCE)
    (request,) = receiver.received()
    assert request.json["message"] == "a.b"
    assert b"planted" not in request.body
    assert b"blue" in request.body
    assert request.headers["content-type"] == "text/plain; charset=utf-8"


def test_set_formatter_none_is_format_cube(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler()
    made.setFormatter(Custom())
    made.setFormatter(None)
    log(logger, event_id="1")
    assert made.flush(PATIENCE)
    assert receiver.received()[0].json["id"] == "1"


def test_set_formatter_redacts_as_the_handler_was_told(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    """A `WebhookFormatter` from a configuration does not know the handler's ``redact``."""
    made = handler(redact=["customer"])
    made.setFormatter(WebhookFormatter())
    log(logger, customer="planted", colour="blue")
    assert made.flush(PATIENCE)
    assert "customer" not in receiver.received()[0].json


def test_format_by_dotted_path_beside_the_default(
    handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler(
        [
            receiver.endpoint("/custom", format=f"{__name__}.Custom"),
            receiver.endpoint("/record", format=f"{__name__}.Record"),
            receiver.endpoint("/cube"),
        ]
    )
    log(logger, sandbox_id="sb", password="planted")
    assert made.flush(PATIENCE)
    by_path = {one.path: one for one in receiver.received()}
    assert by_path["/custom"].json == {"type": "a.b", "data": {"sandbox_id": "sb"}}
    assert by_path["/record"].json["message"] == "a.b"
    assert by_path["/cube"].json["event"] == "a.b"
    assert all(b"planted" not in one.body for one in by_path.values())


def test_a_format_that_fails_costs_its_endpoint_only(
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = handler(
        [receiver.endpoint("/bad", format=f"{__name__}.Fails"), receiver.endpoint("/good")]
    )
    log(logger, text="planted")
    assert made.flush(PATIENCE)
    assert [one.path for one in receiver.received()] == ["/good"]
    assert made.stats().dropped == {"format_error": 1}
    assert "ValueError" in caplog.text
    assert "planted" not in caplog.text


def test_the_handler_formats_records_itself(handler: Make, receiver: Receiver) -> None:
    record = logging.makeLogRecord({"event": "a.b", "event_id": "1", "password": "planted"})
    assert json.loads(handler().format(record))["id"] == "1"
    assert "planted" not in handler().format(record)


def test_a_handler_that_could_not_be_made_is_none_of_loggings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``dictConfig`` and the end of the program flush all that logging knows of."""

    def fail(handler: WebhookHandler) -> None:
        raise RuntimeError("the database is away, say")

    monkeypatch.setattr(WebhookHandler, "_build", fail)
    known = [ref() for ref in logging._handlerList]  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError):
        WebhookHandler([])
    assert [ref() for ref in logging._handlerList] == known  # type: ignore[attr-defined]
