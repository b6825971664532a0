"""structlog and loguru: their records carry events too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import loguru
import pytest
import structlog

from cubehook import WebhookHandler

if TYPE_CHECKING:
    from conftest import Receiver

PATIENCE = 10.0

Make = Callable[..., WebhookHandler]


def bodies(handler: WebhookHandler, receiver: Receiver) -> list[dict[str, Any]]:
    """What has arrived, in order."""
    assert handler.flush(PATIENCE)
    return [request.json for request in receiver.received()]


# --- structlog ---


@pytest.fixture
def structured(logger: logging.Logger) -> Iterator[Any]:
    """A structlog logger over the stdlib ``logger``, set up as structlog's manual says."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    yield structlog.wrap_logger(logger)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def test_structlog_event_with_its_fields(
    handler: Make, receiver: Receiver, structured: Any
) -> None:
    made = handler()
    structured.warning("sandbox.created", sandbox_id="sb-1", nested={"a": [1]}, password="planted")
    (body,) = bodies(made, receiver)
    assert body["event"] == "sandbox.created"
    assert body["level"] == "warn"
    assert body["sandbox_id"] == "sb-1"
    assert body["nested"] == {"a": [1]}
    assert body["timestamp"].endswith("Z"), "the record's own, not structlog's text"
    assert len(body["timestamp"]) == len("2026-07-01T08:00:00.123456Z")
    assert "password" not in body
    assert not [name for name in body if name.startswith("_")]


def test_structlog_fields_that_share_a_name_with_a_record(
    handler: Make, receiver: Receiver, structured: Any
) -> None:
    """In structlog's dict they are the application's: only on a record they are logging's."""
    made = handler()
    structured.info("sandbox.created", name="planet", module="core", process="p-1", args="a")
    (body,) = bodies(made, receiver)
    assert (body["name"], body["module"], body["process"]) == ("planet", "core", "p-1")


def test_structlog_bound_and_context_fields(
    handler: Make, receiver: Receiver, structured: Any
) -> None:
    made = handler()
    structlog.contextvars.bind_contextvars(request_id="r-1")
    structured.bind(sandbox_id="sb-1").info("sandbox.paused", event_id="id-1", reason="request")
    (body,) = bodies(made, receiver)
    assert (body["id"], body["sandbox_id"]) == ("id-1", "sb-1")
    assert (body["request_id"], body["reason"]) == ("r-1", "request")


def test_structlog_ordinary_lines_are_no_events(
    handler: Make, receiver: Receiver, structured: Any
) -> None:
    made = handler()
    structured.info("an ordinary line", sandbox_id="sb-1")
    structured.info("with %s", "arguments")
    assert bodies(made, receiver) == []
    assert made.stats().received == 0


def test_structlog_order_by_sandbox(handler: Make, receiver: Receiver, structured: Any) -> None:
    receiver.script(500, 204, 503)
    made = handler()
    for number in range(5):
        structured.info("sandbox.refreshed", sandbox_id="sb-1", number=number)
    numbers = [body["number"] for body in bodies(made, receiver)]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(5))


def test_structlog_fields_changed_after_the_call(
    handler: Make, receiver: Receiver, structured: Any
) -> None:
    made = handler()
    names = ["first"]
    receiver.hold()
    structured.info("snapshot.created", names=names)
    names.append("later")
    receiver.release()
    (body,) = bodies(made, receiver)
    assert body["names"] == ["first"]


def test_structlog_beside_a_console_handler(
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    structured: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The console's ProcessorFormatter changes the record's dict; it comes first here."""
    console = logging.StreamHandler()
    console.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ]
        )
    )
    logger.addHandler(console)
    made = handler()
    structured.info("sandbox.created", sandbox_id="sb-1")
    (body,) = bodies(made, receiver)
    assert (body["event"], body["sandbox_id"]) == ("sandbox.created", "sb-1")
    assert '"event": "sandbox.created"' in capsys.readouterr().err


# --- loguru ---


@pytest.fixture
def guru(handler: Make) -> Iterator[Any]:
    """loguru's logger with no sink but those of the test."""
    loguru.logger.remove()
    yield loguru.logger
    loguru.logger.remove()


def test_loguru_event_with_its_fields(handler: Make, receiver: Receiver, guru: Any) -> None:
    made = handler()
    guru.add(made, level="DEBUG")
    guru.bind(event="sandbox.created", sandbox_id="sb-1", token="planted").warning("a {}", "text")
    (body,) = bodies(made, receiver)
    assert list(body) == ["id", "timestamp", "level", "event", "sandbox_id"]
    assert body["event"] == "sandbox.created"
    assert body["level"] == "warn"
    assert body["sandbox_id"] == "sb-1"


def test_loguru_fields_of_the_call_and_of_the_context(
    handler: Make, receiver: Receiver, guru: Any
) -> None:
    made = handler()
    guru.add(made)
    with guru.contextualize(request_id="r-1"):
        guru.info("created", event="sandbox.created", event_id="id-1", name="planet")
    (body,) = bodies(made, receiver)
    assert (body["id"], body["request_id"], body["name"]) == ("id-1", "r-1", "planet")


@pytest.mark.parametrize(
    ("level", "written"),
    [("TRACE", "debug"), ("SUCCESS", "info"), ("WARNING", "warn"), ("CRITICAL", "error")],
)
def test_loguru_levels(
    handler: Make, receiver: Receiver, guru: Any, level: str, written: str
) -> None:
    made = handler()
    guru.add(made, level=0)
    guru.bind(event="a.b").log(level, "text")
    (body,) = bodies(made, receiver)
    assert body["level"] == written


def test_loguru_an_exception_is_no_part_of_the_body(
    handler: Make, receiver: Receiver, guru: Any
) -> None:
    made = handler()
    guru.add(made)
    try:
        raise ValueError("planted")
    except ValueError:
        guru.bind(event="sandbox.deleted").exception("planted")
    (body,) = bodies(made, receiver)
    assert body["level"] == "error"
    assert "planted" not in repr(body)


def test_loguru_ordinary_lines_are_no_events(handler: Make, receiver: Receiver, guru: Any) -> None:
    made = handler()
    guru.add(made)
    guru.info("an ordinary line")
    guru.bind(sandbox_id="sb-1").info("another")
    guru.bind(event="two words").info("and one more")
    assert bodies(made, receiver) == []
    assert made.stats().received == 0


def test_loguru_enqueued_records_arrive_too(handler: Make, receiver: Receiver, guru: Any) -> None:
    """``enqueue=True`` hands them to the handler in a thread of loguru's."""
    made = handler()
    sink = guru.add(made, enqueue=True)
    guru.bind(event="sandbox.created", sandbox_id="sb-1").info("created")
    guru.complete()
    (request,) = receiver.wait_for(1)
    assert request.json["sandbox_id"] == "sb-1"
    guru.remove(sink)  # closes the handler
