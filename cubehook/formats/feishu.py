"""Format ``feishu``, also ``lark``: a card for a custom bot of Feishu, or of Lark.

https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cubehook.event import Event
from cubehook.formats._answers import Codes, json_object
from cubehook.formats._chat import ChatFormatter, encode, more
from cubehook.formats._text import utf8, utf16
from cubehook.outcome import Failure, Reply
from cubehook.redaction import JSONValue

MAX_BYTES = 20_000 - 200
"""Of the body; what is kept free is for the signature that the scheme ``feishu`` adds."""

# The head of a card, the worst last.
_COLOURS = {"debug": "grey", "info": "blue", "warn": "orange", "error": "red"}
_RANKS = tuple(_COLOURS.values())
_BAD_REQUEST = 9499

_CODES = Codes(
    service="feishu",
    names=("code", "StatusCode"),
    limits={
        11232: 60.0,  # frequency limited
        11233: 60.0,  # the same, of the group
        99991400: 60.0,  # the same, of the gateway
    },
    final={
        _BAD_REQUEST,
        19001,  # no such bot
        19021,  # signature or time
        19022,  # address not allowed
        19024,  # no keyword in it
    },
)


class FeishuFormatter(ChatFormatter):
    """A card of plain text, in which Feishu reads neither markup nor mentions.

    Two limits hold for a bot, 5 requests in a second and 100 in a minute: 5 in 3 seconds keeps
    both. The scheme is ``feishu``; without a secret it signs nothing.
    """

    scheme = "feishu"
    rate_limit = "5/3s"
    # Plain text is not looked into for <at user_id="all">, and nothing would be found there.
    escapes = str.maketrans({"<": "\uff1c"})

    def size(self, text: str) -> int:
        """Characters: a single event is far below the limit of bytes."""
        return utf16(text)

    def payload(self, event: Event) -> JSONValue:
        """The message."""
        note = self.note(event)
        fields = [f"{name}: {value}" for name, value in note.fields] + more(note.more, "field")
        text = "\n".join([*fields, note.time])
        return _message(note.title, _COLOURS[event.level], [_text(text)])

    def joined(self, messages: Sequence[Any]) -> JSONValue:
        """The texts of the cards one after the other, each below its title."""
        cards = [message["card"] for message in messages]
        texts = [
            f"{card['header']['title']['content']}\n{card['elements'][0]['text']['content']}"
            for card in cards
        ]
        heading = f"{len(cards)} events"
        colour = max((card["header"]["template"] for card in cards), key=_RANKS.index)
        frame = _bytes(_message(heading, colour, [_text(*more(len(texts), "event"))]))
        sizes = [_bytes(_text(text)) + len(",") for text in texts]
        number = self.fitting(sizes, len(texts), MAX_BYTES - frame)
        shown = [*texts[:number], *more(len(texts) - number, "event")]
        return _message(heading, colour, [_text(text) for text in shown])

    def judge(self, reply: Reply) -> Reply | Failure:
        """By ``code``, or ``StatusCode``, its older name."""
        answer = json_object(reply)
        # Lark says both "Bad Request" and "too many request" with this one.
        if _CODES.code(answer) == _BAD_REQUEST and "too many" in str(answer.get("msg")).lower():
            return Failure(f"feishu: code {_BAD_REQUEST}", wait=60.0)
        return _CODES.judge(reply)


def _bytes(value: JSONValue) -> int:
    return utf8(encode(value))


def _text(content: str) -> JSONValue:
    return {"tag": "div", "text": {"tag": "plain_text", "content": content}}


def _message(title: str, colour: str, elements: list[JSONValue]) -> JSONValue:
    header: JSONValue = {"title": {"tag": "plain_text", "content": title}, "template": colour}
    return {"msg_type": "interactive", "card": {"header": header, "elements": elements}}
