"""Streams in a real Redis, for the tests of what reads them.

``CUBEHOOK_TEST_REDIS`` holds the URL of a server; each test has a stream of its own there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "CUBEHOOK_TEST_REDIS"


class Stream:
    """One stream, as CubeMaster and an operator see it."""

    group = "cubehook"

    def __init__(self, url: str, name: str) -> None:
        import redis

        self.url = url
        self.name = name
        self.redis = redis.Redis.from_url(url, protocol=2)

    def add(self, op: str, sandbox: str = "sb-1", payload: object = None, **fields: Any) -> str:
        """Add an entry; its id."""
        entry = {"op": op, "sandbox_id": sandbox, "ts": "1700000000123", **fields}
        if payload is not None:
            entry["payload"] = payload if isinstance(payload, str) else json.dumps(payload)
        return self.redis.xadd(self.name, entry, maxlen=100_000).decode()

    def make_group(self) -> None:
        """As one that was there from the beginning."""
        self.redis.xgroup_create(self.name, self.group, "0", mkstream=True)

    def pending(self) -> dict[str, list[str]]:
        """The ids that each consumer has pending."""
        found: dict[str, list[str]] = {}
        for one in self.redis.xpending_range(self.name, self.group, "-", "+", 1000):
            found.setdefault(one["consumer"].decode(), []).append(one["message_id"].decode())
        return found

    def consumers(self) -> set[str]:
        return {one["name"].decode() for one in self.redis.xinfo_consumers(self.name, self.group)}

    def read_as(self, consumer: str, count: int = 100) -> list[str]:
        """What a consumer that is dead by now was given; the ids."""
        command = ("XREADGROUP", "GROUP", self.group, consumer, "COUNT", count)
        reply = self.redis.execute_command(*command, "STREAMS", self.name, ">")
        return [one[0].decode() for _, entries in reply or () for one in entries]


@contextmanager
def opened(url: str | None = None) -> Iterator[Stream]:
    """A stream of its own; skips the test where there is no server."""
    pytest.importorskip("redis")
    given = url or os.environ.get(VARIABLE)
    if given is None:
        pytest.skip(f"{VARIABLE} is not set")
    stream = Stream(given, f"cubehook-test:{uuid.uuid4().hex}")
    try:
        yield stream
    finally:
        stream.redis.delete(stream.name)
        stream.redis.close()


class Server:
    """A Redis of the test's own, that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder / 'redis.sock'}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", str(self._folder / "redis.sock")]
        self._process = subprocess.Popen(
            [*command, "--dir", str(self._folder), "--save", "3600 100000"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        """As ``SHUTDOWN SAVE`` does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """A server of its own; skips the test where none is installed."""
    pytest.importorskip("redis")
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server")
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
