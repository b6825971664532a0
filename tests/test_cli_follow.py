"""``cubehook follow``, run as an operator runs it: options, signals, kill -9, exit statuses."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner, Result
from loopback import HANG, PATIENCE, Receiver

from cubehook.cli import attached
from cubehook.cli.commands import cli
from cubehook.cli.given import configured
from cubehook.sources import SourceEvent

if TYPE_CHECKING:
    from cubehook.outbox import Outbox

ROOT = Path(__file__).parent.parent
PLANTED = "planted-secret"
MOMENT = "2026-07-01T08:00:00"

# Writes so many lines, and after every fortieth begins a new file, in one way or another.
WRITER = f"""
import json, os, shutil, sys, time

folder, count, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
path = os.path.join(folder, "cube-api-2026-01-01.log")
file = open(path, "ab", buffering=0)
for number in range(count):
    if number and number % 40 == 0:
        day = number // 40 + 1
        other = os.path.join(folder, f"cube-api-2026-01-{{day:02}}.log")
        if way == "new day":
            file.close()
            file = open(other, "ab", buffering=0)
        elif way == "rename":
            os.rename(path, other)
            file.close()
            file = open(path, "ab", buffering=0)
        else:
            shutil.copyfile(path, other)
            file.truncate(0)
    text = json.dumps({{
        "timestamp": f"{MOMENT}.{{number:09}}Z", "level": "info", "event": "sandbox.created",
        "n": number}}).encode() + b"\\n"
    file.write(text[:30])  # the rest is not there yet
    file.write(text[30:])
    time.sleep(0.004)
"""


class Process:
    """A command in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.popen = subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self, text: str) -> None:
        """Wait for a line of the log with this."""
        assert self.popen.stderr is not None
        assert any(text in line for line in self.popen.stderr), f"it ended without {text!r}"

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self) -> tuple[int, str]:
        """The exit status and all output that is left."""
        output, log = self.popen.communicate(timeout=PATIENCE)
        return self.popen.returncode, output + log


