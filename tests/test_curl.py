"""What `CurlTransport` does by itself: headers for libcurl, answers from it, handles, sockets.

What it does as the other transport does is tested with that one, in ``test_transport`` and
``faults``; what needs TLS or a receiver that misbehaves, in ``faults/test_libcurl``.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

pycurl = pytest.importorskip("pycurl")

from cubehook import ConfigError, Endpoint, _answer, _gate, curl  # noqa: E402
from cubehook._answer import MOST_LINES, Answer  # noqa: E402
from cubehook.addresses import AddressPolicy  # noqa: E402
from cubehook.attempt import Sender  # noqa: E402
from cubehook.curl import CurlTransport  # noqa: E402
from cubehook.message import Message  # noqa: E402
from cubehook.outcome import Failure, Reply  # noqa: E402
from cubehook.transport import MAX_RESPONSE_BYTES, WebhookAdapter  # noqa: E402

if TYPE_CHECKING:
    from conftest import Receiver

LIMITS: dict[str, Any] = {"timeout": 5.0, "connect_timeout": 5.0, "allow_private_urls": True}


class Wire:
    """A server that keeps the bytes of each request, and answers as it is told."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        self.taken: list[bytes] = []
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if connection.recv(3, socket.MSG_PEEK) == b"end":
                connection.close()
                return
            self.accepted += 1
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(5)
            while request := self._read(connection):
                self.taken.append(request)
                connection.sendall(self.answer)

    def _read(self, connection: socket.socket) -> bytes:
        raw = b""
        while b"\r\n\r\n" not in raw:
            received = connection.recv(65536)
            if not received:
                return b""
            raw += received
        head, _, body = raw.partition(b"\r\n\r\n")
        lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-len")]
        left = int(lengths[0].split(b":")[1]) - len(body)
        while left > 0:
            received = connection.recv(65536)
            raw += received
            left -= len(received)
        return raw

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), 5) as last:
            last.sendall(b"end")
        for thread in self._threads:
            thread.join()
        self._listener.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    server = Wire()
    yield server
    server.close()


@pytest.fixture
def to(wire: Wire) -> Iterator[Callable[..., CurlTransport]]:
    """Makes transports to the wire, and closes them."""
    made: list[CurlTransport] = []

    def make(path: str = "/", **settings: Any) -> CurlTransport:
        url = f"http://127.0.0.1:{wire.port}{path}"
        made.append(CurlTransport(Endpoint(url=url, **(LIMITS | settings))))
        return made[-1]

    yield make
    for one in made:
        one.close()


# --- The extra ---


@pytest.mark.parametrize("found", [None, SimpleNamespace(version="PycURL/7.45.3")])
def test_without_pycurl_or_with_an_old_one(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycurl", found)
    with pytest.raises(ConfigError) as caught:
        Endpoint(url="https://ops.example.com/", transport="curl")
    assert caught.value.problems == ("transport: 'curl' needs: pip install 'cubehook[curl]'",)


# --- The request ---


def test_the_bytes_of_a_request(wire: Wire, to: Callable[..., CurlTransport]) -> None:
    headers = {
        "User-Agent": "cubehook/0",
        "Accept": "*/*",
        "Content-Type": "application/json",
        "X-CamelCase": "Kept As It Is",
        "x-lower": "caf\xe9",
        "X-Empty": "",
        "X-Blank": " \t",
        "X-NoBreak": "\xa0",
    }
    assert to("/hook?room=7").post(headers, b"{}") == Reply(204)
    assert wire.taken == [
        b"POST /hook?room=7 HTTP/1.1\r\n"
        b"Host: 127.0.0.1:%d\r\n"
        b"User-Agent: cubehook/0\r\n"
        b"Accept: */*\r\n"
        b"Content-Type: application/json\r\n"
        b"X-CamelCase: Kept As It Is\r\n"
        b"x-lower: caf\xe9\r\n"
        b"X-Empty:\r\n"
        b"X-Blank:\r\n"
        b"X-NoBreak: \xa0\r\n"
        b"Content-Length: 2\r\n"
        b"\r\n"
        b"{}" % wire.port
    ]


def test_a_long_body_is_not_announced(wire: Wire, to: Callable[..., CurlTransport]) -> None:
    started = time.monotonic()
    assert to().post({}, b"x" * 2**21) == Reply(204)
    assert time.monotonic() - started < 0.9  # libcurl would wait that long for an interim answer
    assert b"expect" not in wire.taken[0].partition(b"\r\n\r\n")[0].lower()


@pytest.mark.parametrize(
    "path", ["/%2e%2E/%2F./a", "/a/../b", "/x/./y/", "/{a,b}[1-3]", "//a//", "/~"]
)
def test_a_path_is_sent_as_the_other_transport_does(
    wire: Wire, to: Callable[..., CurlTransport], path: str
) -> None:
    other = WebhookAdapter(Endpoint(url=f"http://127.0.0.1:{wire.port}{path}", **LIMITS))
    assert other.post({}, b"{}") == Reply(204)
    other.close()
    assert to(path).post({}, b"{}") == Reply(204)
    first, second = (raw.partition(b"\r\n")[0] for raw in wire.taken)
    assert first == second


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("X-Bad", value) for value in ("a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rb", "\x00", "\n")],
        *[("X-Bad", value) for value in ("\u2713", "\x0b", "\x0c ", "\r\n", "a\n")],
        *[(name, "1") for name in ("", "X Bad", "X-Bad;", "X\r\nEvil", "\xe9", "X-Bad\n")],
        *[(name, "") for name in ("", "X Bad", "X-Bad;", "X\nEvil")],
    ],
)
def test_a_header_that_would_be_none_or_two(
    wire: Wire, to: Callable[..., CurlTransport], name: str, value: str
) -> None:
    transport = to()
    assert transport.post({"X-Good": "1", name: value}, b"{}") == Failure("transport error")
    assert wire.taken == []
    assert transport.post({"X-Good": "1"}, b"{}") == Reply(204)
    # Nor does it cost the connection.
    assert transport.post({name: value}, b"{}") == Failure("transport error")
    assert transport.post({}, b"{}") == Reply(204)
    assert wire.accepted == 1


