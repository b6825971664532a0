"""Several events in one request: what ``batch`` may say, the message, and the way to a receiver."""

from __future__ import annotations

import json
import logging
import logging.config
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from cubehook import ConfigError, Endpoint, WebhookFormatter, WebhookHandler, verify
from cubehook.batch import BATCH_EVENT, OVERHEAD, Batch, joined
from cubehook.config import load
from cubehook.formats import BatchFormat, redacted
from cubehook.message import Message
from cubehook.redaction import Redactor

if TYPE_CHECKING:
    from conftest import Received, Receiver

PATIENCE = 10.0
HOUR = 3600.0
URL = "https://a.example/hook"

Make = Callable[..., WebhookHandler]


class Plain(logging.Formatter):
    """A format that has no batches."""

    content_type = "application/json"

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"id": record.event_id})  # type: ignore[attr-defined]


class Lines(Plain):
    """One that has: a line for each event."""

    content_type = "application/x-ndjson"

    def join(self, batch_id: str, bodies: Sequence[bytes]) -> bytes:
        return b"\n".join([batch_id.encode(), *bodies])


class Wordy(WebhookFormatter):
    """One whose batches are longer than what is kept free for them."""

    def join(self, batch_id: str, bodies: Sequence[bytes]) -> bytes:
        return super().join(batch_id, bodies)[:-1] + b',"note":"%b"}' % (b"x" * OVERHEAD)


class Single(WebhookFormatter):
    """One that takes one event at a time."""

    join = None  # type: ignore[assignment]


class Wrong(WebhookFormatter):
    def join(self, batch_id: str, bodies: Sequence[bytes]) -> bytes:
        return "text"  # type: ignore[return-value]


def problems(batch: object, **keys: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load([{"name": "ops", "url": URL, "batch": batch, **keys}], {})
    return caught.value.problems


class TestConfiguration:
    def test_off_by_default(self) -> None:
        assert Endpoint(url=URL).batching is None
        assert Endpoint(url=URL, batch=None).batching is None

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({}, Batch(100, 0.0)),
            ({"max_events": 1}, Batch(1, 0.0)),
            ({"max_events": 10_000, "linger": 0.25}, Batch(10_000, 0.25)),
            ({"linger": 0}, Batch(100, 0.0)),
            ({"linger": 31_622_400}, Batch(100, 31_622_400.0)),
            (MappingProxyType({"max_events": 7}), Batch(7, 0.0)),
            (Batch(7, 2), Batch(7, 2.0)),
        ],
    )
    def test_taken(self, given: Any, expected: Batch) -> None:
        (endpoint,) = load([{"url": URL, "batch": given}], {}).endpoints
        assert endpoint.batching == expected == Endpoint(url=URL, batch=given).batching
        assert isinstance(endpoint.batching, Batch)
        assert type(endpoint.batching.linger) is float
        hash(endpoint)

    def test_through_logging_config(self) -> None:
        webhooks = {
            "class": "cubehook.WebhookHandler",
            "endpoints": [{"url": URL, "batch": {"max_events": 5, "linger": 1}}],
        }
        made = logging.config.DictConfigurator({"version": 1, "handlers": {"webhooks": webhooks}})
        handler = made.configure_handler(made.config["handlers"]["webhooks"])
        (endpoint,) = handler._endpoints
        assert endpoint.batching == Batch(5, 1.0)
        handler.close()

    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            (None, "must be a mapping, not nothing"),
            (True, "must be a mapping, not true or false"),
            (100, "must be a mapping, not a whole number"),
            ([100, 1.0], "must be a mapping, not a list"),
            ("100", "must be a mapping, not a string"),
            ({"max_events": 0}, "max_events: must be at least 1"),
            ({"max_events": 10_001}, "max_events: must be at most 10000"),
            ({"max_events": 1.5}, "max_events: must be a whole number, not a number"),
            ({"max_events": True}, "max_events: must be a whole number, not true or false"),
            ({"max_events": None}, "max_events: must be a whole number, not nothing"),
            ({"linger": -0.1}, "linger: must not be negative"),
            ({"linger": float("-inf")}, "linger: must not be negative"),
            ({"linger": float("inf")}, "linger: must be greater than 0 and finite"),
            ({"linger": float("nan")}, "linger: must be greater than 0 and finite"),
            ({"linger": 31_622_401}, "linger: must be at most 31622400 seconds"),
            ({"linger": "1s"}, "linger: must be a number of seconds, not a string"),
            ({"linger": False}, "linger: must be a number of seconds, not true or false"),
            ({"linger": None}, "linger: must be a number of seconds, not nothing"),
            ({"max_event": 5}, "unknown key 'max_event' (did you mean 'max_events'?)"),
            ({"lingers": 5}, "unknown key 'lingers' (did you mean 'linger'?)"),
            ({1: 5}, "a key must be a string, not a whole number"),
            (
                {"linger": -1, "max_events": 0},
                "linger: must not be negative; max_events: must be at least 1",
            ),
        ],
    )
    def test_refused(self, given: object, problem: str) -> None:
        assert problems(given) == (f"endpoint 'ops': batch: {problem}",)

    def test_what_is_made_by_hand_is_checked_as_well(self) -> None:
        with pytest.raises(ConfigError) as caught:
            Endpoint(url=URL, batch=Batch(0, -1.0))
        assert caught.value.problems == (
            "batch: max_events: must be at least 1; linger: must not be negative",
        )

    def test_the_key_that_was_meant(self) -> None:
        with pytest.raises(ConfigError, match=r"unknown key 'batches'.*did you mean 'batch'"):
            load([{"url": URL, "batches": {}}], {})

    def test_a_format_without_batches(self) -> None:
        named = f"{__name__}.Plain"
        assert problems({}, format=named) == ("endpoint 'ops': batch: the format has none",)
        assert problems({}, format=f"{__name__}.Single") == (
            "endpoint 'ops': batch: the format has none",
        )
        assert Endpoint(url=URL, format=named).batching is None
        assert Endpoint(url=URL, format=f"{__name__}.Lines", batch={}).batching == Batch()

    def test_a_wrong_format_is_the_one_problem(self) -> None:
        (problem,) = problems({}, format="no.such.module")
        assert "format: cannot be imported" in problem


