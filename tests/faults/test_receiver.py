"""The fault receiver itself: what the other tests rely on."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from pathlib import Path

import pytest
from behaviours import BEHAVIOURS
from receiver import NEVER_ACCEPT, REFUSE, SERVER_FAULTS, SLOW_TLS, FaultReceiver


def connect(receiver: FaultReceiver, server: str = "http") -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", receiver.port(server), timeout=5)


def send(connection: http.client.HTTPConnection, path: str, body: bytes = b"{}") -> int:
    connection.request("POST", f"/{path}", body, {"X-Test": "Yes"})
    response = connection.getresponse()
    response.read()
    return response.status


def descriptors() -> set[str]:
    # The one that listing takes itself is in no two listings.
    return {name for name in os.listdir("/proc/self/fd") if Path("/proc/self/fd", name).exists()}


def test_records_requests(faulty: FaultReceiver) -> None:
    connection = connect(faulty)
    assert send(connection, "ok") == 204
    assert send(connection, "status/418", b"tea") == 418
    connection.close()
    assert send(connection, "ok") == 204
    connection.close()

    first, second, third = faulty.wait(3)
    assert (first.method, first.path, first.body) == ("POST", "ok", b"{}")
    assert (second.path, second.body) == ("status/418", b"tea")
    assert first.headers["x-test"] == "Yes"
    assert [request.connection for request in (first, second, third)] == [1, 1, 2]
    assert first.time < second.time < third.time
    assert faulty.accepted == 2
    assert faulty.count("ok") == 2


def test_waits_no_longer_than_told(faulty: FaultReceiver) -> None:
    with pytest.raises(TimeoutError, match="0 requests, not 1"):
        faulty.wait(1, timeout=0.01)


def test_every_behaviour_has_a_name_of_its_own(faulty: FaultReceiver) -> None:
    assert not set(BEHAVIOURS) & set(SERVER_FAULTS)
    assert all(behaviour.__doc__ for behaviour in BEHAVIOURS.values())


def test_a_server_may_stand_before_the_path(faulty: FaultReceiver) -> None:
    assert faulty.url("other/status/500") == f"http://127.0.0.1:{faulty.port('other')}/status/500"
    assert faulty.url("refuse") == f"http://127.0.0.1:{faulty.port('refuse')}/ok"
    assert faulty.url("slow-tls").startswith("https:")


def test_stopped_it_refuses_and_started_again_it_is_where_it_was() -> None:
    with FaultReceiver() as receiver:
        ports = [receiver.port(name) for name in ("http", "other", SLOW_TLS)]
        for _ in range(3):
            connection = connect(receiver)
            assert send(connection, "ok") == 204
            receiver.stop()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", receiver.port()), 5)
            receiver.start()
            connection.close()
        assert ports == [receiver.port(name) for name in ("http", "other", SLOW_TLS)]
        assert len(receiver.requests) == 3


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
def test_leaves_no_socket_and_no_thread() -> None:
    before, threads = descriptors(), set(threading.enumerate())
    hanging = ("never-answer", "accept-never-read", "drip-body", "endless-body", "flood-1xx")

    with FaultReceiver() as receiver:
        connections = [connect(receiver) for _ in hanging]
        for connection, path in zip(connections, hanging, strict=True):
            connection.request("POST", f"/{path}", b"{}")
        receiver.wait(len(hanging))
        for server in (REFUSE, NEVER_ACCEPT):
            with pytest.raises(OSError, match=r"refused|timed out"):
                socket.create_connection(("127.0.0.1", receiver.port(server)), 0.05)

    for connection in connections:
        connection.close()
    assert set(threading.enumerate()) == threads
    assert descriptors() == before
    assert receiver.unexpected == []


def test_a_broken_request_is_unexpected() -> None:
    with FaultReceiver() as receiver:
        with socket.create_connection(("127.0.0.1", receiver.port()), 5) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert client.recv(1) == b""
        receiver.wait_closed()
        assert [type(error) for error in receiver.unexpected] == [ValueError]
