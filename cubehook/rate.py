"""How often an endpoint may be sent to: its ``rate_limit``, and the count that keeps to it."""

from __future__ import annotations

import math
import re
from collections import deque
from typing import NamedTuple

from cubehook import checks

UNLIMITED = "none"
"""What lifts the limit that a format brings along."""

MOST = 100_000
"""The highest number of attempts: the moment of each attempt is remembered."""

_TEXT = re.compile(r"([0-9]{1,6})/([0-9]{1,6}(?:\.[0-9]{1,6})?)?([smh])", re.ASCII)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Rate(NamedTuple):
    """At most ``most`` attempts within any ``seconds``."""

    most: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.most}/{self.seconds:g}s"


def check(value: object) -> Rate | str:
    """``"20/60s"``, ``"20/m"``, or ``"none"``, which stays what it is (see `checks`)."""
    if isinstance(value, Rate):
        return value
    text = checks.string(value)
    if text == UNLIMITED:
        return text
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"must be like '20/60s', '20/m' or '{UNLIMITED}'")
    most, seconds = int(match[1]), float(match[2] or 1) * _SECONDS[match[3]]
    if not 1 <= most <= MOST:
        raise ValueError(f"must allow 1 to {MOST} attempts")
    checks.seconds(seconds)
    return Rate(most, seconds)


class Window:
    """The attempts of the last ``seconds``: a sliding window, so no moment sees twice the rate."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._begun: deque[float] = deque(maxlen=rate.most)

    def note(self, now: float) -> None:
        """An attempt begins."""
        self._begun.append(now)

    def free_at(self) -> float:
        """The moment from which on one more attempt may begin."""
        full = len(self._begun) == self.rate.most
        return self._begun[0] + self.rate.seconds if full else -math.inf

    def room(self, now: float) -> int:
        """How many attempts may begin now."""
        while self._begun and self._begun[0] + self.rate.seconds <= now:
            self._begun.popleft()
        return self.rate.most - len(self._begun)