class TestFormatter:
    """The handler's formatter stands for format ``cube``, so it needs batches as well."""

    @pytest.fixture
    def endpoints(self) -> list[dict[str, Any]]:
        return [
            {"name": "ops", "url": URL, "batch": {}},
            {"name": "single", "url": URL},
            {"name": "lines", "url": URL, "batch": {}, "format": f"{__name__}.Lines"},
            {"name": "audit", "url": URL, "batch": {}},
        ]

    def test_without_batches(self, endpoints: list[dict[str, Any]]) -> None:
        handler = WebhookHandler(endpoints)
        before = handler.formatter
        with pytest.raises(ConfigError) as caught:
            handler.setFormatter(Plain())
        assert caught.value.problems == (
            "endpoint 'ops': batch: the formatter has none",
            "endpoint 'audit': batch: the formatter has none",
        )
        assert handler.formatter is before
        handler.close()

    def test_with_none_of_its_own(self, endpoints: list[dict[str, Any]]) -> None:
        handler = WebhookHandler(endpoints)
        with pytest.raises(ConfigError, match="endpoint 'ops': batch: the formatter has none"):
            handler.setFormatter(Single())
        assert not isinstance(redacted(Single(), Redactor()), BatchFormat)
        handler.close()

    @pytest.mark.parametrize("formatter", [Lines(), WebhookFormatter(), None])
    def test_with_batches(
        self, endpoints: list[dict[str, Any]], formatter: logging.Formatter | None
    ) -> None:
        handler = WebhookHandler(endpoints)
        handler.setFormatter(formatter)
        handler.close()

    def test_where_no_batches_are_wanted(self, endpoints: list[dict[str, Any]]) -> None:
        handler = WebhookHandler(endpoints[1:3])
        handler.setFormatter(Plain())
        with pytest.raises(ConfigError, match="endpoint 'ops': batch: the formatter has none"):
            handler.update_endpoints(endpoints)
        assert repr(handler).endswith("to 'single', 'lines'>"), "nothing has changed"
        handler.setFormatter(Lines())
        handler.update_endpoints(endpoints)
        handler.close()


def message(number: int, body: bytes = b"{}", content_type: str = "application/json") -> Message:
    return Message(f"id-{number}", "a.b", "key", content_type, body)


