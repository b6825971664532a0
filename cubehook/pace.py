"""How many attempts at once are of use: as many as an answer takes longer than we compute for it.

While an attempt waits for its answer another can be made; but two that both compute take turns (the
GIL), and more threads only take from the application. So n attempts at once keep one core busy when
n is the time of an answer divided by the computing that an attempt costs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

_SAMPLE = 64  # attempts in one sample
_SMOOTHING = 1 / 16


class Effort(NamedTuple):
    """What an attempt took: ``seconds`` by the clock, ``computing`` seconds of its own thread."""

    seconds: float
    computing: float


class Pace:
    """Measures attempts and says how many at once are of use; ``most`` until it is known."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._computing = 0.0
        # The quickest of the last sample and of this one: what others take is waiting for the GIL.
        self._quickest = self._sampled = math.inf
        self._count = 0

    def note(self, effort: Effort) -> None:
        """Take in an attempt that was answered."""
        difference = effort.computing - self._computing
        self._computing += difference * (_SMOOTHING if self._computing else 1.0)
        self._sampled = min(self._sampled, effort.seconds)
        self._count += 1
        if self._count >= _SAMPLE:
            self._quickest, self._sampled, self._count = self._sampled, math.inf, 0

    @property
    def useful(self) -> int:
        """How many attempts at once are of use."""
        quickest = min(self._quickest, self._sampled)
        if quickest == math.inf or self._computing <= 0.0:
            return self._most
        return min(math.ceil(quickest / self._computing) + 1, self._most)
