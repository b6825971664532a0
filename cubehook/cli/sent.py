"""How a command that sends an event tells what comes of it: lines for people, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from cubehook.cli import tables
from cubehook.cli.watching import Attempt

TURNED_AWAY = "turned_away"
"""Why an event is dropped that a handler's level or filter does not let in."""

NOT_STORED = "not_stored"

_STYLES = {"delivered": "green", "retry": "yellow", "dead": "bold red"}


@dataclass(frozen=True, slots=True)
class Result:
    """How it ended. failed: why, by endpoint. pending: those not done with when the time was over.

    stored: deliveries that are in an outbox now. dropped: by reason, before any attempt.
    """

    event_id: str
    event: str
    delivered: tuple[str, ...]
    failed: Mapping[str, str]
    pending: tuple[str, ...]
    stored: int
    dropped: Mapping[str, int]

    @property
    def fine(self) -> bool:
        """Whether it is everywhere where it was to go."""
        wrong = self.failed or self.pending or self.dropped
        return not wrong and bool(self.delivered or self.stored)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "type": "result",
            "event_id": self.event_id,
            "event": self.event,
            "delivered": list(self.delivered),
            "failed": dict(self.failed),
            "pending": list(self.pending),
            "stored": self.stored,
            "dropped": dict(self.dropped),
        }


class Lines:
    """For programs."""

    def attempt(self, one: Attempt) -> None:
        """As soon as it was made."""
        print(json.dumps(one.as_json()), flush=True)  # noqa: T201

    def result(self, one: Result) -> None:
        """In the end."""
        print(json.dumps(one.as_json()), flush=True)  # noqa: T201


class Page:
    """For people."""

    def __init__(self) -> None:
        self._console = tables.console()

    def attempt(self, one: Attempt) -> None:
        """As soon as it was made."""
        line = Text(f"{one.endpoint}: attempt {one.number}: ")
        line.append("failed" if one.outcome == "retry" else one.outcome, _STYLES[one.outcome])
        line.append(f": {one.reason}, in {one.seconds * 1000:.0f} ms")
        if one.retry_in is not None:
            line.append(f"; next in {one.retry_in:.1f} s", "dim")
        self._console.print(line, soft_wrap=True)

    def result(self, one: Result) -> None:
        """In the end."""
        words = [f"delivered to {', '.join(one.delivered)}"] if one.delivered else []
        if one.stored:
            words.append(f"{one.stored} stored in the outbox, for those who deliver from it")
        words += [f"failed at {', '.join(one.failed)}"] if one.failed else []
        words += [f"not done in time: {', '.join(one.pending)}"] if one.pending else []
        words += [f"{count} dropped: {reason}" for reason, count in one.dropped.items()]
        said = "; ".join(words) or "no endpoint takes this event"
        line = Text(f"{one.event} {one.event_id}: ")
        line.append(said, "green" if one.fine else "bold red")
        self._console.print(line, soft_wrap=True)