Processes = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Processes]:
    made: list[Process] = []

    def make(*arguments: str) -> Process:
        made.append(Process(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.popen.kill()
        one.popen.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "log"
    made.mkdir()
    return made


@pytest.fixture
def arguments(tmp_path: Path, folder: Path, receiver: Receiver) -> Callable[..., list[str]]:
    """Of the command; writes its logging.yaml."""

    def make(
        *further: str, endpoints: list[dict[str, Any]] | None = None, **more: Any
    ) -> list[str]:
        made = [receiver.endpoint()] if endpoints is None else endpoints
        handler = {"class": "cubehook.WebhookHandler", "endpoints": made, "flush_timeout": 0.3}
        config = tmp_path / "logging.yaml"
        config.write_text(yaml.safe_dump({"version": 1, "handlers": {"webhooks": handler | more}}))
        checkpoint = ["--checkpoint", str(tmp_path / "state" / "checkpoint.json")]
        if "--state-dir" in further or "--checkpoint" in further:
            checkpoint = []
        pattern = str(folder / "cube-api-*.log")
        return ["follow", pattern, "--config", str(config), *checkpoint, *further]

    return make


def write(folder: Path, *numbers: int, day: int = 1) -> None:
    with open(folder / f"cube-api-2026-01-0{day}.log", "a") as file:
        for number in numbers:
            fields = {"event": "sandbox.created", "n": number, "api_key": PLANTED}
            file.write(json.dumps({"timestamp": f"{MOMENT}.{number:09}Z", **fields}) + "\n")


def invoke(arguments: list[str]) -> Result:
    return CliRunner().invoke(cli, arguments)


def numbers(receiver: Receiver) -> list[int]:
    return [one.json["n"] for one in receiver.received()]


class TestOnce:
    def test_delivers_what_is_there(
        self, folder: Path, arguments: Callable[..., list[str]], receiver: Receiver
    ) -> None:
        write(folder, 1, 2)
        write(folder, 3, day=2)
        result = invoke(arguments("--once", "--from", "start"))
        assert result.exit_code == 0, result.output
        assert "stopped: 3 events" in result.output
        assert numbers(receiver) == [1, 2, 3]
        assert receiver.received()[0].json["timestamp"] == f"{MOMENT}.000000Z"
        write(folder, 4, day=2)
        assert invoke(arguments("--once")).exit_code == 0
        assert numbers(receiver) == [1, 2, 3, 4]

    def test_by_default_only_what_comes(
        self, folder: Path, arguments: Callable[..., list[str]], receiver: Receiver
    ) -> None:
        write(folder, 1, 2)
        assert invoke(arguments("--once")).exit_code == 0
        write(folder, 3)
        assert invoke(arguments("--once")).exit_code == 0
        assert numbers(receiver) == [3]

    def test_nothing_that_is_secret_is_told(
        self, folder: Path, arguments: Callable[..., list[str]], receiver: Receiver, tmp_path: Path
    ) -> None:
        write(folder, 1)
        with open(folder / "cube-api-2026-01-01.log", "a") as file:
            file.write(f"{PLANTED}\n")
        result = invoke(arguments("--once", "--from", "start"))
        assert "1 no JSON object" in result.output
        shown = result.output + (tmp_path / "state" / "checkpoint.json").read_text()
        assert PLANTED not in shown + receiver.received()[0].body.decode()
        assert receiver.url() not in shown

    @pytest.mark.parametrize("variable", ["STATE_DIRECTORY", "XDG_STATE_HOME", "HOME", None])
    def test_where_the_checkpoint_is(
        self,
        folder: Path,
        arguments: Callable[..., list[str]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        variable: str | None,
    ) -> None:
        write(folder, 1)
        state = tmp_path / "here"
        for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
            monkeypatch.delenv(name, raising=False)
        given = arguments("--once", "--state-dir", str(state))
        if variable is not None:
            given = given[:-2]
            monkeypatch.setenv(variable, str(state))
        assert invoke(given).exit_code == 0
        below = {"XDG_STATE_HOME": "cubehook", "HOME": ".local/state/cubehook"}.get(
            variable or "", ""
        )
        [checkpoint] = (state / below).glob("follow-*.json")
        assert len(json.loads(checkpoint.read_text())["files"]) == 1


class TestRefusals:
    def test_another_one_has_the_checkpoint(
        self, start: Processes, arguments: Callable[..., list[str]]
    ) -> None:
        start("-m", "cubehook", *arguments()).line("started")
        result = invoke(arguments("--once"))
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == "cubehook: the checkpoint is in use by another process\n"

    def test_a_damaged_checkpoint_is_left_alone(
        self, arguments: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        path = tmp_path / "checkpoint.json"
        path.write_text(f'["{PLANTED}"')
        result = invoke(arguments("--once", "--checkpoint", str(path)))
        assert result.exit_code == 2
        assert result.stderr == "cubehook: the checkpoint is damaged: it is not JSON\n"
        assert path.read_text() == f'["{PLANTED}"'

    @pytest.mark.parametrize("endpoints", [[], [{"url": "https://a.example", "enabled": False}]])
    def test_no_endpoint(
        self, arguments: Callable[..., list[str]], endpoints: list[dict[str, Any]]
    ) -> None:
        result = invoke(arguments("--once", endpoints=endpoints))
        assert result.exit_code == 2
        assert "there is no endpoint to deliver to" in result.output

    def test_a_wrong_configuration(self, arguments: Callable[..., list[str]]) -> None:
        result = invoke(arguments("--once", endpoints=[{"url": PLANTED}]))
        assert result.exit_code == 2
        assert "handler 'webhooks': endpoint" in result.output
        assert PLANTED not in result.output

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"formatter": PLANTED}, "handler 'webhooks' cannot be made (KeyError)"),
            ({"level": PLANTED}, "handler 'webhooks' cannot be made (ValueError)"),
            ({"filters": ["odd"]}, "filter 'odd' cannot be made (ModuleNotFoundError)"),
        ],
    )
    def test_what_logging_does_not_take(
        self, arguments: Callable[..., list[str]], options: dict[str, Any], said: str
    ) -> None:
        given = arguments("--once", **options)
        path = Path(given[3])
        content = yaml.safe_load(path.read_text())
        filters = {"odd": {"()": f"{PLANTED.replace('-', '_')}.Filter"}}
        path.write_text(
            yaml.safe_dump(content | {"filters": filters} if "filters" in options else content)
        )
        result = invoke(given)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"cubehook: {said}\n"

    def test_no_version(self, arguments: Callable[..., list[str]]) -> None:
        given = arguments("--once")
        path = Path(given[3])
        path.write_text(path.read_text().replace("version: 1", ""))
        result = invoke(given)
        assert result.exit_code == 2
        assert result.stderr == "cubehook: version: must be 1\n"

    @pytest.mark.parametrize(
        "further",
        [
            ["--from", "middle"],
            ["--poll", "0"],
            ["--poll", "-1"],
            ["another/pattern"],
            ["--state-dir", "x", "--checkpoint", "y"],
            ["--checkpoint", "/"],
        ],
    )
    def test_options(self, arguments: Callable[..., list[str]], further: list[str]) -> None:
        assert invoke(arguments(*further)).exit_code == 2


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_ends_while_the_receiver_hangs(
        self,
        start: Processes,
        folder: Path,
        arguments: Callable[..., list[str]],
        receiver: Receiver,
        number: signal.Signals,
    ) -> None:
        write(folder, 1, 2)
        receiver.script(HANG)
        process = start("-m", "cubehook", *arguments("--from", "start"))
        receiver.wait_for(1)
        process.send(number)
        status, output = process.end()
        assert status == 0, output
        assert "stopped: 0 events" in output
        receiver.script()
        assert invoke(arguments("--once")).exit_code == 0
        first, *again = receiver.received()
        assert [one.json["n"] for one in again] == [1, 2]
        assert (again[0].body, again[0].json["id"]) == (first.body, first.json["id"])

    def test_a_second_one_ends_it_at_once(
        self,
        start: Processes,
        folder: Path,
        arguments: Callable[..., list[str]],
        receiver: Receiver,
    ) -> None:
        write(folder, 1)
        receiver.script(HANG)
        process = start("-m", "cubehook", *arguments("--from", "start", flush_timeout=60.0))
        receiver.wait_for(1)
        process.send(signal.SIGTERM)
        process.send(signal.SIGINT)  # another one: two that are the same may become one
        assert process.end()[0] in (128 + signal.SIGTERM, 128 + signal.SIGINT)

    def test_one_during_once(
        self,
        start: Processes,
        folder: Path,
        arguments: Callable[..., list[str]],
        receiver: Receiver,
    ) -> None:
        write(folder, 1)
        receiver.script(HANG)
        process = start("-m", "cubehook", *arguments("--from", "start", "--once"))
        receiver.wait_for(1)
        process.send(signal.SIGTERM)
        assert process.end()[0] == 1


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    pytest.importorskip("sqlalchemy")
    from cubehook.outbox import Outbox

    made = Outbox(f"sqlite:///{tmp_path / 'outbox.db'}")
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def stored(
    outbox: Outbox, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[str, Any]:
    """Options of a handler whose one endpoint is stored in the outbox."""
    pytest.importorskip("cryptography")
    from cryptography.fernet import Fernet

    from cubehook.outbox.endpoints import KEY_VARIABLE, EndpointStore

    monkeypatch.setenv(KEY_VARIABLE, Fernet.generate_key().decode())
    EndpointStore(outbox).add(receiver.endpoint())
    return {"endpoints": "outbox", "outbox": f"sqlite:///{tmp_path / 'outbox.db'}"}


def away(*_: object) -> None:
    from cubehook.outbox import OutboxUnavailableError

    raise OutboxUnavailableError("the database cannot be reached")


class TestOutboxAway:
    @pytest.mark.parametrize("durable", ["async", "sync"])
    def test_once(
        self,
        folder: Path,
        arguments: Callable[..., list[str]],
        outbox: Outbox,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        durable: str,
    ) -> None:
        """With ``sync`` each event by itself would wait for the database."""
        given = arguments(
            "--once",
            "--from",
            "start",
            outbox=f"sqlite:///{tmp_path / 'outbox.db'}",
            deliver=False,
            durable=durable,
        )
        write(folder, *range(100))
        monkeypatch.setattr("cubehook.sources._feed.STORE_SECONDS", 0.05)
        with monkeypatch.context() as patched:
            patched.setattr("cubehook.outbox.Outbox.add", away)
            result = invoke(given)
        assert result.exit_code == 3, result.output
        assert "cubehook: outbox: no event could be stored\n" in result.stderr
        assert invoke(given).exit_code == 0
        assert sum(outbox.counts()["hook"].values()) == 100

    def test_once_where_the_endpoints_are_stored(
        self,
        folder: Path,
        arguments: Callable[..., list[str]],
        stored: dict[str, Any],
        outbox: Outbox,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Who knows no endpoint turns every event away."""
        given = arguments("--once", "--from", "start", **stored)
        write(folder, 1, 2)
        with monkeypatch.context() as patched:
            patched.setattr("cubehook.outbox.Outbox._run", away)
            result = invoke(given)
        assert result.exit_code == 3, result.output
        assert "cubehook: outbox: the endpoints could not be read\n" in result.stderr
        assert invoke(given).exit_code == 0
        assert sum(outbox.counts()["hook"].values()) == 2

    def test_events_wait_for_the_endpoints(
        self,
        arguments: Callable[..., list[str]],
        stored: dict[str, Any],
        outbox: Outbox,
        receiver: Receiver,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        path = arguments(**stored)[3]
        monkeypatch.setattr("cubehook.follower.LOOK_SECONDS", 0.01)
        monkeypatch.setattr(attached, "LOOK_SECONDS", 0.01)
        run, asked = type(outbox)._run, []

        def back_after_a_while(self: Outbox, *rest: Any) -> object:
            asked.append(1)
            return run(self, *rest) if len(asked) > 10 else away()

        monkeypatch.setattr(type(outbox), "_run", back_after_a_while)
        with attached.handlers(path) as handlers:
            stopping = threading.Event()
            feed = attached.feed(handlers, configured(path), stopping, once=False)
            assert feed.deliver([SourceEvent("one", "sandbox.created", 1.0, {"n": 1})])
            receiver.wait_for(1)
        assert numbers(receiver) == [1]

    def test_a_signal_while_they_are_waited_for(
        self,
        arguments: Callable[..., list[str]],
        stored: dict[str, Any],
        outbox: Outbox,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        path = arguments(**stored)[3]
        monkeypatch.setattr(type(outbox), "_run", away)
        with attached.handlers(path) as handlers:
            stopping = threading.Event()
            stopping.set()
            feed = attached.feed(handlers, configured(path), stopping, once=False)
            assert not feed.deliver([SourceEvent("one", "sandbox.created", 1.0, {"n": 1})])


def test_an_ini_file(
    folder: Path, arguments: Callable[..., list[str]], receiver: Receiver, tmp_path: Path
) -> None:
    """Level and formatter are the handler's own, as in YAML."""
    path = tmp_path / "logging.ini"
    path.write_text(
        '[formatters]\nkeys=short\n[formatter_short]\nformat={"short": "%(event)s"}\n'
        "[handlers]\nkeys=webhooks,other\n"
        "[handler_webhooks]\nclass=cubehook.WebhookHandler\nlevel=WARNING\nformatter=short\n"
        f"args=({[receiver.endpoint()]!r},)\n"
        f"[handler_other]\nclass=FileHandler\nargs=('{tmp_path}/other',)\n"
    )
    write(folder, 1)
    with open(folder / "cube-api-2026-01-01.log", "a") as file:
        file.write(json.dumps({"event": "a.b", "level": "error"}) + "\n")
    result = invoke([*arguments("--once", "--from", "start"), "--config", str(path)])
    assert result.exit_code == 0, result.output
    assert [one.body for one in receiver.received()] == [b'{"short": "a.b"}']
    assert not (tmp_path / "other").exists()


LINES = 300
KILLS = 2


@pytest.mark.parametrize("way", ["new day", "rename", "copytruncate"])
def test_kill_9_with_an_outbox(
    start: Processes,
    folder: Path,
    arguments: Callable[..., list[str]],
    outbox: Outbox,
    tmp_path: Path,
    eventually: Callable[..., None],
    way: str,
) -> None:
    given = arguments(
        "--from",
        "start",
        "--poll",
        "0.01",
        outbox=f"sqlite:///{tmp_path / 'outbox.db'}",
        deliver=False,
        queue_capacity=16,
    )

    def stored() -> int:
        return sum(outbox.counts().get("hook", {}).values())

    chance = random.Random(way)
    process = start("-m", "cubehook", *given)
    process.line("started")
    writer = start("-c", WRITER, str(folder), str(LINES), way)
    for number in range(KILLS):
        if number:
            process = start("-m", "cubehook", *given)
        enough = stored() + chance.randrange(1, LINES // (KILLS + 1))
        eventually(lambda: stored() >= enough)  # noqa: B023  # it is called here
        process.send(signal.SIGKILL)
        assert process.end()[0] == -signal.SIGKILL
    assert writer.end() == (0, "")
    result = invoke([*given, "--once"])
    assert result.exit_code == 0, result.output
    details = [outbox.show(one.id) for one in outbox.list(limit=2 * LINES)]
    bodies = [json.loads(one.message.body) for one in details if one is not None]
    assert sorted(one["n"] for one in bodies) == list(range(LINES))
    assert len({one["id"] for one in bodies}) == LINES


@pytest.mark.parametrize("way", ["new day", "rename", "copytruncate"])
def test_kill_9_without_an_outbox(
    start: Processes,
    folder: Path,
    arguments: Callable[..., list[str]],
    receiver: Receiver,
    way: str,
) -> None:
    given = arguments("--from", "start", "--poll", "0.01", queue_capacity=16)
    chance = random.Random(way)
    process = start("-m", "cubehook", *given)
    process.line("started")
    writer = start("-c", WRITER, str(folder), str(LINES), way)
    for number in range(KILLS):
        if number:
            process = start("-m", "cubehook", *given)
        receiver.wait_for(len(receiver.received()) + chance.randrange(1, LINES // (KILLS + 1)))
        process.send(signal.SIGKILL)
        assert process.end()[0] == -signal.SIGKILL
    assert writer.end() == (0, "")
    result = invoke([*given, "--once"])
    assert result.exit_code == 0, result.output
    bodies: dict[int, set[bytes]] = {}
    for one in receiver.received():
        bodies.setdefault(one.json["n"], set()).add(one.body)
    assert sorted(bodies) == list(range(LINES))
    assert {len(one) for one in bodies.values()} == {1}  # the same bytes, and so the same id
    assert len({json.loads(next(iter(one)))["id"] for one in bodies.values()}) == LINES
    assert len(receiver.received()) - LINES <= KILLS * 16
