"""Format ``dingtalk``: a Markdown message for a custom robot of DingTalk.

https://open.dingtalk.com/document/orgapp/custom-robots-send-group-messages
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cubehook.event import Event
from cubehook.formats._answers import Codes
from cubehook.formats._chat import ChatFormatter, encode, more
from cubehook.formats._text import WIDE, in_json, utf8, utf16
from cubehook.outcome import Failure, Reply
from cubehook.redaction import JSONValue

MAX_BYTES = 20_000

_PENALTY = 600.0  # who sends too fast is shut out for ten minutes
_BREAK = "\n\n---\n\n"

_CODES = Codes(
    service="dingtalk",
    names=("errcode",),
    limits={
        130101: _PENALTY,  # over 20 messages a minute
        130102: _PENALTY,
        130103: _PENALTY,
        302033: _PENALTY,  # its older number
        410100: _PENALTY,
    },
    final={
        40035,  # no JSON
        43004,  # content type
        300001,  # token or parameter
        300005,  # no such token
        310000,  # keyword, signature or address: the security settings
        400013,  # group dissolved
        400101,  # no such token
        400102,  # robot switched off
        400105,  # type of message
        400106,  # robot not in the group
        430101,  # unsafe link
        430102,  # unfit text
        430103,  # unfit picture
        430104,  # unfit content
    },
)


class DingTalkFormatter(ChatFormatter):
    """A heading and a list of the fields. The scheme is ``dingtalk``; without a secret it signs
    nothing.

    Brackets are written as their wide forms, so that there are neither links nor pictures;
    ``isAtAll`` is false and no number is named, so that nobody is mentioned.
    """

    scheme = "dingtalk"
    rate_limit = "20/60s"
    escapes = WIDE

    def size(self, text: str) -> int:
        """Characters: a single event is far below the limit of bytes."""
        return utf16(text)

    def payload(self, event: Event) -> JSONValue:
        """The message."""
        note = self.note(event)
        lines = [f"{name}: {value}" for name, value in note.fields] + more(note.more, "field")
        items = "\n".join(f"- {line}" for line in lines)
        return _message(
            note.title, "\n\n".join(filter(None, [f"#### {note.title}", items, note.time]))
        )

    def joined(self, messages: Sequence[Any]) -> JSONValue:
        """The texts one after the other, a rule between them."""
        texts = [message["markdown"]["text"] for message in messages]
        heading = f"{len(texts)} events"
        frame = utf8(encode(_message(heading, "")))
        gap = in_json(_BREAK)
        sizes = [in_json(text) + gap for text in texts]
        number = self.fitting(sizes, len(texts), MAX_BYTES - frame, gap + 4)
        shown = [*texts[:number], *more(len(texts) - number, "event")]
        return _message(heading, _BREAK.join(shown))

    def judge(self, reply: Reply) -> Reply | Failure:
        """By ``errcode``: the status is 200 whatever happened."""
        return _CODES.judge(reply)


def _message(title: str, text: str) -> JSONValue:
    return {
        "msgtype": "markdown",
        "markdown": {"title": title, "text": text},
        "at": {"isAtAll": False},
    }
