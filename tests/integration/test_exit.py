"""The ends of a process and its forks, each in a process of its own, against a real receiver."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cubehook

if TYPE_CHECKING:
    from conftest import Receiver

PATIENCE = 20.0
FLUSH = 1.5
MARGIN = 1.4
"""What an exit may take beside its ``flush_timeout``: the interpreter's own end, a busy machine.

Together they stay below two of those timeouts.
"""
SOON = 3.0
"""What takes a fraction of a second may take that long on a busy machine; others wait for ten."""

ROOT = Path(cubehook.__file__).parent.parent

NO_THREADS_AT_EXIT = sys.version_info >= (3, 12)

HEAD = """
{early}
import atexit, logging, logging.config, os, signal, sys, threading, time
import cubehook

def url(path="/hook"):
    return {url!r} + path

def endpoint(path="/hook", **keys):
    return dict(dict(
        name=path.strip("/"), url=url(path), events=["*"], secret={secret!r},
        allow_private_urls=True, backoff_initial=0.05,
    ), **keys)

log = logging.getLogger("app")
log.setLevel(logging.INFO)

def attach(*endpoints, **options):
    made = cubehook.WebhookHandler(
        list(endpoints) or [endpoint()], **dict(dict(queue_capacity=5000), **options))
    log.addHandler(made)
    return made

def event(id, **fields):
    log.info("a message", extra=dict(fields, event="a.b", event_id=str(id)))

def leaving():
    print("leaving", time.monotonic(), flush=True)

"""


class Script:
    """A running script."""

    def __init__(self, path: Path) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore::DeprecationWarning",  # of fork in a process with threads
        }
        environment.pop("CUBE_API_WEBHOOK_ENDPOINTS", None)
        self._process = subprocess.Popen(
            [sys.executable, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.out: list[str] = []
        self.err = ""
        self.code = -1
        self.took = -1.0

    def line(self, word: str) -> str:
        """The rest of the next line that the script prints, which begins with ``word``."""
        assert self._process.stdout is not None
        # Byte by byte: what a file object reads ahead, communicate() would not see.
        read = iter(lambda: os.read(self._process.stdout.fileno(), 1), b"")  # type: ignore[union-attr]
        line = bytearray()
        while not line.endswith(b"\n") and (byte := next(read, b"")):
            line += byte
        printed = line.decode()
        assert printed.startswith(word), f"{printed!r} {self.end().err}"
        self.out.append(printed)
        return printed.removeprefix(word).strip()

    def go_on(self) -> None:
        """Let a script that reads a line read it."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> Script:
        """Wait for the end. ``took``: the seconds since the script printed ``leaving``."""
        try:
            out, self.err = self._process.communicate(timeout=PATIENCE)
        finally:
            ended = time.monotonic()
            self._process.kill()
        self.out += out.splitlines()
        self.code = self._process.returncode
        left = [float(line.split()[1]) for line in self.out if line.startswith("leaving")]
        self.took = ended - left[0] if left else -1.0
        return self

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


Start = Callable[..., Script]


@pytest.fixture
def start(receiver: Receiver, tmp_path: Path) -> Iterator[Start]:
    """Starts a script after the common head. ``early``: what it does before its first import."""
    started: list[Script] = []

    def begin(body: str, early: str = "") -> Script:
        path = tmp_path / "script.py"
        early = textwrap.dedent(early)
        head = HEAD.format(early=early, url=receiver.url(""), secret=receiver.secret)
        path.write_text(head + textwrap.dedent(body), encoding="utf-8")
        started.append(Script(path))
        return started[-1]

    yield begin
    receiver.release()
    for one in started:
        one.kill()


@pytest.fixture
def run(start: Start) -> Start:
    """The same, and waits for the end."""

    def both(body: str, early: str = "") -> Script:
        return start(body, early).end()

    return both


def ids(receiver: Receiver, path: str | None = None) -> list[str]:
    return sorted(one.json["id"] for one in receiver.received(path))


def numbered(*names: object) -> list[str]:
    return sorted(map(str, names))


