"""How cubehook and its peers fail: ``python -m benchmarks.peers_exit``.

Each contender that is installed (see `benchmarks.peers`) runs, for each case, in a program of its
own against a receiver in this process:

exit       1,000 events, then the program ends; the receiver is up, refuses connections, answers
           503, or never answers. How many events are lost, and how long the end takes.
outage     the receiver goes away, 100 events are logged, it is back after 8 s: how many arrive
           in the 20 s that follow.
fork       20 events before a fork, 20 by the child, 20 by the parent: what arrives, how often.
recursion  the handler is on the root logger, at DEBUG, and one event is logged: how many requests
           come of it.

The exit status tells whether cubehook met its goals; the peers have none.
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import json
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "faults"))

from behaviours import BEHAVIOURS, Exchange
from receiver import FaultReceiver

from benchmarks.peers import CONTENDERS, EVENT, PATH, Contender, Program, plain

UP, REFUSES, ANSWERS_503, HANGS = "up", "refuses", "503", "hangs"

EXIT_EVENTS = 1000
OUTAGE_EVENTS, OUTAGE_SECONDS, BACK_SECONDS = 100, 8.0, 20.0
FORK_EVENTS = 20
LIFE_SECONDS = 6  # of a program that has nothing more to do; most batches are due sooner
CAP = 30.0  # the longest that any end is waited for, in seconds
ARRIVAL_SECONDS = 0.5  # nothing new for so long: all that was sent has been read
CONNECT_SECONDS = 3.0

# What cubehook promises, by case.
EXACT_GOALS: dict[str, dict[str, Any]] = {
    f"exit {UP}": {"lost": 0, "status": 0},
    f"exit {REFUSES}": {"status": 0},
    f"exit {ANSWERS_503}": {"status": 0},
    f"exit {HANGS}": {"status": 0},
    "outage": {"arrived": OUTAGE_EVENTS},
    "fork": {"child": FORK_EVENTS, "parent": 2 * FORK_EVENTS, "repeated": 0, "status": 0},
    "recursion": {"requests": 1, "requests_with_exit": 1, "arrived": 1, "ended": True},
}
SECONDS_GOALS = {
    f"exit {UP}": 1.0,
    # flush_timeout, and what the interpreter takes.
    **dict.fromkeys((f"exit {REFUSES}", f"exit {ANSWERS_503}", f"exit {HANGS}"), 5.0 + 0.5),
}

Result: TypeAlias = dict[str, Any]


class Target:
    """The receiver: counts the requests, and the events in those that it takes.

    mode: `UP`, `ANSWERS_503` or `HANGS`. status: of the answer when it is up.
    """

    def __init__(self, receiver: FaultReceiver, status: int) -> None:
        self.receiver = receiver
        self.port = receiver.port()
        self.mode = UP
        self.requests = 0
        self._status = status
        self._lock = threading.Lock()
        self._taken: collections.Counter[tuple[str, str]] = collections.Counter()
        BEHAVIOURS[PATH] = self._behave

    def be(self, mode: str) -> None:
        """Behave like this from now on."""
        self.mode = mode
        if mode == REFUSES:
            self.receiver.stop()

    def distinct(self, *groups: str) -> int:
        """How many events of these groups arrived, each counted once."""
        with self._lock:
            return sum(group in groups for group, _ in self._taken)

    def repeated(self) -> int:
        """How many events arrived more than once."""
        with self._lock:
            return sum(count > 1 for count in self._taken.values())

    def wait(self, group: str, count: int, timeout: float) -> int:
        """Wait for so many events of a group, for so long; how many there are."""
        ends = time.monotonic() + timeout
        while (there := self.distinct(group)) < count and time.monotonic() < ends:
            time.sleep(0.05)
        return there

    def settle(self) -> None:
        """Wait until nothing more arrives: what an ended program sent may still be read."""
        before = -1
        while before != (before := self.requests):
            time.sleep(ARRIVAL_SECONDS)

    def _behave(self, exchange: Exchange) -> bool:
        with self._lock:
            self.requests += 1
        if self.mode == HANGS:
            return exchange.hang()
        if self.mode == ANSWERS_503:
            return exchange.answer(503)
        # A set: some name an event in more than one field.
        found = set(re.findall(EVENT.encode(), plain(exchange.request.body)))
        with self._lock:
            self._taken.update((group.decode(), number.decode()) for group, number in found)
        if self._status == 204:
            return exchange.answer(204)
        return exchange.answer(self._status, b"{}", "Content-Type: application/json")


# --- The cases ---


def exit_case(mode: str, contender: Contender, target: Target) -> Result:
    """1,000 events, and the end."""
    with Program(contender, target.port) as running:
        target.be(mode)
        running.tell("log", "exit", EXIT_EVENTS)
        running.end()
        logged = running.hear(CAP)
        if logged is None:
            return {"lost": None, "seconds": None, "status": None, "blocked": True}
        ended = running.ended(logged + CAP)
        status = running.status
    target.settle()
    return {
        "lost": EXIT_EVENTS - target.distinct("exit"),
        "seconds": round(ended - logged, 3) if ended else None,
        "status": status,
        "blocked": False,
    }


def outage_case(contender: Contender, target: Target) -> Result:
    """100 events while the receiver is away for some seconds."""
    with Program(contender, target.port) as running:
        running.tell("log", "first", 1)
        running.hear(CAP)
        target.wait("first", 1, CONNECT_SECONDS)  # the usual outage is met by open connections
        target.receiver.stop()
        running.tell("log", "outage", OUTAGE_EVENTS)
        time.sleep(OUTAGE_SECONDS)
        target.receiver.start()
        back = time.monotonic()
        arrived = target.wait("outage", OUTAGE_EVENTS, BACK_SECONDS)
        took = time.monotonic() - back
        running.end()
        running.ended(time.monotonic() + CAP)
    target.settle()
    return {
        "arrived": arrived,
        "seconds": round(took, 3) if arrived == OUTAGE_EVENTS else None,
        "arrived_with_exit": target.distinct("outage"),
    }


def fork_case(contender: Contender, target: Target) -> Result:
    """Events before a fork, and on both sides of it."""
    with Program(contender, target.port) as running:
        running.tell("fork", FORK_EVENTS, LIFE_SECONDS)
        running.end()
        ended = running.ended(time.monotonic() + LIFE_SECONDS + CAP)
        status = running.status
    target.settle()
    return {
        "child": target.distinct("child"),
        "parent": target.distinct("before", "parent"),
        "repeated": target.repeated(),
        "status": status,
        "ended": ended is not None,
    }


def recursion_case(contender: Contender, target: Target) -> Result:
    """One event, by the handler on the root logger at DEBUG, where it meets its own records."""
    with Program(contender, target.port, root=True) as running:
        before = target.requests  # some make themselves known when they are set up
        running.tell("log", "recursion", 1)
        running.hear(CAP)
        time.sleep(LIFE_SECONDS)
        requests = target.requests - before
        running.end()
        # Not as long as `CAP`: those that feed themselves keep both processors busy.
        ended = running.ended(time.monotonic() + LIFE_SECONDS)
    target.settle()
    return {
        "requests": requests,
        "requests_with_exit": target.requests - before,
        "arrived": target.distinct("recursion"),
        "ended": ended is not None,
    }


CASES: dict[str, dict[str, Callable[[Contender, Target], Result]]] = {
    "exit": {
        f"exit {mode}": functools.partial(exit_case, mode)
        for mode in (UP, REFUSES, ANSWERS_503, HANGS)
    },
    "outage": {"outage": outage_case},
    "fork": {"fork": fork_case},
    "recursion": {"recursion": recursion_case},
}
"""By the name that the command line has for them."""


def run(contender: Contender, cases: list[str]) -> dict[str, Result]:
    """The results of one contender, by case."""
    results: dict[str, Result] = {}
    for name, case in itertools.chain.from_iterable(CASES[each].items() for each in cases):
        with FaultReceiver() as receiver:
            target = Target(receiver, contender.status)
            try:
                results[name] = case(contender, target)
            except RuntimeError as error:
                results[name] = {"error": str(error)}
            for unexpected in receiver.unexpected:  # a request that it cannot read
                results[name]["error"] = repr(unexpected)
        print(f"{contender.name}: {name}: {results[name]}", file=sys.stderr)
    return results


# --- What is said of it ---


def problems(results: dict[str, Result]) -> list[str]:
    """The goals that these results, cubehook's, miss."""
    found = []
    for case, result in results.items():
        if "error" in result:
            found.append(f"{case}: {result['error']}")
            continue
        found += [
            f"{case}: {key} is {result[key]}, not {value}"
            for key, value in EXACT_GOALS[case].items()
            if result[key] != value
        ]
        if case in SECONDS_GOALS and not (result["seconds"] or CAP) <= SECONDS_GOALS[case]:
            found.append(f"{case}: took {_seconds(result)} s, more than {SECONDS_GOALS[case]} s")
    return found