class TestMessage:
    def test_of_format_cube(self) -> None:
        bodies = [b'{"id":"1"}', '{"id":"2","n":"ü,]}"}'.encode(), b"{}"]
        made = joined([message(*each) for each in enumerate(bodies)], WebhookFormatter(), 1000)
        assert (made.event, made.key, made.content_type) == (BATCH_EVENT, None, "application/json")
        parsed = json.loads(made.body)
        assert parsed == {"id": made.id, "events": [json.loads(body) for body in bodies]}
        assert list(parsed) == ["id", "events"]
        assert all(body in made.body for body in bodies), "the events' own bytes"

    def test_has_an_id_of_its_own_each_time(self) -> None:
        made = [joined([message(1)], WebhookFormatter(), 1000).id for _ in range(50)]
        assert len({*made, "id-1"}) == 51
        assert all("." not in one for one in made)

    def test_what_is_kept_free_is_enough(self) -> None:
        body = b'"%b"' % (b"x" * 100)
        made = joined([message(1, body), message(2, body)], WebhookFormatter(), 1000)
        assert len(made.body) - (2 * len(body) + 1) <= OVERHEAD

    @pytest.mark.parametrize("over", [0, 1])
    def test_no_longer_than_the_limit(self, over: int) -> None:
        length = len(joined([message(1)], WebhookFormatter(), 1000).body)
        if over:
            with pytest.raises(ValueError, match="too large"):
                joined([message(1)], WebhookFormatter(), length - 1)
        else:
            joined([message(1)], WebhookFormatter(), length)

    def test_made_of_text(self) -> None:
        with pytest.raises(TypeError):
            joined([message(1)], Wrong(), 1000)

    def test_of_events_in_another_format(self) -> None:
        messages = [message(1), message(2, content_type="text/plain")]
        with pytest.raises(ValueError, match="another format"):
            joined(messages, WebhookFormatter(), 1000)


# --- To a receiver ---


def log(logger: logging.Logger, *ids: object, **fields: Any) -> None:
    for each in ids:
        logger.info("a message", extra={"event": "a.b", "event_id": str(each), **fields})


def ids(request: Received) -> list[str]:
    """The ids of the events in a request."""
    return [event["id"] for event in request.json["events"]]


def all_ids(requests: Sequence[Received]) -> list[str]:
    return [each for request in requests for each in ids(request)]


def names(numbers: range) -> list[str]:
    return list(map(str, numbers))


@pytest.fixture
def stuck(
    receiver: Receiver, handler: Make, logger: logging.Logger
) -> Iterator[Callable[..., WebhookHandler]]:
    """Makes a handler whose first batch, of event ``first``, has no answer yet."""

    def make(options: dict[str, Any] | None = None, **keys: Any) -> WebhookHandler:
        receiver.hold()
        made = handler([receiver.endpoint(**{"batch": {}, **keys})], **(options or {}))
        log(logger, "first")
        receiver.wait_for(1)
        return made

    yield make
    receiver.release()


def test_what_comes_while_the_endpoint_is_busy_goes_together(
    stuck: Make, receiver: Receiver, logger: logging.Logger
) -> None:
    made = stuck()
    log(logger, *range(50), sandbox_id="sb-1")
    receiver.release()
    assert made.flush(PATIENCE)
    first, *others = receiver.received()
    assert ids(first) == ["first"]
    assert all_ids(others) == names(range(50))
    assert len(others) <= 3, "the listener may hand them over in two or three parts"
    stats = made.stats()
    assert (stats.received, stats.delivered, stats.retried, stats.pending) == (51, 51, 0, 0)
    for request in receiver.received():
        assert verify(request.body, request.headers, receiver.secret) == request.json
        assert list(request.json) == ["id", "events"]
        assert request.headers["x-cube-webhook-event"] == "cubehook.batch"
        assert request.headers["x-cube-webhook-delivery"] == request.json["id"]
        assert request.headers["content-type"] == "application/json"
    assert others[0].json["events"][0] == {
        "id": "0",
        "timestamp": others[0].json["events"][0]["timestamp"],
        "level": "info",
        "event": "a.b",
        "sandbox_id": "sb-1",
    }
    assert len({request.json["id"] for request in receiver.received()}) == 1 + len(others)


def test_a_retry_has_the_same_id_and_bytes_and_nothing_overtakes_it(
    stuck: Make, receiver: Receiver, logger: logging.Logger
) -> None:
    made = stuck(batch={"max_events": 10})
    log(logger, *range(35))
    receiver.script(503, 503)
    receiver.release()
    assert made.flush(PATIENCE)
    _, one, again, once_more, *others = receiver.received()
    assert (one.json["id"], one.body) == (again.json["id"], again.body)
    assert (one.json["id"], one.body) == (once_more.json["id"], once_more.body)
    assert all_ids([one, *others]) == names(range(35))
    assert all(len(ids(request)) <= 10 for request in receiver.received())
    stats = made.stats()
    assert (stats.delivered, stats.retried, stats.dead) == (36, 2, 0)


