"""A fork waits while a thread of ours is inside OpenSSL; what a child inherits has no lock."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

import pytest

from cubehook import forks
from cubehook.attempt import Sender
from cubehook.connection import GuardedHTTPConnectionPool, IdleConnections
from cubehook.endpoint import Endpoint
from cubehook.message import Message
from cubehook.signing import cube

PATIENCE = 10.0


def forked(child: Callable[[], bool]) -> bool:
    """What ``child`` answers in a forked process."""
    process = os.fork()
    if process == 0:
        os._exit(0 if child() else 1)  # no test runner's cleaning up
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def is_free() -> bool:
    """Whether another thread could enter a step."""
    answers: list[bool] = []
    other = threading.Thread(target=lambda: answers.append(forks.kept_out.acquire(timeout=1.0)))
    other.start()
    other.join()
    return answers == [True]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestForking:
    def test_waits_for_the_step_under_way(self) -> None:
        inside, go_on, forking = threading.Event(), threading.Event(), threading.Event()
        order: list[str] = []

        def step() -> None:
            with forks.kept_out:
                inside.set()
                go_on.wait(PATIENCE)
                order.append("stepped")

        def fork() -> None:
            forking.set()
            if forked(is_free):
                order.append("forked, and free in the child")

        threads = [threading.Thread(target=step), threading.Thread(target=fork)]
        threads[0].start()
        inside.wait(PATIENCE)
        threads[1].start()
        forking.wait(PATIENCE)
        go_on.set()
        for thread in threads:
            thread.join()
        assert order == ["stepped", "forked, and free in the child"]

    def test_does_not_wait_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(forks, "LONGEST_WAIT", 0.05)
        inside, over = threading.Event(), threading.Event()

        def step() -> None:
            with forks.kept_out:
                inside.set()
                over.wait(PATIENCE)

        thread = threading.Thread(target=step)
        thread.start()
        inside.wait(PATIENCE)
        assert forked(is_free)
        over.set()
        thread.join()

    def test_from_inside_a_step(self) -> None:
        with forks.kept_out:
            assert forked(is_free)
        assert is_free_here()

    def test_leaves_the_parent_as_it_was(self) -> None:
        assert forked(is_free)
        assert is_free_here()


def is_free_here() -> bool:
    answers: list[bool] = []

    def enter() -> None:
        with forks.kept_out:
            answers.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(PATIENCE)
    return answers == [True]


def test_a_signature_is_made_inside_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    owned: list[bool] = []

    def sign(*_: object, **__: object) -> dict[str, str]:
        owned.append(forks.kept_out._is_owned())  # type: ignore[attr-defined]
        raise InterruptedError

    monkeypatch.setattr(cube.CubeScheme, "sign", sign)
    sender = Sender(Endpoint(url="https://ops.example/", secret="a-secret", timeout=1.0))
    with pytest.raises(InterruptedError):
        sender(Message("1", "a.b", None, "application/json", b"{}"))
    assert owned == [True]


class TestIdleConnections:
    def test_the_last_one_used_comes_first(self) -> None:
        idle = IdleConnections(3)
        for item in ("a", "b", "c"):
            idle.put(item)
        assert idle.qsize() == 3
        assert [idle.get() for _ in range(3)] == ["c", "b", "a"]

    def test_raises_what_urllib3_expects(self) -> None:
        idle = IdleConnections(1)
        with pytest.raises(queue.Empty):
            idle.get(block=False)
        idle.put("a", block=False)
        with pytest.raises(queue.Full):
            idle.put("b", block=False)

    def test_is_what_the_pools_use(self) -> None:
        pool = GuardedHTTPConnectionPool("127.0.0.1", 1, maxsize=2, guard=None)  # type: ignore[arg-type]
        assert type(pool.pool) is IdleConnections
        pool.close()
