"""Runs the examples as their READMEs say, on a free port, against a receiver of the tests."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import IO, Any

from loopback import Receiver

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
LIFE = [f"sandbox.{step}" for step in ("created", "paused", "resumed", "deleted")]

PATIENCE = 20.0
"""Seconds for what takes one or two: only a failing test ever waits that long."""

_RECEIVER = "http://127.0.0.1:8787/webhook"  # in the READMEs
_SHELL = re.compile(r"^```bash\n(.*?)^```$", re.M | re.S)


def line(example: str, beginning: str) -> str:
    """The one line in the README's shell blocks that begins so."""
    text = (EXAMPLES / example / "README.md").read_text(encoding="utf-8")
    lines: list[str] = [one for block in _SHELL.findall(text) for one in block.splitlines()]
    (found,) = (one for one in lines if one.startswith(beginning))
    return found


def calls(example: str) -> list[tuple[str, str]]:
    """The requests that the README makes with curl: method and path."""
    text = (EXAMPLES / example / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^curl -X (\w+) http://127\.0\.0\.1:8000(\S+)$", text, re.M)


class Program:
    """An example's program, started in its folder with the README's variables."""

    def __init__(self, example: str, words: list[str], receiver: Receiver, folder: Path) -> None:
        endpoints = shlex.split(line(example, "export CUBE_API_WEBHOOK_ENDPOINTS="))[1]
        name, _, value = endpoints.partition("=")
        assert _RECEIVER in value
        environment = {
            **os.environ,
            "WEBHOOK_SECRET": receiver.secret,
            name: value.replace(_RECEIVER, receiver.url()),
            "BROKER_FOLDER": str(folder / "broker"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "ignore",  # of fork in a process with threads; of running as root
            "HOME": str(folder),
        }
        python = [sys.executable] if words[0] == "python3" else [sys.executable, "-m", words[0]]
        self.process = subprocess.Popen(
            [*python, *words[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=EXAMPLES / example,
            start_new_session=True,
        )

        self._printed = {"out": "", "err": ""}
        self._news = threading.Condition()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._pumps = [
            threading.Thread(target=self._pump, args=("out", self.process.stdout)),
            threading.Thread(target=self._pump, args=("err", self.process.stderr)),
        ]
        for pump in self._pumps:
            pump.start()

    def _pump(self, name: str, stream: IO[str]) -> None:
        with stream:
            for printed in stream:
                with self._news:
                    self._printed[name] += printed
                    self._news.notify_all()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until it has printed that, on either stream."""

        def printed() -> bool:
            return sum(one.count(text) for one in self._printed.values()) >= times

        with self._news:
            assert self._news.wait_for(printed, PATIENCE), self._printed

    def type(self, text: str) -> None:
        """Write to its standard input, which stays open."""
        self._stdin.write(text)
        self._stdin.flush()

    def type_no_more(self) -> None:
        self._stdin.close()

    @property
    def _stdin(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> tuple[int, str, str]:
        """The status, and what was printed, once it and its children have ended."""
        code = self.process.wait(PATIENCE)
        for pump in self._pumps:
            pump.join(PATIENCE)
            assert not pump.is_alive(), "it has left a child behind"
        return code, self._printed["out"], self._printed["err"]

    def kill(self) -> None:
        """It and its children, where there are any left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        for pump in self._pumps:
            pump.join(PATIENCE)
        self.type_no_more()


class Site:
    """A server on a port: one connection for each sandbox, kept as a browser keeps it."""

    def __init__(self, example: str, port: int) -> None:
        self._port = port
        self._calls = calls(example)
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def wait_until_up(self, program: Program) -> None:
        pause = threading.Event()  # never set
        ends = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self._port), 1.0).close()
                return
            assert program.process.poll() is None, program.end()
            assert time.monotonic() < ends, "nobody listens"
            pause.wait(0.01)

    def call(self, number: int, sandbox: str) -> None:
        """The README's request of that number, for another sandbox."""
        method, path = self._calls[number]
        if sandbox not in self._connections:
            self._connections[sandbox] = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=PATIENCE
            )
        connection = self._connections[sandbox]
        connection.request(method, path.replace("sandbox-1", sandbox))
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 201)

    @property
    def last_call(self) -> int:
        return len(self._calls) - 1

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


def lives(receiver: Receiver) -> dict[str, list[str]]:
    """The events of each sandbox as they came. None came twice, and each was signed."""
    received = receiver.received()
    ids = Counter(one.json["id"] for one in received)
    assert set(ids.values()) <= {1}
    assert receiver.problems == []
    found = defaultdict(list)
    for one in received:
        found[one.json["sandbox_id"]].append(one.json["event"])
    return dict(found)


def bodies(receiver: Receiver) -> list[dict[str, Any]]:
    return [one.json for one in receiver.received()]