def _seconds(result: Result) -> str:
    if result["blocked"]:
        return "blocks"
    return f"> {CAP:.0f}" if result["seconds"] is None else f"{result['seconds']:.2f}"


def _value(key: str) -> Callable[[Result], str]:
    return lambda result: "?" if result[key] is None else f"{result[key]}"


def _with_exit(key: str) -> Callable[[Result], str]:
    def show(result: Result) -> str:
        before, after = result[key], result[f"{key}_with_exit"]
        return f"{before}" if before == after else f"{before} ({after})"

    return show


def _unless_stuck(show: Callable[[Result], str]) -> Callable[[Result], str]:
    return lambda result: show(result) + ("" if result["ended"] else "!")


COLUMNS: tuple[tuple[str, str, str, Callable[[Result], str]], ...] = (
    ("exit: up", "lost", f"exit {UP}", _value("lost")),
    ("", "s", f"exit {UP}", _seconds),
    ("refused", "s", f"exit {REFUSES}", _seconds),
    ("503", "s", f"exit {ANSWERS_503}", _seconds),
    ("hangs", "s", f"exit {HANGS}", _seconds),
    ("outage", f"of {OUTAGE_EVENTS}", "outage", _with_exit("arrived")),
    ("fork: child", f"of {FORK_EVENTS}", "fork", _value("child")),
    ("parent", f"of {2 * FORK_EVENTS}", "fork", _value("parent")),
    ("repeated", "", "fork", _unless_stuck(_value("repeated"))),
    ("DEBUG root", "requests", "recursion", _unless_stuck(_with_exit("requests"))),
)
"""Two lines of heading, the case, and what is shown of its result."""

