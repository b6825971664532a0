"""One attempt against every fault: what comes of it, in what time, and what stays behind."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from behaviours import BEHAVIOURS, RETRY_AFTER
from harness import (
    CONNECT_TIMEOUT,
    GRACE,
    HASTY,
    HASTY_CONNECT,
    LIBCURL,
    MEBIBYTE,
    TIMEOUT,
    AdapterFor,
    Watched,
    attempt,
    reply,
)
from receiver import (
    DRIP_TLS,
    NEVER_ACCEPT,
    OTHER,
    PLAIN,
    REFUSE,
    SERVER_FAULTS,
    SLOW_TLS,
    FaultReceiver,
)

from cubehook import forks
from cubehook.outcome import Failure, Reply, RetryAt
from cubehook.retry import MAX_RETRY_AFTER, WebhookRetry
from cubehook.transport import MAX_RESPONSE_BYTES

# Path: status, whether the body was read to its end.
REPLIES = {
    "ok": (204, True),
    "slow": (204, True),
    "status/200": (200, True),
    "status/404": (404, True),
    "status/500": (500, True),
    "body/0": (200, True),
    "body/65536": (200, True),
    "body/70000": (200, False),
    "until-close": (200, True),
    "gone": (410, True),
    "flaky/1": (503, True),
    "ok-then/reset": (204, True),
    "retry-after/120": (429, True),
    "redirect-self": (307, True),
    "redirect-other": (307, True),
    "redirect-to/http://169.254.169.254/": (307, True),
    "drip-body": (200, False),
    "endless-body": (200, False),
    "endless-chunks": (200, False),
    "endless-trailer": (200, False),
    "gzip-bomb": (200, True),
    "refuse-early": (413, True),
    "close-mid-answer/body": (200, False),
    "close-idle": (204, True),
    "close-early": (204, True),
    "103-then-204": (204, True),
    "short-length": (200, False),
    "long-length": (200, True),
    "bad-chunking": (200, False),
    "garbage-200": (200, True),
    "garbage-header": (200, True),
}
# Path: reason, or reasons where chance or a limit on top decides.
FAILURES = {
    "accept-never-read": {"timeout"},
    "never-answer": {"timeout"},
    "drip-header": {"timeout"},
    "drip-1xx": {"timeout"},
    "flood-1xx": {"timeout", "malformed answer"},
    "reset": {"connection reset", "connection closed"},  # CPython's ssl cannot tell the two apart
    "close-mid-answer": {"connection closed"},
    "close-mid-answer/status": {"connection closed"},
    "huge-header": {"malformed answer"},
    "many-headers": {"malformed answer"},
    "heavy-headers": {"malformed answer"},
    "two-lengths": {"malformed answer"},
    "not-http": {"malformed answer"},
}
SERVER_FAILURES = {
    REFUSE: "connection refused",
    NEVER_ACCEPT: "connect timeout",
    SLOW_TLS: "connect timeout",
    DRIP_TLS: "connect timeout",
    "wrong-name": "certificate not valid",
    "expired": "certificate not valid",
}
TIMED_OUT = {"accept-never-read", "never-answer", "drip-header", "drip-body", "drip-1xx"}

# Where chance or a limit on top decides whether it ends before.
MAY_TIME_OUT = TIMED_OUT | {"endless-trailer", "flood-1xx"}

# --- Every fault: what comes of it ---


def test_every_behaviour_is_here() -> None:
    tested = {path.partition("/")[0] for path in (*REPLIES, *FAILURES)}
    assert tested == set(BEHAVIOURS)
    assert set(SERVER_FAILURES) == set(SERVER_FAULTS)


@pytest.mark.parametrize("path", REPLIES)
def test_reply(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    transport: str,
    path: str,
    tls: bool,
) -> None:
    status, complete = REPLIES[path]

    settings = HASTY if path in MAY_TIME_OUT else {}
    result, took = attempt(adapter_for(faulty.url(path, tls=tls), **settings))

    if transport == "curl" and path in LIBCURL:
        assert isinstance(result, Failure)
        assert result.reason in LIBCURL[path]
        assert watched.still_open == []
        return
    if transport == "curl" and path == "until-close" and tls:
        complete = False  # TLS did not say that this is the end; Python's does not mind
    assert isinstance(result, Reply)
    assert (result.status, result.complete) == (status, complete)
    assert len(result.body) <= MAX_RESPONSE_BYTES
    if path in TIMED_OUT:
        assert took >= TIMEOUT - 0.05
    # Only a connection whose answer is at its end can serve again.
    assert len(watched.still_open) <= (1 if complete else 0)
    if not complete:
        faulty.wait_closed()


@pytest.mark.parametrize("path", FAILURES)
def test_failure(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    transport: str,
    path: str,
    tls: bool,
) -> None:
    settings = HASTY if path in MAY_TIME_OUT else {}
    result, took = attempt(adapter_for(faulty.url(path, tls=tls), **settings))

    assert isinstance(result, Failure)
    libcurl = LIBCURL.get(path) if transport == "curl" else None
    assert result.reason in (libcurl or FAILURES[path])
    assert not result.final
    if path in TIMED_OUT:
        assert took >= TIMEOUT - 0.05
    assert watched.still_open == []


@pytest.mark.parametrize("server", SERVER_FAILURES)
@pytest.mark.usefixtures("trusted")
def test_failure_before_the_request(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, server: str
) -> None:
    settings = HASTY_CONNECT if "timeout" in SERVER_FAILURES[server] else {}
    result, took = attempt(adapter_for(faulty.url(server), **settings), within=CONNECT_TIMEOUT)

    assert result == Failure(SERVER_FAILURES[server])
    assert watched.still_open == []
    assert faulty.requests == []
    if "timeout" in SERVER_FAILURES[server]:
        assert took >= CONNECT_TIMEOUT - 0.05


@pytest.mark.usefixtures("trusted")
def test_certificate_of_localhost_is_for_localhost_too(
    faulty: FaultReceiver, adapter_for: AdapterFor
) -> None:
    url = faulty.url("ok", tls=True, host="localhost")
    assert reply(adapter_for(url)).status == 204


def test_certificate_of_an_unknown_authority(
    faulty: FaultReceiver, adapter_for: AdapterFor, certificates: object
) -> None:
    if certificates is None:
        pytest.skip("no openssl command")
    result, _ = attempt(adapter_for(faulty.url("ok", tls=True)))
    assert result == Failure("certificate not valid")


@pytest.mark.usefixtures("trusted")
def test_tls_spoken_to_a_plain_server(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched
) -> None:
    url = faulty.url("ok").replace("http:", "https:")
    # That server waits for the end of what it takes for a request line.
    result, _ = attempt(adapter_for(url, **HASTY_CONNECT), within=CONNECT_TIMEOUT)
    assert isinstance(result, Failure)
    assert result.reason in ("TLS failed", "connect timeout")
    assert watched.still_open == []
    faulty.wait_closed()
    faulty.unexpected.clear()


@pytest.mark.usefixtures("trusted")
def test_plain_http_spoken_to_a_tls_server(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched
) -> None:
    result, _ = attempt(adapter_for(faulty.url("ok", tls=True).replace("https:", "http:")))
    assert isinstance(result, Failure)
    assert watched.still_open == []


# --- The body that is kept ---


@pytest.mark.parametrize("path", ["endless-body", "endless-chunks", "body/70000"])
def test_a_body_is_kept_up_to_its_limit(
    faulty: FaultReceiver, adapter_for: AdapterFor, path: str, tls: bool
) -> None:
    assert len(reply(adapter_for(faulty.url(path, tls=tls))).body) == MAX_RESPONSE_BYTES


def test_a_compressed_body_is_not_decoded(faulty: FaultReceiver, adapter_for: AdapterFor) -> None:
    body = reply(adapter_for(faulty.url("gzip-bomb"))).body
    assert body.startswith(b"\x1f\x8b")
    assert len(body) < MAX_RESPONSE_BYTES


def test_a_body_of_any_bytes_is_kept_as_it_is(
    faulty: FaultReceiver, adapter_for: AdapterFor
) -> None:
    assert reply(adapter_for(faulty.url("garbage-200"))).body == bytes(range(256))


# --- The deadline ---


def test_the_deadline_holds_while_sending(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("accept-never-read", tls=tls), **HASTY)
    # The second one is more than the kernel's buffers take, whatever their size.
    for body in (MEBIBYTE, MEBIBYTE * 8):
        assert attempt(adapter, body)[0] == Failure("timeout")
        assert watched.still_open == []


@pytest.mark.parametrize("path", [SLOW_TLS, "never-answer", "accept-never-read"])
def test_a_fork_does_not_wait_for_what_hangs_in_tls(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    eventually: Callable[..., None],
    trusted: ssl.SSLContext,
    path: str,
) -> None:
    """OpenSSL is left whenever there is the network to wait for."""
    adapter = adapter_for(faulty.url(path, tls=True), **HASTY)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(adapter.post, {}, MEBIBYTE)
        eventually(lambda: faulty.accepted)
        while not running.done():
            assert forks.kept_out.acquire(timeout=TIMEOUT / 2)
            forks.kept_out.release()
        assert isinstance(running.result(), Failure)


def test_a_limit_below_the_timeout_holds(
    faulty: FaultReceiver, adapter_for: AdapterFor, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("drip-header", tls=tls))
    started = time.monotonic()
    assert adapter.post({}, b"{}", limit=0.2) == Failure("timeout")
    assert 0.15 <= time.monotonic() - started < 0.2 + GRACE


@pytest.mark.parametrize("limit", [0.0, -1.0])
def test_no_time_at_all(faulty: FaultReceiver, adapter_for: AdapterFor, limit: float) -> None:
    result = adapter_for(faulty.url("ok")).post({}, b"{}", limit=limit)
    assert isinstance(result, Failure)
    assert result.reason in ("connect timeout", "timeout")


def test_no_time_at_all_for_a_connection_in_use(
    faulty: FaultReceiver, adapter_for: AdapterFor
) -> None:
    adapter = adapter_for(faulty.url("ok"))
    reply(adapter)
    assert adapter.post({}, b"{}", limit=0.0) == Failure("timeout")
    assert reply(adapter).status == 204


def test_connecting_has_a_limit_of_its_own(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched
) -> None:
    for server in (NEVER_ACCEPT, SLOW_TLS, DRIP_TLS):
        _, took = attempt(adapter_for(faulty.url(server), **HASTY_CONNECT), within=CONNECT_TIMEOUT)
        assert took >= CONNECT_TIMEOUT - 0.05
        assert watched.still_open == []


@pytest.mark.parametrize("server", [NEVER_ACCEPT, SLOW_TLS, DRIP_TLS])
def test_connecting_ends_with_the_attempt(
    faulty: FaultReceiver, adapter_for: AdapterFor, server: str
) -> None:
    adapter = adapter_for(faulty.url(server), timeout=0.2)
    _, took = attempt(adapter, within=0.2)
    assert took >= 0.15


@pytest.mark.parametrize("fault", ["never-answer", "drip-header", "drip-body", "drip-1xx"])
def test_the_deadline_holds_on_a_connection_used_before(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, fault: str, tls: bool
) -> None:
    adapter = adapter_for(faulty.url(f"ok-then/{fault}", tls=tls), **HASTY)
    reply(adapter)

    _, took = attempt(adapter)

    assert took >= TIMEOUT - 0.05
    # Once only, and on the same connection: whoever was heard, or is slow, is not asked again.
    assert [request.connection for request in faulty.requests] == [1, 1]
    assert watched.still_open == []


def test_the_deadline_starts_anew_with_every_attempt(
    faulty: FaultReceiver, adapter_for: AdapterFor
) -> None:
    faulty.drip = 0.2
    adapter = adapter_for(faulty.url("slow"), **HASTY)
    pause = threading.Event()
    for _ in range(3):
        assert reply(adapter).status == 204
        pause.wait(0.1)
    assert faulty.accepted == 1


def test_attempts_side_by_side(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched
) -> None:
    adapter = adapter_for(faulty.url("never-answer"), **HASTY)
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: adapter.post({}, b"{}"), range(2)))
    assert results == [Failure("timeout")] * 2
    assert time.monotonic() - started < TIMEOUT + GRACE
    assert watched.still_open == []


@pytest.mark.parametrize("body", [MEBIBYTE, MEBIBYTE * 8], ids=["1-MiB", "8-MiB"])
def test_a_refusal_of_a_body_still_on_its_way(
    faulty: FaultReceiver, adapter_for: AdapterFor, transport: str, body: bytes, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("refuse-early", tls=tls))
    # Unread, the answer would look like a failure and be retried as often as retries go.
    results = [attempt(adapter, body)[0] for _ in range(2)]
    unread = LIBCURL["refuse-early, of a large body"] if transport == "curl" else set()
    assert {one.reason for one in results if isinstance(one, Failure)} <= unread
    assert {one.status for one in results if isinstance(one, Reply)} <= {413}
    assert [request.connection for request in faulty.requests] == [1, 2]


# --- Answers that the retry policy reads ---


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["redirect-self", "redirect-other"])
def test_a_redirect_is_not_followed(
    faulty: FaultReceiver, adapter_for: AdapterFor, where: str, status: int
) -> None:
    assert reply(adapter_for(faulty.url(f"{where}/{status}"))).status == status
    assert [request.server for request in faulty.requests] == [PLAIN]
    assert OTHER not in {request.server for request in faulty.requests}
    assert faulty.accepted == 1


@pytest.mark.parametrize(
    ("value", "lowest", "highest"),
    [
        ("0", 0, 0),
        ("120", 120, 120),
        ("date", 25, 30),
        ("past", 0, 0),
        ("negative", 0, 0),
        ("absurd", MAX_RETRY_AFTER, MAX_RETRY_AFTER),
        ("unparsable", 0, 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    value: str,
    lowest: float,
    highest: float,
    status: int,
    transport: str,
) -> None:
    adapter = adapter_for(faulty.url(f"retry-after/{value}/{status}"))
    if transport == "curl" and f"retry-after/{value}" in LIBCURL:
        failed, _ = attempt(adapter)
        assert isinstance(failed, Failure)
        assert failed.reason in LIBCURL[f"retry-after/{value}"]
        return
    result = reply(adapter)

    assert result.status == status
    if value not in ("date", "past"):
        assert result.retry_after == RETRY_AFTER.get(value, lambda: value)()
    outcome = WebhookRetry().decide(result, now=1000.0)
    assert isinstance(outcome, RetryAt)
    assert lowest <= outcome.floor - 1000.0 <= highest


def test_failing_first(faulty: FaultReceiver, adapter_for: AdapterFor) -> None:
    adapter = adapter_for(faulty.url("flaky/2"))
    assert [reply(adapter).status for _ in range(4)] == [503, 503, 204, 204]


# --- What a hostile answer may not put into the log ---


@pytest.mark.parametrize(
    "path", ["ok", "garbage-header", "close-mid-answer", "two-lengths", "not-http", "reset"]
)
def test_no_answer_puts_the_url_into_the_log(
    faulty: FaultReceiver, adapter_for: AdapterFor, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.DEBUG)
    adapter = adapter_for(faulty.url(path) + "?token=s3cret", **HASTY)
    for _ in range(2):
        attempt(adapter)
    texts = [logging.Formatter().format(record) for record in caplog.records]
    assert not [text for text in texts if "s3cret" in text or f"/{path}" in text]


# --- The TLS context ---


def test_the_context_verifies(trusted: ssl.SSLContext) -> None:
    assert trusted.verify_mode == ssl.CERT_REQUIRED
    assert trusted.check_hostname
    assert trusted.minimum_version >= ssl.TLSVersion.TLSv1_2
