"""Format ``discord``: a message for one of Discord's webhooks, each event an embed.

https://discord.com/developers/docs/resources/webhook#execute-webhook
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cubehook.event import Event
from cubehook.formats._chat import MAX_VALUE, ChatFormatter, more
from cubehook.formats._text import cut, utf16
from cubehook.redaction import JSONValue

MAX_EMBEDS = 10
MAX_ALL = 6000
"""Characters in all embeds of a message together."""

_COLOURS = {"debug": 0x95A5A6, "info": 0x3498DB, "warn": 0xF1C40F, "error": 0xE74C3C}
_MARKUP = "\\*_~`|[]()<>#@"
_INLINE = 40  # three short ones share a row


class DiscordFormatter(ChatFormatter):
    """Values are set as code, where Discord reads no markup; ``allowed_mentions`` allows none.

    Two limits hold for a webhook, 5 requests in 2 seconds and 30 in 60: 5 in 10 keeps both.
    """

    rate_limit = "5/10s"
    escapes = str.maketrans({char: f"\\{char}" for char in _MARKUP})

    def size(self, text: str) -> int:
        """Discord says "characters"."""
        return utf16(text)

    def value(self, text: str) -> str:
        """As code: no backslashes to read, and it can be copied."""
        return f"`{cut(text.replace('`', chr(39)), MAX_VALUE, utf16)}`"

    def payload(self, event: Event) -> JSONValue:
        """The message. Discord shows the time as that of who reads it."""
        note = self.note(event)
        embed: dict[str, JSONValue] = {
            "title": note.title,
            "color": _COLOURS[event.level],
            "timestamp": event.timestamp,
            "fields": [
                {"name": name, "value": value, "inline": len(value) <= _INLINE}
                for name, value in note.fields
            ],
        }
        if note.more:
            embed["footer"] = {"text": more(note.more, "field")[0]}
        return _message([embed])

    def joined(self, messages: Sequence[Any]) -> JSONValue:
        """The embeds that fit, and a word above them on the others."""
        embeds = [embed for message in messages for embed in message["embeds"]]
        sizes = [self._embed_size(embed) for embed in embeds[:MAX_EMBEDS]]
        number = self.fitting(sizes, len(embeds), MAX_ALL)
        return _message(embeds[:number], *more(len(embeds) - number, "event"))

    def _embed_size(self, embed: Any) -> int:
        texts = [embed["title"], embed.get("footer", {}).get("text", "")]
        for field in embed["fields"]:
            texts += (field["name"], field["value"])
        return sum(map(self.size, texts))


def _message(embeds: list[JSONValue], content: str = "") -> JSONValue:
    return {
        **({"content": content} if content else {}),
        "embeds": embeds,
        "allowed_mentions": {"parse": []},
    }