LEGEND = f"""\
s: seconds from the last log call to the end of the program; > {CAP:.0f}: killed after so long;
blocks: a log call did not return. In brackets: with what came as the program ended.
!: killed, it did not end."""


def table(results: dict[str, dict[str, Result]], cases: list[str]) -> str:
    """The results as text, a row for each contender."""
    ran = [case for name in cases for case in CASES[name]]
    columns = [column for column in COLUMNS if column[2] in ran]
    rows = [["", *(column[0] for column in columns)], ["", *(column[1] for column in columns)]]
    for name, by_case in results.items():
        cells = []
        for _, _, case, show in columns:
            failed = "error" in by_case[case]
            cells.append("failed" if failed else show(by_case[case]))
        rows.append([name, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    lines.insert(2, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)


def _chosen_cases(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - CASES.keys()
    if unknown:
        raise argparse.ArgumentTypeError(f"no such case: {', '.join(sorted(unknown))}")
    return [name for name in CASES if name in names]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help="may be repeated"
    )
    parser.add_argument("--cases", type=_chosen_cases, default=list(CASES), help=",".join(CASES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    return parser.parse_args()


def main() -> None:
    """Parse the command line, run, print the table, and say which goals were missed."""
    arguments = _parse()
    # Who stops us stops the program that is running, too: it is in a session of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = [one for one in CONTENDERS if not arguments.only or one.name in arguments.only]
    versions = {one.name: one.version for one in chosen}
    results = {
        one.name: run(one, arguments.cases) for one in chosen if versions[one.name] is not None
    }
    rows = {f"{name} {versions[name]}".strip(): by_case for name, by_case in results.items()}
    print(table(rows, arguments.cases), LEGEND, sep="\n\n")
    load = os.getloadavg()[1]  # on a busy machine every end takes longer
    print(f"load {load:.1f} on {os.cpu_count()} CPUs, Python {platform.python_version()}")
    for name, by_case in results.items():
        for case, result in by_case.items():
            if "error" in result:
                print(f"failed: {name}: {case}: {result['error']}")
    absent = [f"{one.name} ({one.distribution})" for one in chosen if one.name not in results]
    if absent:
        print(f"not installed: {', '.join(absent)}")
    missed = problems(results.get("cubehook", {}))
    for problem in missed:
        print(f"PROBLEM: cubehook: {problem}")
    if arguments.json:
        report = {
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "load": round(load, 2),
            "versions": versions,
            "results": results,
            "problems": missed,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
