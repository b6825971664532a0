"""The threads that are cubehook's own, and those it cannot work with."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest

from cubehook import threads

GEVENT = """
import sys, types
monkey = types.ModuleType("gevent.monkey")
monkey.is_module_patched = lambda name: {patched} and name == "threading"
sys.modules["gevent.monkey"] = monkey
import cubehook
"""


@pytest.mark.parametrize("patched", [True, False])
def test_import_warns_of_gevent(patched: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GEVENT.format(patched=patched)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ("gevent's monkey-patching is not supported" in done.stderr) is patched


def test_own_is_nested_and_of_one_thread() -> None:
    others: list[bool] = []
    with threads.own():
        with threads.own():
            pass
        assert threads.is_own()
        other = threading.Thread(target=lambda: others.append(threads.is_own()))
        other.start()
        other.join()
    assert others == [False]
    assert not threads.is_own()


@pytest.mark.parametrize("name", ["connection", "connectionpool", "response", "util.retry"])
def test_what_urllib3_logs_in_own_threads_is_held_back(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger(f"urllib3.{name}")
    with caplog.at_level(logging.DEBUG):
        logger.warning("the application's")
        with threads.own():
            logger.warning("https://planted.example/path?token=planted")
    assert [record.getMessage() for record in caplog.records] == ["the application's"]


def test_a_thread_is_own_while_it_runs_and_forgotten_after() -> None:
    seen: list[bool] = []
    thread = threads.start("test", lambda: seen.append(threads.is_own()))
    thread.join()
    assert seen == [True]
    assert thread.daemon
    assert thread.ident not in threads.OWN
