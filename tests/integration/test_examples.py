"""The examples of integrations, started as their READMEs say and stopped with SIGTERM."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from examples_support import EXAMPLES, LIFE, ROOT, Program, Site, bodies, line, lives
from loopback import Receiver

Start = Callable[..., Program]

SANDBOXES = [f"sandbox-{number}" for number in range(1, 7)]
HALF = [LIFE[1], LIFE[3]]


@pytest.fixture
def start(receiver: Receiver, tmp_path: Path) -> Iterator[Start]:
    """Starts the program of the README's line that begins so (of a pipe, its last one)."""
    started: list[Program] = []

    def begin(
        example: str, beginning: str, *arguments: str, needs: str = "yaml", port: int = 8000
    ) -> Program:
        if importlib.util.find_spec(needs) is None:
            pytest.skip(f"{needs} is not installed")
        words = shlex.split(
            line(example, beginning).rpartition(" | ")[2].replace(":8000", f":{port}")
        )
        started.append(Program(example, [*words, *arguments], receiver, tmp_path))
        return started[-1]

    yield begin
    receiver.release()
    for one in started:
        one.kill()


@contextmanager
def released_after(seconds: float, receiver: Receiver) -> Iterator[None]:
    """The receiver is that slow."""
    slow = threading.Timer(seconds, receiver.release)
    slow.start()
    yield
    slow.join()


# --- Servers ---


@pytest.fixture
def port() -> Iterator[int]:
    """A port that nobody else is given, and that a server can still listen on."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def site(request: pytest.FixtureRequest, port: int) -> Iterator[Site]:
    """Where the test's example answers."""
    made = Site(request.param, port)
    yield made
    made.close()


@pytest.mark.parametrize("site", ["flask-gunicorn"], indirect=True)
def test_flask_behind_a_gunicorn_that_preloads(
    start: Start, receiver: Receiver, site: Site, port: int
) -> None:
    program = start("flask-gunicorn", "gunicorn ", f"--bind=127.0.0.1:{port}", needs="gunicorn")
    code, err = _two_workers(program, receiver, site)
    assert code == 0
    assert "cube.api: sandbox-1 was created" in err


@pytest.mark.parametrize("site", ["fastapi-uvicorn"], indirect=True)
def test_fastapi_with_uvicorns_workers(
    start: Start, receiver: Receiver, site: Site, port: int
) -> None:
    program = start("fastapi-uvicorn", "uvicorn ", f"--port={port}", needs="uvicorn")
    code, err = _two_workers(program, receiver, site)
    assert code == 0
    assert "uvicorn.access" in err
    assert "cube.api: sandbox-1 was created" in err


def _two_workers(program: Program, receiver: Receiver, site: Site) -> tuple[int, str]:
    """Both workers get requests, and SIGTERM while the receiver answers nothing."""
    site.wait_until_up(program)
    site.call(0, SANDBOXES[0])
    (first,) = receiver.wait_for(1)
    os.kill(first.json["worker"], signal.SIGSTOP)  # so that the other one takes the next
    site.call(0, SANDBOXES[1])
    os.kill(first.json["worker"], signal.SIGCONT)
    second = receiver.wait_for(2)[1]
    assert first.json["worker"] != second.json["worker"]

    receiver.hold()
    for sandbox in SANDBOXES[2:]:
        site.call(0, sandbox)
    code, err = _until_sigterm(program, receiver, site)
    assert {one["worker"] for one in bodies(receiver)} == {
        first.json["worker"],
        second.json["worker"],
    }
    return code, err


def _until_sigterm(program: Program, receiver: Receiver, site: Site) -> tuple[int, str]:
    """The rest of their lives, while the receiver answers nothing; then SIGTERM."""
    for number in range(1, site.last_call + 1):
        for sandbox in SANDBOXES:
            site.call(number, sandbox)
    site.close()
    assert lives(receiver) != dict.fromkeys(SANDBOXES, LIFE)
    program.terminate()
    with released_after(1.0, receiver):  # longer than a server needs to end
        code, _, err = program.end()
    assert lives(receiver) == dict.fromkeys(SANDBOXES, LIFE)
    assert "Traceback" not in err
    return code, err


@pytest.mark.parametrize("site", ["django"], indirect=True)
def test_a_view_of_django(start: Start, receiver: Receiver, site: Site, port: int) -> None:
    program = start("django", "python3 manage.py runserver", port=port, needs="django")
    site.wait_until_up(program)
    receiver.hold()
    for sandbox in SANDBOXES:
        site.call(0, sandbox)
    code, err = _until_sigterm(program, receiver, site)
    assert code == 0
    assert "cube.api: sandbox-1 was created" in err


