"""`LogFollower`: CubeAPI's log, as it is written and rotated. ``cubehook follow`` runs it."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from cubehook.errors import ConfigError
from cubehook.notices import SeldomWarning, notice, words
from cubehook.sources._checkpoint import Checkpoint
from cubehook.sources._cubeapi import parse
from cubehook.sources._feed import Feed, SourceEvent, parts
from cubehook.sources._lines import Line
from cubehook.sources._series import Series
from cubehook.sources._tail import Place, ReplacedError, Tail

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
RETRY_SECONDS = 1.0
"""The pause after the checkpoint could not be written."""

MOST_RETRIES = 10
"""So often that is tried again where nothing is waited for without end."""

TOO_LONG = "too long"


class LogFollower:
    """Reads the files that a pattern matches, line by line, and feeds the events.

    pattern: of `glob`. checkpoint: is written after each part that was delivered; within its
    ``with`` block. stopping: set by whoever ends it. at_end: without a checkpoint, what is there
    already is left out. poll: how often it is looked for more, in seconds.

    Raises `ConfigError` for a checkpoint that cannot be used.
    """

    def __init__(
        self,
        pattern: str,
        feed: Feed,
        checkpoint: Checkpoint,
        stopping: threading.Event,
        *,
        at_end: bool = True,
        poll: float = POLL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._checkpoint = checkpoint
        self._stopping = stopping
        self._poll = poll
        self._warn = SeldomWarning(logger)
        self._skipped: Counter[str] = Counter()
        self._delivered = 0
        places = _places(checkpoint)
        pattern = os.path.abspath(pattern)
        self._series = Series(pattern, checkpoint.files, places or (), clock)
        self._saved: Sequence[Place] | None = places
        self._clock = clock
        self._left = False  # something that the last look was for
        self._most_retries = math.inf
        if places is None:
            self._first_look(at_end)

    def run(self) -> None:
        """Until it is to stop."""
        notice(logger, logging.INFO, "started: %d files known", len(self._series.tails))
        while not self._stopping.is_set():
            if not self.look():
                self._stopping.wait(self._poll)
        self._end()

    def drain(self) -> bool:
        """Deliver what is there. Returns whether all of it was.

        Raises `ConfigError` if the checkpoint cannot be written, and what the feed raises.
        """
        self._most_retries = MOST_RETRIES
        while self.look():
            pass
        self._end()
        return not (self._left or self._series.unreadable)

    def look(self) -> bool:
        """Deliver what has come in all files, in their order. Returns whether to look again at
        once."""
        again = unread = False
        self._series.look()
        for tail in list(self._series.tails):
            try:
                self._left = not self._follow(tail)
            except ReplacedError:
                self._series.replaced(tail)
                again = True
            except FileNotFoundError:  # it has just been renamed
                again = True
            except OSError as error:
                unread = True
                self._warn("a file cannot be read (%s)", error.strerror)
            if again or self._left:
                break
            self._series.rest(tail)
        self._left |= unread or not self._save()
        return again and not self._left

    def _first_look(self, at_end: bool) -> None:
        try:
            self._series.look()
            if at_end and self._series.unreadable:  # all of it would be new, once it can be read
                raise ConfigError("there is no start from here: not all can be read")
            for tail in self._series.tails if at_end else ():
                tail.skip_to_end()
            self._write()
        except OSError as error:
            raise ConfigError(f"there is no start from here ({error.strerror})") from None

    def _follow(self, tail: Tail) -> bool:
        """Deliver what has come in a file. Returns False if it is to stop."""
        if self._stopping.is_set():
            return False
        if tail.lost:
            return True
        if tail.changed():
            for lines in tail.chunks(self._clock()):
                if not self._deliver(tail, lines):
                    return False
        return self._take_rest(tail)

    def _take_rest(self, tail: Tail) -> bool:
        """A line that has no end in a file that is done with, and is complete: nothing can follow
        the brace that ends an object."""
        rest = tail.rest
        if rest is None or rest.end == tail.tried or not self._series.precedes(tail):
            return True
        tail.tried = rest.end
        if rest.text is None or isinstance(parse(rest.text), str):
            return True
        if not self._deliver(tail, [rest]):
            return False
        tail.take_rest()
        return True

    def _deliver(self, tail: Tail, lines: Sequence[Line]) -> bool:
        skipped = self._skipped.total()
        for part in parts(lines, self._feed.room):
            events = [event for line in part if (event := self._event(tail, line))]
            if events and not self._feed.deliver(events):
                return False
            self._delivered += len(events)
            tail.advance(part[-1])
            if not self._save():
                return False
        if self._skipped.total() > skipped:
            self._warn("lines were skipped, in all: %s", words(self._skipped))
        return True

    def _event(self, tail: Tail, line: Line) -> SourceEvent | None:
        if line.blank:
            return None
        entry = TOO_LONG if line.text is None else parse(line.text)
        if isinstance(entry, str):
            self._skipped[entry] += 1
            return None
        moment = time.time() if entry.time is None else entry.time
        event_id = entry.own_id or tail.place.id_of(line)
        return SourceEvent(event_id, entry.name, moment, entry.fields, entry.level)

    def _save(self) -> bool:
        """Move the checkpoint, if anything has. It is waited for: what is delivered meanwhile would
        be delivered again after a restart. Returns False if it is to stop before."""
        failures = 0
        while self._saved != self._series.places:
            try:
                self._write()
            except OSError as error:
                failures += 1
                if failures > self._most_retries:
                    raise ConfigError(
                        f"the checkpoint cannot be written ({error.strerror})"
                    ) from None
                self._warn("the checkpoint cannot be written (%s)", error.strerror)
                if self._stopping.wait(RETRY_SECONDS):
                    return False
        return True

    def _write(self) -> None:
        places = self._series.places
        self._checkpoint.save({"files": [place.to_mapping() for place in places]})
        self._saved = places

    def _end(self) -> None:
        self._series.close()
        skipped = f"; skipped: {words(self._skipped)}" if self._skipped else ""
        notice(logger, logging.INFO, "stopped: %d events%s", self._delivered, skipped)


def _places(checkpoint: Checkpoint) -> list[Place] | None:
    content = checkpoint.load()
    if content is None:
        return None
    try:
        return [Place.from_mapping(one) for one in content["files"]]
    except (LookupError, TypeError, ValueError):
        raise ConfigError("the checkpoint is damaged: a file's place is none") from None
