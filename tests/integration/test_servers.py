"""Inside the applications people run: gunicorn, pools of processes, asyncio."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cubehook
from cubehook import WebhookHandler

if TYPE_CHECKING:
    from conftest import Receiver

PATIENCE = 20.0
ROOT = Path(cubehook.__file__).parent.parent

CONFIGURE = """
import logging, logging.config, os, sys

logging.config.dictConfig({{
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {{"webhooks": {{
        "class": "cubehook.WebhookHandler",
        "endpoints": [{{
            "name": "hook", "url": {url!r}, "events": ["*"], "secret": {secret!r},
            "allow_private_urls": True, "backoff_initial": 0.05,
        }}],
        "queue_capacity": 5000,
        "flush_timeout": 10.0,
    }}}},
    "loggers": {{"app": {{"level": "INFO", "handlers": ["webhooks"]}}}},
}})
log = logging.getLogger("app")

def event(id, **fields):
    log.info("a message", extra=dict(fields, event="a.b", event_id=str(id), pid=os.getpid()))

"""


class Program:
    """A running program."""

    def __init__(self, arguments: list[str], directory: Path, *keep: int) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]),
            "PYTHONWARNINGS": "ignore::DeprecationWarning",  # of fork in a process with threads
            "HOME": str(directory),
        }
        environment.pop("CUBE_API_WEBHOOK_ENDPOINTS", None)
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=directory,
            pass_fds=keep,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str, str]:
        """The status and what was printed, once it has ended."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def kill(self) -> None:
        """The program and its children, where there are any left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


Start = Callable[..., Program]


@pytest.fixture
def start(receiver: Receiver, tmp_path: Path) -> Iterator[Start]:
    """Writes ``app.py``, which begins by configuring logging, and starts a program beside it."""
    started: list[Program] = []

    def begin(app: str, *arguments: str, keep: tuple[int, ...] = ()) -> Program:
        head = CONFIGURE.format(url=receiver.url(), secret=receiver.secret)
        (tmp_path / "app.py").write_text(head + textwrap.dedent(app), encoding="utf-8")
        started.append(Program(list(arguments) or ["app.py"], tmp_path, *keep))
        return started[-1]

    yield begin
    receiver.release()
    for one in started:
        one.kill()


def ids(receiver: Receiver) -> list[str]:
    return sorted(one.json["id"] for one in receiver.received())


def senders(receiver: Receiver) -> dict[str, int]:
    """The process that logged each event, by the event's id."""
    return {one.json["id"]: one.json["pid"] for one in receiver.received()}


# --- gunicorn ---

WSGI = """
    import multiprocessing

    both = multiprocessing.get_context("fork").Barrier(2)
    event("master")

    def application(environ, start_response):
        path = environ["PATH_INFO"].strip("/")
        if path.startswith("meet"):
            both.wait(10)
        event(path)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(os.getpid()).encode()]
"""


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that listens: who connects waits in its queue for a server to be there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener


def get(listening: socket.socket, path: str) -> int:
    """The id of the process that answered."""
    host, port = listening.getsockname()
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        assert answer.status == 200
        return int(answer.read())
    finally:
        connection.close()


@pytest.fixture
def gunicorn(start: Start, listening: socket.socket) -> Program:
    """gunicorn with two workers, forked from a master that has logged an event."""
    if importlib.util.find_spec("gunicorn") is None:
        pytest.skip("gunicorn is not installed")
    descriptor = listening.fileno()
    command = ["-m", "gunicorn", "--preload", "--workers=2", f"--bind=fd://{descriptor}"]
    return start(WSGI, *command, "--log-level=warning", "app:application", keep=(descriptor,))


def test_gunicorn_with_preload_each_event_once(
    gunicorn: Program, listening: socket.socket, receiver: Receiver
) -> None:
    with ThreadPoolExecutor(2) as pool:
        # A worker has one request at a time, so these two meet in two workers.
        workers = set(pool.map(lambda n: get(listening, f"meet-{n}"), range(2)))
        answered = dict(pool.map(lambda n: (f"r-{n}", get(listening, f"r-{n}")), range(40)))
    receiver.wait_for(43)
    gunicorn.process.send_signal(signal.SIGTERM)
    code, _, err = gunicorn.end()

    assert (code, err) == (0, "")
    assert len(workers) == 2
    assert set(answered.values()) <= workers
    assert Counter(ids(receiver)) == dict.fromkeys(["master", "meet-0", "meet-1", *answered], 1)
    sent = senders(receiver)
    assert sent["master"] == gunicorn.process.pid
    assert {name: sent[name] for name in answered} == answered