def test_a_command_of_django(start: Start, receiver: Receiver) -> None:
    program = start("django", "python3 manage.py expire_sandboxes", needs="django")
    code, out, _ = program.end()
    assert (code, out) == (0, "")
    assert lives(receiver) == dict.fromkeys(SANDBOXES[1:3], HALF)
    assert {one["reason"] for one in bodies(receiver)} == {"timeout"}


# --- Celery ---


def test_celerys_pool_of_processes(start: Start, receiver: Receiver) -> None:
    """Each process has one task. The receiver answers nothing for longer than it then lives on."""
    receiver.hold()
    worker = start("celery", "celery ", "--max-tasks-per-child=1", needs="celery")
    enqueue = start("celery", "python3 enqueue.py", needs="celery")
    assert enqueue.end() == (0, "", "")
    worker.wait_for("has lived", times=2)
    worker.terminate()
    with released_after(1.5, receiver):
        code, out, err = worker.end()

    assert code == 0
    assert "Traceback" not in err
    assert lives(receiver) == dict.fromkeys(SANDBOXES[:2], LIFE)
    senders = {one["worker"] for one in bodies(receiver)}
    assert len(senders - {worker.process.pid}) == 2
    # Celery has taken neither the handlers nor stdout.
    assert {"sandbox-1 has lived", "sandbox-2 has lived"} <= set(out.splitlines())
    assert re.search(r" INFO celery_app: sandbox-1 was created$", err, re.M)


# --- Loggers ---


@pytest.mark.parametrize("example", ["structlog", "loguru"])
def test_another_logger(start: Start, receiver: Receiver, example: str) -> None:
    before = time.time()
    receiver.hold()
    program = start(example, "printf ", needs=example)
    program.type("".join(f"{sandbox}\n" for sandbox in SANDBOXES))
    program.wait_for("deleted", times=len(SANDBOXES))
    program.terminate()
    program.type_no_more()  # a signal that comes just before a read is seen after it
    receiver.release()
    code, out, err = program.end()
    after = time.time()

    assert (code, out) == (0, "")
    assert "Traceback" not in err
    assert "a snapshot was asked for" in err
    assert lives(receiver) == dict.fromkeys(SANDBOXES, LIFE)
    for body in bodies(receiver):
        at = datetime.fromisoformat(body.pop("timestamp").replace("Z", "+00:00")).timestamp()
        assert before - 0.001 <= at <= after
        del body["id"], body["sandbox_id"]
        assert body in [
            {"level": "info", "event": LIFE[0], "template_id": "template-456"},
            {"level": "warn", "event": LIFE[1], "source": "auto_pause"},
            {"level": "info", "event": LIFE[2], "source": "auto_resume"},
            {"level": "info", "event": LIFE[3], "reason": "request"},
        ]


# --- A script ---


def test_a_script(start: Start, receiver: Receiver) -> None:
    code, out, err = start("script", "python3 cleanup.py").end()
    assert (code, out) == (0, "")
    assert err.endswith("4 of 4 events delivered\n")
    assert lives(receiver) == dict.fromkeys(SANDBOXES[:2], HALF)


def test_a_script_that_delivers_not_everything(start: Start, receiver: Receiver) -> None:
    receiver.script(400)
    code, _, err = start("script", "python3 cleanup.py").end()
    assert code == 1
    assert "3 of 4 events delivered\n" in err


def test_a_script_that_is_ended_by_sigterm(start: Start, receiver: Receiver) -> None:
    receiver.hold()
    program = start("script", "python3 cleanup.py", *SANDBOXES[2:])
    program.wait_for("was deleted", times=len(SANDBOXES))
    program.terminate()
    receiver.release()
    code, _, err = program.end()
    assert code == 143
    assert "Traceback" not in err
    assert lives(receiver) == dict.fromkeys(SANDBOXES, HALF)


# --- The documentation ---

PAGE = ROOT / "docs" / "integrations.md"
INTEGRATIONS = {
    *("celery", "django", "fastapi-uvicorn", "flask-gunicorn"),
    *("loguru", "script", "structlog"),
}


_FENCED = re.compile(r"^([^\n]*)\n```\w+\n(.*?)^```$", re.M | re.S)


def test_the_page_shows_the_examples_own_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = _FENCED.findall(page)
    assert page.count("```") == 2 * len(shown)
    examples = set()
    for before, code in shown:
        marker = re.fullmatch(r"<!-- (?:no test: )?part of (\S+) -->", before)
        assert marker, f"of which file is {code!r}?"
        file = (EXAMPLES / marker[1]).read_text(encoding="utf-8")
        assert f"\n{code}" in f"\n{file}", f"not in {marker[1]}: {code!r}"
        examples.add(marker[1].partition("/")[0])
    assert examples == INTEGRATIONS


def test_every_example_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for example in INTEGRATIONS:
        assert f"(../examples/{example})" in page
        assert (EXAMPLES / example / "README.md").is_file()
