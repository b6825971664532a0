"""CPython's own tests of logging, run with our subclasses in the place of its classes.

They run in a process of their own: pytest's log handlers would be found by them. What differs by
design is left out by name, with the reason. ``test.test_logging`` is part of CPython; where a
distribution leaves it out, this is skipped.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import queue
import subprocess
import sys
from typing import Any

import pytest

from cubehook.intake import EventQueueHandler, EventQueueListener

CASES = ["HandlerTest", "QueueHandlerTest", "QueueListenerTest", "ConfigDictTest", "ShutdownTest"]

# By the beginning of their names.
LEFT_OUT = {
    "ConfigDictTest.test_listen": "the socket server of logging.config; slow, and none of ours",
    "HandlerTest.test_builtin_handlers": "makes CPython's handlers only",
    "HandlerTest.test_path_objects": "makes CPython's handlers only",
    "HandlerTest.test_race": "of WatchedFileHandler; slow",
    "HandlerTest.test_post_fork_child_no_deadlock": "of StreamHandler; test_exit.py forks ours",
}

RUNNER = """
import logging, logging.handlers, sys, types, unittest
from unittest import mock
from cubehook import WebhookFormatter, WebhookHandler
from cubehook.intake import EventQueueHandler, EventQueueListener

class Inert(WebhookHandler):
    "Without endpoints; what is left is the behaviour of any logging.Handler."
    def __init__(self, level=logging.NOTSET):
        super().__init__([], level=level)
    emit = logging.Handler.emit  # what it has to raise is tested

class Queueing(EventQueueHandler):
    "By design a snapshot is queued, not a record with its message merged in."
    prepare = logging.handlers.QueueHandler.prepare

logging.handlers.QueueHandler = Queueing
logging.handlers.QueueListener = EventQueueListener
from test import test_logging

if sys.argv[1] == "HandlerTest":
    test_logging.logging = types.SimpleNamespace(**vars(logging) | {"Handler": Inert})
    test_logging.HandlerTest.setUp = test_logging.HandlerTest.tearDown = lambda self: None
if sys.argv[1] == "ShutdownTest":
    class RecordingHandler(Inert):
        def __init__(self, *args, **kwargs):
            super().__init__()
            self.calls = []
        def acquire(self): self.calls.append("acquire")
        def release(self): self.calls.append("release")
        def flush(self): self.calls.append("flush"); super().flush()
        def close(self): self.calls.append("close"); super().close()
    test_logging.RecordingHandler = RecordingHandler

case = getattr(test_logging, sys.argv[1])
names = unittest.TestLoader().getTestCaseNames(case)
left_out = tuple(sys.argv[2:])
suite = unittest.TestSuite(
    case(name) for name in names if not f"{case.__name__}.{name}".startswith(left_out)
)
result = unittest.TextTestRunner(verbosity=2).run(suite)
sys.exit(not (result.wasSuccessful() and result.testsRun))
"""


@pytest.mark.parametrize("case", CASES)
def test_as_in_cpython(case: str) -> None:
    if importlib.util.find_spec("test.test_logging") is None:
        pytest.skip("this Python comes without its own tests")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, case, *LEFT_OUT],
        env=os.environ | {"PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_a_listener_hands_on_what_was_queued() -> None:
    """The twin of QueueHandlerTest.test_queue_listener, with snapshots."""
    seen: list[str] = []

    class Sink:
        def handle(self, attributes: dict[str, Any]) -> None:
            seen.append(attributes["msg"])

    simple: queue.SimpleQueue[Any] = queue.SimpleQueue()
    handler = EventQueueHandler(simple)
    listener = EventQueueListener(simple, Sink())
    for round_ in (["one", "two"], ["three"]):
        listener.start()
        for text in round_:
            handler.handle(logging.makeLogRecord({"msg": text}))
        listener.stop()
    assert seen == ["one", "two", "three"]
