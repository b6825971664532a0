"""What the formats for chats share: how an event is put into words, and `ChatFormatter`."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

from cubehook.event import Event
from cubehook.formats._base import WebhookFormatter
from cubehook.formats._text import cut, kept, plain
from cubehook.redaction import JSONValue

MAX_FIELDS = 12
MAX_TITLE = 150
MAX_NAME = 48
MAX_VALUE = 300
"""The longest of each, in what the service counts in."""

_TITLES = {
    "sandbox.created": "Sandbox created",
    "sandbox.deleted": "Sandbox deleted",
    "sandbox.paused": "Sandbox paused",
    "sandbox.resumed": "Sandbox resumed",
    "sandbox.timeout.updated": "Sandbox timeout updated",
    "sandbox.refreshed": "Sandbox refreshed",
    "sandbox.rolled_back": "Sandbox rolled back",
    "snapshot.created": "Snapshot created",
    "snapshot.deleted": "Snapshot deleted",
}
_LEVELS = {"warn": "WARNING: ", "error": "ERROR: "}

encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Note(NamedTuple):
    """An event in words, escaped for the service. ``more``: how many fields are left out."""

    title: str
    fields: Sequence[tuple[str, str]]
    more: int
    time: str


class ChatFormatter(WebhookFormatter):
    """A format that people read: a title, a line for each field, the time.

    Whatever the fields hold, nobody is mentioned by them, no link reads other than its address,
    and the body stays within what the service takes.

    escapes: what is written for a character that the service would take for markup.
    """

    escapes: ClassVar[dict[int, str]] = {}

    @abstractmethod
    def size(self, text: str) -> int:
        """How much of its limits the service counts for the text."""

    @abstractmethod
    def joined(self, messages: Sequence[Any]) -> JSONValue:
        """One message of several that `payload` has made."""

    def join(self, batch_id: str, bodies: Sequence[bytes]) -> bytes:
        """One message of several: those that fit, and how many there are beside them.

        People read it: what has to have every event whole is no chat.
        """
        return encode(self.joined([json.loads(body) for body in bodies])).encode("utf-8")

    def note(self, event: Event) -> Note:
        """The event in words, each of them short."""
        fields = cast("dict[str, JSONValue]", dict(event.fields))  # plain JSON after redaction
        subject = fields.pop(_subject(event.name), None)
        title = _TITLES.get(event.name) or event.name or "Log record"
        if subject not in (None, ""):
            title = f"{title}: {plain(subject, MAX_TITLE)}"
        shown = list(fields.items())[:MAX_FIELDS]
        return Note(
            title=self.shown(_LEVELS.get(event.level, "") + title, MAX_TITLE),
            fields=[
                (self.shown(plain(name, MAX_NAME), MAX_NAME), self.value(plain(value, MAX_VALUE)))
                for name, value in shown
            ],
            more=len(fields) - len(shown),
            time=f"{event.timestamp[:19].replace('T', ' ')} UTC",
        )

    def value(self, text: str) -> str:
        """The value of a field as it is written."""
        return self.shown(text, MAX_VALUE)

    def shown(self, text: str, most: int) -> str:
        """The text escaped, at most so long."""
        return cut(text, most, self._escaped_size).translate(self.escapes)

    def lines(self, note: Note, most: int, gap: int) -> list[str]:
        """The fields, one a line, as many as fit; ``gap``: what a line costs beside its text."""
        lines = [f"{name}: {value}" for name, value in note.fields]
        total = len(lines) + note.more
        number = self.fitting([self.size(line) + gap for line in lines], total, most, gap)
        return lines[:number] + more(total - number, "field")

    def fitting(self, sizes: Sequence[int], total: int, most: int, gap: int = 0) -> int:
        """How many fit, from the first on, with a word on those of the ``total`` that do not."""
        word = self.size(_word(total, "event")) + gap
        return kept(sizes, most - word, 0) if total > len(sizes) else kept(sizes, most, word)

    def _escaped_size(self, text: str) -> int:
        return self.size(text.translate(self.escapes))


def more(number: int, what: str) -> list[str]:
    """The word on what was left out, if anything was."""
    return [_word(number, what)] if number else []


def _word(number: int, what: str) -> str:
    return f"… and {number} more {what}{'' if number == 1 else 's'}"


def _subject(name: str) -> str:
    return "snapshot_id" if name.startswith("snapshot.") else "sandbox_id"
