"""Which files there are to be followed, in the order of their first lines; where each has gone.

A file that is renamed is found by its inode. One that was copied and then cut to nothing (logrotate
calls it copytruncate) goes on in the copy, and what is in its place is a new one.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from cubehook.notices import SeldomWarning, notice
from cubehook.sources._tail import Head, Identity, Place, Span, Tail

logger = logging.getLogger("cubehook.sources.follow")

LINGER_SECONDS = 60.0
"""For so long a file is looked for, or waited for more of, when it is no longer where it was."""

HELD = 32
"""Of so many files, the latest ones, the descriptor is kept open: they can be read wherever they
go."""


class Series:
    """See the module.

    pattern: of `glob`. ignored: paths that are none of the files. places: where to go on.
    """

    def __init__(
        self,
        pattern: str,
        ignored: Collection[str] = (),
        places: Sequence[Place] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tails = [Tail(place) for place in places]
        self._pattern = pattern
        self._ignored = ignored
        self._clock = clock
        self._warn = SeldomWarning(logger)
        self._copies: set[Span] = set()  # how files begin that are copies, it seems
        self.unreadable = False  # one of the files, when it was last looked at

    @property
    def places(self) -> list[Place]:
        """How far each file was read."""
        return [tail.place for tail in self.tails]

    def look(self) -> None:
        """See which files there are now."""
        self.unreadable = False
        now, found = self._clock(), self._found()
        self._copies.clear()
        for tail in self.tails:
            tail.look(now, *found.get(tail.place.identity, ()))
        met: set[Identity] = set()
        while unknown := self._unknown(found, met):
            for identity in unknown:
                self._meet(found[identity][0], matched=True)
            met.update(unknown)
        for path in self._neighbours(found, now):
            self._meet(path, matched=False)
        self.tails.sort(key=lambda tail: (tail.place.since, tail.place.path))
        self._forget(now, {inode for _, inode in self._unknown(found, ())})

    def precedes(self, tail: Tail) -> bool:
        """Whether there is a later file."""
        return self.tails[-1] is not tail

    def rest(self, tail: Tail) -> None:
        """Close a file until the next look, if it need not be open: there may be more files than a
        process can have open."""
        if tail.gone_since is None and tail not in self.tails[-HELD:]:
            tail.close()

    def close(self) -> None:
        """Close all files."""
        for tail in self.tails:
            tail.close()

    def replaced(self, tail: Tail) -> None:
        """A file does not hold any more what was read of it."""
        if not tail.was_cut_back():
            tail.detach(self._clock())
            notice(logger, logging.INFO, "%r begins anew", _name(tail.place.path))

    def _found(self) -> dict[Identity, tuple[str, os.stat_result]]:
        """The files that the pattern leads to now."""
        found: dict[Identity, tuple[str, os.stat_result]] = {}
        self._ask()
        for path in sorted(glob.glob(self._pattern, recursive=True)):
            try:
                state = os.stat(path)
            except FileNotFoundError:  # it has just been renamed
                continue
            except OSError as error:
                self._cannot_read(path, error)
                continue
            if stat.S_ISREG(state.st_mode) and path not in self._ignored:
                found.setdefault((state.st_dev, state.st_ino), (path, state))
        return found

    def _ask(self) -> None:
        """Tell what `glob` keeps to itself: that it must not look where it is to."""
        place = self._pattern
        while any(sign in place for sign in "*?["):
            place = os.path.dirname(place)
        try:
            if place == self._pattern:
                os.stat(place)
            else:
                os.scandir(place).close()
        except (FileNotFoundError, NotADirectoryError):
            pass  # it may come
        except OSError as error:
            self._cannot_read(place, error)

    def _cannot_read(self, path: str, error: OSError) -> None:
        self.unreadable = True
        self._warn("%r cannot be read (%s)", _name(path), error.strerror)

    def _unknown(self, found: Iterable[Identity], met: Collection[Identity]) -> list[Identity]:
        """Those that are none of the files. One that has gone on in a copy leaves one behind."""
        known = {*met, *(tail.place.identity for tail in self.tails)}
        return [identity for identity in found if identity not in known]

    def _neighbours(self, found: Collection[Identity], now: float) -> Iterator[str]:
        """What is where files were that have gone: they may have another name now."""
        gone = [tail for tail in self.tails if tail.lost and tail.gone_for(now) < LINGER_SECONDS]
        known = {*found, *(tail.place.identity for tail in self.tails if not tail.lost)}
        for folder in {os.path.dirname(tail.place.path) for tail in gone}:
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue
            for entry in entries:
                with contextlib.suppress(OSError):  # it has just been renamed
                    state = entry.stat(follow_symlinks=False)
                    regular = stat.S_ISREG(state.st_mode) and entry.path not in self._ignored
                    if regular and (state.st_dev, state.st_ino) not in known:
                        yield entry.path

    def _meet(self, path: str, *, matched: bool) -> None:
        """A file that is not known by its inode: it goes on with one that is known, or is new."""
        try:
            with _opened(path) as fd:
                head = Head.read(fd)
                if head is None:
                    return
                state = os.fstat(fd)
                twin = self._twin(head, state)
                # A copy that is being made is shorter than what it is made of.
                if twin is None:
                    if matched:
                        self._begin(path, state, head)
                elif (matched or twin.lost) and twin.size() < state.st_size and twin.is_in(fd):
                    twin.go_on_in(path, state)
                elif matched:
                    self._copies.add(head.span)
        except FileNotFoundError:
            pass  # it has just been renamed
        except OSError as error:
            if matched:
                self._cannot_read(path, error)

    def _begin(self, path: str, state: os.stat_result, head: Head) -> None:
        former = [t.place.generation for t in self.tails if t.place.inode == state.st_ino]
        tail = Tail(Place.at_start(path, state, head, max(former, default=-1) + 1))
        tail.look(0.0, path, state)
        self.tails.append(tail)

    def _twin(self, head: Head, state: os.stat_result) -> Tail | None:
        """The file that this one continues, or is a copy of."""
        for tail in self.tails:
            place = tail.place
            itself = place.inode == state.st_ino and tail.lost and not place.detached
            if place.head == head.span and (place.unique or itself):
                return tail
        return None

    def _forget(self, now: float, begin: Collection[int]) -> None:
        """Let go of files that have gone long ago. begin: inodes of files that are to begin."""
        for at, tail in reversed(list(enumerate(self.tails))):
            if tail.gone_for(now) >= LINGER_SECONDS and self._is_over(at, begin):
                level, text = logging.INFO, "%r is gone"
                if tail.unread:
                    level, text = logging.WARNING, "%r is gone, and was not read to its end"
                notice(logger, level, text, _name(tail.place.path))
                tail.close()
                del self.tails[at]

    def _is_over(self, at: int, begin: Collection[int]) -> bool:
        """Whether nothing is to be expected of a file that has gone.

        Where all have, a volume may have. And it is needed for the generation of a file that has
        its inode now.
        """
        tail = self.tails[at]
        place = tail.place
        if place.detached and not place.unique and place.inode in begin:
            return False
        others = self.tails if tail.lost else self.tails[at + 1 :]
        return place.head in self._copies or any(one.gone_since is None for one in others)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def _name(path: str) -> str:
    return os.path.basename(path)
