"""Sockets with a deadline, plain and TLS, against a server's on the other side."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cubehook import tls
from cubehook.sockets import MAX_ANSWER_BYTES, DeadlineSocket, DeadlineTLSSocket

sys.path.append(str(Path(__file__).parent / "faults"))

import certificates as certs

Pair = tuple[Any, Any]
"""One of our sockets, connected, and the one of the other side."""

SHORT = 0.1
GRACE = 1.0
LARGE = b"x" * 2**24  # more than the kernel's buffers take


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> certs.Certificates:
    if not certs.available():
        pytest.skip("no openssl command")
    return certs.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def plain() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = DeadlineSocket()
        ours.settimeout(5)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
        theirs.settimeout(5)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def secured(plain: Pair, made: certs.Certificates) -> Iterator[Pair]:
    context = made.server_context(certs.GOOD)
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(context.wrap_socket, plain[1], server_side=True)
        wrapped = tls.load(str(made.ca)).wrap_socket(plain[0], server_hostname="localhost")
        with wrapped as ours, serving.result() as theirs:
            yield ours, theirs


@pytest.fixture(params=["plain", "secured"])
def pair(request: pytest.FixtureRequest) -> Pair:
    found: Pair = request.getfixturevalue(request.param)
    return found


def receive(ours: Any) -> int:
    return int(ours.recv_into(bytearray(65536)))


def send(ours: Any) -> None:
    ours.sendall(LARGE)


def receive_all(ours: Any) -> None:
    while receive(ours):
        pass


def send_for_ever(ours: Any) -> None:
    while True:
        send(ours)


# --- The deadline ---


@pytest.mark.parametrize("operation", [receive, send])
def test_an_operation_ends_at_the_deadline(pair: Pair, operation: Callable[[Any], Any]) -> None:
    ours, _ = pair
    started = time.monotonic()
    ours.deadline = started + SHORT
    with pytest.raises(TimeoutError):
        operation(ours)
    assert SHORT - 0.02 <= time.monotonic() - started < SHORT + GRACE


@pytest.mark.parametrize("operation", [receive, send])
def test_nothing_is_done_after_the_deadline(pair: Pair, operation: Callable[[Any], Any]) -> None:
    ours, theirs = pair
    theirs.sendall(b"there is something to read")
    ours.deadline = time.monotonic() - 1
    with pytest.raises(TimeoutError):
        operation(ours)
    ours.deadline = time.monotonic() + 5
    assert receive(ours) == 26


def test_a_drip_does_not_stretch_it(pair: Pair) -> None:
    ours, theirs = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.01):
            theirs.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    started = time.monotonic()
    ours.deadline = started + SHORT
    try:
        with pytest.raises(TimeoutError):
            receive_all(ours)
    finally:
        stop.set()
        thread.join()
    assert time.monotonic() - started < SHORT + GRACE
    assert ours.heard > 1


def test_without_one_it_waits(pair: Pair) -> None:
    ours, theirs = pair
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receive, ours)
        theirs.sendall(b"ok")
        assert waiting.result(5) == 2


# --- What is noted ---


def test_what_came_in_is_counted(pair: Pair) -> None:
    ours, theirs = pair
    assert (ours.heard, ours.ended) == (0, False)
    theirs.sendall(b"12345")
    assert receive(ours) == 5
    theirs.sendall(b"678")
    assert receive(ours) == 3
    assert (ours.heard, ours.ended) == (8, False)
    theirs.close()
    assert receive(ours) == 0
    assert (ours.heard, ours.ended) == (8, True)


def test_too_long_an_answer(pair: Pair) -> None:
    ours, theirs = pair
    ours.heard = MAX_ANSWER_BYTES - 2
    theirs.sendall(b"12")
    assert receive(ours) == 2
    theirs.sendall(b"3")
    with pytest.raises(http.client.HTTPException):
        receive(ours)


def test_sending_to_one_who_has_closed(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(ConnectionError):
        send_for_ever(ours)


# --- TLS ---


def test_a_tls_socket_is_ours_and_never_blocks(secured: Pair) -> None:
    ours, theirs = secured
    assert isinstance(ours, DeadlineTLSSocket)
    assert not os.get_blocking(ours.fileno())
    for timeout in (5, None, 0.1):
        ours.settimeout(timeout)
        assert not os.get_blocking(ours.fileno())
        assert ours.gettimeout() == 0.0
    theirs.sendall(b"ok")
    ours.deadline = time.monotonic() + 5
    assert receive(ours) == 2
    assert not os.get_blocking(ours.fileno())


@pytest.mark.parametrize("speaks", [b"", b"\x16\x03\x03\x40\x00"], ids=["nothing", "a beginning"])
def test_a_handshake_has_the_sockets_timeout(
    plain: Pair, made: certs.Certificates, speaks: bytes
) -> None:
    ours, theirs = plain
    theirs.sendall(speaks)
    ours.settimeout(SHORT)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        tls.load(str(made.ca)).wrap_socket(ours, server_hostname="localhost")
    assert SHORT - 0.02 <= time.monotonic() - started < SHORT + GRACE


def test_a_handshake_that_fails_leaves_no_socket(plain: Pair, made: certs.Certificates) -> None:
    ours, theirs = plain
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        tls.load(str(made.ca)).wrap_socket(ours, server_hostname="localhost")
    assert ours.fileno() == -1


def test_a_certificate_for_another_name(plain: Pair, made: certs.Certificates) -> None:
    context = made.server_context(certs.GOOD)

    def serve() -> None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(plain[1], server_side=True).recv(1)

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve)
        with pytest.raises(ssl.SSLCertVerificationError):
            tls.load(str(made.ca)).wrap_socket(plain[0], server_hostname=certs.OTHER_NAME)
        serving.result(5)
