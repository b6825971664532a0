"""Format ``teams``: an Adaptive Card for a webhook of Microsoft Teams (Workflows).

https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cubehook.event import Event
from cubehook.formats._chat import ChatFormatter, encode, more
from cubehook.formats._text import utf8, utf16
from cubehook.outcome import Failure, Reply
from cubehook.redaction import JSONValue

MAX_BYTES = 28 * 1024
"""Of the message. Some have found it to be counted in UTF-16, so both have to fit."""

_COLOURS = {"warn": "Warning", "error": "Attention"}
_FAILED = re.compile(rb"Webhook message delivery failed(?:.{0,200}HTTP error ([0-9]{3}))?", re.S)
_LIMIT_WAIT = 30.0  # the longer of the two windows in which requests are counted


class TeamsFormatter(ChatFormatter):
    """The card is made of text runs, in which Teams reads neither markup nor mentions."""

    rate_limit = "4/1s"

    def size(self, text: str) -> int:
        """Characters: a single event is far below the limit of bytes."""
        return utf16(text)

    def payload(self, event: Event) -> JSONValue:
        """The message."""
        note = self.note(event)
        title: dict[str, JSONValue] = {"size": "Medium", "weight": "Bolder"}
        if event.level in _COLOURS:
            title["color"] = _COLOURS[event.level]
        return _message(
            [
                {**_line(_run(note.title, **title)), "separator": True},
                *(
                    _line(_run(f"{name}: ", weight="Bolder"), _run(value))
                    for name, value in note.fields
                ),
                *(_line(_run(word)) for word in more(note.more, "field")),
                _line(_run(note.time, isSubtle=True)),
            ]
        )

    def joined(self, messages: Sequence[Any]) -> JSONValue:
        """The bodies one after the other in one card."""
        bodies = [message["attachments"][0]["content"]["body"] for message in messages]
        frame = _bytes(_message([_line(_run(*more(len(bodies), "event")))]))
        number = self.fitting([_bytes(body) for body in bodies], len(bodies), MAX_BYTES - frame)
        parts = [part for body in bodies[:number] for part in body]
        words = more(len(bodies) - number, "event")
        return _message([*parts, *(_line(_run(word)) for word in words)])

    def judge(self, reply: Reply) -> Reply | Failure:
        """A workflow answers 202. A connector answers 200, and says in words what went wrong."""
        found = _FAILED.search(reply.body) if 200 <= reply.status < 300 else None
        if found is None:
            return reply
        status = int(found[1] or 0)
        if status == 429:
            return Failure("teams: status 429", wait=_LIMIT_WAIT)
        return Failure(f"teams: status {status}", final=400 <= status < 500 and status != 408)


def _bytes(value: JSONValue) -> int:
    text = encode(value)
    return max(utf8(text), 2 * utf16(text))


def _run(text: str, **style: JSONValue) -> dict[str, JSONValue]:
    return {"type": "TextRun", "text": text, **style}


def _line(*runs: JSONValue) -> dict[str, JSONValue]:
    return {"type": "RichTextBlock", "inlines": list(runs)}


def _message(body: list[JSONValue]) -> JSONValue:
    card: JSONValue = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
        "msteams": {"width": "Full"},
    }
    attachment: JSONValue = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [attachment]}
