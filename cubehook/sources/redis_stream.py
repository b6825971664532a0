"""`RedisStream`: gives what CubeMaster writes into its lifecycle stream to a feed.

An entry is acknowledged once the feed says that its event is safe. What a crash, a signal or a lost
connection cuts off stays pending, and is read again before anything new, with the same event ids.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cubehook.errors import CubehookError
from cubehook.notices import SeldomWarning, notice
from cubehook.sources._feed import Feed
from cubehook.sources._lifecycle import event_of
from cubehook.sources._redis import Entry, Group, GroupGoneError, UnreachableError
from cubehook.sources._turn import Turn

logger = logging.getLogger(__name__)

MIN_IDLE = 60.0
WAIT_SECONDS = 0.5
"""How long one look for new entries takes, before it is asked whether to stop."""

BATCH = 100
SUMMARY_SECONDS = 60.0
_PAUSES = (0.2, 10.0)  # seconds before it connects again: the first time, and at most


class BusyError(CubehookError):
    """Another consumer of the group is at work."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is read, and as whom.

    from_start: a group that is not there yet begins with the oldest entry, not with the next one.
    min_idle: after so many seconds a consumer that was not heard of is dead, and what it had is
    taken over.
    """

    stream: str
    group: str
    consumer: str
    from_start: bool = False
    min_idle: float = MIN_IDLE


@dataclass(frozen=True, slots=True)
class Counts:
    """Entries so far. skipped: told of no event. gone: were no longer there when it was their
    turn."""

    events: int = 0
    skipped: int = 0
    gone: int = 0

    def plus(self, events: int = 0, skipped: int = 0, gone: int = 0) -> Counts:
        """These and more."""
        return Counts(self.events + events, self.skipped + skipped, self.gone + gone)

    def __str__(self) -> str:
        return f"{self.events} events, {self.skipped} skipped, {self.gone} gone"


class RedisStream:
    """See the module. stopping: set by whoever ends it; the feed's own, too.

    Raises `ConfigError` for a URL that cannot be used.
    """

    def __init__(self, url: str, place: Place, feed: Feed, stopping: threading.Event) -> None:
        self.counts = Counts()
        self._place = place
        self._feed = feed
        self._stopping = stopping
        self._group = Group(url, place.stream, place.group, place.consumer)
        self._turn = Turn(self._group, place.min_idle)
        self._position: str | None = None  # the last entry that the group gave, as far as is known
        self._safe: list[str] = []  # entries that are to be acknowledged
        self._behind = True  # there may be entries that this consumer was given before
        self._claim_at = 0.0
        self._told = (time.monotonic(), self.counts)
        self._warn = SeldomWarning(logger)
        self._warn_of_skipped = SeldomWarning(logger)

    def run(self) -> None:
        """Work until it is to stop. Raises `RefusedError` where that is of no use."""
        failures = 0
        with self._turn.kept():
            while not self._stopping.is_set():
                try:
                    self._wait_for_turn()
                    if failures and self._turn.ours:
                        notice(logger, logging.INFO, "connected again")
                        failures = 0
                    while self._turn.ours and not self._stopping.is_set():
                        self._work(WAIT_SECONDS)
                except (UnreachableError, GroupGoneError) as error:
                    self._turn.lose()
                    self._warn("%s; tries again", error)
                    self._stopping.wait(min(_PAUSES[0] * 2**failures, _PAUSES[1]))
                    failures = min(failures + 1, 16)
        self._end()

    def drain(self) -> bool:
        """Work until there is nothing to read: whether that was before it had to stop.

        Raises `UnreachableError`, `RefusedError`, and `BusyError` if another consumer is at work.
        """
        with self._turn.kept():
            self._wait_for_turn(patience=self._turn.self_silence + 2 * self._turn.beat)
            while self._turn.ours and not self._stopping.is_set():
                if not self._work(0.0):
                    break
            else:
                self._end()
                return False
        self._end()
        return True

    def close(self) -> None:
        """Disconnect."""
        self._group.close()

    def _wait_for_turn(self, patience: float | None = None) -> None:
        """Until it is this one's turn, or it is to stop."""
        self._make_group()
        ends = None if patience is None else time.monotonic() + patience
        waited = False
        while not self._stopping.is_set():
            self._position = self._group.position()
            if self._turn.ours or self._turn.take():
                notice(logger, logging.INFO, "at work as consumer %r", self._place.consumer)
                self._behind, self._claim_at = True, 0.0
                return
            if ends is not None and time.monotonic() >= ends:
                raise BusyError("another consumer of the group is at work")
            if not waited:
                notice(logger, logging.INFO, "stands by: another consumer may be at work")
            waited = True
            self._stopping.wait(min(self._turn.beat, 1.0))

    def _make_group(self) -> None:
        start = "0" if self._place.from_start else "$"
        if self._position is not None:
            # It was there. In a stream that is a new one, all is new.
            last = self._group.last_id()
            start = self._position if _key(last) >= _key(self._position) else "0"
        if self._group.create(start):
            where = {"0": "the beginning", "$": "the end"}.get(start, "where it was")
            notice(logger, logging.INFO, "made group %r, from %s", self._place.group, where)

    def _work(self, wait: float) -> bool:
        """Deliver the next entries; False if there were none."""
        self._acknowledge()
        self._claim()
        self._tell()
        entries = self._next(wait)
        if entries and self._turn.ours:
            self._deliver(entries)
        return bool(entries)

    def _next(self, wait: float) -> list[Entry]:
        if self._behind:
            entries = self._group.read_pending(BATCH)
            if entries:
                return entries
            self._behind = False
        # Until these are acknowledged, what this consumer was given is what it has in hand.
        entries = self._group.read_new(BATCH, wait)
        if entries:
            self._position = entries[-1].id
            self._behind = True
        return entries

    def _deliver(self, entries: Sequence[Entry]) -> None:
        ids = [one.id for one in entries]
        there = [(one.id, one.fields) for one in entries if one.fields is not None]
        found = [event_of(self._place.stream, id, fields) for id, fields in there]
        events = [one for one in found if one is not None]
        with self._turn.working_on(ids):
            if not self._feed.deliver(events):
                return
        self._safe += ids
        skipped, gone = len(there) - len(events), len(entries) - len(there)
        self.counts = self.counts.plus(len(events), skipped, gone)
        if skipped:
            self._warn_of_skipped("skipped %d entries that tell of no event", skipped)
        self._acknowledge()

    def _acknowledge(self) -> None:
        """What is safe; also what was so when the connection was lost."""
        if self._safe:
            self._group.acknowledge(self._safe)
            self._safe = []

    def _claim(self) -> None:
        if time.monotonic() < self._claim_at:
            return
        claimed, gone = self._group.claim(self._place.min_idle)
        if claimed:
            notice(logger, logging.INFO, "took over %d entries", claimed)
            self._behind = True
        self.counts = self.counts.plus(gone=gone)
        self._group.bury(self._place.min_idle)
        self._claim_at = time.monotonic() + self._place.min_idle / 2

    def _tell(self) -> None:
        told_at, told = self._told
        if time.monotonic() - told_at >= SUMMARY_SECONDS:
            self._told = (time.monotonic(), self.counts)
            if self.counts != told:
                notice(logger, logging.INFO, "so far: %s", self.counts)

    def _end(self) -> None:
        """Leave the group, unless something is pending: that is for the next one."""
        try:
            self._acknowledge()
            if self._turn.ours:
                self._group.leave()
        except CubehookError as error:
            notice(logger, logging.WARNING, "did not leave the group: %s", error)
        notice(logger, logging.INFO, "stopped: %s", self.counts)


def _key(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)
