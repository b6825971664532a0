"""Format ``slack``: a message for one of Slack's incoming webhooks.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cubehook.event import Event
from cubehook.formats._answers import json_object
from cubehook.formats._chat import ChatFormatter, more
from cubehook.formats._text import utf16
from cubehook.outcome import Failure, Reply
from cubehook.redaction import JSONValue

MAX_SECTION = 3000
MAX_BLOCKS = 50
MAX_ALL = 12_000
"""Of the text in all blocks: Slack refuses some 13,200 (``msg_blocks_too_long``)."""


class SlackFormatter(ChatFormatter):
    """One section block for each event, and its title as the text of notifications.

    Slack reads ``<!channel>`` and ``<https://…|text>`` in a text, and nothing of that kind where
    ``&``, ``<`` and ``>`` are escaped. ``verbatim`` keeps it from making links of its own.
    """

    rate_limit = "1/1s"
    escapes = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "'"})

    def size(self, text: str) -> int:
        """Slack says "characters"."""
        return utf16(text)

    def payload(self, event: Event) -> JSONValue:
        """The message."""
        note = self.note(event)
        title = f"*{note.title}*"
        room = MAX_SECTION - self.size(title) - self.size(note.time) - 2
        text = "\n".join([title, *self.lines(note, room, gap=1), note.time])
        return _message(note.title, [_section(text)])

    def joined(self, messages: Sequence[Any]) -> JSONValue:
        """The sections one after the other."""
        blocks = [block for message in messages for block in message["blocks"]]
        sizes = [self.size(block["text"]["text"]) for block in blocks]
        number = self.fitting(sizes[: MAX_BLOCKS - 1], len(blocks), MAX_ALL)
        rest = more(len(blocks) - number, "event")
        return _message(
            f"{len(messages)} events", [*blocks[:number], *(_section(word) for word in rest)]
        )

    def judge(self, reply: Reply) -> Reply | Failure:
        """Slack fails by status; where it answers in JSON, as for workflows, by ``ok`` as well."""
        if 200 <= reply.status < 300 and json_object(reply).get("ok", True) is False:
            return Failure("slack: not ok")
        return reply


def _section(text: str) -> JSONValue:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _message(text: str, blocks: list[JSONValue]) -> JSONValue:
    return {"text": text, "blocks": blocks, "unfurl_links": False, "unfurl_media": False}