def test_unordered_each_event_arrives_in_one_batch_only(
    handler: Make, receiver: Receiver, logger: logging.Logger
) -> None:
    receiver.script(*(503 if turn % 3 else 204 for turn in range(12)))
    made = handler(
        [receiver.endpoint(ordered=False, batch={"max_events": 7}, backoff_max=0.05)],
    )
    log(logger, *range(300))
    assert made.flush(PATIENCE)
    distinct = {request.json["id"]: request for request in receiver.received()}
    assert Counter(all_ids(list(distinct.values()))) == Counter(names(range(300)))
    assert made.stats().delivered == 300


def test_a_refused_batch_is_a_dead_letter_with_all_its_events(
    stuck: Make, receiver: Receiver, logger: logging.Logger
) -> None:
    made = stuck(batch={"max_events": 5})
    log(logger, *range(10))
    receiver.script(413)
    receiver.release()
    assert made.flush(PATIENCE)
    stats = made.stats()
    assert (stats.delivered, stats.dead, stats.pending) == (6, 5, 0)


def test_the_size_is_capped_as_a_whole(
    stuck: Make, receiver: Receiver, logger: logging.Logger
) -> None:
    made = stuck({"max_payload_bytes": 2000})
    log(logger, *range(30), text="x" * 200)
    log(logger, "huge", text="x" * 2000)
    receiver.release()
    assert made.flush(PATIENCE)
    assert all_ids(receiver.received()) == ["first", *names(range(30))]
    assert max(len(request.body) for request in receiver.received()) <= 2000
    assert max(len(ids(request)) for request in receiver.received()) > 1
    assert made.stats().dropped == {"too_large": 1}


@pytest.mark.parametrize("over", [0, 1])
def test_the_longest_event_fits_with_what_is_round_it(
    handler: Make, receiver: Receiver, logger: logging.Logger, over: int
) -> None:
    made = handler([receiver.endpoint(batch={})], max_payload_bytes=1000)
    log(logger, "probe", text="")
    assert made.flush(PATIENCE)
    (probe,) = receiver.received()
    empty = len(json.dumps(probe.json["events"][0], separators=(",", ":")))
    log(logger, "event", text="x" * (1000 - OVERHEAD - empty + over))
    assert made.flush(PATIENCE)
    assert made.stats().dropped == ({"too_large": 1} if over else {})
    assert all(len(request.body) <= 1000 for request in receiver.received())


def test_linger_gathers_until_the_batch_is_full(
    handler: Make,
    receiver: Receiver,
    logger: logging.Logger,
    eventually: Callable[..., None],
) -> None:
    made = handler([receiver.endpoint(batch={"max_events": 3, "linger": HOUR})])
    log(logger, 0, 1)
    log(logger, 2)
    (request,) = receiver.wait_for(1)
    assert ids(request) == ["0", "1", "2"]
    log(logger, 3)
    eventually(lambda: (made.stats().delivered, made.stats().pending) == (3, 1))


def test_linger_ends_by_itself(handler: Make, receiver: Receiver, logger: logging.Logger) -> None:
    handler([receiver.endpoint(batch={"linger": 0.05})])
    log(logger, *range(3))
    assert "0" in ids(receiver.wait_for(1)[0])


@pytest.mark.parametrize("ordered", [True, False])
def test_linger_is_cut_short_by_a_flush(
    handler: Make, receiver: Receiver, logger: logging.Logger, ordered: bool
) -> None:
    made = handler([receiver.endpoint(batch={"linger": HOUR, "max_events": 4}, ordered=ordered)])
    log(logger, *range(10))
    started = time.monotonic()
    assert made.flush(PATIENCE) is True
    assert time.monotonic() - started < PATIENCE / 2
    assert sorted(all_ids(receiver.received())) == names(range(10))
    log(logger, "later")
    assert made.flush(PATIENCE) is True
    assert ids(receiver.received()[-1]) == ["later"]


def test_linger_is_cut_short_by_close(
    handler: Make, receiver: Receiver, logger: logging.Logger
) -> None:
    made = handler([receiver.endpoint(batch={"linger": HOUR})], flush_timeout=PATIENCE)
    log(logger, *range(10))
    started = time.monotonic()
    made.close()
    assert time.monotonic() - started < PATIENCE / 2
    assert all_ids(receiver.received()) == names(range(10))


def test_linger_is_cut_short_where_a_handler_is_replaced(
    handler: Make, receiver: Receiver, logger: logging.Logger
) -> None:
    """As ``dictConfig`` does it: nobody waits, and the old threads go on alone."""
    made = handler([receiver.endpoint(batch={"linger": HOUR})])
    log(logger, *range(3))
    made._pipeline.drain()
    assert all_ids(receiver.wait_for(1)) == names(range(3))


