"""What becomes of leased deliveries: outcomes written back in batches, and the next of each key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from cubehook.outbox import _lanes, _leasing
from cubehook.outbox._sql import chunks
from cubehook.outbox.schema import MAX_TEXT_LENGTH, attempts, deliveries
from cubehook.outbox.values import Result, Status
from cubehook.outcome import Dead, Delivered, RetryAt


class _Settled(NamedTuple):
    """A result that counts; ``number``: of the attempt."""

    result: Result
    number: int

    @property
    def id(self) -> int:
        return self.result.lease.id

    @property
    def reason(self) -> str:
        outcome = self.result.outcome
        if isinstance(outcome, Delivered):
            return f"status {outcome.status}"
        return outcome.reason[:MAX_TEXT_LENGTH]

    @property
    def word(self) -> str:
        """Of the attempt's outcome."""
        outcome = self.result.outcome
        if isinstance(outcome, RetryAt):
            return "retry"
        status = Status.DEAD if isinstance(outcome, Dead) else Status.DELIVERED
        return status.value


_CHANGES = {
    "attempts": deliveries.c.attempts + 1,
    "attempts_ever": deliveries.c.attempts_ever + 1,
    "token": None,
    "owner": None,
}
_PUT_OFF = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("this"))
    .values(
        **_CHANGES,
        status=Status.WAITING.value,
        at=bindparam("when"),
        reason=bindparam("why"),
    )
)
_FORGOTTEN = delete(attempts).where(
    attempts.c.delivery == bindparam("this"), attempts.c.number <= bindparam("last")
)
_HELD = deliveries.alias("held")
_NEXT = (
    select(_HELD.c.id)
    .where(_HELD.c.chain == deliveries.c.chain, _HELD.c.status == Status.HELD.value)
    .order_by(_HELD.c.at, _HELD.c.id)
    .limit(1)
    .scalar_subquery()
)
"""The oldest one that is held behind a delivery: one step into an index, however many there are."""


def settle(connection: Connection, results: Sequence[Result], now: float, kept: int) -> int:
    """Write the results of valid leases; how many were not valid, and so were discarded.

    kept: how many attempts are remembered of each delivery.
    """
    _lanes.lock(connection, {one.lease.endpoint for one in results if _lets_next_go(one)})
    rows = _leasing.valid(connection, (one.lease for one in results))
    settled = []
    for result in results:
        row = rows.pop(result.lease.id, None)
        if row is not None:
            settled.append(_Settled(result, row.attempts_ever + 1))
    _finish(connection, settled, now)
    _put_off(connection, settled)
    _let_next_go(connection, [one.id for one in settled if _lets_next_go(one.result)], now)
    _remember(connection, settled, kept)
    return len(results) - len(settled)


def _lets_next_go(result: Result) -> bool:
    return result.lease.chained and not isinstance(result.outcome, RetryAt)


def _finish(connection: Connection, settled: Iterable[_Settled], now: float) -> None:
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for one in settled:
        if not isinstance(one.result.outcome, RetryAt):
            alike[one.word, one.reason].append(one.id)
    for (status, reason), all_ids in alike.items():
        change = update(deliveries).values(**_CHANGES, status=status, reason=reason, at=now)
        for ids in chunks(all_ids):
            connection.execute(change.where(deliveries.c.id.in_(ids)))


def _put_off(connection: Connection, settled: Iterable[_Settled]) -> None:
    rows = [
        {"this": one.id, "when": one.result.outcome.when, "why": one.reason}
        for one in settled
        if isinstance(one.result.outcome, RetryAt)
    ]
    if rows:
        connection.execute(_PUT_OFF, rows)


def _let_next_go(connection: Connection, finished: Sequence[int], now: float) -> None:
    """Make the oldest that is held behind each of these the leader of its key."""
    for ids in chunks(finished):
        found = connection.scalars(select(_NEXT).where(deliveries.c.id.in_(ids)))
        following = [one for one in found if one is not None]
        if following:
            # From now on and not from when it was stored: the other keys shall have their turn.
            connection.execute(
                update(deliveries).where(deliveries.c.id.in_(following)),
                {"status": Status.WAITING.value, "at": now},
            )


def _remember(connection: Connection, settled: Iterable[_Settled], kept: int) -> None:
    made = [
        {
            "delivery": one.id,
            "number": one.number,
            "at": one.result.at,
            "outcome": one.word,
            "reason": one.reason,
        }
        for one in settled
    ]
    if made:
        connection.execute(insert(attempts), made)
    old = [{"this": one.id, "last": one.number - kept} for one in settled if one.number > kept]
    if old:
        connection.execute(_FORGOTTEN, old)
