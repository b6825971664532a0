"""How many attempts at once are of use: as many as an answer takes longer than we compute for it.

While an attempt waits for its answer another can be made; but two that both compute take turns (the
GIL), and more threads only take from the application. So n attempts at once keep one core busy when
n is the time of an answer divided by the computing that an attempt costs; one more bridges the
gaps. Where nearly all of that time is our own computing, turns cost more than gaps: then it is one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

_SAMPLE = 64  # attempts in one sample
_LUCKY = 3  # of them may have been quick by luck, or answered from a cache
_SMOOTHING = 1 / 16
_MOSTLY_COMPUTING = 1.3  # times the computing: an answer that takes less than that


class Effort(NamedTuple):
    """What an attempt took: ``seconds`` by the clock, ``computing`` seconds of its own thread.

    The latter are None where they were not measured.
    """

    seconds: float
    computing: float | None


class Pace:
    """Measures attempts and says how many at once are of use; ``most`` until it is known."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._computing = 0.0
        # A quick one of the last sample: what others took longer is waiting for the GIL, perhaps.
        self._quick = math.inf
        self._sample: list[float] = []

    def note(self, effort: Effort) -> None:
        """Take in an attempt that was answered."""
        if effort.computing is not None:
            difference = effort.computing - self._computing
            self._computing += difference * (_SMOOTHING if self._computing else 1.0)
        self._sample.append(effort.seconds)
        # The first look is an early one: until then all is taken for useful.
        if len(self._sample) >= (_SAMPLE if self._quick < math.inf else _LUCKY + 1):
            self._quick = sorted(self._sample)[_LUCKY]
            self._sample.clear()

    @property
    def useful(self) -> int:
        """How many attempts at once are of use."""
        if self._quick == math.inf or self._computing <= 0.0:
            return self._most
        ratio = self._quick / self._computing
        return 1 if ratio < _MOSTLY_COMPUTING else min(math.ceil(ratio) + 1, self._most)
