"""Format ``wecom``: a Markdown message for a group robot of WeCom (WeChat Work).

https://developer.work.weixin.qq.com/document/path/91770
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cubehook.event import Event
from cubehook.formats._answers import Codes
from cubehook.formats._chat import ChatFormatter, more
from cubehook.formats._text import WIDE, utf8
from cubehook.outcome import Failure, Reply
from cubehook.redaction import JSONValue

MAX_CONTENT = 4096
MAX_EVENT = MAX_CONTENT - 64  # so that in a batch the first one fits, with a word on the others

_CODES = Codes(
    service="wecom",
    names=("errcode",),
    limits={
        45009: 60.0,  # over 20 messages a minute
        45033: 60.0,  # too many at once
    },
    final={
        40001,  # credential
        40008,  # type of message
        40014,  # credential
        40058,  # parameter: too long, too
        44004,  # empty
        45002,  # too long
        47001,  # no JSON
        60020,  # address not allowed
        93000,  # no such robot
        93004,  # robot switched off
        93008,  # robot not in the group
    },
)


class WeComFormatter(ChatFormatter):
    """A title in bold, the fields as a quotation.

    WeCom knows no escapes: brackets are written as their wide forms, so that ``<@user>`` and
    ``[text](address)`` are neither a mention nor a link.
    """

    rate_limit = "20/60s"
    escapes = WIDE

    def size(self, text: str) -> int:
        """Bytes of UTF-8."""
        return utf8(text)

    def payload(self, event: Event) -> JSONValue:
        """The message."""
        note = self.note(event)
        title = f"**{note.title}**"
        if event.level in ("warn", "error"):
            title = f'<font color="warning">{title}</font>'
        time = f"> {note.time}"
        room = MAX_EVENT - self.size(title) - self.size(time) - len("\n")
        lines = [f"> {line}" for line in self.lines(note, room, gap=len("> \n"))]
        return _message("\n".join([title, *lines, time]))

    def joined(self, messages: Sequence[Any]) -> JSONValue:
        """The texts one after the other."""
        texts = [message["markdown"]["content"] for message in messages]
        gap = len("\n\n")
        sizes = [self.size(text) + gap for text in texts]
        number = self.fitting(sizes, len(texts), MAX_CONTENT, gap)
        return _message("\n\n".join([*texts[:number], *more(len(texts) - number, "event")]))

    def judge(self, reply: Reply) -> Reply | Failure:
        """By ``errcode``: the status is 200 whatever happened."""
        return _CODES.judge(reply)


def _message(content: str) -> JSONValue:
    return {"msgtype": "markdown", "markdown": {"content": content}}
