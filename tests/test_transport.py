"""One POST as it goes out and as its answer comes in; the hostile answers are in ``faults``."""

from __future__ import annotations

import http.client
import io
import pickle
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from email.parser import BytesHeaderParser
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import requests
import responses
import urllib3.exceptions
from requests.adapters import HTTPAdapter

from cubehook import Endpoint, transport, verify
from cubehook.attempt import USER_AGENT, Sender, Transport, _transport
from cubehook.connection import ConnectTimeoutError
from cubehook.message import Message
from cubehook.outcome import Failure, Reply
from cubehook.transport import MAX_RESPONSE_BYTES, WebhookAdapter

URL = "https://hooks.example.com/cube/T0KEN?room=7"
SECRETIVE = re.compile(r"hooks|example|T0KEN|room|127\.0\.0\.1|://", re.IGNORECASE)
REASONS = {reason for _, reason in transport._REASONS} | {"transport error"}

MESSAGE = Message(
    id="550e8400-e29b-41d4-a716-446655440000",
    event="sandbox.created",
    key="sandbox-123",
    content_type="application/json",
    body=b'{"id":"delivery-1","event":"sandbox.created"}',
)
KNOWN_TIME = 1710000000
KNOWN_SIGNATURE = "v1=32d6a0eded03b109ed9fb0b0d57ac414e13f4bc2caa5eb1fb6c0db0b23845f85"