# --- The ways to end ---


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise SystemExit('why')", 1),
        ("raise RuntimeError('the application failed')", 1),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); signal.raise_signal(15)", 4),
        # (Where the tests run in the background, SIGINT is ignored.)
        (
            "signal.signal(2, signal.default_int_handler); signal.raise_signal(2)",
            -signal.SIGINT,
        ),
        ("logging.shutdown()", 0),
        ("log.handlers[0].close()", 0),
        ("import asyncio; asyncio.run(asyncio.sleep(0))", 0),
        ("threading.Thread(target=lambda: event(100)).start()", 0),
    ],
)
def test_nothing_is_lost_when_the_process_ends(
    run: Start, receiver: Receiver, ending: str, code: int
) -> None:
    script = run(
        f"""
        attach(flush_timeout=10.0)
        for number in range(50):
            event(number)
        leaving()
        {ending}
        """
    )
    assert script.code == code
    expected = [*range(50), 100] if "100" in ending else range(50)
    assert ids(receiver) == numbered(*expected)
    assert script.took < SOON
    told = script.err.replace("Traceback", "", 1) if "raise" in ending else script.err
    assert "Traceback" not in told
    assert "cubehook" not in script.err


def test_a_thousand_events_at_the_very_end(run: Start, receiver: Receiver) -> None:
    script = run(
        """
        attach(flush_timeout=15.0)
        for number in range(1000):
            event(number, sandbox_id=number % 10)
        leaving()
        """
    )
    assert Counter(ids(receiver)) == Counter(numbered(*range(1000)))
    assert script.err == ""
    by_key: dict[str, list[int]] = {}
    for one in receiver.received():
        by_key.setdefault(str(one.json["sandbox_id"]), []).append(int(one.json["id"]))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


def test_with_nothing_left_the_end_is_quick(run: Start, receiver: Receiver) -> None:
    script = run(
        """
        handler = attach(flush_timeout=10.0)
        for number in range(20):
            event(number)
        print("flushed", handler.flush())
        leaving()
        """
    )
    assert script.out[0] == "flushed True"
    assert len(receiver.received()) == 20
    assert script.took < 1.0


def test_sigterm_without_a_handler_ends_the_process_at_once(run: Start, receiver: Receiver) -> None:
    """Nothing of Python runs then: what was queued is lost, as documented."""
    receiver.hold()
    script = run(
        """
        attach(flush_timeout=10.0)
        event(1)
        leaving()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        """
    )
    assert script.code == -signal.SIGTERM
    assert script.took < SOON


def test_os_exit_loses_what_is_queued(run: Start, receiver: Receiver) -> None:
    receiver.hold()
    script = run(
        """
        attach(flush_timeout=10.0)
        event(1)
        leaving()
        os._exit(5)
        """
    )
    assert script.code == 5
    assert script.took < SOON


# --- Late events ---

BEFORE = {
    "logging": "import atexit; atexit.register(lambda: event('late'))",
    "cubehook": "import logging, atexit; atexit.register(lambda: event('late'))",
}


def test_an_event_from_an_atexit_hook_registered_after_the_import(
    run: Start, receiver: Receiver
) -> None:
    script = run(
        """
        attach(flush_timeout=10.0)
        atexit.register(lambda: event("late"))
        event("early")
        leaving()
        """
    )
    assert ids(receiver) == ["early", "late"]
    assert script.took < SOON
    assert script.err == ""


def test_an_event_from_an_atexit_hook_registered_before_the_import(
    run: Start, receiver: Receiver
) -> None:
    """It runs after cubehook's own hook and before ``logging.shutdown``."""
    script = run(
        """
        attach(flush_timeout=10.0)
        event("early")
        leaving()
        """,
        early=BEFORE["cubehook"],
    )
    assert ids(receiver) == ["early", "late"]
    assert script.took < SOON
    assert script.err == ""


