"""The ids of the current OpenTelemetry span in each event. It needs ``opentelemetry-api``."""

from __future__ import annotations

import logging
from typing import Any

from opentelemetry import trace

from cubehook.event import tag

__all__ = ["TraceIds", "add_trace_ids"]


class TraceIds(logging.Filter):
    """Lets every record through, and gives those that carry an event ``trace_id`` and ``span_id``.

    It belongs on the handler, or on a ``QueueHandler`` before it: it has to run in the thread, or
    the task, that logs.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Nothing is raised."""
        return add_trace_ids(record)


def add_trace_ids(record: logging.LogRecord) -> bool:
    """The same as a function; always True.

    The record itself is changed, as OpenTelemetry's own logging does: before Python 3.12 a filter
    cannot put a copy in its place. Fields that it has already stay as they are.
    """
    try:
        ids = _current()
        if ids:
            _add(record, ids)
    except Exception:  # noqa: S110  # a tag of a class that does strange things: the handler counts it
        pass
    return True


def _current() -> dict[str, object]:
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(span.trace_id),
        "span_id": trace.format_span_id(span.span_id),
    }


def _add(record: logging.LogRecord, ids: dict[str, object]) -> None:
    """To the mapping that carries the event; a nested one may be the application's, so to a copy.

    Both or none: ids of two spans would not belong together.
    """
    carrier: dict[str, Any] = record.__dict__
    if issubclass(type(carrier.get("event")), str):
        if not ids.keys() & carrier.keys():
            carrier.update(ids)
        return
    for place in ("msg", "extra"):  # structlog, loguru
        nested: Any = carrier.get(place)
        if issubclass(type(nested), dict) and tag({"extra": nested}) is not None:
            if not ids.keys() & nested.keys():
                carrier[place] = {**nested, **ids}
            return
