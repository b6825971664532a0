"""What durability costs: storing, delivering from a database, a long backlog, a second worker.

Each measurement runs in a process of its own, on a database of its own; nginx (204) or a receiver
that takes 5 ms answers.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import Any

from benchmarks import child, databases, durable_work
from benchmarks.databases import KEYED, MARIADB, PLAIN, POSTGRES, SQLITE, database
from benchmarks.figure import Figure, Options, Row, percentile, progress
from benchmarks.nginx import Nginx
from benchmarks.slow import Slow

MEMORY = "memory"
ANSWER_SECONDS = 0.005

_READY_SECONDS = 3.0  # until workers have started, on a machine that is busy
_FEW = 1_000

_STORING = {
    "group": "stored/s, group commit",
    "sync1": "sync, 1 thread: commits/s",
    "sync8": "sync, 8 threads: commits/s",
    "window50": "log to commit p50, ms",
    "window99": "p99, ms",
}
_DELIVERING = {
    "drained": "worker, from a backlog: delivered/s",
    "through": "handler, from log to answer: delivered/s",
    "cpu": "worker: CPU ms each",
}
_LEASING = {
    "few": "lease of 100 at 10³, ms",
    "many": "at the most, ms",
    "growth": "ratio",
    "settle": "settle at the most, ms",
    "settles": "ratio to that at 10³",
}
_WORKERS = {"one": "1 worker: delivered/s", "two": "2 workers", "ratio": "ratio"}


def measure(options: Options) -> list[Figure]:
    """The figures."""
    kinds = databases.there()
    absent = [kind for kind in (POSTGRES, MARIADB) if kind not in kinds]
    figures = [_storing(kinds), _delivering(kinds), _leasing(kinds, options), _workers()]
    storing, delivering, leasing, workers = figures
    with ExitStack() as stack:
        nginx = stack.enter_context(Nginx())
        slow = stack.enter_context(Slow(ANSWER_SECONDS))
        backlogs = _backlogs(stack, leasing, options)
        for repeat in range(options.repeats):
            progress(f"durable: {repeat + 1} of {options.repeats}")
            for row in storing.rows:
                _store(row, options)
            for row in delivering.rows:
                _deliver(row, nginx.port, options)
            for row in leasing.rows:
                _lease(row, backlogs[row.name], options)
            if POSTGRES in kinds:
                for row in workers.rows:
                    _work(row, slow.port, options)
    _compare(delivering, leasing, workers)
    storing.remarks += [_versions(kinds), "absent: " + (", ".join(absent) or "none")]
    return [one for one in figures if one is not workers or POSTGRES in kinds]


# --- The figures ---


def _storing(kinds: list[str]) -> Figure:
    return Figure(
        "durable, storing",
        "Storing events of one endpoint (deliver: false); log to commit at 500 events/s",
        _STORING,
        [Row(kind) for kind in kinds],
    )


def _delivering(kinds: list[str]) -> Figure:
    return Figure(
        "durable, delivering",
        "Delivering single events to nginx (204), 1,000 keys, one endpoint",
        _DELIVERING,
        [Row(MEMORY), *(Row(kind) for kind in kinds)],
        remarks=["memory: through the handler alone, which both are compared with"],
    )


def _leasing(kinds: list[str], options: Options) -> Figure:
    most = options.of(1_000_000, 100_000)
    return Figure(
        "durable, leasing",
        f"A lease of 100 at 1,000 and at {most:,} waiting deliveries; as many settled and added",
        _LEASING,
        [Row(f"{kind}, {what}") for kind in kinds for what in (PLAIN, KEYED)],
        remarks=[f"keyed: {databases.KEYS} keys, the rest held behind; plain: without keys"],
    )


def _workers() -> Figure:
    return Figure(
        "durable, workers",
        "Workers on PostgreSQL, one process each, to a receiver that takes 5 ms",
        _WORKERS,
        [Row("4 attempts at once each"), Row("32, the default: limited by the processor")],
    )


def _compare(delivering: Figure, leasing: Figure, workers: Figure) -> None:
    rows = {row.name: row.values for row in delivering.rows}
    for kind in (SQLITE, POSTGRES, MARIADB):
        values = rows.get(kind, {})
        memory = rows[MEMORY].get("through")
        delivering.compare(f"durable, {kind} / memory", values.get("drained"), memory)
        delivering.compare(f"durable, handler on {kind} / memory", values.get("through"), memory)
    for row in leasing.rows:
        if "growth" in row.values:
            leasing.ratios[f"durable, lease {row.name}"] = row.values["growth"]
    four, default = (row.values.get("ratio") for row in workers.rows)
    if four and default:
        workers.ratios["durable, two workers / one"] = four
        workers.ratios["durable, two workers / one, 32 attempts at once"] = default


def _versions(kinds: list[str]) -> str:
    found = []
    for kind in kinds:
        with database(kind) as url:
            found.append(f"{kind} {databases.version(url)}")
    return ", ".join(found) + ", as installed"


# --- What is measured for a row, once ---


def _store(row: Row, options: Options) -> None:
    count = options.of(20_000, 2_000)
    synced = options.of(1_000, 200)
    row.add(
        group=_on_new(row.name, durable_work.store, count=count),
        sync1=_on_new(row.name, durable_work.sync, threads=1, count=synced),
        sync8=_on_new(row.name, durable_work.sync, threads=8, count=synced * 4),
    )
    seconds: list[float] = _on_new(row.name, durable_work.window, seconds=options.of(5, 2))
    row.add(window50=percentile(seconds, 50) * 1e3, window99=percentile(seconds, 99) * 1e3)


def _deliver(row: Row, port: int, options: Options) -> None:
    count = options.of(6_000, 1_000)
    if row.name == MEMORY:
        row.add(through=child.run(durable_work.deliver, port=port, count=count, url=None))
        return
    row.add(through=_on_new(row.name, durable_work.deliver, port=port, count=count))
    with database(row.name) as url:
        child.run(durable_work.backlog, url=url, count=count)
        done = child.run(durable_work.drain, url=url, port=port)
    _check(done["delivered"], count)
    row.add(drained=_rate([done]), cpu=done["cpu"] * 1e3 / count)


def _backlogs(stack: ExitStack, leasing: Figure, options: Options) -> dict[str, tuple[str, str]]:
    """For each row the URLs of a database with few, and with many deliveries waiting."""
    made = {}
    for row in leasing.rows:
        kind, what = row.name.split(", ")
        progress(f"durable: fills {row.name}")
        urls = stack.enter_context(database(kind)), stack.enter_context(database(kind))
        for url, count in zip(urls, (_FEW, options.of(1_000_000, 100_000)), strict=True):
            databases.fill(url, what, count)
        made[row.name] = urls
    return made


def _lease(row: Row, urls: tuple[str, str], options: Options) -> None:
    endpoint = row.name.split(", ")[1]
    few, many = (
        child.run(
            durable_work.lease,
            url=url,
            endpoint=endpoint,
            key=endpoint == KEYED,
            rounds=options.of(30, 15),
        )
        for url in urls
    )
    row.add(
        few=few["lease"],
        many=many["lease"],
        growth=many["lease"] / few["lease"],
        settle=many["settle"],
        settles=many["settle"] / few["settle"],
    )


def _work(row: Row, port: int, options: Options) -> None:
    attempts = 4 if row.name.startswith("4") else 32
    count = options.of(6_000, 1_000)
    one, two = (_together(number, attempts, port, count) for number in (1, 2))
    row.add(one=one, two=two, ratio=two / one)


def _together(number: int, attempts: int, port: int, count: int) -> float:
    """Deliveries a second of so many workers on one outbox."""
    done: list[dict[str, float]] = []

    def work(url: str, begins: float) -> None:
        done.append(
            child.run(durable_work.drain, url=url, port=port, begins=begins, attempts=attempts)
        )

    with database(POSTGRES) as url:
        child.run(durable_work.backlog, url=url, count=count)
        begins = time.monotonic() + _READY_SECONDS
        own = [threading.Thread(target=work, args=(url, begins)) for _ in range(number)]
        for one in own:
            one.start()
        for one in own:
            one.join()
    _check(sum(one["delivered"] for one in done), count)
    return _rate(done)


def _rate(done: list[dict[str, float]]) -> float:
    seconds = max(one["ended"] for one in done) - min(one["began"] for one in done)
    return sum(one["delivered"] for one in done) / seconds


def _on_new(kind: str, function: Any, **arguments: Any) -> Any:
    with database(kind) as url:
        return child.run(function, url=url, **arguments)


def _check(delivered: float, expected: int) -> None:
    if delivered != expected:
        raise RuntimeError(f"{delivered:.0f} of {expected} were delivered")