def test_linger_does_not_drop_what_there_would_be_room_for(
    handler: Make, receiver: Receiver, logger: logging.Logger
) -> None:
    made = handler([receiver.endpoint(batch={"linger": HOUR})], queue_capacity=5)
    log(logger, *range(5))
    assert len(all_ids(receiver.wait_for(1))) == 5
    assert made.stats().dropped == {}


def test_turned_on_and_off_at_run_time_every_event_arrives_once(
    stuck: Make, receiver: Receiver, logger: logging.Logger
) -> None:
    made = stuck()
    log(logger, *range(10), sandbox_id="x")
    made.update_endpoints([receiver.endpoint()])
    log(logger, *range(10, 20), sandbox_id="x")
    made.update_endpoints([receiver.endpoint(batch={"max_events": 3})])
    log(logger, *range(20, 30), sandbox_id="x")
    receiver.release()
    assert made.flush(PATIENCE)
    assert all_ids(receiver.received()) == ["first", *names(range(30))]


def test_a_format_of_the_applications(
    stuck: Make, receiver: Receiver, logger: logging.Logger
) -> None:
    made = stuck(format=f"{__name__}.Lines")
    log(logger, 1, 2, password="pl4nted")
    receiver.release()
    assert made.flush(PATIENCE)
    receiver.problems.clear()  # verify takes JSON objects only
    bodies = [request.body for request in receiver.received()]
    lines = [line for body in bodies for line in body.split(b"\n")[1:]]
    assert lines == [b'{"id": "first"}', b'{"id": "1"}', b'{"id": "2"}']
    for request in receiver.received():
        assert request.headers["x-cube-webhook-delivery"].encode() == request.body.split(b"\n")[0]
        assert request.headers["content-type"] == "application/x-ndjson"


@pytest.mark.parametrize(("name", "kind"), [("Wrong", "TypeError"), ("Wordy", "ValueError")])
def test_what_a_format_cannot_join_goes_one_by_one(
    handler: Make,
    receiver: Receiver,
    logger: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    name: str,
    kind: str,
) -> None:
    endpoint = receiver.endpoint(format=f"{__name__}.{name}", batch={"linger": HOUR})
    made = handler([endpoint], max_payload_bytes=500)
    log(logger, *range(3), text="x" * 20)
    assert made.flush(PATIENCE)
    assert [request.json["id"] for request in receiver.received()] == names(range(3))
    assert {request.headers["x-cube-webhook-event"] for request in receiver.received()} == {"a.b"}
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"a batch cannot be written ({kind} in {name})"]
    assert made.stats().delivered == 3


def test_a_format_may_log_and_ask_while_it_joins(
    handler: Make, receiver: Receiver, logger: logging.Logger
) -> None:
    """No lock is held then; what is logged is no event, as anything from cubehook's threads."""

    class Asks(WebhookFormatter):
        def join(self, batch_id: str, bodies: Sequence[bytes]) -> bytes:
            log(logger, "from within")
            seen.append(made.stats().in_flight)
            return super().join(batch_id, bodies)

    seen: list[int] = []
    made = handler([receiver.endpoint(batch={"linger": HOUR})])
    made.setFormatter(Asks())
    log(logger, 1, 2)
    assert made.flush(PATIENCE)
    assert seen == [2]
    assert all_ids(receiver.received()) == ["1", "2"]


def test_the_formatter_is_replaced_with_events_waiting(
    stuck: Make,
    receiver: Receiver,
    logger: logging.Logger,
    eventually: Callable[..., None],
) -> None:
    """What was written in the former format is put into no batch of the new one."""
    made = stuck()
    log(logger, 1, 2)
    eventually(lambda: made.stats().endpoints["hook"].queued == 2)
    made.setFormatter(Lines())
    receiver.release()
    assert made.flush(PATIENCE)
    assert [request.json["id"] for request in receiver.received()][1:] == ["1", "2"]


def test_beside_an_endpoint_without_batches(
    handler: Make, receiver: Receiver, logger: logging.Logger
) -> None:
    made = handler(
        [receiver.endpoint("/many", batch={"linger": HOUR}), receiver.endpoint("/single")]
    )
    log(logger, *range(5), sandbox_id="x")
    assert made.flush(PATIENCE)
    (request,) = receiver.received("/many")
    singles = receiver.received("/single")
    assert [one.json for one in singles] == request.json["events"]
    assert made.stats().delivered == 10
