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
import contextlib
import functools
import gzip
import itertools
import json
import os
import platform
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "faults"))

from behaviours import BEHAVIOURS, Exchange
from receiver import HOST, FaultReceiver

from benchmarks.peers import CONTENDERS, EVENT, Contender, program

REPOSITORY = Path(__file__).parent.parent
PATH = "peers"
UP, REFUSES, ANSWERS_503, HANGS = "up", "refuses", "503", "hangs"

EXIT_EVENTS = 1000
OUTAGE_EVENTS, OUTAGE_SECONDS, BACK_SECONDS = 100, 8.0, 20.0
FORK_EVENTS = 20
LIFE_SECONDS = 6  # of a program that has nothing more to do; most batches are due sooner
CAP = 30.0  # the longest that any end is waited for, in seconds
START_SECONDS = 60.0  # imports, on a machine that is busy
ARRIVAL_SECONDS = 0.5  # nothing new for so long: all that was sent has been read
CONNECT_SECONDS = 3.0

# What cubehook promises.
GOAL_EXIT_UP = 1.0
GOAL_EXIT_DOWN = 5.0 + 0.5  # flush_timeout, and what the interpreter takes

Result: TypeAlias = dict[str, Any]


class Target:
    """The receiver: counts the requests, and the events in those that it takes.

    mode: `UP`, `ANSWERS_503` or `HANGS`. status: of the answer when it is up.
    """

    def __init__(self, receiver: FaultReceiver, status: int) -> None:
        self.receiver = receiver
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
        found = set(re.findall(EVENT.encode(), _plain(exchange.request.body)))
        with self._lock:
            self._taken.update((group.decode(), number.decode()) for group, number in found)
        if self._status == 204:
            return exchange.answer(204)
        return exchange.answer(self._status, b"{}", "Content-Type: application/json")


def _plain(body: bytes) -> bytes:
    """The body without its compression, whatever the headers say."""
    for magic, decompress in ((b"\x1f\x8b", gzip.decompress), (b"x", zlib.decompress)):
        if body.startswith(magic):
            with contextlib.suppress(OSError, EOFError, zlib.error):
                return decompress(body)
    return body