def test_an_event_after_logging_has_shut_down_does_no_harm(run: Start, receiver: Receiver) -> None:
    """The handler is closed then: the event is counted as dropped."""
    script = run(
        """
        handler = attach(flush_timeout=10.0)
        event("early")
        leaving()
        """,
        early="""
        import atexit

        def late():
            event("late")
            print("dropped", dict(handler.stats().dropped))

        atexit.register(late)
        """,
    )
    assert ids(receiver) == ["early"]
    assert "dropped {'closed': 1}" in script.out
    assert script.took < SOON
    assert script.err == ""


@pytest.mark.parametrize("early", ["", BEFORE["cubehook"]], ids=["after", "before"])
def test_the_first_event_ever_from_an_atexit_hook(
    run: Start, receiver: Receiver, early: str
) -> None:
    """Python 3.12 and later start no threads there."""
    receiver.script(503)
    hook = "" if early else "atexit.register(lambda: event('late'))"
    script = run(
        f"""
        attach(flush_timeout=10.0)
        {hook}
        leaving()
        """,
        early=early,
    )
    assert ids(receiver) == ["late", "late"]
    assert script.took < SOON
    assert "Traceback" not in script.err


@pytest.mark.parametrize("early", ["", BEFORE["cubehook"]], ids=["after", "before"])
def test_the_first_event_ever_from_an_atexit_hook_with_an_endpoint_that_hangs(
    run: Start, receiver: Receiver, early: str
) -> None:
    """The endpoint that is up gets it, and the one that hangs costs one ``flush_timeout``."""
    receiver.script(default="hang", path="/stuck")
    hook = "" if early else "atexit.register(lambda: event('late'))"
    script = run(
        f"""
        attach(endpoint("/stuck"), endpoint("/good"), flush_timeout={FLUSH})
        {hook}
        leaving()
        """,
        early=early,
    )
    assert ids(receiver, "/good") == ["late"]
    assert script.took < FLUSH + MARGIN


def test_an_atexit_hook_that_takes_its_time_before_it_logs(run: Start, receiver: Receiver) -> None:
    """The time that others spend at exit is not taken from what cubehook may wait."""
    run(
        """
        attach(flush_timeout=0.3)
        event("early")
        leaving()
        """,
        early="""
        import logging, atexit, time

        def slow():
            time.sleep(0.5)
            event("late")

        atexit.register(slow)
        """,
    )
    assert ids(receiver) == ["early", "late"]


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_an_event_from_a_del_at_teardown_does_no_harm(
    run: Start, receiver: Receiver, first: bool
) -> None:
    script = run(
        f"""
        attach(flush_timeout=10.0)

        class Logs:
            def __del__(self, event=event):
                event("late")

        kept = Logs()
        kept.me = kept
        sys.modules["kept"] = Logs()
        if not {first}:
            event("early")
        leaving()
        """
    )
    assert script.code == 0
    assert script.err == ""
    assert script.took < SOON
    assert "early" in ids(receiver) or first


def test_events_from_a_daemon_thread(run: Start, receiver: Receiver) -> None:
    script = run(
        """
        attach(flush_timeout=10.0)
        logged = threading.Event()

        def work():
            for number in range(50):
                event(number)
            logged.set()
            while True:
                log.info("untagged")

        threading.Thread(target=work, daemon=True).start()
        logged.wait()
        leaving()
        """
    )
    assert ids(receiver) == numbered(*range(50))
    assert script.code == 0
    assert script.err == ""
    assert script.took < SOON


def test_a_daemon_thread_that_never_stops_logging_events(run: Start, receiver: Receiver) -> None:
    """``flush`` waits for what came before it: more events do not hold the exit up."""
    script = run(
        """
        attach(flush_timeout=5.0)
        logged = threading.Event()

        def work():
            number = 0
            while True:
                event(number)
                number += 1
                logged.set()
                time.sleep(0.002)

        threading.Thread(target=work, daemon=True).start()
        logged.wait()
        leaving()
        """
    )
    assert script.code == 0
    assert "Traceback" not in script.err
    assert "0" in ids(receiver)
    assert script.took < SOON


