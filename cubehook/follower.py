"""`Follower`: notices that the endpoints stored in an outbox have changed, on a thread of its own.

It also does where nothing is delivered: who only stores has to know who subscribes to what.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from cubehook import threads
from cubehook.endpoint import Endpoint
from cubehook.errors import ConfigError
from cubehook.intake import Subscriptions
from cubehook.notices import SeldomWarning, notice
from cubehook.outbox import Outbox, OutboxUnavailableError
from cubehook.outbox.endpoints import EndpointStore

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""So often the revision is asked for."""

Apply = Callable[[Sequence[dict[str, Any]]], object]
"""Takes the endpoints from now on; raises `ConfigError`, and changes nothing, for bad ones."""


class Follower:
    """See the module. url: the outbox's. apply: called in its thread."""

    def __init__(self, url: str, apply: Apply) -> None:
        self._url = url
        self._apply = apply
        self._outbox = Outbox(url)
        self._store = EndpointStore(self._outbox)
        self._seen: str | None = None  # the revision that is in use
        self._reported = ""
        self._warn = SeldomWarning(logger)
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._started = False

    def first(self) -> list[dict[str, Any]]:
        """The endpoints to begin with; none while the database cannot be used.

        Raises `ConfigError` for what cannot be decrypted.
        """
        try:
            self._seen, found = self._read()
        except OutboxUnavailableError as error:
            self._warn("endpoints cannot be read: %s", error)
            return []
        return found

    def start(self) -> None:
        """Start to look, once. Does nothing where no thread can be started any more."""
        if self._started or self._stopping.is_set() or not self._starting.acquire(blocking=False):
            return
        try:
            if not self._started:
                with contextlib.suppress(RuntimeError):  # the interpreter shuts down
                    threads.start("endpoints", self._run)
                    self._started = True
        finally:
            self._starting.release()

    def stop(self) -> None:
        """Look no more. It does not wait: the thread may hang in the database."""
        self._stopping.set()
        if not self._started:
            self._outbox.close()

    def renewed(self) -> Follower:
        """The same for a forked child, which has not this one's thread."""
        child = Follower(self._url, self._apply)
        child._seen = self._seen
        return child

    # In its thread.

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self._look()
        self._outbox.close()

    def _look(self) -> None:
        """Nothing is raised: the thread must live."""
        try:
            if self._store.revision() == self._seen:
                return
            revision, found = self._read()
            if self._stopping.is_set():
                return
            self._apply(found)
        except OutboxUnavailableError as error:
            self._warn("endpoints cannot be read: %s", error)
        except ConfigError as error:
            # Looked at again each time: what a reference names may be there by then.
            self._report(str(error))
        except Exception as error:  # none is known
            self._report(f"internal error ({type(error).__name__})")
        else:
            self._seen, self._reported = revision, ""
            names = ", ".join(repr(one["name"]) for one in found if one["enabled"])
            notice(logger, logging.INFO, "endpoints have changed: %s", names or "none")

    def _read(self) -> tuple[str, list[dict[str, Any]]]:
        """The revision first: what changes in between is noticed with the next look."""
        return self._store.revision(), self._store.mappings()

    def _report(self, problem: str) -> None:
        if problem != self._reported:
            self._reported = problem
            text = "stored endpoints cannot be used, the former ones stay: %s"
            notice(logger, logging.ERROR, text, problem)


class FirstLook(Subscriptions):
    """Subscriptions in a forked child: the first event starts the follower.

    Not the fork itself: the child may be about to become another program.
    """

    def __init__(self, endpoints: tuple[Endpoint, ...], start: Callable[[], object]) -> None:
        super().__init__(endpoints)
        self._start = start

    def __missing__(self, name: str) -> tuple[Endpoint, ...]:
        self._start()
        return super().__missing__(name)
