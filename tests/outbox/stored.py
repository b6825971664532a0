"""What the tests of the outbox share: messages, outcomes, and what must hold in the tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from sqlalchemy import Engine, func, select

from cubehook.message import Message
from cubehook.outbox import Lease, Outbox, Result, Status, Target
from cubehook.outbox.schema import attempts, deliveries, events
from cubehook.outcome import Dead, Delivered, Outcome, RetryAt
from cubehook.retry import WebhookRetry

OPS = Target("ops")
LOOSE = Target("loose", ordered=False)

OK = Delivered(204)
REFUSED = Dead("status 404")


def message(
    message_id: str, key: str | None = None, body: bytes = b"{}", event: str = "sandbox.created"
) -> Message:
    return Message(message_id, event, key, "application/json", body)


def add(to: Outbox, *ids: str, targets: Iterable[Target] = (OPS,)) -> int:
    """Add events; the first letter of an id is its key."""
    return to.add([(message(one, one[0]), tuple(targets)) for one in ids])


def lease(from_: Outbox, *endpoints: str, limit: int = 100, owner: str = "me") -> list[Lease]:
    """For 30 seconds."""
    return from_.lease(endpoints or ("ops",), limit, 30.0, owner)


def ids(leases: Iterable[Lease]) -> list[str]:
    return [one.message.id for one in leases]


def retry_at(when: float) -> RetryAt:
    return RetryAt(when, when, "status 503", WebhookRetry(total=3))


def settle(to: Outbox, leases: Iterable[Lease], outcome: Outcome = OK) -> int:
    return to.settle([Result(one, outcome, 1000.0) for one in leases])


def engine_of(outbox: Outbox) -> Engine:
    return outbox._database._engine


def rows(outbox: Outbox) -> dict[str, int]:
    """How many each table has."""
    with engine_of(outbox).connect() as connection:
        return {
            table.name.removeprefix("cubehook_"): connection.scalar(
                select(func.count()).select_from(table)
            )
            or 0
            for table in (events, deliveries, attempts)
        }


def check_invariants(outbox: Outbox) -> None:
    """Of each key at an endpoint, one leads, or nothing is held; no row points to nothing."""
    outbox.prepare()
    with engine_of(outbox).connect() as connection:
        found = connection.execute(
            select(deliveries.c.chain, deliveries.c.status).where(deliveries.c.chain.is_not(None))
        ).all()
        of_status = Counter((bytes(row.chain), row.status) for row in found)
        for chain in {chain for chain, _ in of_status}:
            leaders = of_status[chain, Status.WAITING.value] + of_status[chain, Status.LEASED.value]
            held = of_status[chain, Status.HELD.value]
            assert leaders == 1 or (leaders == 0 and held == 0), (leaders, held)
        kept = set(connection.scalars(select(events.c.id)))
        assert set(connection.scalars(select(deliveries.c.event))) == kept


def in_child(work: Callable[[], bool]) -> bool:
    """What ``work`` answers in a forked process; False if it raises or is killed."""
    return _ended_well(_fork(work))


def run_children(work: Iterable[Callable[[], object]]) -> None:
    """Do all of this at once, each in a forked process, and fail the test if one of them fails."""
    start, go = os.pipe()

    def wait_and(do: Callable[[], object]) -> bool:
        os.close(go)
        os.read(start, 1)  # its end comes once all are there
        do()
        return True

    children = [_fork(partial(wait_and, one)) for one in work]
    os.close(go)
    os.close(start)
    ended = [_ended_well(child) for child in children]
    assert all(ended)


def _fork(work: Callable[[], bool]) -> int:
    process = os.fork()
    if process == 0:
        ok = False
        try:
            ok = work()
        finally:
            os._exit(0 if ok else 1)  # no test runner's cleaning up
    return process


def _ended_well(process: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
