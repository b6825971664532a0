"""Ids of real spans in events, by filters of handlers."""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import queue
import re
from collections.abc import Callable
from typing import Any

import pytest
from loopback import Receiver

from cubehook import WebhookHandler

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from cubehook.contrib.otel import TraceIds, add_trace_ids

TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("tests")
CREATED = {"event": "sandbox.created", "sandbox_id": "sb-1"}


def record(**extra: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": "said", **extra})


def ids(of: Any) -> tuple[Any, Any]:
    return of.get("trace_id"), of.get("span_id")


def current() -> tuple[str, str]:
    span = trace.get_current_span().get_span_context()
    return f"{span.trace_id:032x}", f"{span.span_id:016x}"


class TestRecords:
    def test_of_the_current_span(self) -> None:
        one = record(**CREATED)
        with TRACER.start_as_current_span("outer"), TRACER.start_as_current_span("inner"):
            assert TraceIds().filter(one) is True
            assert ids(vars(one)) == current()
        assert re.fullmatch("[0-9a-f]{32}", vars(one)["trace_id"])
        assert re.fullmatch("[0-9a-f]{16}", vars(one)["span_id"])

    def test_leading_zeros_stay(self) -> None:
        context = trace.SpanContext(0xAB, 0xC, is_remote=True)
        one = record(**CREATED)
        with trace.use_span(trace.NonRecordingSpan(context)):
            add_trace_ids(one)
        assert ids(vars(one)) == ("0" * 30 + "ab", "0" * 15 + "c")

    def test_no_span(self) -> None:
        one = record(**CREATED)
        assert add_trace_ids(one) is True
        assert ids(vars(one)) == (None, None)

    def test_an_invalid_span(self) -> None:
        one = record(**CREATED)
        with trace.use_span(trace.INVALID_SPAN):
            add_trace_ids(one)
        assert ids(vars(one)) == (None, None)

    @pytest.mark.parametrize(
        "extra", [{}, {"event": None}, {"event": 7}, {"msg": {"event": "no!"}}]
    )
    def test_records_without_an_event(self, extra: dict[str, Any]) -> None:
        one = record(**extra)
        before = dict(vars(one))
        with TRACER.start_as_current_span("span"):
            assert add_trace_ids(one) is True
        assert vars(one) == before

    @pytest.mark.parametrize("own", [{"trace_id": "mine"}, {"span_id": "mine"}])
    @pytest.mark.parametrize("place", [None, "msg", "extra"])
    def test_fields_of_the_application_stay(self, own: dict[str, str], place: str | None) -> None:
        fields = {**CREATED, **own}
        one = record(**fields) if place is None else record(**{place: fields})
        with TRACER.start_as_current_span("span"):
            add_trace_ids(one)
        carrier = vars(one) if place is None else vars(one)[place]
        assert ids(carrier) == (own.get("trace_id"), own.get("span_id"))

    @pytest.mark.parametrize("place", ["msg", "extra"])
    def test_an_event_in_a_nested_dict(self, place: str) -> None:
        """As structlog and loguru have it. The dict may be the application's."""
        fields = dict(CREATED)
        one = record(**{place: fields})
        with TRACER.start_as_current_span("span"):
            add_trace_ids(one)
            assert ids(vars(one)[place]) == current()
        assert fields == CREATED
        assert ids(vars(one)) == (None, None)

    def test_a_tag_that_raises(self) -> None:
        class Strange(dict[str, Any]):
            def keys(self) -> Any:
                raise RuntimeError("strange")

        with TRACER.start_as_current_span("span"):
            assert add_trace_ids(record(extra=Strange(CREATED))) is True

    def test_twice(self) -> None:
        """Two handlers with the filter, the second in another span's thread, say."""
        one = record(**CREATED)
        with TRACER.start_as_current_span("span"):
            add_trace_ids(one)
            first = current()
        with TRACER.start_as_current_span("other"):
            add_trace_ids(one)
        assert ids(vars(one)) == first


class TestDeliveries:
    @pytest.mark.parametrize(
        "filters",
        [
            {"trace": {"()": "cubehook.contrib.otel.TraceIds"}},
            {"trace": {"()": lambda: add_trace_ids}},
        ],
        ids=["class", "function"],
    )
    def test_by_dict_config(self, receiver: Receiver, filters: dict[str, Any]) -> None:
        """The redaction leaves the ids alone."""
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "filters": filters,
                "handlers": {
                    "webhooks": {
                        "class": "cubehook.WebhookHandler",
                        "endpoints": [receiver.endpoint()],
                        "filters": ["trace"],
                    }
                },
                "loggers": {"otel.test": {"level": "INFO", "handlers": ["webhooks"]}},
            }
        )
        logger = logging.getLogger("otel.test")
        (handler,) = logger.handlers
        try:
            with TRACER.start_as_current_span("span"):
                logger.info("created", extra=CREATED)
                expected = current()
            logger.info("created", extra=CREATED)
            handler.flush()
            inside, outside = (one.json for one in receiver.received())
        finally:
            logger.removeHandler(handler)
            handler.close()
        assert ids(inside) == expected
        assert ids(outside) == (None, None)

    def test_a_nested_event(
        self, receiver: Receiver, handler: Callable[..., WebhookHandler], logger: logging.Logger
    ) -> None:
        webhooks = handler()
        webhooks.addFilter(TraceIds())
        with TRACER.start_as_current_span("span"):
            logger.info({**CREATED, "other": 1})
            expected = current()
        webhooks.flush()
        assert ids(receiver.received()[0].json) == expected

    def test_before_a_queue(
        self, receiver: Receiver, handler: Callable[..., WebhookHandler]
    ) -> None:
        """Behind a queue of the application's, the span is another thread's."""
        webhooks = handler()
        between = logging.handlers.QueueHandler(queue.SimpleQueue())
        between.addFilter(TraceIds())
        listener = logging.handlers.QueueListener(between.queue, webhooks)
        logger = logging.Logger("app")
        logger.addHandler(between)
        with TRACER.start_as_current_span("span"):
            logger.info("created", extra=CREATED)
            expected = current()
        listener.start()
        listener.stop()
        webhooks.flush()
        assert ids(receiver.received()[0].json) == expected