def endpoint(url: str = URL, **settings: Any) -> Endpoint:
    limits = {"timeout": 5.0, "connect_timeout": 5.0, "max_concurrency": 1}
    return Endpoint(url=url, **(limits | settings))


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    """In place of every adapter's ``send``: nothing leaves."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def adapter() -> Iterator[WebhookAdapter]:
    made = WebhookAdapter(endpoint())
    yield made
    made.close()


class Capture:
    """A server for one connection that answers 204 and keeps the bytes of each request."""

    def __init__(self, family: socket.AddressFamily, host: str) -> None:
        self._listener = socket.create_server((host, 0), family=family)
        self._listener.settimeout(10)
        self.port: int = self._listener.getsockname()[1]
        self._pool = ThreadPoolExecutor(1)

    def take(self, count: int = 1) -> Future[list[bytes]]:
        """The next requests, once they are here."""
        return self._pool.submit(self._serve, count)

    def close(self) -> None:
        # Wakes a server that waits for what did not come.
        socket.create_connection(self._listener.getsockname()[:2], 5).close()
        self._pool.shutdown()
        self._listener.close()

    def _serve(self, count: int) -> list[bytes]:
        taken: list[bytes] = []
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(2)
            for _ in range(count):
                raw = b""
                while not _is_whole(raw):
                    received = connection.recv(65536)
                    assert received, "the request broke off"
                    raw += received
                taken.append(raw)
                connection.sendall(b"HTTP/1.1 204 No Content\r\nSet-Cookie: a=b\r\n\r\n")
        return taken


def _is_whole(raw: bytes) -> bool:
    head, end, body = raw.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return bool(end) and len(body) >= int(length[1] if length else 0)


def headers_of(raw: bytes) -> list[tuple[str, str]]:
    """The headers of a request, spelled and ordered as they were sent."""
    head = raw.partition(b"\r\n\r\n")[0].partition(b"\r\n")[2]
    return BytesHeaderParser().parsebytes(head).items()


@pytest.fixture
def capture() -> Iterator[Capture]:
    server = Capture(socket.AF_INET, "127.0.0.1")
    yield server
    server.close()


def sending_to(url: str, transport: str) -> Transport:
    return _transport(endpoint(url, allow_private_urls=True, transport=transport))


def post_to(
    capture: Capture,
    transport: str,
    body: bytes = b"{}",
    path: str = "/",
    headers: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """The bytes that a POST puts on the wire."""
    url = f"http://127.0.0.1:{capture.port}{path}"
    sending = sending_to(url, transport)
    taken = capture.take()
    assert sending.post(headers, body) == Reply(204)
    sending.close()
    return taken.result()[0]


# --- The request ---


def test_it_is_an_adapter_of_requests(
    adapter: WebhookAdapter, wire: responses.RequestsMock
) -> None:
    assert isinstance(adapter, HTTPAdapter)
    wire.post(URL, status=204)

    assert adapter.post({"X-One": "1"}, b'{"a":"\xc3\xbc"}') == Reply(204)

    request = wire.calls[0].request
    assert request.method == "POST"
    assert request.url == URL
    assert request.body == b'{"a":"\xc3\xbc"}'
    assert request.headers["X-One"] == "1"
    assert request.headers["Content-Length"] == "10"
    assert len(wire.calls) == 1


@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256)) * 8, b"x" * 2**20])
def test_the_body_goes_out_byte_for_byte(capture: Capture, transport: str, body: bytes) -> None:
    raw = post_to(capture, transport, body)
    head, _, sent = raw.partition(b"\r\n\r\n")
    assert sent == body
    names = [name.lower() for name, _ in headers_of(raw)]
    assert names.count("content-length") == 1
    assert "transfer-encoding" not in names
    assert f"Content-Length: {len(body)}".encode() in head


def test_the_bytes_of_a_request(capture: Capture) -> None:
    raw = post_to(
        capture,
        "requests",
        path="/hook?room=7",
        headers={"User-Agent": "cubehook/0", "X-CamelCase": "Kept As It Is", "x-lower": "caf\xe9"},
    )
    assert (
        raw
        == (
            b"POST /hook?room=7 HTTP/1.1\r\n"
            b"Host: 127.0.0.1:%d\r\n"
            b"Accept-Encoding: identity\r\n"
            b"User-Agent: cubehook/0\r\n"
            b"X-CamelCase: Kept As It Is\r\n"
            b"x-lower: caf\xe9\r\n"
            b"Content-Length: 2\r\n"
            b"\r\n"
            b"{}"
        )
        % capture.port
    )


def test_a_length_given_is_not_believed(capture: Capture, transport: str) -> None:
    raw = post_to(capture, transport, b"four", headers={"content-length": "400"})
    assert [value for name, value in headers_of(raw) if name.lower() == "content-length"] == ["4"]


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("", "/"),
        ("/", "/"),
        ("?a=1", "/?a=1"),
        ("/a/b?c=d&e=%20f", "/a/b?c=d&e=%20f"),
        ("/a%2Fb", "/a%2Fb"),
        ("/\xfc", "/%C3%BC"),
        ("/a//b/", "/a//b/"),
    ],
)
def test_path_and_query(capture: Capture, transport: str, written: str, sent: str) -> None:
    first_line = post_to(capture, transport, path=written).partition(b"\r\n")[0]
    assert first_line == f"POST {sent} HTTP/1.1".encode()


def test_ipv6(transport: str) -> None:
    try:
        server = Capture(socket.AF_INET6, "::1")
    except OSError:
        pytest.skip("no IPv6 here")
    sending = sending_to(f"http://[::1]:{server.port}/", transport)
    taken = server.take()
    assert sending.post({}, b"{}") == Reply(204)
    assert ("Host", f"[::1]:{server.port}") in headers_of(taken.result()[0])
    sending.close()
    server.close()


def test_requests_share_a_connection(capture: Capture, transport: str) -> None:
    url = f"http://127.0.0.1:{capture.port}/"
    sending = sending_to(url, transport)
    taken = capture.take(3)  # of one connection
    for body in (b"1", b"2", b"3"):
        assert sending.post({}, body) == Reply(204)
    assert [raw[-1:] for raw in taken.result()] == [b"1", b"2", b"3"]
    sending.close()


def test_a_header_that_cannot_be_sent(capture: Capture, transport: str) -> None:
    url = f"http://127.0.0.1:{capture.port}/"
    sending = sending_to(url, transport)
    for value in ("\u2713", "two\r\nlines"):
        result = sending.post({"X-Bad": value}, b"{}")
        assert isinstance(result, Failure)
        assert result.reason in REASONS
    sending.close()


# --- The answer ---


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299, 400, 401, 404, 408, 410, 413, 425])
@pytest.mark.parametrize("body", [b"", b'{"ok":true}'])
def test_statuses(
    adapter: WebhookAdapter, wire: responses.RequestsMock, status: int, body: bytes
) -> None:
    if status == 204:
        body = b""  # it never has one
    wire.post(URL, status=status, body=body)
    assert adapter.post({}, b"{}") == Reply(status, body=body)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_is_retried_is_not_retried_here(
    adapter: WebhookAdapter, wire: responses.RequestsMock, status: int
) -> None:
    wire.post(URL, status=status, headers={"retry-after": "7"})
    assert adapter.post({}, b"{}") == Reply(status, retry_after="7")
    assert len(wire.calls) == 1


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_redirects_are_answers(
    adapter: WebhookAdapter, wire: responses.RequestsMock, status: int
) -> None:
    wire.post(URL, status=status, headers={"Location": "https://other.example/"})
    elsewhere = wire.add(responses.POST, "https://other.example/")
    assert adapter.post({}, b"{}") == Reply(status)
    assert elsewhere.call_count == 0


@pytest.mark.parametrize(
    ("length", "kept", "complete"),
    [
        (MAX_RESPONSE_BYTES - 1, MAX_RESPONSE_BYTES - 1, True),
        (MAX_RESPONSE_BYTES, MAX_RESPONSE_BYTES, True),
        (MAX_RESPONSE_BYTES + 1, MAX_RESPONSE_BYTES, False),
        (MAX_RESPONSE_BYTES * 16, MAX_RESPONSE_BYTES, False),
    ],
)
def test_a_body_is_kept_up_to_64_kib(
    adapter: WebhookAdapter, wire: responses.RequestsMock, length: int, kept: int, complete: bool
) -> None:
    wire.post(URL, status=200, body=b"x" * length)
    assert adapter.post({}, b"{}") == Reply(200, body=b"x" * kept, complete=complete)


def test_a_body_is_not_decoded(adapter: WebhookAdapter, wire: responses.RequestsMock) -> None:
    wire.post(URL, status=200, body=b"no gzip at all", headers={"Content-Encoding": "gzip"})
    assert adapter.post({}, b"{}") == Reply(200, body=b"no gzip at all")


# --- Failures ---


def wrapped(error: Exception) -> requests.ConnectionError:
    """An error as urllib3 and requests hand it on."""
    return requests.ConnectionError(urllib3.exceptions.ProtocolError(f"At {URL}", error))


def caused_by(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (wrapped(ConnectionRefusedError(111, URL)), "connection refused"),
        (wrapped(ConnectionResetError(104, URL)), "connection reset"),
        (wrapped(BrokenPipeError(32, URL)), "connection reset"),
        (wrapped(http.client.RemoteDisconnected(URL)), "connection closed"),
        (wrapped(http.client.BadStatusLine(URL)), "malformed answer"),
        (wrapped(http.client.LineTooLong(URL)), "malformed answer"),
        (wrapped(socket.gaierror(-2, URL)), "name resolution failed"),
        (wrapped(TimeoutError(URL)), "timeout"),
        (wrapped(ConnectTimeoutError(URL)), "connect timeout"),
        (wrapped(OSError(113, URL)), "network error"),
        (requests.exceptions.SSLError(ssl.SSLCertVerificationError(URL)), "certificate not valid"),
        (requests.exceptions.SSLError(ssl.SSLError(1, URL)), "TLS failed"),
        (
            caused_by(requests.ReadTimeout(URL), ConnectTimeoutError()),
            "connect timeout",
        ),
        (
            requests.ReadTimeout(urllib3.exceptions.ReadTimeoutError(None, URL, "late")),  # type: ignore[arg-type]
            "timeout",
        ),
        (requests.ConnectionError(URL), "network error"),
        (requests.Timeout(URL), "network error"),
        (requests.exceptions.InvalidURL(URL), "network error"),
        (RuntimeError(URL), "transport error"),
        (ValueError(URL), "transport error"),
        (KeyError(URL), "transport error"),
        (AssertionError(URL), "transport error"),
        (MemoryError(URL), "transport error"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else type(value).__name__,
)
def test_errors_become_failures(
    adapter: WebhookAdapter, wire: responses.RequestsMock, error: Exception, reason: str
) -> None:
    wire.post(URL, body=error)
    result = adapter.post({}, b"{}")
    assert result == Failure(reason)
    assert not SECRETIVE.search(repr(result))


def test_errors_that_cause_each_other(
    adapter: WebhookAdapter, wire: responses.RequestsMock
) -> None:
    error, other = RuntimeError(URL), RuntimeError(URL)
    error.__cause__, other.__cause__ = other, error
    wire.post(URL, body=error)
    assert adapter.post({}, b"{}") == Failure("transport error")


def test_reasons_are_fixed_phrases() -> None:
    assert all(re.fullmatch(r"[A-Za-z ]+", reason) for reason in REASONS)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_no_failure(
    adapter: WebhookAdapter, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def send(*args: Any, **kw: Any) -> None:
        raise stop

    monkeypatch.setattr(HTTPAdapter, "send", send)
    with pytest.raises(stop):
        adapter.post({}, b"{}")


def test_a_real_refusal(dead_url: str, transport: str) -> None:
    sending = sending_to(dead_url, transport)
    assert sending.post({}, b"{}") == Failure("connection refused")
    sending.close()


# --- The environment ---


class Tripwire:
    """A port that nothing may connect to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def tripped(self) -> bool:
        """Whether there was a connection since this was last asked."""
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tripwire]:
    """A proxy that the environment tells everybody to use."""
    wire = Tripwire()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for spelling in (name, name.lower()):
            monkeypatch.setenv(spelling, wire.url)
    for name in ("NO_PROXY", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    yield wire
    wire.close()


def test_no_proxy_of_the_environment(proxy: Tripwire, capture: Capture, transport: str) -> None:
    post_to(capture, transport)
    assert not proxy.tripped()


def test_no_proxy_of_the_environment_for_https(
    proxy: Tripwire, dead_url: str, transport: str
) -> None:
    sending = sending_to(dead_url.replace("http:", "https:"), transport)
    assert sending.post({}, b"{}") == Failure("connection refused")
    assert not proxy.tripped()
    sending.close()


def test_the_proxy_is_one_that_requests_would_use(proxy: Tripwire) -> None:
    for url in ("http://127.0.0.1/", "https://127.0.0.1/"):
        assert proxy.url in requests.utils.get_environ_proxies(url).values()


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (None, b""),
        ("\xfc", b"\xc3\xbc"),
        ({"a": "1"}, b"a=1"),
        (io.BytesIO(b"a file"), b"a file"),
        (iter([b"in ", b"parts"]), b"in parts"),
    ],
    ids=["none", "text", "form", "file", "parts"],
)
def test_a_session_may_give_a_body_of_any_kind(capture: Capture, body: Any, sent: bytes) -> None:
    raw = session_post(capture, data=body).partition(b"\r\n\r\n")
    names = [name.lower() for name, _ in headers_of(b"".join(raw))]
    assert raw[2] == sent
    assert names.count("content-length") == 1
    assert "transfer-encoding" not in names


