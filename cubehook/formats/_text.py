"""Text for people: made harmless to look at, measured as a service measures it, and cut to fit."""

from __future__ import annotations

import json
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TypeAlias

from cubehook.redaction import JSONValue

Size: TypeAlias = Callable[[str], int]
"""What a text costs. That of two texts is that of both together, and no character is free."""

UNTAGGED = "log.record"
"""The event name of a record that has none, where a format cannot leave it out."""

MARK = "…"
"""What stands where something was cut off."""

# Zero width joiner and non-joiner: emoji and some scripts are written with them.
_JOINER = "\u200d"
_NEEDED_FORMATS = frozenset({_JOINER, "\u200c"})
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_FLAG_LETTERS = range(0x1F1E6, 0x1F200)
_JAMO_WITHIN = range(0x1160, 0x1200)  # vowels and finals, which follow an initial

WIDE = str.maketrans({"<": "\uff1c", ">": "\uff1e", "[": "\uff3b", "]": "\uff3d", "`": "'"})
"""Brackets as their wide forms, for services that know no escapes; they read as no markup."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def utf16(text: str) -> int:
    """UTF-16 code units: never less than characters, however a service may count those."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def utf8(text: str) -> int:
    """Bytes of UTF-8."""
    return len(text.encode("utf-8", "surrogatepass"))


def in_json(text: str) -> int:
    """Bytes of UTF-8 within a JSON string."""
    return utf8(_encode(text)) - 2


def one_line(text: str) -> str:
    """The text without what has no place in a line of a chat.

    Line ends, tabs and other controls become spaces; what turns the direction of writing, and
    what nobody sees, is left out; half a surrogate pair becomes U+FFFD.
    """
    if not (text.isascii() and text.isprintable()):
        text = "".join(map(_visible, text))
    return " ".join(text.split())


def _visible(char: str) -> str:
    category = unicodedata.category(char)
    if category in ("Cc", "Zl", "Zp", "Zs"):
        return " "
    if category == "Cs":
        return "\ufffd"
    if category == "Cf" and char not in _NEEDED_FORMATS:
        return ""
    return char


def cut(text: str, most: int, size: Size) -> str:
    """The text, or as much of its beginning as costs ``most`` together with the mark.

    No character is cut in two, nor what is seen as one: a letter and its accents, a family of
    emoji, a flag, a syllable of Hangul.
    """
    if len(text) <= most and size(text) <= most:
        return text
    room = most - size(MARK)
    if room < 0:
        return ""
    tried = range(1, min(len(text), room) + 1)
    end = bisect_right(tried, room, key=lambda length: size(text[:length]))
    while end and _is_within(text, end):
        end -= 1
    return text[:end].rstrip() + MARK


def _is_within(text: str, at: int) -> bool:
    """Whether what is seen as one character is on both sides of this place."""
    if at >= len(text):
        return False
    char, before = text[at], text[at - 1]
    code = ord(char)
    if before == _JOINER or char in _NEEDED_FORMATS or unicodedata.category(char)[0] == "M":
        return True
    if code in _SKIN_TONES or code in _JAMO_WITHIN:
        return True
    return code in _FLAG_LETTERS and _letters_before(text, at) % 2 == 1


def _letters_before(text: str, at: int) -> int:
    start = at
    while start and ord(text[start - 1]) in _FLAG_LETTERS:
        start -= 1
    return at - start


def kept(sizes: Sequence[int], most: int, rest: int) -> int:
    """How many of these fit, from the first on. ``rest``: what the word on the others costs."""
    if sum(sizes) <= most:
        return len(sizes)
    left = most - rest
    for number, size in enumerate(sizes):
        left -= size
        if left < 0:
            return number
    return len(sizes)


def plain(value: JSONValue, most: int) -> str:
    """A value as a person would write it, on one line; much of it where it is far over ``most``."""
    text = value if isinstance(value, str) else _encode(value)
    near = 4 * most  # some of it may go; what is behind need not be looked at
    shown = one_line(text[:near]) + (MARK if len(text) > near else "")
    return shown or "(empty)"
