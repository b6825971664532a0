"""Through a proxy: what it is asked for, what it gets to know, and what comes of its failures."""

from __future__ import annotations

import base64
import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import OTHER_NAME, WRONG_NAME
from harness import (
    CONNECT_TIMEOUT,
    HASTY,
    HASTY_CONNECT,
    LIBCURL,
    MEBIBYTE,
    TIMEOUT,
    AdapterFor,
    Watched,
    attempt,
    only_requests,
    reply,
)
from proxy import Fault, Proxy, answers, drips, hangs, says
from receiver import HOST, SLOW_TLS, FaultReceiver

from cubehook import WebhookHandler, connection, sockets
from cubehook.outcome import Failure, Reply, RetryAt
from cubehook.retry import WebhookRetry
from cubehook.transport import WebhookAdapter

NAME = "localhost"
REFUSED = Failure("refused by the proxy")
SECRETIVE = ("anna", "s3cret", base64.b64encode(b"anna:s3cret").decode(), "T0KEN", "://")


@pytest.fixture
def proxy(faulty: FaultReceiver) -> Iterator[Proxy]:
    """A running proxy, which finds the receiver by these names. It must meet no errors."""
    names = (NAME, HOST, "receiver.example", OTHER_NAME)
    running = Proxy(dict.fromkeys(names, HOST))
    yield running
    running.close()
    assert running.unexpected == []


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The names and ports that the resolver is asked for. It knows one address, and no name."""
    asked: list[tuple[str, int]] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kw: Any) -> Any:
        asked.append((host, port))
        if host != HOST:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return resolve(host, port, *args, **kw)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def methods(proxy: Proxy) -> list[str]:
    return [asked.method for asked in proxy.asked]


# --- What it is asked for ---


def test_plain_http_is_forwarded(
    faulty: FaultReceiver, adapter_for: AdapterFor, proxy: Proxy
) -> None:
    url = faulty.url("ok", host="receiver.example") + "?room=7"
    adapter = adapter_for(url, proxy=proxy.url())
    for body in (b"{}", MEBIBYTE):
        assert attempt(adapter, body)[0] == Reply(204)
    assert [request.body for request in faulty.requests] == [b"{}", MEBIBYTE]
    for asked in proxy.asked:
        assert (asked.method, asked.target) == ("POST", url)
        assert asked.headers.get_all("Host") == [f"receiver.example:{faulty.port()}"]
    assert proxy.accepted == 1


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://nowhere.example", "http://nowhere.example/"),
        ("http://nowhere.example?a=b", "http://nowhere.example/?a=b"),
        ("HTTP://Nowhere.example:8080/A%2fb", "http://nowhere.example:8080/A%2Fb"),
        ("http://[fd12::1]/x", "http://[fd12::1]/x"),
    ],
)
def test_the_target_is_absolute(
    adapter_for: AdapterFor, proxy: Proxy, url: str, target: str
) -> None:
    assert reply(adapter_for(url, proxy=proxy.url())).status == 502
    assert [asked.target for asked in proxy.asked] == [target]


@pytest.mark.usefixtures("trusted")
def test_https_goes_through_one_tunnel(
    faulty: FaultReceiver, adapter_for: AdapterFor, proxy: Proxy
) -> None:
    adapter = adapter_for(faulty.url("ok", tls=True, host=NAME), proxy=proxy.url())
    for body in (b"{}", MEBIBYTE, b"[]"):
        assert attempt(adapter, body)[0] == Reply(204)
    (asked,) = proxy.asked
    assert (asked.method, asked.target) == ("CONNECT", f"{NAME}:{faulty.port('https')}")
    assert [request.connection for request in faulty.requests] == [1, 1, 1]
    assert {request.headers["Host"] for request in faulty.requests} == {asked.target}


@pytest.mark.usefixtures("trusted")
def test_the_certificate_has_to_be_the_targets(
    faulty: FaultReceiver, adapter_for: AdapterFor, proxy: Proxy
) -> None:
    # The proxy is at 127.0.0.1, which one of these certificates is for, and localhost.
    for server, host, right in [
        ("https", NAME, True),
        ("https", OTHER_NAME, False),
        (WRONG_NAME, NAME, False),
        (WRONG_NAME, OTHER_NAME, True),
    ]:
        url = faulty.url(f"{server}/ok", host=host)
        result, _ = attempt(adapter_for(url, proxy=proxy.url()))
        assert result == (Reply(204) if right else Failure("certificate not valid"))
    assert methods(proxy) == ["CONNECT"] * 4
    assert len(faulty.requests) == 2


@pytest.mark.parametrize("url", ["http://receiver.example/", "https://receiver.example/"])
@pytest.mark.parametrize(
    ("proxy_url", "place"),
    [
        ("http://proxy.example", ("proxy.example", 80)),
        ("http://proxy.example/", ("proxy.example", 80)),
        ("HTTP://proxy.example:3128", ("proxy.example", 3128)),
        ("http://anna:pw@[fd12::1]:3128", ("fd12::1", 3128)),
    ],
)
def test_where_the_proxy_is(
    adapter_for: AdapterFor,
    looked_up: list[tuple[str, int]],
    url: str,
    proxy_url: str,
    place: tuple[str, int],
) -> None:
    result, _ = attempt(adapter_for(url, proxy=proxy_url))
    assert result == Failure("name resolution failed")
    assert looked_up == [place]


def test_the_targets_name_is_left_to_the_proxy(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    proxy: Proxy,
    looked_up: list[tuple[str, int]],
    tls: bool,
) -> None:
    server = WRONG_NAME if tls else "http"
    adapter = adapter_for(faulty.url(f"{server}/ok", host=OTHER_NAME), proxy=proxy.url())
    for _ in range(2):
        assert reply(adapter).status == 204
    assert looked_up == [(HOST, proxy.port)]


# --- Who may be asked ---


def test_a_private_proxy_needs_no_consent(
    faulty: FaultReceiver, adapter_for: AdapterFor, proxy: Proxy, tls: bool
) -> None:
    server = WRONG_NAME if tls else "http"
    url = faulty.url(f"{server}/ok", host=OTHER_NAME)
    options = {"allow_private_urls": False, "allow_insecure_http": not tls}
    assert reply(adapter_for(url, proxy=proxy.url(), **options)).status == 204


def test_allowed_networks_are_no_matter_of_the_proxy(
    faulty: FaultReceiver, adapter_for: AdapterFor, proxy: Proxy
) -> None:
    url = faulty.url("ok", host="receiver.example")
    adapter = adapter_for(url, proxy=proxy.url(), allowed_networks=["10.9.8.0/24"])
    assert reply(adapter).status == 204


@pytest.mark.parametrize(
    ("address", "denied", "reason"),
    [
        ("169.254.169.254", [], "link-local address"),
        ("100.100.100.200", [], "cloud metadata address"),
        ("[::ffff:169.254.169.254]", [], "link-local address"),
        ("2852039166", [], "link-local address"),
        (HOST, ["127.0.0.0/8"], "denied network"),
    ],
)
def test_a_proxy_that_may_not_be_asked(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    proxy: Proxy,
    address: str,
    denied: list[str],
    reason: str,
    tls: bool,
) -> None:
    adapter = adapter_for(
        faulty.url("ok", tls=tls, host="receiver.example"),
        proxy=proxy.url(host=address),
        denied_networks=denied,
    )
    assert attempt(adapter)[0] == Failure(reason, final=True)
    assert watched.opened == []
    assert proxy.accepted == 0


def test_a_proxy_whose_name_changes_its_address(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    tls: bool,
) -> None:
    place = [HOST, proxy.port]
    answer = lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", tuple(place))]  # noqa: E731
    monkeypatch.setattr(socket, "getaddrinfo", answer)
    url = faulty.url("ok", tls=tls, host=NAME)
    adapter = adapter_for(url, proxy=proxy.url(host="proxy.example"))
    assert reply(adapter).status == 204
    proxy.close_connections()
    place[0] = "169.254.169.254"
    assert attempt(adapter)[0] == Failure("link-local address", final=True)


# --- Credentials ---


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        ("anna:s3cret", b"anna:s3cret"),
        ("anna:", b"anna:"),
        ("anna", b"anna:"),
        (":s3cret", b":s3cret"),
        ("an%40na:p%3aw%2F%25", b"an@na:p:w/%"),
        ("\xe4nna:\u6c99", "\xe4nna:\u6c99".encode()),
        ("%C3%A4nna:%ff", b"\xc3\xa4nna:\xff"),
        ("a:b:c", b"a:b:c"),
        ("anna:+%20%0D%0AX-Evil:1", b"anna:+ \r\nX-Evil:1"),
    ],
)
def test_credentials_are_for_the_proxy_alone(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    proxy: Proxy,
    userinfo: str,
    credentials: bytes,
    tls: bool,
) -> None:
    adapter = adapter_for(faulty.url("ok", tls=tls, host=NAME), proxy=proxy.url(userinfo))
    assert reply(adapter).status == 204
    (asked,) = proxy.asked
    kind, _, encoded = asked.headers["Proxy-Authorization"].partition(" ")
    assert (kind, base64.b64decode(encoded, validate=True)) == ("Basic", credentials)
    assert "X-Evil" not in asked.headers
    (request,) = faulty.requests
    assert "proxy-authorization" not in {name.lower() for name in request.headers}


def test_no_credentials_unless_there_are_any(
    faulty: FaultReceiver, adapter_for: AdapterFor, proxy: Proxy, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("ok", tls=tls, host=NAME), proxy=proxy.url())
    assert reply(adapter).status == 204
    (asked,) = proxy.asked
    assert not {"proxy-authorization", "authorization"} & {name.lower() for name in asked.headers}


@pytest.mark.parametrize(
    "fault", [None, answers(407, "Proxy-Authenticate: Basic realm=x"), hangs, says(b"anna:s3cret")]
)
def test_nothing_tells_the_credentials(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    fault: Fault | None,
    tls: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    proxy.fault = fault
    url = faulty.url("ok", tls=tls, host=NAME) + "?key=T0KEN"
    adapter = adapter_for(url, proxy=proxy.url("anna:s3cret"), timeout=CONNECT_TIMEOUT)
    results = [attempt(adapter, within=CONNECT_TIMEOUT)[0] for _ in range(2)]
    told = [logging.Formatter().format(record) for record in caplog.records]
    inner = getattr(adapter, "_pool", None) or vars(adapter)["_setup"]
    told += [repr(results), repr(adapter), repr(inner), *capfd.readouterr()]
    assert not [(secret, text) for secret in SECRETIVE for text in told if secret in text]


@only_requests  # the other has none
def test_not_even_the_errors_underneath_do(
    faulty: FaultReceiver, adapter_for: AdapterFor, proxy: Proxy, trusted: object
) -> None:
    """urllib3 puts the URL of the proxy into a timeout."""
    proxy.fault = hangs
    url = faulty.url("ok", tls=True, host=NAME)
    adapter = adapter_for(url, proxy=proxy.url("anna:s3cret"), **HASTY_CONNECT)
    assert isinstance(adapter, WebhookAdapter)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        adapter.send(adapter._prepared({}, b"{}"))
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in f"{error!r}{error}{error.args}{vars(error)}"
        error = error.__cause__ or error.__context__


# --- When it fails ---


@pytest.mark.parametrize("status", [201, 204, 301, 403, 407, 429, 500, 502, 503])
@pytest.mark.usefixtures("trusted")
def test_a_refused_tunnel_is_tried_again_later(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, proxy: Proxy, status: int
) -> None:
    proxy.fault = answers(status)
    adapter = adapter_for(faulty.url("ok", tls=True, host=NAME), proxy=proxy.url())
    for _ in range(2):
        result, _ = attempt(adapter)
        assert result == REFUSED
        assert watched.still_open == []
        assert isinstance(WebhookRetry().decide(result, now=0.0), RetryAt)
    assert methods(proxy) == ["CONNECT"] * 2
    assert faulty.accepted == 0
    proxy.fault = None
    assert reply(adapter).status == 204


@pytest.mark.parametrize("status", [407, 502])
def test_a_refusal_to_forward_is_an_answer(
    adapter_for: AdapterFor, proxy: Proxy, status: int
) -> None:
    # Who gave it cannot be told.
    proxy.fault = answers(status)
    adapter = adapter_for("http://receiver.example/", proxy=proxy.url())
    assert reply(adapter).status == status


def test_a_proxy_that_refuses_the_connection(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, tls: bool
) -> None:
    refusing = f"http://{HOST}:{faulty.port('refuse')}"
    adapter = adapter_for(faulty.url("ok", tls=tls, host=NAME), proxy=refusing)
    assert attempt(adapter)[0] == Failure("connection refused")
    assert watched.still_open == []
    assert faulty.requests == []


@pytest.mark.parametrize(
    ("fault", "reasons"),
    [
        (hangs, {"connect timeout"}),
        (drips(b"HTTP/1.1 200 OK\r\nX-Drip: ", b"x", 0.02), {"connect timeout"}),
        (drips(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.02), {"connect timeout"}),
        # It depends on the Python version whether the headers of a refusal are read.
        (drips(b"HTTP/1.1 403 No\r\nX-Drip: ", b"x", 0.02), {"connect timeout", REFUSED.reason}),
        (drips(b"HTTP/1.1 200 ", b"x" * 8192, 0.0), {"malformed answer"}),
        (
            drips(b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 60_000 + b"\r\n", 0.0),
            {"malformed answer"},
        ),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), {"malformed answer"}),
        (says(b""), {"connection closed"}),
        (says(b"HTTP/1.1 200 OK\r\n"), {"TLS failed", "connection reset", "connection closed"}),
        (says(b"HTTP/1.1 200 OK\r\n\r\n"), {"TLS failed", "connection reset", "connection closed"}),
        (says(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"), None),
    ],
    ids=[
        *("hangs", "drips", "tunnel, 103", "drips a refusal", "tunnel, long line"),
        *(
            "tunnel, long head",
            "no HTTP",
            "closes",
            "half a head",
            "closes later",
            "more than a head",
        ),
    ],
)
@pytest.mark.usefixtures("trusted")
def test_a_proxy_that_misbehaves(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    proxy: Proxy,
    transport: str,
    fault: Fault,
    reasons: set[str] | None,
    request: pytest.FixtureRequest,
) -> None:
    if transport == "curl":
        reasons = LIBCURL.get(request.node.callspec.id.partition("-")[2], reasons)
    proxy.fault = fault
    url = faulty.url("ok", tls=True, host=NAME)
    adapter = adapter_for(url, proxy=proxy.url(), **HASTY_CONNECT)
    result, took = attempt(adapter, within=CONNECT_TIMEOUT)
    assert isinstance(result, Failure)
    assert not result.final
    if reasons is not None:
        assert result.reason in reasons
    if reasons == {"connect timeout"}:
        assert took >= CONNECT_TIMEOUT - 0.05
    assert watched.still_open == []
    assert methods(proxy) == ["CONNECT"]
    assert faulty.accepted == 0


@pytest.mark.usefixtures("trusted")
def test_a_tunnel_ends_with_the_attempt(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, proxy: Proxy
) -> None:
    proxy.fault = hangs
    url = faulty.url("ok", tls=True, host=NAME)
    result, took = attempt(adapter_for(url, proxy=proxy.url(), timeout=0.2), within=0.2)
    assert result == Failure("connect timeout")
    assert took >= 0.15
    assert watched.still_open == []


@pytest.mark.usefixtures("trusted")
def test_a_handshake_in_the_tunnel_that_gets_no_answer(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, proxy: Proxy
) -> None:
    url = faulty.url(SLOW_TLS, host=NAME)
    adapter = adapter_for(url, proxy=proxy.url(), **HASTY_CONNECT)
    result, took = attempt(adapter, within=CONNECT_TIMEOUT)
    assert result == Failure("connect timeout")
    assert took >= CONNECT_TIMEOUT - 0.05
    assert watched.still_open == []


@only_requests
@pytest.mark.usefixtures("trusted")
def test_the_handshake_has_the_time_that_the_proxy_left(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[float | None] = []
    handshake = sockets.DeadlineTLSSocket.do_handshake

    def do_handshake(self: sockets.DeadlineTLSSocket, block: bool = False) -> None:
        given.append(self.gettimeout())
        handshake(self, block)

    def late(proxy: Proxy, connection: socket.socket) -> None:
        threading.Event().wait(0.3)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    monkeypatch.setattr(sockets.DeadlineTLSSocket, "do_handshake", do_handshake)
    proxy.fault = late
    attempt(adapter_for(faulty.url("ok", tls=True, host=NAME), proxy=proxy.url()))
    (left,) = given
    assert left is not None
    assert 0 < left <= 5.0 - 0.3


@only_requests
@pytest.mark.usefixtures("trusted")
def test_an_error_of_the_system_is_no_refusal(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sendall(*_: Any) -> None:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    monkeypatch.setattr(connection.DeadlineSocket, "sendall", sendall)
    adapter = adapter_for(faulty.url("ok", tls=True, host=NAME), proxy=proxy.url())
    assert attempt(adapter)[0] == Failure("network error")


@pytest.mark.usefixtures("trusted")
def test_a_name_that_cannot_be_asked_for(adapter_for: AdapterFor, proxy: Proxy) -> None:
    url = f"https://{'a' * 64}.example/"
    assert isinstance(attempt(adapter_for(url, proxy=proxy.url()))[0], Failure)


# --- Requests in a tunnel, and again ---


@pytest.mark.parametrize("fault", ["never-answer", "drip-header", "accept-never-read"])
def test_the_deadline_holds_behind_a_proxy(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    proxy: Proxy,
    fault: str,
) -> None:
    watched_url = faulty.url(fault, host=NAME)
    result, took = attempt(adapter_for(watched_url, proxy=proxy.url(), **HASTY), MEBIBYTE * 8)
    assert result == Failure("timeout")
    assert took >= TIMEOUT - 0.05
    assert watched.still_open == []


@pytest.mark.parametrize("fault", ["never-answer", "drip-header", "accept-never-read"])
@pytest.mark.parametrize("before", ["", "ok-then/"], ids=["first", "later"])
@pytest.mark.usefixtures("trusted")
def test_the_deadline_holds_in_a_tunnel(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    proxy: Proxy,
    before: str,
    fault: str,
) -> None:
    adapter = adapter_for(
        faulty.url(before + fault, tls=True, host=NAME), proxy=proxy.url(), **HASTY
    )
    if before:
        assert reply(adapter).status == 204
    result, took = attempt(adapter, MEBIBYTE * 8 if fault == "accept-never-read" else b"{}")
    assert result == Failure("timeout")
    assert took >= TIMEOUT - 0.05
    assert watched.still_open == []
    assert methods(proxy) == ["CONNECT"]


def test_a_connection_that_the_proxy_closed_some_time_ago(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, proxy: Proxy, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("ok", tls=tls, host=NAME), proxy=proxy.url())
    for count in range(1, 4):
        assert reply(adapter).status == 204
        assert len(faulty.requests) == count
        proxy.close_connections()
    assert proxy.accepted == 3
    assert len(watched.still_open) == 1


@pytest.mark.parametrize("body", [b"{}", MEBIBYTE], ids=["small", "large"])
def test_a_connection_that_the_proxy_closes_as_the_next_request_comes(
    faulty: FaultReceiver, adapter_for: AdapterFor, proxy: Proxy, body: bytes, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("ok", tls=tls, host=NAME), proxy=proxy.url("anna:s3cret"))
    for count in range(1, 4):
        assert attempt(adapter, body)[0] == Reply(204)
        assert [request.body for request in faulty.requests] == [body] * count
        assert proxy.accepted == count
        proxy.cut = 1
    assert {asked.headers["Proxy-Authorization"] for asked in proxy.asked} == {
        f"Basic {base64.b64encode(b'anna:s3cret').decode()}"
    }


@pytest.mark.usefixtures("trusted")
def test_a_request_is_sent_again_in_a_tunnel_only_once(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, proxy: Proxy
) -> None:
    url = faulty.url("ok-then/reset", tls=True, host=NAME)
    adapter = adapter_for(url, proxy=proxy.url())
    reply(adapter)
    assert isinstance(attempt(adapter)[0], Failure)
    assert [request.connection for request in faulty.requests] == [1, 1, 2]
    assert methods(proxy) == ["CONNECT"] * 2
    assert watched.still_open == []


@pytest.mark.usefixtures("trusted")
def test_a_request_is_not_sent_again_in_a_new_tunnel(
    faulty: FaultReceiver, adapter_for: AdapterFor, proxy: Proxy
) -> None:
    url = faulty.url("reset", tls=True, host=NAME)
    assert isinstance(attempt(adapter_for(url, proxy=proxy.url()))[0], Failure)
    assert len(faulty.requests) == 1
    assert methods(proxy) == ["CONNECT"]


@pytest.mark.parametrize(
    ("fault", "result"), [(answers(502), REFUSED), (hangs, Failure("connect timeout"))]
)
@pytest.mark.usefixtures("trusted")
def test_no_second_tunnel_to_send_it_again(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    proxy: Proxy,
    fault: Fault,
    result: Failure,
) -> None:
    url = faulty.url("ok", tls=True, host=NAME)
    adapter = adapter_for(url, proxy=proxy.url(), **HASTY_CONNECT)
    reply(adapter)
    proxy.cut, proxy.fault = 1, fault
    assert attempt(adapter, within=CONNECT_TIMEOUT)[0] == result
    assert methods(proxy) == ["CONNECT"] * 2
    assert len(faulty.requests) == 1
    assert watched.still_open == []


# --- The environment, and the handler ---


@pytest.mark.parametrize("through", [True, False], ids=["proxy", "direct"])
def test_the_environment_changes_nothing(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    proxy: Proxy,
    tripwire: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    through: bool,
    tls: bool,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login anna password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for spelling in (name, name.lower()):
            monkeypatch.setenv(spelling, tripwire.url.replace("//", "//anna:s3cret@"))
    for spelling in ("NO_PROXY", "no_proxy"):  # this one's own proxy is not for the others to rule
        monkeypatch.setenv(spelling, "*" if through else "")

    options = {"proxy": proxy.url()} if through else {}
    assert reply(adapter_for(faulty.url("ok", tls=tls, host=NAME), **options)).status == 204

    assert tripwire.accepted() == 0
    assert proxy.accepted == (1 if through else 0)
    sent = [request.headers for request in faulty.requests]
    sent += [asked.headers for asked in proxy.asked]
    assert not [headers for headers in sent if "Authorization" in headers]
    assert not [headers for headers in sent if "Proxy-Authorization" in headers]


@pytest.mark.parametrize("source", ["env:CUBEHOOK_TEST_PROXY", "file:proxy"])
def test_a_handler_reads_the_proxy_from_where_it_stands(
    faulty: FaultReceiver,
    proxy: Proxy,
    handler_for: Callable[..., WebhookHandler],
    logger: logging.Logger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    def write(userinfo: str) -> None:
        monkeypatch.setenv("CUBEHOOK_TEST_PROXY", proxy.url(userinfo))
        Path("proxy").write_text(proxy.url(userinfo) + "\n")

    endpoints = [{"name": "ops", "url": faulty.url("ok"), "proxy": source}]
    write("anna:one")
    made = handler_for(endpoints, allow_private_urls=True)
    logger.info("", extra={"event": "sandbox.created"})
    assert made.flush(5)
    write("anna:two")
    made.update_endpoints(endpoints)
    logger.info("", extra={"event": "sandbox.created"})
    assert made.flush(5)

    sent = [asked.headers["Proxy-Authorization"] for asked in proxy.asked]
    assert [base64.b64decode(text.split()[1]) for text in sent] == [b"anna:one", b"anna:two"]
    assert made.stats().delivered == 2