def test_a_signed_message(receiver: Receiver) -> None:
    settings = receiver.endpoint(transport="curl", timeout=5.0, connect_timeout=5.0)
    sender = Sender(Endpoint(**settings | {"headers": {"user-agent": "mine/1"}}))
    message = Message("id-1", "sandbox.created", None, "application/json", b'{"id":"1"}')
    assert sender(message) == Reply(204)
    sender.close()
    (one,) = receiver.received()
    assert one.body == message.body
    assert one.headers["user-agent"] == "mine/1"
    assert one.headers["content-type"] == "application/json"


def test_the_longest_timeout_that_can_be_configured(to: Callable[..., CurlTransport]) -> None:
    longest = {"timeout": 31_622_400.0, "connect_timeout": 31_622_400.0}
    assert to(**longest).post({}, b"{}") == Reply(204)


# --- The answer ---


def heard(*lines: bytes) -> Answer:
    answer = Answer()
    for line in lines:
        assert answer.hear(line + b"\r\n") is None
    return answer


def test_the_head_that_counts_is_the_last() -> None:
    early = (b"HTTP/1.1 103 Early", b"Retry-After: 1", b"")
    head = heard(*early, *early, b"HTTP/1.1 503 No", b"Retry-After: 7", b"").head()
    assert head is not None
    assert (_answer.status(head), _answer.retry_after(head)) == (503, "7")


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (b"HTTP/1.1 200 OK",),
        (b"HTTP/1.1 200 OK", b"A: b"),
        (b"HTTP/1.1 100 Continue", b""),
        (b"HTTP/1.1 100 Continue", b"", b"HTTP/1.1 200 OK"),
    ],
)
def test_a_head_that_has_not_ended(lines: tuple[bytes, ...]) -> None:
    assert heard(*lines).head() is None


def test_lines_may_end_in_a_line_feed() -> None:
    answer = Answer()
    for line in (b"HTTP/1.0 429\n", b"retry-after:3\n", b"\n"):
        answer.hear(line)
    head = answer.head()
    assert head is not None
    assert (_answer.status(head), _answer.retry_after(head)) == (429, "3")


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ([], None),
        ([b"X: Retry-After: 1"], None),
        ([b"X-Retry-After: 1"], None),
        ([b"Retry-After : 1"], None),
        ([b"Retry-After"], None),
        ([b"Retry-After:"], ""),
        ([b"Retry-After:120"], "120"),
        ([b"retry-AFTER: \t120 \t"], "120"),
        ([b"Retry-After: 5", b"Retry-After: 7"], "5, 7"),
        ([b"Via: HTTP/1.1 x", b"Retry-After: 5", b"Server: HTTP/2"], "5"),
        ([b"Retry-After: in a while, \xe9"], "in a while, \xe9"),
    ],
)
def test_retry_after(
    wire: Wire, to: Callable[..., CurlTransport], lines: list[bytes], value: str | None
) -> None:
    wire.answer = b"\r\n".join([b"HTTP/1.1 503 No", *lines, b"Content-Length: 0", b"", b""])
    if lines == [b"Retry-After"]:  # no header: libcurl takes it for the end
        assert to().post({}, b"{}") == Failure("malformed answer")
    else:
        assert to().post({}, b"{}") == Reply(503, value)