def test_no_header_of_a_session_comes_twice(capture: Capture) -> None:
    given = {"Host": "other.example", "accept-encoding": "gzip", "X-Bytes": b"1"}
    sent = headers_of(session_post(capture, data=b"{}", headers=given))
    assert len({name.lower() for name, _ in sent}) == len(sent)
    headers = {name.lower(): value for name, value in sent}
    assert headers["host"] == f"127.0.0.1:{capture.port}"
    assert headers["accept-encoding"] == "identity", "nothing is decoded"
    assert headers["x-bytes"] == "1"


def session_post(capture: Capture, **request: Any) -> bytes:
    """The bytes that a session's POST puts on the wire."""
    url = f"http://127.0.0.1:{capture.port}/"
    taken = capture.take()
    with requests.Session() as session:
        session.mount("http://", WebhookAdapter(endpoint(url, allow_private_urls=True)))
        assert session.post(url, **request).status_code == 204
    return taken.result()[0]


def test_its_answer_is_one_of_requests(capture: Capture) -> None:
    url = f"http://127.0.0.1:{capture.port}/"
    taken = capture.take()
    with requests.Session() as session:
        session.mount("http://", WebhookAdapter(endpoint(url, allow_private_urls=True)))
        response = session.post(url, data=b"{}")
    assert taken.result()
    assert (response.ok, response.text, [*response.iter_content(9)]) == (True, "", [])
    assert response.headers["SET-COOKIE"] == "a=b"
    assert response.cookies.get_dict() == {}, "no cookie is kept"
    assert pickle.loads(pickle.dumps(response)).status_code == 204


