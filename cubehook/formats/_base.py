"""What every format is: a ``logging.Formatter`` that redacts first and writes a body after."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

from cubehook.event import Event
from cubehook.outcome import Failure, Reply
from cubehook.redaction import JSONValue, Redactor

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class BodyFormat(Protocol):
    """What delivery needs of a format."""

    @property
    def content_type(self) -> str:
        """The value of the Content-Type header."""

    def format_event(self, event: Event) -> bytes:
        """The body to send for ``event``."""

    def judge(self, reply: Reply) -> Reply | Failure:
        """What an answer amounts to: some services say in the body of a 200 that it failed."""


@runtime_checkable
class BatchFormat(BodyFormat, Protocol):
    """A format that can put several events into one body."""

    @property
    def batch_content_type(self) -> str:
        """The value of the Content-Type header of such a body; empty: it is the same."""

    def join(self, batch_id: str, bodies: Sequence[bytes]) -> bytes:
        """One body of the bodies of several events."""


class WebhookFormatter(logging.Formatter):
    """Writes an event as the body of a webhook; the default is format ``cube``.

    A subclass overrides `payload` (or `write`, where the body is not JSON) and ``content_type``.
    What reaches it is redacted already.

    content_type: of a body. batch_content_type: of one that holds several events; empty: the same.
    scheme: how requests are signed where an endpoint does not say. rate_limit: how many a service
    takes (``"20/60s"``) where an endpoint does not say; None: any number.
    A service that takes one event at a time has a subclass that says ``join = None``.
    redact: more field names to remove. keep: names to keep although the rules would remove them.
    """

    content_type: str = "application/json"
    batch_content_type: str = ""
    scheme: str = "cube"
    rate_limit: str | None = None

    def __init__(
        self, *formatter_args: Any, redact: Iterable[str] = (), keep: Iterable[str] = (), **kw: Any
    ) -> None:
        # fmt, datefmt, style …: logging.config passes them to any formatter class.
        super().__init__(*formatter_args, **kw)
        self.redactor = Redactor(redact, keep)

    def format(self, record: logging.LogRecord) -> str:
        """The body for ``record`` as text; a record without an event has the event ``null``."""
        event = Event.from_record(record) or Event.untagged(record)
        return self.format_event(event).decode("utf-8")

    def format_event(self, event: Event) -> bytes:
        """Redact, then write. It does not fail: what JSON cannot say is replaced by what it can."""
        return self.write(event.having(self.redactor.fields(event.fields)))

    def write(self, event: Event) -> bytes:
        """The body of an event whose fields are redacted."""
        return _encode(self.payload(event)).encode("utf-8")

    def join(self, batch_id: str, bodies: Sequence[bytes]) -> bytes:
        """The body of a batch: ``{"id": …, "events": [the bodies]}``.

        A subclass whose bodies are not JSON overrides it.
        """
        return b'{"id":%b,"events":[%b]}' % (_encode(batch_id).encode(), b",".join(bodies))

    def judge(self, reply: Reply) -> Reply | Failure:
        """What an answer amounts to. A service that says in the body of a 200 that it failed has a
        subclass which makes a `Failure` of that."""
        return reply

    def payload(self, event: Event) -> JSONValue:
        """The JSON value to send for an event whose fields are redacted.

        Format ``cube``: one flat object; the event's own names are never overwritten.
        """
        own: dict[str, JSONValue] = {
            "id": event.id,
            "timestamp": event.timestamp,
            "level": event.level,
            "event": event.name or None,
        }
        fields = cast("dict[str, JSONValue]", event.fields)  # plain JSON after redaction
        return own | fields | own


class RedactedFormat:
    """Any ``logging.Formatter`` of the application's as a format: it sees redacted fields only.

    A `WebhookFormatter` is given the event (and redacts once more, by rules of its own), any other
    formatter a log record whose message is the event's name.
    """

    def __init__(self, formatter: logging.Formatter, redactor: Redactor) -> None:
        self._formatter = formatter
        self._redactor = redactor
        self.content_type: str = getattr(formatter, "content_type", "text/plain; charset=utf-8")

    def format_event(self, event: Event) -> bytes:
        """The formatter's body, text as UTF-8."""
        clean = event.having(self._redactor.fields(event.fields))
        if isinstance(self._formatter, WebhookFormatter):
            return self._formatter.format_event(clean)
        return self._formatter.format(clean.to_record()).encode("utf-8", "replace")

    def judge(self, reply: Reply) -> Reply | Failure:
        """The formatter's judgement, if it has one."""
        judge = getattr(self._formatter, "judge", None)
        return cast("Reply | Failure", judge(reply)) if judge else reply


class RedactedBatchFormat(RedactedFormat):
    """The same for a formatter that can put several events into one body."""

    @property
    def batch_content_type(self) -> str:
        """The formatter's."""
        return getattr(self._formatter, "batch_content_type", "")

    def join(self, batch_id: str, bodies: Sequence[bytes]) -> bytes:
        """The formatter's body of several events."""
        return cast(BatchFormat, self._formatter).join(batch_id, bodies)


def has_batches(formatter: object) -> bool:
    """Whether a formatter, or a class of them, can put several events into one body."""
    return callable(getattr(formatter, "join", None))


def redacted(formatter: logging.Formatter, redactor: Redactor) -> BodyFormat:
    """The formatter as a format; with batches if it has them."""
    kind = RedactedBatchFormat if has_batches(formatter) else RedactedFormat
    return kind(formatter, redactor)
