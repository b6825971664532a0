"""The commands, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cubehook import __version__
from cubehook.cli import demo
from cubehook.cli.commands import cli
from cubehook.stats import EndpointStats, Stats

ROOT = Path(__file__).parent.parent


def run(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cubehook", *arguments],
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_demo_shows_every_delivery_and_succeeds(tmp_path: Path) -> None:
    done = run("demo", cwd=tmp_path, COLUMNS="100")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("│ valid") == 8
    for step in demo.STEPS:
        assert done.stdout.count(f"sandbox.{step}") == 2
    assert "each received exactly once" in done.stdout
    assert done.stderr == ""


def test_version() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.exit_code == 0
    assert __version__ in result.output


def test_commands_say_what_to_install_when_it_is_missing(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError(\"No module named 'click'\")")
    done = run(
        "demo",
        cwd=tmp_path,
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    )
    assert done.returncode == 1
    assert "pip install 'cubehook[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def _stats(delivered: int, pending: int) -> Stats:
    endpoint = EndpointStats(
        state="closed",
        received=delivered + pending,
        delivered=delivered,
        retried=0,
        dead=0,
        dropped={},
        queued=pending,
        in_flight=0,
        waiting=0,
        failures_in_row=0,
    )
    return Stats(delivered + pending, delivered, 0, 0, {}, pending, 0, 0, {"local": endpoint})


def _judge(order: list[tuple[str, str]], delivered: int = 8, pending: int = 0) -> list[str]:
    logged = [demo.Logged(f"sandbox.{s}", b, 0.0) for s in demo.STEPS for b in demo.SANDBOXES]
    arrivals = demo.Arrivals()
    for step, sandbox in order:
        arrivals.add({"id": "x", "event": f"sandbox.{step}", "sandbox_id": sandbox})
    return list(demo._problems(logged, arrivals, _stats(delivered, pending)))


RIGHT = [(step, sandbox) for sandbox in demo.SANDBOXES for step in demo.STEPS]


def test_demo_judges_right() -> None:
    assert _judge(RIGHT) == []


@pytest.mark.parametrize(
    ("order", "problem"),
    [
        (RIGHT[1:], "3 received"),
        ([*RIGHT, RIGHT[0]], "5 received"),
        ([RIGHT[1], RIGHT[0], *RIGHT[2:]], "out of order"),
    ],
    ids=["lost", "twice", "order"],
)
def test_demo_judges_wrong(order: list[tuple[str, str]], problem: str) -> None:
    (said,) = _judge(order)
    assert problem in said


def test_demo_judges_by_the_stats_too() -> None:
    (said,) = _judge(RIGHT, delivered=7, pending=1)
    assert "7 of 8" in said


class TestQuickstart:
    """The two commands of examples/quickstart/README.md, as written but for the port."""

    @pytest.fixture
    def folder(self, tmp_path: Path, port: int) -> Path:
        source = ROOT / "examples" / "quickstart"
        (tmp_path / "app.py").write_text((source / "app.py").read_text())
        text = (source / "logging.yaml").read_text()
        assert "127.0.0.1:8787" in text
        (tmp_path / "logging.yaml").write_text(text.replace("8787", str(port)))
        return tmp_path

    @pytest.fixture
    def received(self) -> list[dict[str, Any]]:
        return []

    @pytest.fixture
    def port(self, received: list[dict[str, Any]]) -> Any:
        module = demo._load_receiver()
        server = module.make_server("127.0.0.1", 0, secrets=[b"k"], on_event=received.append)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        server.server_close()
        thread.join()

    def run_app(self, folder: Path, secret: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "app.py"],
            cwd=folder,
            env=os.environ | {"WEBHOOK_SECRET": secret},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def test_delivers_everything(self, folder: Path, received: list[dict[str, Any]]) -> None:
        started = time.monotonic()
        done = self.run_app(folder, "k")
        assert time.monotonic() - started < 10
        assert done.returncode == 0, done.stderr
        assert "api_key" not in repr(received)
        for sandbox in ("sandbox-1", "sandbox-2"):
            steps = [one["event"] for one in received if one["sandbox_id"] == sandbox]
            assert steps == [f"sandbox.{step}" for step in demo.STEPS]

    def test_a_wrong_secret_is_told_by_name(
        self, folder: Path, received: list[dict[str, Any]]
    ) -> None:
        done = self.run_app(folder, "wrong")
        assert done.returncode == 0
        assert received == []
        assert done.stderr.count("is dead after attempt 1: status 401") == 8
        assert "status 401" in done.stderr
        assert "webhook'" not in done.stderr
