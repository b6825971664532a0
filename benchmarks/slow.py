"""A receiver that takes its time: it answers 204 after so many seconds, many requests at once.

``Slow`` starts one in a process of its own; whoever sends waits, and nobody computes meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import tempfile

from benchmarks.peers import HOST, environment

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"
_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class Slow:
    """The server, seen from outside."""

    def __init__(self, seconds: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.slow", str(seconds)],
            stdout=subprocess.PIPE,
            env=environment(tempfile.gettempdir()),
        )
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            self.port = int(stdout.readline())

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()


class _Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(_END_OF_HEAD)
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end)
        if len(self._buffer) >= end + len(_END_OF_HEAD) + (int(length[1]) if length else 0):
            self._buffer.clear()
            asyncio.get_running_loop().call_later(self._seconds, self._transport.write, _ANSWER)


async def _serve(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(seconds), HOST, 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(float(sys.argv[1])))
