"""The ends of processes with an outbox; kill -9, in a short version of ``benchmarks.kill``."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("sqlalchemy")

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.kill import trial
from cubehook.outbox import Outbox

if TYPE_CHECKING:
    from conftest import Receiver

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 30.0
SOON = 4.0
"""What takes a second at most may take that long on a busy machine."""


@pytest.mark.parametrize("durable", ["async", "sync"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_is_committed_survives_kill_9(tmp_path: Path, durable: str, seed: int) -> None:
    found = trial(f"sqlite:///{tmp_path}/outbox.db", 200, durable, random.Random(seed))
    assert found.problems == ()
    assert found.returned > 0
    assert found.twice <= 256  # what a lane leases ahead


# --- The ends of a process ---

APP = """
import atexit, logging, multiprocessing, os, signal, sys, threading, time
import cubehook, cubehook.depot

cubehook.depot.RETRY_SECONDS = 0.05

def attach(log, **options):
    log.addHandler(cubehook.WebhookHandler(
        [dict(name="ops", url={url!r}, events=["*"], secret={secret!r}, allow_private_urls=True)],
        **dict(dict(outbox={outbox!r}, flush_timeout=1.0), **options)))

log = logging.getLogger("app")
log.setLevel(logging.INFO)

def event(id):
    log.info("a message", extra=dict(event="a.b", event_id=str(id)))

def leaving():
    print(time.monotonic(), flush=True)

"""


@pytest.fixture
def run(receiver: Receiver, tmp_path: Path) -> Callable[[str], tuple[float, str]]:
    """Runs an application to its end: how long the end took, and what it said."""

    def to_its_end(body: str) -> tuple[float, str]:
        head = APP.format(url=receiver.url(), secret=receiver.secret, outbox=url_in(tmp_path))
        path = tmp_path / "app.py"
        path.write_text(head + textwrap.dedent(body))
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", str(path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        ended = time.monotonic()
        assert "Traceback" not in done.stderr
        began = done.stdout.split()
        assert began, done.stderr
        return ended - float(began[0]), done.stderr

    return to_its_end


def url_in(directory: Path) -> str:
    return f"sqlite:///{directory}/outbox.db"


@pytest.fixture
def look(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(url_in(tmp_path))
    yield outbox
    outbox.close()


def ids(outbox: Outbox) -> list[int]:
    return sorted(int(one.event_id) for one in outbox.list(limit=1000))


@pytest.mark.parametrize("durable", ["async", "sync"])
@pytest.mark.parametrize(
    "ending",
    [
        "leaving()",
        "leaving(); sys.exit(0)",
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); leaving(); signal.raise_signal(15)",
        "atexit.register(lambda: event(50)); leaving()",
        "leaving(); logging.shutdown()",
    ],
)
def test_the_end_is_quick_and_stores_all(
    run: Callable[[str], tuple[float, str]],
    receiver: Receiver,
    look: Outbox,
    ending: str,
    durable: str,
) -> None:
    receiver.hold()  # it does not even answer
    took, _ = run(
        f"""
        attach(log, durable={durable!r})
        for number in range(50):
            event(number)
        {ending}
        """
    )
    receiver.release()
    assert ids(look) == list(range(51 if "event(50)" in ending else 50))
    assert took < SOON


def test_what_is_left_by_an_end_is_delivered_by_the_next(
    run: Callable[[str], tuple[float, str]], receiver: Receiver
) -> None:
    receiver.script(default=503)
    run("attach(log)\nfor number in range(20): event(number)\nlog.handlers[0].flush()\nleaving()")
    receiver.script(default=204)
    before = len(receiver.received())
    run("attach(log)\nleaving()\nwhile log.handlers[0].stats().delivered < 10: time.sleep(0.01)")
    assert len(receiver.received()) >= before + 10


@pytest.mark.parametrize("durable", ["async", "sync"])
def test_a_locked_database_does_not_hold_up_the_end(
    run: Callable[[str], tuple[float, str]], tmp_path: Path, look: Outbox, durable: str
) -> None:
    look.prepare()
    other = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    took, said = run(f"attach(log, durable={durable!r})\nevent(1)\nleaving()")
    other.execute("ROLLBACK")
    other.close()
    assert took < 1.0 + 2 * SOON
    assert "1 not stored" in said or "not_stored" in said


def test_a_child_of_multiprocessing_gives_back_what_it_leased(
    run: Callable[[str], tuple[float, str]], receiver: Receiver, look: Outbox
) -> None:
    receiver.hold()
    run(
        """
        def work():
            attach(log)
            for number in range(10):
                event(number)
            while not log.handlers[0].stats().in_flight:
                time.sleep(0.01)

        if __name__ == "__main__":
            child = multiprocessing.get_context("fork").Process(target=work)
            child.start()
            leaving()
            child.join()
        """
    )
    receiver.release()
    assert ids(look) == list(range(10))
    statuses = [one.status.value for one in look.list()]
    assert (statuses.count("leased"), statuses.count("waiting")) == (1, 9)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_deliver_their_own(
    run: Callable[[str], tuple[float, str]], receiver: Receiver, look: Outbox, method: str
) -> None:
    run(
        f"""
        def work(first):
            if not log.handlers:  # in one that was not forked
                attach(log)
            for number in range(first, first + 10):
                event(number)

        if __name__ == "__main__":
            attach(log)
            event(0)
            context = multiprocessing.get_context({method!r})
            children = [context.Process(target=work, args=(first,)) for first in (10, 20)]
            for one in children:
                one.start()
            for one in children:
                one.join()
                assert one.exitcode == 0, one.exitcode
            leaving()
            ends = time.monotonic() + 10
            while log.handlers[0].stats().delivered < 1 and time.monotonic() < ends:
                time.sleep(0.01)
        """
    )
    assert ids(look) == [0, *range(10, 30)]
    came = [one.json["id"] for one in receiver.received()]
    assert len(came) == len(set(came))
