"""`Turn`: of all consumers of a group one is at work at a time, so that each sandbox's events stay
in order; the others stand by until it was not heard of for long enough.

Who is at work is seen in the group itself: it is the consumer that has asked for something lately.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cubehook import threads
from cubehook.sources._redis import Group

BEATS = 30
"""So many times in `silence` seconds the one at work lets itself be heard of."""

SELF_SILENCE = 1 / 10
"""After this part of ``silence`` a consumer of the same name counts as dead: it is most likely
this one's own former life."""

_NO_ENTRY = ("0-1",)


class Turn:
    """See the module. silence: seconds after which another consumer counts as dead."""

    def __init__(self, group: Group, silence: float) -> None:
        self.beat = silence / BEATS
        self._group = group
        self._silence = silence
        self._lock = threading.Lock()
        self._heard_at: float | None = None  # None: it is not this one's turn
        self._has: tuple[str, ...] = ()
        self._ending = threading.Event()

    @property
    def ours(self) -> bool:
        """Whether nobody else can have taken the turn."""
        heard_at = self._heard_at
        return heard_at is not None and time.monotonic() - heard_at < self.self_silence

    @property
    def self_silence(self) -> float:
        """Seconds after which one of the same name takes the turn."""
        return self._silence * SELF_SILENCE

    def take(self) -> bool:
        """Take the turn if it is nobody's: whether it did."""
        asked_at = time.monotonic()
        taken = self._group.take_turn(self._silence, self.self_silence)
        if taken:
            # What it takes to keep it, once, so that a missing permission is told now.
            self._group.touch(_NO_ENTRY)
            self._heard_at = asked_at
        return taken

    def lose(self) -> None:
        """It is not this one's any more, or that is not sure."""
        with self._lock:
            self._heard_at = None

    @contextmanager
    def working_on(self, ids: Sequence[str]) -> Iterator[None]:
        """In this block these entries are seen to be in work."""
        self._has = tuple(ids)
        try:
            yield
        finally:
            self._has = ()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """In this block the turn, once it is taken, is kept by a thread."""
        keeper = threads.start("turn", self._keep)
        try:
            yield
        finally:
            self._ending.set()
            keeper.join()

    def _keep(self) -> None:
        while not self._ending.wait(self.beat):
            # The thread must live; what goes wrong, the one at work sees, too.
            with contextlib.suppress(Exception):
                if self.ours:
                    self._touch()
                elif self._heard_at is not None:
                    # The process stood still, or Redis did: if nobody took the turn, it goes on.
                    self.take()

    def _touch(self) -> None:
        asked_at = time.monotonic()
        self._group.touch(self._has)
        with self._lock:
            if self._heard_at is not None:  # else it was lost meanwhile
                self._heard_at = asked_at
