"""Times as people write and read them: ``7d``, ``2h``, ISO 8601. All of them are UTC."""

from __future__ import annotations

import re
from datetime import datetime, timezone

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)(?: ago)?")


def seconds_of(text: str) -> float:
    """The seconds of ``90``, ``90s``, ``5m``, ``2h``, ``7d`` or ``1w``. Raises ValueError."""
    match = _AGE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError("must be a number with s, m, h, d or w, as in 7d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def moment_of(text: str, now: float) -> float:
    """Seconds since the epoch of ISO 8601 (UTC where it names no zone), or of so long ago.

    Raises ValueError.
    """
    if _AGE.fullmatch(text.strip().lower()):
        return now - seconds_of(text)
    try:
        # Python 3.10 does not take the Z.
        parsed = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text.strip()))
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=timezone.utc)
        return parsed.timestamp()
    except (ValueError, OverflowError):
        raise ValueError("must be as in 2h (ago) or 2026-01-31T18:00:00Z") from None


def shown(moment: float) -> str:
    """A moment in a table."""
    return _utc(moment).strftime("%Y-%m-%d %H:%M:%SZ")


def iso(moment: float | None) -> str | None:
    """A moment in JSON."""
    return None if moment is None else _utc(moment).isoformat(timespec="milliseconds")


def span(seconds: float) -> str:
    """A length of time in one unit: ``45 s``, ``12 min``, ``3 h``, ``9 d``."""
    for unit, size, up_to in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < up_to:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _utc(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, timezone.utc)