def test_a_trailer_is_no_header(wire: Wire, to: Callable[..., CurlTransport]) -> None:
    wire.answer = (
        b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nRetry-After: 7\r\n\r\n"
    )
    assert to().post({}, b"{}") == Reply(503, None, b"ok")


def test_what_is_taken_in_of_a_head_is_bounded() -> None:
    answer = Answer()
    assert [answer.hear(b"x" * 1024) for _ in range(65)][-2:] == [None, 0]
    answer.clear()
    lines = [answer.hear(b"X: y\r\n") for _ in range(MOST_LINES + 1)]
    assert lines[-2:] == [None, 0]
    assert answer.too_long


def test_what_is_taken_in_of_a_body_is_bounded() -> None:
    answer = Answer()
    assert answer.take(b"x" * MAX_RESPONSE_BYTES) is None
    assert answer.take(b"x") == 0


# --- Handles and sockets ---


def test_one_thread_at_a_time_uses_a_handle(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    using: set[int] = set()
    wrong: list[int] = []
    post = curl._Client.post

    def alone(self: Any, *args: Any) -> Any:
        if id(self) in using:
            wrong.append(id(self))
        using.add(id(self))
        try:
            return post(self, *args)
        finally:
            using.discard(id(self))

    monkeypatch.setattr(curl._Client, "post", alone)
    settings = receiver.endpoint(transport="curl", max_concurrency=8, **LIMITS)
    sender = Sender(Endpoint(**settings))
    messages = [
        Message(f"id-{number}", "a.b", None, "application/json", b'{"n":%d}' % number)
        for number in range(200)
    ]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(sender, messages)) == [Reply(204)] * 200
    sender.close()
    assert wrong == []
    assert receiver.connections <= 8
    assert sorted(one.json["n"] for one in receiver.received()) == list(range(200))
    assert receiver.wait_for_disconnects()


def test_libcurl_starts_no_thread_to_resolve_a_name(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("no /proc")
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", wire.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    for name in ("receiver.invalid", "receiver.invalid.", "RECEIVER.invalid"):
        transport = CurlTransport(Endpoint(url=f"http://{name}:{wire.port}/", **LIMITS))
        before = {int(task) for task in os.listdir("/proc/self/task")}
        assert transport.post({}, b"{}") == Reply(204)
        after = {int(task) for task in os.listdir("/proc/self/task")}
        assert after <= before | {one.native_id for one in threading.enumerate()}
        transport.close()


def sock_address(host: str) -> Any:
    return SimpleNamespace(
        family=socket.AF_INET, socktype=socket.SOCK_STREAM, protocol=6, addr=(host, 80)
    )


def test_a_gate_opens_for_vetted_addresses_only() -> None:
    gate = _gate.Gate(AddressPolicy(allow_private=True), secure=True)
    assert gate.open(0, sock_address("127.0.0.1")) == pycurl.SOCKET_BAD
    assert gate.refused == ""
    gate.vetted = ["127.0.0.1"]
    with gate.open(0, sock_address("127.0.0.1")) as opened:
        assert opened.fileno() != -1
    for host, refused in [("127.0.0.2", ""), ("169.254.169.254", "link-local address")]:
        assert gate.open(0, sock_address(host)) == pycurl.SOCKET_BAD
        assert gate.refused == refused


def test_libcurl_asks_before_it_connects_by_itself(
    wire: Wire, to: Callable[..., CurlTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it has in its cache: an address is vetted right before."""
    transport = to()
    assert transport.post({}, b"{}") == Reply(204)
    (client,) = transport._idle
    client._curl.setopt(pycurl.FRESH_CONNECT, 1)
    vetted: list[Any] = []
    refusal = AddressPolicy.refusal

    def note(self: AddressPolicy, address: str, *, secure: bool) -> str | None:
        vetted.append(address)
        return refusal(self, address, secure=secure)

    monkeypatch.setattr(AddressPolicy, "refusal", note)
    assert transport.post({}, b"{}") == Reply(204)
    assert vetted == ["127.0.0.1"]
    assert len(wire.taken) == 2


def test_no_socket_to_be_had(
    to: Callable[..., CurlTransport],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def none(*_: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(_gate, "Socket", none)
    transport = to()
    assert isinstance(transport.post({}, b"{}"), Failure)
    monkeypatch.undo()
    monkeypatch.setattr(os, "set_inheritable", none)
    assert isinstance(transport.post({}, b"{}"), Failure)
    monkeypatch.undo()
    assert transport.post({}, b"{}") == Reply(204)
    assert capfd.readouterr() == ("", "")


def test_no_handle_to_be_had(
    to: Callable[..., CurlTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(curl, "_Client", none)
    assert to().post({}, b"{}") == Failure("transport error")