# --- The receiver is down ---

DOWN = {
    "refuses": "endpoint(url={dead!r})",
    "errors": "endpoint('/errors')",
    "hangs": "endpoint('/hangs')",
    "throttles": "endpoint('/throttles')",
}


@pytest.mark.parametrize("kind", DOWN)
@pytest.mark.parametrize("handlers", [1, 3])
def test_the_end_is_bounded_while_the_receiver_is_down(
    run: Start, receiver: Receiver, dead_url: str, kind: str, handlers: int
) -> None:
    receiver.script(default=503, path="/errors")
    receiver.script(default="hang", path="/hangs")
    receiver.script(default=(503, {"Retry-After": "3600"}), path="/throttles")
    script = run(
        f"""
        for number in range({handlers}):
            attach({DOWN[kind].format(dead=dead_url)}, flush_timeout={FLUSH})
        for number in range(100):
            event(number, sandbox_id=number % 5)
        leaving()
        """
    )
    assert script.code == 0
    assert script.took < FLUSH + MARGIN
    assert script.err.count("undelivered") == handlers
    assert "Traceback" not in script.err
    assert "127.0.0.1" not in script.err


@pytest.mark.parametrize("ending", ["log.handlers[0].close()", "logging.shutdown()"])
def test_the_end_is_bounded_after_a_close_of_the_applications_own(
    run: Start, receiver: Receiver, ending: str
) -> None:
    """What ``close`` has given up is not waited for a second time at exit."""
    receiver.script(default="hang")
    script = run(
        f"""
        attach(flush_timeout={FLUSH})
        event(1)
        leaving()
        {ending}
        """
    )
    assert script.took < FLUSH + MARGIN
    assert script.err.count("undelivered") == 1


def test_one_endpoint_hangs_and_the_other_gets_everything(run: Start, receiver: Receiver) -> None:
    receiver.script(default="hang", path="/stuck")
    script = run(
        f"""
        attach(endpoint("/stuck"), endpoint("/good"), flush_timeout={FLUSH})
        for number in range(50):
            event(number)
        leaving()
        """
    )
    assert ids(receiver, "/good") == numbered(*range(50))
    assert script.took < FLUSH + MARGIN


def test_one_endpoint_hangs_and_the_other_gets_the_only_event(
    run: Start, receiver: Receiver
) -> None:
    """Logged right before the end: from Python 3.12 on there may be no time to start threads."""
    receiver.script(default="hang", path="/stuck")
    script = run(
        f"""
        attach(endpoint("/stuck"), endpoint("/good"), flush_timeout={FLUSH})
        event(1)
        leaving()
        """
    )
    assert ids(receiver, "/good") == ["1"]
    assert script.took < FLUSH + MARGIN


@pytest.mark.parametrize("last", ["event(1)", "atexit.register(lambda: event(1))"])
def test_some_handlers_hang_and_another_delivers_the_only_event(
    run: Start, receiver: Receiver, last: str
) -> None:
    """They share the time; the one that is waited for first must not use it up alone."""
    receiver.script(default="hang", path="/stuck")
    script = run(
        f"""
        for path in ("/stuck", "/stuck", "/good", "/stuck", "/stuck"):
            attach(endpoint(path), flush_timeout={FLUSH})
        {last}
        leaving()
        """
    )
    # Its part of the time may end while the answer is on its way: it is asked again then.
    assert set(ids(receiver, "/good")) == {"1"}
    assert script.took < FLUSH + MARGIN


def test_a_retry_that_waits_gets_a_last_chance(run: Start, receiver: Receiver) -> None:
    receiver.script(503, 503)
    script = run(
        """
        handler = attach(endpoint(backoff_initial=600.0), flush_timeout=10.0)
        event(1)
        event(2)
        print("flushed", handler.flush())
        leaving()
        """
    )
    assert script.out[0] == "flushed False"
    assert Counter(ids(receiver)) == {"1": 2, "2": 2}
    assert script.took < SOON
    assert "undelivered" not in script.err