def test_closing_an_answer_leaves_the_connection_to_whoever_has_it_now(capture: Capture) -> None:
    url = f"http://127.0.0.1:{capture.port}/"
    adapter = WebhookAdapter(endpoint(url, allow_private_urls=True))
    taken = capture.take(3)
    with requests.Session() as session:
        session.mount("http://", adapter)
        for _ in range(3):
            with session.post(url, data=b"{}"):
                pass
        pool: Any = adapter._pool.pool
        idle = [one for one in pool._connections if one is not None]
        assert len(idle) == 1
        assert not idle[0].is_closed
    assert len(taken.result()) == 3, "of one connection"


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200\r\nContent-Length: 1, 2\r\n\r\n"]
)
def test_what_is_no_answer_is_an_error_of_requests(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                connection.recv(65536)

        serving = pool.submit(serve)
        with requests.Session() as session:
            session.mount("http://", WebhookAdapter(endpoint(url, allow_private_urls=True)))
            with pytest.raises(requests.ConnectionError):
                session.post(url, data=b"{}")
        serving.result(10)


@pytest.mark.parametrize("timeout", [5, None, (5, 5)])
def test_it_serves_a_session_of_requests(
    proxy: Tripwire, capture: Capture, timeout: float | tuple[float, float] | None
) -> None:
    url = f"http://127.0.0.1:{capture.port}/"
    taken = capture.take()
    with requests.Session() as session:  # which hands it the proxies of the environment
        session.mount("http://", WebhookAdapter(endpoint(url, allow_private_urls=True)))
        response = session.post(url, data=b"{}", timeout=timeout)
    assert response.status_code == 204
    assert taken.result()
    assert not proxy.tripped()


def test_no_credentials_of_a_netrc(
    capture: Capture, transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login anna password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    url = f"http://127.0.0.1:{capture.port}/"
    with requests.Session() as session:  # whose credentials would be these
        prepared = session.prepare_request(requests.Request("POST", url))
    assert "Authorization" in prepared.headers

    raw = post_to(capture, transport)

    assert "authorization" not in {name.lower() for name, _ in headers_of(raw)}


def test_no_cookies_come_back(capture: Capture, transport: str) -> None:
    url = f"http://127.0.0.1:{capture.port}/"
    sending = sending_to(url, transport)
    taken = capture.take(2)
    for _ in range(2):
        sending.post({}, b"{}")
    assert "cookie" not in {name.lower() for raw in taken.result() for name, _ in headers_of(raw)}
    sending.close()


# --- The sender: headers and signatures ---

Send = Callable[..., "requests.PreparedRequest"]


@pytest.fixture
def send(wire: responses.RequestsMock) -> Iterator[Send]:
    """Sends a message to an endpoint with these settings; returns the request."""
    wire.post(URL, status=204)
    made: list[Sender] = []

    def to(message: Message = MESSAGE, **settings: Any) -> requests.PreparedRequest:
        made.append(Sender(endpoint(**settings)))
        assert made[-1](message) == Reply(204)
        return wire.calls[-1].request

    yield to
    for sender in made:
        sender.close()


@pytest.fixture
def at_known_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: KNOWN_TIME + 0.9)


@pytest.mark.usefixtures("at_known_time")
def test_the_headers_of_a_message(send: Send) -> None:
    request = send(secret="test-secret")
    assert dict(request.headers) == {
        "User-Agent": USER_AGENT,
        "Accept": "*/*",
        "Content-Type": "application/json",
        "X-Cube-Webhook-Event": "sandbox.created",
        "X-Cube-Webhook-Delivery": "550e8400-e29b-41d4-a716-446655440000",
        "X-Cube-Webhook-Timestamp": "1710000000",
        "X-Cube-Webhook-Signature": KNOWN_SIGNATURE,
        "Content-Length": str(len(MESSAGE.body)),
    }
    assert request.body == MESSAGE.body
    assert re.fullmatch(r"cubehook/\d\S*", USER_AGENT)


def test_no_signature_without_a_secret(send: Send) -> None:
    headers = send().headers
    assert "X-Cube-Webhook-Signature" not in headers
    assert headers["X-Cube-Webhook-Event"] == "sandbox.created"
    assert headers["X-Cube-Webhook-Delivery"] == MESSAGE.id
    assert headers["X-Cube-Webhook-Timestamp"].isdigit()


@pytest.mark.usefixtures("at_known_time")
def test_a_signature_for_each_secret(send: Send) -> None:
    both = send(secret=["test-secret", "older-secret"]).headers["X-Cube-Webhook-Signature"]
    older = send(secret="older-secret").headers["X-Cube-Webhook-Signature"]
    assert both == f"{KNOWN_SIGNATURE},{older}"


@pytest.mark.parametrize("secret", ["first-secret", "second-secret"])
def test_a_receiver_with_either_secret_can_verify(send: Send, secret: str) -> None:
    request = send(secret=["first-secret", "second-secret"])
    assert isinstance(request.body, bytes)
    assert verify(request.body, request.headers, secret)["id"] == "delivery-1"


def test_the_timestamp_is_the_attempts(
    wire: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.post(URL, status=503)
    clock = [0.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    sender = Sender(endpoint(secret="test-secret"))
    for later in (0.0, 1.2, 3600.0):
        clock[0] = KNOWN_TIME + later
        sender(MESSAGE)
    sender.close()

    sent = [call.request for call in wire.calls]
    stamps = [request.headers["X-Cube-Webhook-Timestamp"] for request in sent]
    assert stamps == ["1710000000", "1710000001", "1710003600"]
    assert len({request.headers["X-Cube-Webhook-Signature"] for request in sent}) == 3
    assert {request.headers["X-Cube-Webhook-Delivery"] for request in sent} == {MESSAGE.id}
    assert {request.body for request in sent} == {MESSAGE.body}


def test_headers_of_the_configuration(send: Send) -> None:
    headers = send(headers={"X-Env": "prod", "Authorization": "Bearer abc"}).headers
    assert headers["X-Env"] == "prod"
    assert headers["Authorization"] == "Bearer abc"
    assert headers["User-Agent"] == USER_AGENT


def test_a_configured_user_agent_takes_the_place_of_ours(capture: Capture, transport: str) -> None:
    url = f"http://127.0.0.1:{capture.port}/"
    options = {"allow_private_urls": True, "transport": transport}
    sender = Sender(endpoint(url, headers={"user-agent": "mine/1"}, **options))
    taken = capture.take()
    assert sender(MESSAGE) == Reply(204)
    sender.close()
    agents = [pair for pair in headers_of(taken.result()[0]) if pair[0].lower() == "user-agent"]
    assert agents == [("user-agent", "mine/1")]


def test_a_configured_accept_encoding_takes_the_place_of_ours(
    capture: Capture, transport: str
) -> None:
    url = f"http://127.0.0.1:{capture.port}/"
    options = {"allow_private_urls": True, "transport": transport}
    sender = Sender(endpoint(url, headers={"accept-encoding": "br"}, **options))
    taken = capture.take()
    assert sender(MESSAGE) == Reply(204)
    sender.close()
    sent = headers_of(taken.result()[0])
    assert [value for name, value in sent if name.lower() == "accept-encoding"] == ["br"]


def test_the_content_type_is_the_messages(send: Send) -> None:
    message = Message("id-1", "sandbox.paused", None, "application/cloudevents+json", b"{}")
    assert send(message).headers["Content-Type"] == "application/cloudevents+json"


def test_a_sender_keeps_within_its_limit(transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        sender = Sender(endpoint(url, allow_private_urls=True, transport=transport))
        started = time.monotonic()
        assert sender(MESSAGE, 0.1) == Failure("timeout")
        assert time.monotonic() - started < 1.1
        sender.close()


def test_threads_share_a_sender(receiver: Any, transport: str) -> None:
    settings = receiver.endpoint(max_concurrency=8, timeout=5.0, connect_timeout=5.0)
    settings["transport"] = transport
    del settings["backoff_initial"]
    sender = Sender(Endpoint(**settings))
    messages = [
        Message(f"id-{number}", "sandbox.created", None, "application/json", b'{"n":%d}' % number)
        for number in range(100)
    ]
    threads_before = threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(sender, messages))
    sender.close()
    assert results == [Reply(204)] * 100
    assert receiver.wait_for_disconnects()
    assert {one.json["n"] for one in receiver.received()} == set(range(100))
    assert receiver.connections <= 8
    assert threading.active_count() <= threads_before + 8
