"""What is sent: `Message`, an event written in a format, as the same bytes for every attempt."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent for an event, to every endpoint of its format.

    id: the event's. event: its name. key: its ordering key, or None.
    """

    id: str
    event: str
    key: str | None = field(repr=False)
    content_type: str
    body: bytes = field(repr=False)