def test_a_retry_of_a_dropped_handler_gets_a_last_chance(run: Start, receiver: Receiver) -> None:
    """``logging.shutdown`` does not know the handler any more."""
    receiver.script(503)
    script = run(
        """
        handler = attach(endpoint(backoff_initial=600.0), flush_timeout=10.0)
        event(1)
        print("flushed", handler.flush())
        log.handlers.clear()
        del handler
        import gc; gc.collect()
        leaving()
        """
    )
    assert script.out[0] == "flushed False"
    assert ids(receiver) == ["1", "1"]
    assert script.took < SOON


def test_a_retry_after_is_honoured_at_the_end_too(run: Start, receiver: Receiver) -> None:
    receiver.script((429, {"Retry-After": "600"}))
    script = run(
        """
        handler = attach(flush_timeout=10.0)
        event(1)
        print("flushed", handler.flush())
        leaving()
        """
    )
    assert ids(receiver) == ["1"]
    assert "closed with 1 undelivered" in script.err
    assert script.took < SOON


def test_a_replaced_handler_still_delivers_at_the_end(start: Start, receiver: Receiver) -> None:
    receiver.hold()
    script = start(
        """
        def configure():
            logging.config.dictConfig({
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {"webhooks": {
                    "class": "cubehook.WebhookHandler",
                    "endpoints": [endpoint()],
                    "flush_timeout": 10.0,
                }},
                "loggers": {"app": {"level": "INFO", "handlers": ["webhooks"]}},
            })

        for number in range(3):
            configure()
            for each in range(10):
                event(f"{number}-{each}")
        leaving()
        """
    )
    script.line("leaving")
    receiver.release()
    assert script.end().code == 0
    assert ids(receiver) == sorted(f"{number}-{each}" for number in range(3) for each in range(10))
    assert script.err == ""


def test_a_handler_dropped_without_close_still_delivers_at_the_end(
    start: Start, receiver: Receiver
) -> None:
    receiver.hold()
    script = start(
        """
        attach(flush_timeout=10.0)
        for number in range(10):
            event(number)
        log.handlers.clear()
        import gc; gc.collect()
        leaving()
        """
    )
    script.line("leaving")
    receiver.release()
    assert script.end().code == 0
    assert ids(receiver) == numbered(*range(10))


# --- Batches: nobody waits for what might join them ---

LINGERS = "{'max_events': 20, 'linger': 3600.0}"


def batched(receiver: Receiver) -> list[str]:
    """The ids of all events, in the order of their batches."""
    return [event["id"] for one in receiver.received() for event in one.json["events"]]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    "ending",
    ["", "logging.shutdown()", "log.handlers[0].close()", "log.handlers[0].flush(); os._exit(0)"],
)
def test_batches_do_not_linger_at_the_end(
    run: Start, receiver: Receiver, ordered: bool, ending: str
) -> None:
    script = run(
        f"""
        attach(endpoint(batch={LINGERS}, ordered={ordered}), flush_timeout=10.0)
        for number in range(50):
            event(number)
        leaving()
        {ending}
        """
    )
    arrived = batched(receiver)
    assert Counter(arrived) == Counter(map(str, range(50)))
    assert arrived == [str(number) for number in range(50)] or not ordered
    assert len(receiver.received()) < 15
    assert script.took < SOON
    assert script.err == ""


@pytest.mark.parametrize("early", ["", BEFORE["cubehook"]], ids=["after", "before"])
def test_batches_do_not_linger_in_an_atexit_hook(
    run: Start, receiver: Receiver, early: str
) -> None:
    """Python 3.12 and later start no threads there."""
    receiver.script(503)
    hook = "" if early else "atexit.register(lambda: event('late'))"
    script = run(
        f"""
        attach(endpoint(batch={LINGERS}), flush_timeout=10.0)
        {hook}
        leaving()
        """,
        early=early,
    )
    assert batched(receiver) == ["late", "late"]
    assert len({one.body for one in receiver.received()}) == 1
    assert script.took < SOON
    assert "Traceback" not in script.err


