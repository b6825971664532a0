"""Connections that serve again, and those that must not; what is sent again, and what is not."""

from __future__ import annotations

import select
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import (
    HASTY,
    LIBCURL,
    MEBIBYTE,
    AdapterFor,
    Watched,
    attempt,
    only_requests,
    reply,
)
from receiver import FaultReceiver

from cubehook.exchange import Answer
from cubehook.outcome import Failure, Reply


@pytest.mark.parametrize(
    "path", ["ok", "status/500", "gone", "redirect-self", "body/65536", "gzip-bomb", "garbage-200"]
)
def test_a_connection_serves_again_after_a_whole_answer(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, path: str, tls: bool
) -> None:
    adapter = adapter_for(faulty.url(path, tls=tls))
    for _ in range(3):
        reply(adapter)
    assert [request.connection for request in faulty.requests] == [1, 1, 1]
    assert len(watched.still_open) == 1


@pytest.mark.parametrize("path", ["body/70000", "endless-body", "endless-chunks", "drip-body"])
def test_a_connection_with_a_rest_of_the_body_serves_no_more(
    faulty: FaultReceiver, adapter_for: AdapterFor, path: str, tls: bool
) -> None:
    settings = HASTY if path == "drip-body" else {}
    adapter = adapter_for(faulty.url(path, tls=tls), **settings)
    assert [reply(adapter).status for _ in range(2)] == [200, 200]
    assert [request.connection for request in faulty.requests] == [1, 2]


def test_a_connection_with_bad_chunks_serves_no_more(
    faulty: FaultReceiver, adapter_for: AdapterFor, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("bad-chunking", tls=tls))
    assert [reply(adapter).status for _ in range(2)] == [200, 200]
    assert [request.connection for request in faulty.requests] == [1, 2]


@pytest.mark.parametrize("surplus", [1, 1_000, 12_000, 24_000, 200_000])
def test_what_follows_the_body_is_not_taken_for_the_next_answer(
    faulty: FaultReceiver, adapter_for: AdapterFor, surplus: int, tls: bool
) -> None:
    adapter = adapter_for(faulty.url(f"long-length/{surplus}", tls=tls))
    results = [attempt(adapter)[0] for _ in range(3)]
    assert results == [Reply(200, body=b"ok")] * 3


def test_an_answer_is_the_answer_to_its_own_request(
    faulty: FaultReceiver, adapter_for: AdapterFor, tls: bool
) -> None:
    # The 204 comes a moment after the 103: it must not be there for the next request to find.
    adapter = adapter_for(faulty.url("ok-then/103-then-204", tls=tls))
    for count in range(1, 4):
        assert reply(adapter).status == 204
        assert len(faulty.requests) == count
    faulty.stop()
    assert faulty.unexpected == []


@pytest.mark.parametrize("status", [102, 103, 199])
def test_an_answer_that_is_none_yet_keeps_the_attempt_waiting(
    faulty: FaultReceiver, adapter_for: AdapterFor, status: int
) -> None:
    result, _ = attempt(adapter_for(faulty.url(f"status/{status}"), **HASTY))
    assert result == Failure("timeout")


def test_a_connection_that_changed_protocols_serves_no_more(
    faulty: FaultReceiver, adapter_for: AdapterFor
) -> None:
    adapter = adapter_for(faulty.url("status/101"), **HASTY)
    for _ in range(2):
        attempt(adapter)
    assert [request.connection for request in faulty.requests] == [1, 2]


@pytest.mark.parametrize("body", [b"{}", MEBIBYTE], ids=["small", "large"])
@pytest.mark.parametrize("path", ["close-idle", "close-idle/fin"])
def test_an_idle_connection_closed_as_the_next_request_comes(
    faulty: FaultReceiver, adapter_for: AdapterFor, path: str, body: bytes, tls: bool
) -> None:
    adapter = adapter_for(faulty.url(path, tls=tls))
    results = [attempt(adapter, body)[0] for _ in range(3)]
    assert results == [Reply(204)] * 3
    assert [request.connection for request in faulty.requests] == [1, 2, 3]


def test_an_idle_connection_closed_some_time_ago(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("close-early", tls=tls))
    for _ in range(3):
        assert reply(adapter).status == 204
        assert select.select(watched.still_open, [], [], 2.0)[0]  # the end has come
    assert [request.connection for request in faulty.requests] == [1, 2, 3]


def test_a_request_is_sent_again_only_once(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("ok-then/reset", tls=tls))
    reply(adapter)
    result, _ = attempt(adapter)
    assert isinstance(result, Failure)
    # The first, the second on the connection that dies, the second again on its own.
    assert [request.connection for request in faulty.requests] == [1, 1, 2]
    assert watched.still_open == []


@pytest.mark.parametrize("cut", ["", "/status"])
def test_a_request_is_not_sent_again_once_the_receiver_was_heard(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    transport: str,
    cut: str,
    tls: bool,
) -> None:
    adapter = adapter_for(faulty.url(f"ok-then/close-mid-answer{cut}", tls=tls))
    reply(adapter)
    result, _ = attempt(adapter)
    if transport == "curl" and f"close-mid-answer{cut}" in LIBCURL:
        assert isinstance(result, Failure)
        assert result.reason in LIBCURL[f"close-mid-answer{cut}"]
        assert len(faulty.requests) == 3
        return
    assert result == Failure("connection closed")
    assert len(faulty.requests) == 2


def test_a_request_is_not_sent_again_on_a_new_connection(
    faulty: FaultReceiver, adapter_for: AdapterFor, tls: bool
) -> None:
    attempt(adapter_for(faulty.url("reset", tls=tls)))
    assert len(faulty.requests) == 1


@only_requests
@pytest.mark.parametrize("reading", ["_head", "read"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_connection_whose_answer_was_not_awaited_serves_no_more(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
    reading: str,
    stop: type[BaseException],
    tls: bool,
) -> None:
    """Ctrl-C, or a handler of SIGTERM that exits, in the thread that makes the last attempts."""

    def interrupted(*_: object, **__: object) -> None:
        raise stop

    adapter = adapter_for(faulty.url("body/9", tls=tls))
    reply(adapter)
    with monkeypatch.context() as patched:
        patched.setattr(Answer, reading, interrupted)
        with pytest.raises(stop):
            adapter.post({}, b"{}")
        assert watched.still_open == []
    assert reply(adapter).body == b"x" * 9
    # Nobody has waited for the second: it may be told of last.
    assert sorted(request.connection for request in faulty.requests) == [1, 1, 2]


def test_closing_leaves_no_connection(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("ok", tls=tls))
    reply(adapter)
    adapter.close()
    assert watched.still_open == []
    faulty.wait_closed()


def test_an_attempt_outlives_the_close_of_its_adapter(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched
) -> None:
    adapter = adapter_for(faulty.url("slow"))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(adapter.post, {}, b"{}")
        faulty.wait(1)
        adapter.close()
        assert running.result(5) == Reply(204)
    assert watched.still_open == []


def test_an_attempt_after_the_close_of_its_adapter(
    faulty: FaultReceiver, adapter_for: AdapterFor
) -> None:
    adapter = adapter_for(faulty.url("ok"))
    adapter.close()
    assert isinstance(attempt(adapter)[0], Failure)
    assert faulty.requests == []


def test_a_receiver_that_comes_back(
    faulty: FaultReceiver, adapter_for: AdapterFor, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("ok", tls=tls))
    reply(adapter)
    faulty.stop()
    assert attempt(adapter)[0] == Failure("connection refused")
    faulty.start()
    assert reply(adapter).status == 204
