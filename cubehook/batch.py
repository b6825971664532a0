"""Several events in one request: what an endpoint's ``batch`` says, and the message made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cubehook import checks
from cubehook.event import random_id
from cubehook.formats import BatchFormat
from cubehook.message import Message

BATCH_EVENT = "cubehook.batch"
"""The event name of a request that carries several."""


OVERHEAD = 128
"""Bytes that are kept free for what a batch has beside its events and the commas between them."""


class Batch(NamedTuple):
    """Events that wait are sent together, up to ``max_events``.

    linger: seconds to wait for more, counted from the first; 0: what has come together while
    the endpoint was busy.
    """

    max_events: int = 100
    linger: float = 0.0


def check(value: object) -> Batch:
    """A mapping of the fields above (see `checks`)."""
    if isinstance(value, Batch):
        value = value._asdict()
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a mapping, not {checks.kind(value)}")
    problems: list[str] = []
    values = checks.run(_CHECKS, value, "", problems)
    if problems:
        raise ValueError("; ".join(problems))
    return Batch(**values)


def joined(messages: Sequence[Message], body_format: BatchFormat, max_bytes: int) -> Message:
    """One message of several, with an id of its own.

    Raises what the format raises; TypeError if it makes something else than bytes, ValueError if
    they are too many, or if the messages were written in another format.
    """
    if any(message.content_type != body_format.content_type for message in messages):
        raise ValueError("written in another format")
    batch_id = random_id()
    body = body_format.join(batch_id, [message.body for message in messages])
    if not isinstance(body, bytes):
        raise TypeError("not bytes")
    if len(body) > max_bytes:
        raise ValueError("too large")
    content_type = body_format.batch_content_type or body_format.content_type
    return Message(batch_id, BATCH_EVENT, None, content_type, body)


def _linger(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
        if value < 0:
            raise ValueError("must not be negative")
        return 0.0
    return checks.seconds(value)


_CHECKS: dict[str, checks.Check] = {"max_events": checks.whole(1, 10_000), "linger": _linger}