def test_batches_that_wait_for_a_retry_get_a_last_chance(run: Start, receiver: Receiver) -> None:
    receiver.script(503)
    script = run(
        f"""
        handler = attach(endpoint(batch={LINGERS}, backoff_initial=600.0), flush_timeout=10.0)
        for number in range(30):
            event(number)
        print("flushed", handler.flush())
        event("later")
        leaving()
        """
    )
    assert script.out[0] == "flushed False"
    first, again, *_ = receiver.received()
    assert first.body == again.body
    expected = [*map(str, range(30)), "later"]
    assert batched(receiver) == [*expected[: len(first.json["events"])], *expected]
    assert script.took < SOON
    assert "undelivered" not in script.err


def test_batches_of_a_replaced_handler_do_not_linger(start: Start, receiver: Receiver) -> None:
    script = start(
        f"""
        def configure():
            logging.config.dictConfig({{
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {{"webhooks": {{
                    "class": "cubehook.WebhookHandler",
                    "endpoints": [endpoint(batch={LINGERS})],
                }}}},
                "loggers": {{"app": {{"level": "INFO", "handlers": ["webhooks"]}}}},
            }})

        configure()
        for number in range(10):
            event(number)
        configure()
        leaving()
        sys.stdin.readline()
        """
    )
    script.line("leaving")
    receiver.wait_for(1)  # while the process lives
    assert batched(receiver) == [str(number) for number in range(10)]
    script.go_on()
    assert script.end().code == 0


def test_batches_of_parent_and_child(run: Start, receiver: Receiver) -> None:
    script = run(
        f"""
        attach(endpoint(batch={LINGERS}), flush_timeout=10.0)
        for number in range(10):
            event(f"before-{{number}}")
        child = os.fork()
        who = "child" if child == 0 else "parent"
        for number in range(10):
            event(f"{{who}}-{{number}}")
        if child == 0:
            sys.exit(7)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        leaving()
        """
    )
    assert "child 7" in script.out
    expected = [f"{who}-{number}" for who in ("before", "child", "parent") for number in range(10)]
    assert sorted(batched(receiver)) == sorted(expected)
    assert len({one.json["id"] for one in receiver.received()}) == len(receiver.received())
    assert script.took < SOON


# --- Forks ---


def test_fork_parent_and_child_deliver_each_its_own(run: Start, receiver: Receiver) -> None:
    script = run(
        """
        attach(flush_timeout=10.0)
        for number in range(20):
            event(f"before-{number}")
        child = os.fork()
        who = "child" if child == 0 else "parent"
        for number in range(20):
            event(f"{who}-{number}")
        if child == 0:
            sys.exit(7)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        leaving()
        """
    )
    assert "child 7" in script.out
    expected = [f"{who}-{number}" for who in ("before", "child", "parent") for number in range(20)]
    assert ids(receiver) == sorted(expected)
    assert script.err == ""
    assert script.took < SOON


def test_fork_with_a_full_queue_and_workers_mid_request(start: Start, receiver: Receiver) -> None:
    """The parent's threads, locks, queue and connections are not the child's."""
    receiver.hold()
    script = start(
        """
        handler = attach(queue_capacity=20, flush_timeout=10.0)
        for number in range(200):
            event(f"before-{number}")
        sys.stdin.readline()
        child = os.fork()
        who = "child" if child == 0 else "parent"
        if child == 0:
            for number in range(10):
                event(f"child-{number}")
            stats = handler.stats()
            print("child", stats.received, stats.pending, flush=True)
            sys.exit(0)
        print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        print("full", sum(handler.stats().dropped.values()) > 0)
        handler.flush(10)
        for number in range(10):
            event(f"parent-{number}")
        leaving()
        """
    )
    receiver.wait_for(1)
    script.go_on()
    assert script.line("child") == "10 10"
    receiver.release()
    assert script.line("status") == "0"
    script.end()
    assert "full True" in script.out
    counts = Counter(ids(receiver))
    assert set(counts.values()) == {1}
    names = Counter(name.split("-")[0] for name in counts)
    assert names["child"] == names["parent"] == 10
    assert 20 <= names["before"] <= 41
    assert "Traceback" not in script.err


