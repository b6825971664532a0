"""Events into the outbox, in group commits, and out again: what ``outbox:`` adds to a handler.

While the database cannot be used, the listener waits with what it has, and the bounded queue
behind it fills: nothing is sent around the outbox, so order and ids hold.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence

from cubehook.courier import Courier, policy_of
from cubehook.endpoint import Endpoint
from cubehook.errors import CubehookError
from cubehook.message import Message
from cubehook.notices import SeldomWarning, notice
from cubehook.outbox import Outbox, Target
from cubehook.relay import RETRY_SECONDS, Relay
from cubehook.schedule import Formatted

logger = logging.getLogger(__name__)

NOT_STORED = "not_stored"
"""Why an event is dropped that could not be stored before the end."""

UNSTORABLE = "unstorable"
"""Why an event is dropped that no database could keep, such as one of a strange content type."""


class Depot:
    """See the module. deliver: whether this process delivers from the outbox, too."""

    def __init__(self, url: str, courier: Courier, *, deliver: bool) -> None:
        self._outbox = Outbox(url)
        self._courier = courier
        self._relay = Relay(self._outbox, courier.dispatcher) if deliver else None
        self._ordered: dict[str, bool] = {}
        self._over = threading.Event()
        self._ends = math.inf  # of the time to wait for the database
        self._hopeless = False  # it was waited for, to the end of that time
        self._warn = SeldomWarning(logger)

    def configure(self, endpoints: Sequence[Endpoint]) -> None:
        """The endpoints from now on."""
        self._ordered = {one.name: one.ordered for one in endpoints}
        if self._relay is not None:
            self._relay.configure({one.name: policy_of(one) for one in endpoints if one.enabled})

    def start(self) -> None:
        """Start to deliver. Raises RuntimeError where no thread can be started any more."""
        if self._relay is not None:
            self._relay.start()

    def wake(self) -> None:
        """Something came back from the dispatcher."""
        if self._relay is not None:
            self._relay.wake()

    def store(self, events: Sequence[Formatted]) -> bool:
        """Store these events in one transaction, however long the database is away.

        Returns whether anything was dropped. The dispatcher counts what is, and what was stored.
        Nothing is raised: what was taken would be lost with the exception.
        """
        problem = self._add(events)
        if problem == UNSTORABLE and len(events) > 1:
            rest = [_left_of(event, self._add([event])) for event in events]
        else:
            rest = [_left_of(event, problem) for event in events]
        self.wake()
        return self._courier.dispatcher.submit(rest)

    def wait_no_longer_than(self, timeout: float) -> None:
        """Give up on the database when it cannot be used for so many seconds from now."""
        self._ends = time.monotonic() + timeout
        self._hopeless = False

    def give_up(self) -> None:
        """Wait for the database no longer."""
        self._over.set()

    def stop(self, timeout: float) -> None:
        """The end; see `Relay.stop`."""
        self.give_up()
        if self._relay is not None:
            self._relay.stop(timeout)
        self._outbox.close()

    def _add(self, events: Sequence[Formatted]) -> str | None:
        """Store all of these; why they are dropped if they are."""
        batch = [item for event in events for item in self._targets(event)]
        while batch:
            if self._hopeless:
                return NOT_STORED
            try:
                self._outbox.add(batch)
                break
            except CubehookError as error:
                self._warn("events wait to be stored: %s", error)
            except Exception as error:
                notice(logger, logging.ERROR, "not to be stored (%s)", type(error).__name__)
                return UNSTORABLE
            left = self._ends - time.monotonic()
            over = self._over.wait(max(min(RETRY_SECONDS, left), 0.0))
            self._hopeless = over or time.monotonic() >= self._ends
        return None

    def _targets(self, event: Formatted) -> list[tuple[Message, list[Target]]]:
        targets: dict[int, tuple[Message, list[Target]]] = {}
        for name, message in event.messages:
            if isinstance(message, Message):
                # One message for each format, and so one row.
                found = targets.setdefault(id(message), (message, []))
                found[1].append(Target(name, self._ordered.get(name, True)))
        return list(targets.values())


def _left_of(event: Formatted, problem: str | None) -> Formatted:
    """What is left of an event for the lanes to count: what could not be made, or be stored."""
    messages: list[tuple[str, Message | str]] = []
    stored = 0
    for name, one in event.messages:
        if isinstance(one, str):
            messages.append((name, one))
        elif problem is not None:
            messages.append((name, problem))
        else:
            stored += 1
    return Formatted(messages, event.reason, stored)