def test_gunicorn_ended_by_sigterm_loses_nothing(
    gunicorn: Program, listening: socket.socket, receiver: Receiver
) -> None:
    """The receiver answers nothing until the signal has been sent."""
    receiver.hold()
    with ThreadPoolExecutor(2) as pool:
        workers = set(pool.map(lambda n: get(listening, f"meet-{n}"), range(2)))
        answered = dict(pool.map(lambda n: (f"r-{n}", get(listening, f"r-{n}")), range(40)))
    assert len(receiver.received()) < 43
    gunicorn.process.send_signal(signal.SIGTERM)
    receiver.release()
    code, _, err = gunicorn.end()

    assert (code, err) == (0, "")
    assert len(workers) == 2
    assert Counter(ids(receiver)) == dict.fromkeys(["master", "meet-0", "meet-1", *answered], 1)


# --- Pools ---

POOL = """
    import multiprocessing

    def work(number):
        event(f"worker-{number}")
        return os.getpid()

    if __name__ == "__main__":
        event("before")
        with multiprocessing.get_context("fork").Pool(3) as pool:
            pids = pool.map(work, range(60), chunksize=1)
            pool.close()
            pool.join()
        event("after")
        print(os.getpid(), *pids)
"""

EXECUTOR = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    def work(number):
        event(f"worker-{number}")
        return os.getpid()

    if __name__ == "__main__":
        event("before")
        with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool:
            pids = list(pool.map(work, range(60)))
        event("after")
        print(os.getpid(), *pids)
"""


@pytest.mark.parametrize("app", [POOL, EXECUTOR], ids=["multiprocessing", "concurrent.futures"])
@pytest.mark.parametrize("held", [False, True], ids=["up", "slow"])
def test_a_pool_of_processes_each_event_once(
    start: Start, receiver: Receiver, app: str, held: bool
) -> None:
    """slow: the receiver answers 503 to the first; what waits for its retry is not lost."""
    if held:
        receiver.script(*[503] * 6)
    code, out, err = start(app).end()

    assert code == 0
    assert "Traceback" not in err
    assert "undelivered" not in err
    parent, *workers = map(int, out.split())
    expected = {f"worker-{number}": pid for number, pid in enumerate(workers)}
    sent = senders(receiver)
    assert sent == expected | {"before": parent, "after": parent}
    counts = Counter(ids(receiver))
    assert sum(counts.values()) == 62 + 6 * held
    assert held or set(counts.values()) == {1}
    assert parent not in workers


# --- asyncio ---


def test_asyncio_the_loop_is_never_blocked(
    handler: Callable[..., WebhookHandler], logger: logging.Logger, receiver: Receiver
) -> None:
    """A hundred tasks log while the endpoint hangs; afterwards it gets everything, once."""
    tasks, events = 100, 5
    receiver.hold()
    made = handler()

    async def log(task: int) -> None:
        for number in range(events):
            tag = {"event": "a.b", "event_id": f"{task}-{number}", "sandbox_id": task}
            logger.info("", extra=tag)
            await asyncio.sleep(0.002)

    async def longest_gap(over: asyncio.Event) -> float:
        longest, last = 0.0, time.monotonic()
        while not over.is_set():
            await asyncio.sleep(0.001)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest

    async def main() -> float:
        over = asyncio.Event()
        ticking = asyncio.create_task(longest_gap(over))
        await asyncio.gather(*(log(task) for task in range(tasks)))
        over.set()
        return await ticking

    gap = asyncio.run(main())
    assert made.stats().pending == tasks * events
    receiver.release()
    assert gap < 0.1
    assert made.flush(PATIENCE)
    assert Counter(ids(receiver)) == {
        f"{task}-{number}": 1 for task in range(tasks) for number in range(events)
    }