def test_fork_again_and_again_while_threads_log(run: Start, receiver: Receiver) -> None:
    script = run(
        """
        attach(flush_timeout=10.0)
        over = threading.Event()
        logged = [0, 0]

        def work(worker):
            while not over.is_set():
                event(f"parent-{worker}-{logged[worker]}")
                logged[worker] += 1
                time.sleep(0.004)  # often enough: the children are what takes the time

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(2)]
        for thread in threads:
            thread.start()
        for number in range(8):
            child = os.fork()
            if child == 0:
                event(f"child-{number}")
                sys.exit(0)
            print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        over.set()
        for thread in threads:
            thread.join()
        print("logged", sum(logged))
        leaving()
        """
    )
    assert script.out.count("child 0") == 8
    counts = Counter(ids(receiver))
    assert set(counts.values()) == {1}
    names = Counter(name.split("-")[0] for name in counts)
    assert names["child"] == 8, script.err
    assert f"logged {names['parent']}" in script.out
    assert script.err == ""


def test_no_module_is_imported_while_delivering(run: Start, receiver: Receiver) -> None:
    """A fork in the middle of an import leaves the module locked in the child for ever."""
    receiver.script((503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), 500)
    script = run(
        """
        handler = attach()
        before = set(sys.modules)
        event(1, nested={"a": [1, 2.5, None, b"bytes", ("tuple",)]}, text="Bearer abcdef0123456789")
        assert handler.flush(10)
        print(sorted(set(sys.modules) - before))
        """
    )
    assert script.out == ["[]"], script.err
    assert len(receiver.received()) == 3


def test_fork_in_a_child_that_was_never_attached(run: Start, receiver: Receiver) -> None:
    """gunicorn with ``preload_app``: nothing logged before the fork."""
    script = run(
        """
        attach(flush_timeout=10.0)
        children = []
        for worker in range(2):
            child = os.fork()
            if child == 0:
                for number in range(10):
                    event(f"{worker}-{number}")
                sys.exit(0)
            children.append(child)
        for child in children:
            print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        leaving()
        """
    )
    assert script.out.count("child 0") == 2
    assert ids(receiver) == sorted(
        f"{worker}-{number}" for worker in (0, 1) for number in range(10)
    )
    assert script.err == ""


def test_fork_the_end_of_the_child_is_bounded_too(run: Start, receiver: Receiver) -> None:
    receiver.script(default="hang")
    script = run(
        f"""
        attach(flush_timeout={FLUSH})
        event("parent")
        child = os.fork()
        if child == 0:
            event("child")
            leaving()
            sys.exit(0)
        os.waitpid(child, 0)
        print("waited", time.monotonic())
        os._exit(0)
        """
    )
    times = dict(line.split() for line in script.out)
    assert float(times["waited"]) - float(times["leaving"]) < FLUSH + MARGIN


MULTIPROCESSING = """
def work(who):
    if {method!r} == "spawn":
        attach(flush_timeout=10.0)
    for number in range(10):
        event(f"{{who}}-{{number}}")

if __name__ == "__main__":
    import multiprocessing
    context = multiprocessing.get_context({method!r})
    attach(flush_timeout=10.0)
    for number in range(10):
        event(f"parent-{{number}}")
    {main}
    leaving()
"""

PROCESSES = """
    children = [context.Process(target=work, args=(f"child{n}",)) for n in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        print("child", child.exitcode)
"""

