"""What a name resolves to, and which of its addresses is connected to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import CONNECT_TIMEOUT, HASTY, HASTY_CONNECT, AdapterFor, Watched, attempt, reply
from receiver import HOST, NEVER_ACCEPT, REFUSE, FaultReceiver

from cubehook.outcome import Failure, Reply

PUBLIC, PRIVATE = "93.184.215.14", "10.0.0.1"
OTHERS = ("127.0.0.2", "127.0.0.3")


@pytest.fixture
def hanging() -> Iterator[Callable[[int], str]]:
    """Makes another address of this host hang at that port; returns it."""
    with contextlib.ExitStack() as sockets:

        def make(port: int) -> str:
            listener = sockets.enter_context(socket.socket())
            try:
                listener.bind((OTHERS[0], port))
            except OSError:
                pytest.skip(f"no {OTHERS[0]}")
            listener.listen(0)
            for _ in range(3):  # as in the receiver
                filler = sockets.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex((OTHERS[0], port))
            return OTHERS[0]

        yield make


@pytest.fixture
def resolve_to(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, ...]]]:
    """Makes every name resolve to these addresses and ports, or fail; returns the calls."""

    def answer_with(*answer: tuple[str, int] | BaseException) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def getaddrinfo(*args: Any, **kw: Any) -> list[Any]:
            calls.append(args)
            found = []
            for item in answer:
                if isinstance(item, BaseException):
                    raise item
                found.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", item))
            return found

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return calls

    return answer_with


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        UnicodeError("label empty or too long"),
    ],
    ids=["unknown", "temporary", "unspeakable"],
)
def test_a_name_that_does_not_resolve(
    adapter_for: AdapterFor,
    watched: Watched,
    resolve_to: Callable[..., Any],
    error: Exception,
    tls: bool,
) -> None:
    resolve_to(error)
    scheme = "https" if tls else "http"
    result, _ = attempt(adapter_for(f"{scheme}://receiver.example/"))
    assert result == Failure("name resolution failed")
    assert watched.opened == []


def test_a_name_without_addresses(
    adapter_for: AdapterFor, watched: Watched, resolve_to: Callable[..., Any]
) -> None:
    resolve_to()
    result, _ = attempt(adapter_for("http://receiver.example/"))
    assert result == Failure("name resolution failed")
    assert watched.opened == []


@pytest.mark.parametrize(
    ("url", "private", "answer", "reason"),
    [
        ("https", False, [PUBLIC, PRIVATE], "private address"),
        ("https", False, [PRIVATE, PUBLIC], "private address"),
        ("https", False, [PUBLIC, "127.0.0.1"], "loopback address"),
        ("https", True, [PRIVATE, "169.254.169.254"], "link-local address"),
        ("https", True, [PUBLIC, "0.0.0.0"], "unspecified address"),
        ("https", True, [PUBLIC, "100.100.100.200"], "cloud metadata address"),
        ("http", True, [PRIVATE, PUBLIC], "plain http to a public address"),
        ("http", True, [PUBLIC], "plain http to a public address"),
        ("https", False, ["no address"], "unparsable address"),
    ],
)
def test_one_refused_address_refuses_the_name(
    adapter_for: AdapterFor,
    watched: Watched,
    resolve_to: Callable[..., Any],
    url: str,
    private: bool,
    answer: list[str],
    reason: str,
) -> None:
    resolve_to(*((address, 443) for address in answer))
    adapter = adapter_for(f"{url}://receiver.example/", allow_private_urls=private)
    result, _ = attempt(adapter)
    assert result == Failure(reason, final=True)
    assert watched.opened == []


def test_addresses_are_vetted_at_every_connect(
    faulty: FaultReceiver, adapter_for: AdapterFor, resolve_to: Callable[..., Any]
) -> None:
    adapter = adapter_for(faulty.url("close-early", host="receiver.example"))
    calls = resolve_to(("127.0.0.1", faulty.port()))
    assert reply(adapter).status == 204
    faulty.wait_closed()
    assert len(calls) == 1

    calls = resolve_to(("169.254.169.254", 80))
    assert attempt(adapter)[0] == Failure("link-local address", final=True)
    assert len(calls) == 1
    assert faulty.accepted == 1


def test_the_next_address_after_one_that_refuses(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    resolve_to: Callable[..., Any],
) -> None:
    adapter = adapter_for(faulty.url("ok", host="receiver.example"))
    # The receiver is at one of this host's addresses only.
    resolve_to(*((address, faulty.port()) for address in (*OTHERS, HOST)))
    assert reply(adapter).status == 204
    assert len(watched.opened) == 3
    assert len(watched.still_open) == 1


def test_the_next_address_after_one_that_hangs(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    hanging: Callable[[int], str],
    resolve_to: Callable[..., Any],
) -> None:
    # The usual case is a host whose IPv6 leads nowhere.
    adapter = adapter_for(faulty.url("ok", host="receiver.example"), **HASTY)
    resolve_to((hanging(faulty.port()), faulty.port()), (HOST, faulty.port()))
    assert attempt(adapter)[0] == Reply(204)


def test_every_address_refuses(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    resolve_to: Callable[..., Any],
) -> None:
    resolve_to(*((address, faulty.port(REFUSE)) for address in (HOST, *OTHERS)))
    adapter = adapter_for(faulty.url(f"{REFUSE}/ok", host="receiver.example"))
    assert attempt(adapter)[0] == Failure("connection refused")
    assert len(watched.opened) == 3
    assert watched.still_open == []


def test_many_addresses_that_hang_have_one_time_together(
    adapter_for: AdapterFor, faulty: FaultReceiver, hanging: Any, resolve_to: Callable[..., Any]
) -> None:
    port = faulty.port(NEVER_ACCEPT)
    resolve_to(*[(HOST, port), (hanging(port), port)] * 10)
    url = faulty.url(f"{NEVER_ACCEPT}/ok", host="receiver.example")
    result, _ = attempt(adapter_for(url, **HASTY_CONNECT), within=CONNECT_TIMEOUT)
    assert result == Failure("connect timeout")


def test_a_resolver_slower_than_the_time_for_connecting(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The call itself cannot be cut short, but nothing is done with so late an answer.
    def getaddrinfo(*args: Any, **kw: Any) -> list[Any]:
        threading.Event().wait(CONNECT_TIMEOUT + 0.05)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", faulty.port()))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    adapter = adapter_for(faulty.url("ok", host="receiver.example"), **HASTY_CONNECT)
    assert attempt(adapter)[0] == Failure("connect timeout")
    assert watched.opened == []
    assert faulty.accepted == 0
