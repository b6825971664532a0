"""Which results are retried and when: `WebhookRetry`, an immutable policy that never sleeps.

It is a ``urllib3.Retry``: `increment` gives the policy for the next attempt, the number of
failures so far is the length of its ``history``.
"""

from __future__ import annotations

import email.utils
import random
import re
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from urllib3.exceptions import MaxRetryError
from urllib3.util import Retry
from urllib3.util.retry import RequestHistory

from cubehook.outcome import Dead, Delivered, Failure, Outcome, Reply, RetryAt

if TYPE_CHECKING:
    from urllib3.connectionpool import ConnectionPool
    from urllib3.response import BaseHTTPResponse

GONE = 410
RETRIED_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
"""408, 425, 429 and 5xx say "not now" (RFC 9110 §15.5.9, RFC 8470 §5.2, RFC 6585 §4)."""

MAX_RETRY_AFTER = 86_400.0
"""The longest wait that a receiver can ask for, in seconds."""

_MAX_DOUBLINGS = 63  # 2**63 backoffs are past any backoff_max; keeps the power a small number
_LONGEST = 18  # digits; more are absurd, whatever the number
_DELAY_SECONDS = re.compile(r"[0-9]+", re.ASCII)


class WebhookRetry(Retry):
    """The retry policy of one delivery.

    total: retries left; the first attempt is not one.
    backoff_factor: base of the first delay, in seconds (``backoff_initial``).
    backoff_max: highest base of a delay, in seconds.
    """

    def __init__(
        self,
        total: int = 10,
        backoff_factor: float = 1.0,
        backoff_max: float = 3600.0,
        **inherited: Any,
    ) -> None:
        # POST is no idempotent method, yet a webhook may be repeated: it carries its id.
        inherited.update(allowed_methods=None, status_forcelist=RETRIED_STATUSES)
        super().__init__(
            total=total, backoff_factor=backoff_factor, backoff_max=backoff_max, **inherited
        )

    def decide(self, result: Reply | Failure, now: float) -> Outcome:
        """What follows from ``result``; ``now`` and a `RetryAt`'s ``when`` are of one clock."""
        if isinstance(result, Failure):
            if result.final:
                return Dead(result.reason)
            return self._again(result.reason, None, min(result.wait, MAX_RETRY_AFTER), now)
        if 200 <= result.status < 300:
            return Delivered(result.status)
        reason = f"status {result.status}"
        if not self.is_retry("POST", result.status):
            return Dead(reason, gone=result.status == GONE)
        floor = retry_after_seconds(result.retry_after)
        return self._again(reason, result.status, floor, now)

    def is_retry(
        self,
        method: str,
        status_code: int,
        has_retry_after: bool = False,
    ) -> bool:
        """Whether an answer with this status is retried, with or without ``Retry-After``.

        A status below 200 is none that can end an exchange (RFC 9110 §15.2): the answer is
        broken, as if none had come.
        """
        return status_code in RETRIED_STATUSES or status_code < 200

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> WebhookRetry:
        """The policy after one more failed attempt.

        Neither the URL (it may hold a token) nor the error (it holds frames) goes into the
        history. Raises ``urllib3.exceptions.MaxRetryError`` when no retry is left.
        """
        return self._after(method, response.status if response is not None else None, _pool)

    def resumed(self, failures: int) -> WebhookRetry:
        """The policy after so many failed attempts, whoever made them."""
        entry = RequestHistory("POST", None, None, None, None)
        left = max(int(self.total or 0) - failures, 0)
        return self.new(total=left, history=(entry,) * failures)

    def get_backoff_time(self) -> float:
        """Seconds to the next attempt: base/2 + random·base/2, base = min(initial·2ⁿ, max).

        n counts the failures before the last one; with none, there is nothing to wait for.
        """
        return backoff(len(self.history), self.backoff_factor, self.backoff_max)

    def parse_retry_after(self, retry_after: str) -> float:
        """`retry_after_seconds`, where urllib3 asks for it."""
        return retry_after_seconds(retry_after)

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        """Nothing: the dispatcher keeps the due times, no thread waits."""

    def _after(
        self, method: str | None, status: int | None, pool: ConnectionPool | None = None
    ) -> WebhookRetry:
        left = int(self.total or 0) - 1
        if left < 0:
            raise MaxRetryError(pool, None)  # type: ignore[arg-type]
        entry = RequestHistory(method, None, None, status, None)
        return self.new(total=left, history=(*self.history, entry))

    def _again(self, reason: str, status: int | None, floor: float, now: float) -> Outcome:
        try:
            following = self._after("POST", status)
        except MaxRetryError:
            return Dead(f"{reason}, no retries left", exhausted=True)
        delay = max(following.get_backoff_time(), floor)
        return RetryAt(when=now + delay, floor=now + floor, reason=reason, retry=following)


def backoff(failures: int, initial: float, highest: float) -> float:
    """The delay after so many failures in a row, in seconds, with jitter; 0 after none."""
    if failures < 1:
        return 0.0
    base: float = min(initial * 2.0 ** min(failures - 1, _MAX_DOUBLINGS), highest)
    return base / 2 + random.random() * base / 2  # noqa: S311


def retry_after_seconds(header: str | None) -> float:
    """The wait that a ``Retry-After`` header asks for, in seconds (RFC 9110 §10.2.3).

    Seconds or an HTTP date; 0 for one that is absent, past, negative or unreadable; at most
    `MAX_RETRY_AFTER`.
    """
    text = (header or "").strip()
    if _DELAY_SECONDS.fullmatch(text):
        return min(float(text), MAX_RETRY_AFTER) if len(text) <= _LONGEST else MAX_RETRY_AFTER
    try:
        moment = email.utils.parsedate_tz(text)
        # A date without a zone is GMT (RFC 9110 §5.6.7).
        seconds = email.utils.mktime_tz(moment) - time.time() if moment else 0.0
    except (ValueError, OverflowError, TypeError, IndexError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