POOL = """
    with context.Pool(1) as pool:
        pool.map(work, ["child0", "child1"])
        pool.close()
        pool.join()
    print("child 0")
    print("child 0")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("main", [PROCESSES, POOL], ids=["processes", "pool"])
def test_multiprocessing_each_event_once(
    run: Start, receiver: Receiver, method: str, main: str
) -> None:
    script = run(MULTIPROCESSING.format(method=method, main=main))
    assert script.err == ""
    assert script.out.count("child 0") == 2
    counts = Counter(ids(receiver))
    expected = {f"{who}-{n}" for who in ("parent", "child0", "child1") for n in range(10)}
    if main is POOL and method == "spawn":
        # The one worker has attached a second handler for its second task.
        assert set(counts) == expected
        assert counts["child1-0"] == 2
    else:
        assert counts == dict.fromkeys(expected, 1)


def test_multiprocessing_a_retry_gets_a_last_chance_in_the_child(
    run: Start, receiver: Receiver
) -> None:
    receiver.script(503)
    script = run(
        """
        import multiprocessing

        def work():
            event("child")
            print("flushed", handler.flush(), flush=True)

        handler = attach(endpoint(backoff_initial=600.0), flush_timeout=10.0)
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join()
        """
    )
    assert script.out == ["flushed False"]
    assert ids(receiver) == ["child", "child"]


def test_multiprocessing_the_end_of_the_child_is_bounded_too(
    run: Start, receiver: Receiver
) -> None:
    receiver.script(default="hang")
    script = run(
        f"""
        import multiprocessing

        def work():
            event("child")
            leaving()

        attach(flush_timeout={FLUSH})
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join()
        print("waited", time.monotonic())
        """
    )
    times: dict[str, Any] = dict(line.split() for line in script.out)
    assert float(times["waited"]) - float(times["leaving"]) < FLUSH + MARGIN
    assert "1 undelivered" in script.err


# --- libcurl ---

CURL = pytest.mark.skipif(
    importlib.util.find_spec("pycurl") is None, reason="the extra curl is missing"
)


@CURL
@pytest.mark.parametrize("ending", ["", "logging.shutdown()", "event(100); event(101)"])
def test_curl_nothing_is_lost_when_the_process_ends(
    run: Start, receiver: Receiver, ending: str
) -> None:
    script = run(
        f"""
        attach(transport="curl", flush_timeout=10.0)
        for number in range(50):
            event(number)
        leaving()
        {ending}
        """
    )
    assert script.code == 0
    assert ids(receiver) == numbered(*range(50), *([100, 101] if "100" in ending else []))
    assert script.took < SOON
    assert script.err == ""


@CURL
def test_curl_the_end_is_bounded_while_the_receiver_hangs(run: Start, receiver: Receiver) -> None:
    receiver.script(default="hang")
    script = run(
        f"""
        attach(transport="curl", flush_timeout={FLUSH})
        for number in range(20):
            event(number, sandbox_id=number % 5)
        leaving()
        """
    )
    assert script.code == 0
    assert script.took < FLUSH + MARGIN
    assert script.err.count("undelivered") == 1
    assert "Traceback" not in script.err


@CURL
def test_curl_parent_and_child_deliver_each_its_own(start: Start, receiver: Receiver) -> None:
    """With connections that are idle, and with some in mid-request; the child ends first."""
    script = start(
        """
        handler = attach(transport="curl", max_concurrency=4, flush_timeout=10.0)
        for number in range(20):
            event(f"before-{number}", sandbox_id=number)
        assert handler.flush(10)
        print("flushed", flush=True)
        sys.stdin.readline()
        for number in range(4):
            event(f"during-{number}", sandbox_id=number)
        sys.stdin.readline()
        child = os.fork()
        who = "child" if child == 0 else "parent"
        for number in range(20):
            event(f"{who}-{number}", sandbox_id=number)
        if child == 0:
            print("logged", flush=True)
            sys.exit(7)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        leaving()
        """
    )
    script.line("flushed")
    before = receiver.connections
    receiver.hold()
    script.go_on()
    receiver.wait_for(21)
    script.go_on()
    script.line("logged")
    receiver.release()
    script.end()
    assert "child 7" in script.out
    expected = [f"{who}-{n}" for who in ("before", "child", "parent") for n in range(20)]
    assert ids(receiver) == sorted([*expected, *(f"during-{n}" for n in range(4))])
    assert before <= 4
    assert script.err == ""