class Program:
    """A contender in a process of its own, which does what it is told (see `program`).

    Raises RuntimeError if it cannot be set up.
    """

    def __init__(self, contender: Contender, target: Target, *, root: bool = False) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="peers-")
        self._errors = Path(self._scratch.name, "stderr")
        port = target.receiver.port()
        site = (HOST, port, PATH, f"http://{HOST}:{port}/{PATH}", root)
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program(contender, site)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self._scratch.name,  # some leave files behind
                env=self._environment(),
                start_new_session=True,  # with its children it can be killed
            )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._end: float | None = None
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        threading.Thread(target=self._listen, daemon=True).start()
        if self.hear(START_SECONDS) is None:
            complaint = self._complaint()
            self.close()
            raise RuntimeError(complaint)

    def tell(self, *words: object) -> None:
        """Tell it to do something. Does not wait."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it crashed; what is missing will show
            self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())
            self._process.stdin.flush()

    def end(self) -> None:
        """Tell it that nothing more will come: it ends when it is done."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def hear(self, timeout: float) -> float | None:
        """Wait for its next answer: the moment, on the clock that all processes share."""
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            return None
        return float(answer.split()[1]) if answer else None

    def ended(self, by: float) -> float | None:
        """Wait for its end, until that moment: when it was, None if it is still there."""
        self._watcher.join(max(by - time.monotonic(), 0.0))
        return self._end

    def close(self) -> None:
        """Kill it and its children, if they are still there."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._watcher.join()
        self.end()
        self._scratch.cleanup()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _environment(self) -> dict[str, str]:
        # Nothing of ours: no proxy, no credentials, no settings of a contender.
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": self._scratch.name,
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONWARNINGS": "ignore",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _complaint(self) -> str:
        lines = self._errors.read_text(errors="replace").split("\n")
        return next(filter(None, map(str.strip, reversed(lines))), "no answer")

    def _watch(self) -> None:
        self._process.wait()
        self._end = time.monotonic()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._answers.put(line.decode())
        self._answers.put("")


# --- The cases ---


def exit_case(mode: str, contender: Contender, target: Target) -> Result:
    """1,000 events, and the end."""
    with Program(contender, target) as running:
        target.be(mode)
        running.tell("log", "exit", EXIT_EVENTS)
        running.end()
        logged = running.hear(CAP)
        if logged is None:
            return {"lost": None, "seconds": None, "blocked": True}
        ended = running.ended(logged + CAP)
    target.settle()
    return {
        "lost": EXIT_EVENTS - target.distinct("exit"),
        "seconds": round(ended - logged, 3) if ended else None,
        "blocked": False,
    }


def outage_case(contender: Contender, target: Target) -> Result:
    """100 events while the receiver is away for some seconds."""
    with Program(contender, target) as running:
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
    with Program(contender, target) as running:
        running.tell("fork", FORK_EVENTS, LIFE_SECONDS)
        running.end()
        ended = running.ended(time.monotonic() + LIFE_SECONDS + CAP)
    target.settle()
    return {
        "child": target.distinct("child"),
        "parent": target.distinct("before", "parent"),
        "repeated": target.repeated(),
        "ended": ended is not None,
    }


def recursion_case(contender: Contender, target: Target) -> Result:
    """One event, by the handler on the root logger at DEBUG."""
    with Program(contender, target, root=True) as running:
        before = target.requests  # some make themselves known when they are set up
        running.tell("log", "recursion", 1)
        running.hear(CAP)
        time.sleep(LIFE_SECONDS)
        running.end()
        running.ended(time.monotonic() + LIFE_SECONDS)  # those with long batches send them now
    target.settle()
    return {"requests": target.requests - before, "arrived": target.distinct("recursion")}


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
    found = [f"{case}: {result['error']}" for case, result in results.items() if "error" in result]
    if found:
        return found
    for mode in (UP, REFUSES, ANSWERS_503, HANGS):
        result = results.get(f"exit {mode}", {"seconds": 0.0, "lost": 0})
        goal = GOAL_EXIT_UP if mode == UP else GOAL_EXIT_DOWN
        if result["seconds"] is None or result["seconds"] > goal:
            found.append(f"exit {mode}: took {result['seconds'] or f'> {CAP}'} s, not {goal} s")
        if mode == UP and result["lost"]:
            found.append(f"exit {mode}: {result['lost']} of {EXIT_EVENTS} events lost")
    exact = {
        "outage": {"arrived": OUTAGE_EVENTS},
        "fork": {"child": FORK_EVENTS, "parent": 2 * FORK_EVENTS, "repeated": 0, "ended": True},
        "recursion": {"requests": 1, "arrived": 1},
    }
    for case in exact.keys() & results.keys():
        found += [
            f"{case}: {key} is {results[case][key]}, not {value}"
            for key, value in exact[case].items()
            if results[case][key] != value
        ]
    return sorted(found)


def _seconds(result: Result) -> str:
    if result["blocked"]:
        return "blocks"
    return f"> {CAP:.0f}" if result["seconds"] is None else f"{result['seconds']:.2f}"


def _arrived(result: Result) -> str:
    late = result["arrived_with_exit"]
    return f"{result['arrived']}" + (f" ({late})" if late != result["arrived"] else "")


def _value(key: str) -> Callable[[Result], str]:
    return lambda result: "?" if result[key] is None else f"{result[key]}"


COLUMNS: tuple[tuple[str, str, str, Callable[[Result], str]], ...] = (
    ("exit: up", "lost", f"exit {UP}", _value("lost")),
    ("", "s", f"exit {UP}", _seconds),
    ("refused", "s", f"exit {REFUSES}", _seconds),
    ("503", "s", f"exit {ANSWERS_503}", _seconds),
    ("hangs", "s", f"exit {HANGS}", _seconds),
    ("outage", f"of {OUTAGE_EVENTS}", "outage", _arrived),
    ("fork: child", f"of {FORK_EVENTS}", "fork", _value("child")),
    ("parent", f"of {2 * FORK_EVENTS}", "fork", _value("parent")),
    ("repeated", "", "fork", _value("repeated")),
    ("DEBUG root", "requests", "recursion", _value("requests")),
)
"""Two lines of heading, the case, and what is shown of its result."""


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
    chosen = [one for one in CONTENDERS if not arguments.only or one.name in arguments.only]
    versions = {one.name: one.version for one in chosen}
    results = {
        one.name: run(one, arguments.cases) for one in chosen if versions[one.name] is not None
    }
    print(
        table(
            {f"{name} {versions[name]}".strip(): results[name] for name in results}, arguments.cases
        )
    )
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
            "versions": versions,
            "results": results,
            "problems": missed,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
