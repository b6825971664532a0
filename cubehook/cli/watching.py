"""What becomes of one event in a handler: each attempt as it was made, and how it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from cubehook.dispatcher import Finished
from cubehook.handler import WebhookHandler
from cubehook.outcome import Delivered, RetryAt, Split


class Attempt(NamedTuple):
    """One at an endpoint. outcome: delivered, retry or dead. retry_in: seconds, before a retry."""

    endpoint: str
    number: int
    outcome: str
    reason: str
    seconds: float
    retry_in: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "type": "attempt",
            "endpoint": self.endpoint,
            "attempt": self.number,
            "outcome": self.outcome,
            "reason": self.reason,
            "seconds": round(self.seconds, 6),
            "retry_in": None if self.retry_in is None else round(self.retry_in, 3),
        }


def watch(handler: WebhookHandler, take: Callable[[Attempt], object]) -> None:
    """Have ``take`` told of each attempt, in the thread that made it."""

    def told(finished: Finished) -> None:
        if not isinstance(finished.outcome, Split):
            take(_attempt(finished))

    handler.pipeline.dispatcher.watch = told


def end(handler: WebhookHandler) -> None:
    """Close the handler without the last chance that an end gives to what waits for a retry."""
    handler.pipeline.stop()
    handler.close()


def keep_quiet() -> None:
    """What cubehook logs is told by the command itself, in other words."""
    logging.getLogger("cubehook").addHandler(logging.NullHandler())


def _attempt(finished: Finished) -> Attempt:
    job, outcome = finished.job, finished.outcome
    number = len(job.delivery.retry.history) + 1
    of = (job.lane.name, number)
    if isinstance(outcome, Delivered):
        return Attempt(*of, "delivered", f"status {outcome.status}", finished.effort.seconds)
    assert not isinstance(outcome, Split)
    if isinstance(outcome, RetryAt):
        wait = max(outcome.when - time.monotonic(), 0.0)
        return Attempt(*of, "retry", outcome.reason, finished.effort.seconds, wait)
    return Attempt(*of, "dead", outcome.reason, finished.effort.seconds)
