"""A line of CubeAPI's log: one JSON object, ``{"timestamp": …, "level": …, "event": …, …}``."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from cubehook.event import BODYS_OWN, YEAR_10000, is_event_name

NO_OBJECT = "no JSON object"
NAMELESS = "without a legal event name"

_BOM = b"\xef\xbb\xbf"
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}

# RFC 3339, with as many digits of a second as there are; Python 3.10 reads six at most, and no Z.
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(\.\d+)?(?:([Zz])|([+-])(\d\d):?(\d\d))?", re.ASCII
)
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
"""A number from here on is no longer one of seconds, but of so many parts of one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a line says.

    name: a legal one. time: Unix seconds; None where the line has none. own_id: the line's own
    `event_id`; its `id` may be that of a sandbox, which many lines have. fields: the payload, not
    yet redacted.
    """

    name: str
    time: float | None
    level: int
    own_id: str | None
    fields: Mapping[str, object] = field(repr=False)


def parse(text: bytes) -> Entry | str:
    """What the line says, or why it is no event. Nothing is raised."""
    found = json_object(text)
    if found is None:
        return NO_OBJECT
    name = found.get("event")
    if not isinstance(name, str) or not is_event_name(name):
        return NAMELESS
    return Entry(
        name=name,
        time=moment(found.get("timestamp")),
        level=_level(found.get("level")),
        own_id=_own_id(found),
        fields={key: value for key, value in found.items() if key not in BODYS_OWN},
    )


def json_object(text: bytes) -> dict[str, object] | None:
    """The JSON object that the text is, if it is one. What is not UTF-8 in it becomes U+FFFD."""
    try:
        # Zeros: a writer that went on where it was in a file that was cut to nothing.
        found = json.loads(text.lstrip(b"\0").removeprefix(_BOM).decode("utf-8", "replace"))
    except (ValueError, RecursionError):  # nested too deeply; a number of too many digits
        return None
    return found if isinstance(found, dict) else None


def moment(value: object) -> float | None:
    """Unix seconds of RFC 3339 (UTC where it names no zone), or of a number of seconds, or of
    milli-, micro- or nanoseconds, which are that much larger. None for what no event can have, such
    as year 1, which is how some programs write that they know no time."""
    seconds = None
    try:
        if isinstance(value, str):
            seconds = _rfc3339(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value / next((one for least, one in _UNITS if value >= least), 1.0)
    except (ValueError, OverflowError):
        pass
    return seconds if seconds is not None and 0 <= seconds < YEAR_10000 else None


def _rfc3339(text: str) -> float | None:
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    day, minute, second, fraction, _, sign, hours, minutes = match.groups()
    # A leap second is the first one of the next minute.
    start = datetime.fromisoformat(f"{day}T{minute}:00").replace(tzinfo=timezone.utc)
    if int(second) > 60:
        return None
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    start = start + offset if sign == "-" else start - offset
    return start.timestamp() + int(second) + float(fraction or 0)


def _level(value: object) -> int:
    return _LEVELS.get(value.lower(), logging.INFO) if isinstance(value, str) else logging.INFO


def _own_id(found: Mapping[str, object]) -> str | None:
    given = found.get("event_id")
    if isinstance(given, str | int) and not isinstance(given, bool) and given != "":
        return str(given)  # one that cannot stand in a header gives a UUID made of its text
    return None
