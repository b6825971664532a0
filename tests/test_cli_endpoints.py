"""``cubehook endpoints``: what operators change at run time, and what they get to see of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from loopback import SECRET, Receiver

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from cryptography.fernet import Fernet

from cubehook.cli.commands import cli
from cubehook.event import LIFECYCLE_EVENTS
from cubehook.message import Message
from cubehook.outbox import Outbox, Target
from cubehook.outbox.endpoints import KEY_VARIABLE, EndpointStore

ROOT = Path(__file__).parent.parent
PLANTED = "planted"
PLANTED_URL = "https://planted.example/planted-path"
PLANTED_SECRET = "planted-secret-0123456789"
NEWER = "planted-newer-0123456789"

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    key = Fernet.generate_key().decode()
    monkeypatch.setenv(KEY_VARIABLE, key)
    monkeypatch.setenv("OPS_SECRET", PLANTED_SECRET)
    monkeypatch.setenv("OPS_URL", PLANTED_URL)
    return key


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'outbox.db'}"


@pytest.fixture
def outbox(url: str) -> Iterator[Outbox]:
    made = Outbox(url)
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def store(outbox: Outbox) -> EndpointStore:
    return EndpointStore(outbox)


@pytest.fixture
def run(url: str, outbox: Outbox) -> Run:
    """Runs a command on the outbox; nothing that is secret may be in what it prints."""

    def invoke(*arguments: str, input: str | None = None) -> Result:
        command = ["endpoints", arguments[0], "--outbox", url, *arguments[1:]]
        result = CliRunner().invoke(cli, command, input=input)
        assert PLANTED not in result.output
        assert "127.0.0.1" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke


@pytest.fixture
def ops(store: EndpointStore) -> dict[str, Any]:
    """An endpoint that is stored."""
    endpoint = {
        "name": "ops",
        "url": PLANTED_URL,
        "secret": PLANTED_SECRET,
        "headers": {"X-Token": "planted-header"},
    }
    store.add(endpoint)
    return endpoint


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


class TestAdd:
    def test_with_everything(self, run: Run, store: EndpointStore) -> None:
        arguments = (
            *("--url", "env:OPS_URL", "--event", "a.*", "--event", "b.c"),
            *("--secret", "env:OPS_SECRET", "--scheme", "cube", "--scheme", "github"),
            *("--format", "cube", "--set", "timeout=3.5", "--set", "ordered=false", "--disabled"),
            *("--set", 'headers={"X-Token": "planted-header"}', "--set", "transport=requests"),
        )
        assert ok(run("add", "ops", *arguments)) == "added 'ops'\n"
        assert store.mapping("ops") == {
            "name": "ops",
            "enabled": False,
            "url": PLANTED_URL,
            "events": ["a.*", "b.c"],
            "secret": "env:OPS_SECRET",
            "scheme": ["cube", "github"],
            "format": "cube",
            "timeout": 3.5,
            "ordered": False,
            "headers": {"X-Token": "planted-header"},
            "transport": "requests",
        }

    @pytest.mark.parametrize(
        ("secret", "given"),
        [("-", f"{NEWER}\n"), ("prompt", f"{NEWER}\n{NEWER}\n")],
        ids=["stdin", "prompt"],
    )
    def test_a_secret_that_is_stored(
        self, run: Run, store: EndpointStore, tmp_path: Path, secret: str, given: str
    ) -> None:
        ok(run("add", "ops", "--url", PLANTED_URL, "--secret", secret, input=given))
        assert store.mapping("ops")["secret"] == NEWER
        for path in tmp_path.glob("outbox.db*"):
            assert PLANTED.encode() not in path.read_bytes()

    def test_a_secret_that_cannot_be_read_here(self, run: Run, store: EndpointStore) -> None:
        result = run("add", "ops", "--url", PLANTED_URL, "--secret", "file:/not/there")
        assert ok(result) == "added 'ops'\n"
        assert "note: its secret cannot be read here" in result.stderr
        assert store.mapping("ops")["secret"] == "file:/not/there"

    def test_json(self, run: Run) -> None:
        found = json.loads(ok(run("add", "ops", "--url", PLANTED_URL, "--json")))
        assert (found["name"], found["secrets"], found["encrypted"]) == ("ops", 0, True)

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (["--secret", PLANTED_SECRET], "others can read the command line"),
            (["--set", "planted"], "must be KEY=VALUE"),
            (["--set", f"secret={PLANTED_SECRET}"], "secret has an option"),
            (["--set", "timeout=planted"], "timeout: must be a number of seconds"),
            (["--scheme", "planted"], "scheme: must be one or more of"),
            (["--key", PLANTED_SECRET], "others can read the command line"),
            (["--key", "env:OPS_SECRET"], "key: is no Fernet key"),
            (["--url", "ftp://planted"], "url: "),
            (["--url", "env:NOT_SET_AT_ALL"], "not set"),
            (["--secret", "-"], "stdin is empty"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_is_wrong(self, run: Run, arguments: list[str], problem: str) -> None:
        result = run("add", "ops", "--url", PLANTED_URL, *arguments)
        assert result.exit_code == 2
        assert problem in " ".join(result.output.replace("│", " ").split())
        assert run("list").exit_code == 1

    def test_all_problems_at_once(self, run: Run) -> None:
        result = run("add", "ops", "--url", "planted", "--set", "timeout=0", "--set", "retries=1")
        assert result.exit_code == 2
        assert result.output.count("endpoint 'ops': ") == 3

    def test_twice(self, run: Run, ops: object) -> None:
        result = run("add", "ops", "--url", PLANTED_URL)
        assert (result.exit_code, result.output) == (
            2,
            "cubehook: endpoint 'ops': name: is stored already\n",
        )

    def test_without_a_key(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(KEY_VARIABLE)
        result = run("add", "ops", "--url", PLANTED_URL, "--secret", "-", input=PLANTED_SECRET)
        assert result.exit_code == 2
        assert "secret: needs a key to be encrypted with (CUBEHOOK_KEY is not set)" in result.output
        ok(run("add", "ops", "--url", PLANTED_URL, "--secret", "env:OPS_SECRET"))

    def test_makes_the_database(self, tmp_path: Path) -> None:
        fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
        command = ["endpoints", "add", "ops", "--outbox", fresh, "--url", PLANTED_URL]
        assert ok(CliRunner().invoke(cli, command)) == "added 'ops'\n"


class TestList:
    def test_table(self, run: Run, ops: object, store: EndpointStore) -> None:
        store.add({"name": "billing", "url": PLANTED_URL, "events": ["a.*", "b"], "enabled": False})
        store.rotate("ops", NEWER)
        lines = [" ".join(line.split()) for line in ok(run("list")).splitlines()]
        assert lines[1] == "endpoint events scheme format status secrets updated"
        assert any(one.startswith("billing a.*, b cube cube off 0 20") for one in lines)
        assert any("cube cube on 2, rotating 20" in one for one in lines)

    def test_json(self, run: Run, ops: object) -> None:
        (found,) = json.loads(ok(run("list", "--json")))
        created = found.pop("created")
        assert found == {
            "name": "ops",
            "enabled": True,
            "events": list(LIFECYCLE_EVENTS),
            "scheme": ["cube"],
            "format": "cube",
            "secrets": 1,
            "encrypted": True,
            "updated": created,
        }

    def test_nothing(self, run: Run) -> None:
        result = run("list", "--json")
        assert (result.exit_code, result.stdout) == (1, "[]\n")


class TestChange:
    def test_set(self, run: Run, ops: dict[str, Any], store: EndpointStore) -> None:
        arguments = ("--event", "x.y", "--set", "timeout=2.0", "--unset", "headers")
        assert ok(run("set", "ops", *arguments)) == "changed 'ops'\n"
        found = store.mapping("ops")
        assert (found["events"], found["timeout"]) == (["x.y"], 2.0)
        assert found["secret"] == PLANTED_SECRET
        assert "headers" not in found

    def test_set_nothing(self, run: Run, ops: object) -> None:
        assert run("set", "ops").exit_code == 2
        assert run("set", "ops", "--unset", "secret").exit_code == 2

    def test_set_with_another_key(
        self, run: Run, ops: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(KEY_VARIABLE, Fernet.generate_key().decode())
        result = run("set", "ops", "--event", "x.y")
        assert (result.exit_code, result.output) == (
            2,
            "cubehook: endpoint 'ops': was encrypted with another key, or is damaged\n",
        )

    def test_disable_and_enable(self, run: Run, ops: object, store: EndpointStore) -> None:
        assert ok(run("disable", "ops")) == "disabled 'ops'\n"
        assert not store.get("ops").enabled
        assert json.loads(ok(run("enable", "ops", "--json")))["enabled"] is True

    def test_remove(self, run: Run, ops: object, store: EndpointStore) -> None:
        assert run("remove", "ops", input="n\n").exit_code == 1
        assert len(store.list()) == 1
        assert ok(run("remove", "ops", "--yes")) == "removed 'ops'\n"
        assert store.list() == []

    def test_reseal(self, run: Run, ops: object, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        newer = Fernet.generate_key().decode()
        monkeypatch.setenv(KEY_VARIABLE, f"{newer},{key}")
        assert ok(run("reseal")) == "resealed 1\n"
        monkeypatch.setenv("NEWER_KEY", newer)
        monkeypatch.delenv(KEY_VARIABLE)
        ok(run("set", "ops", "--key", "env:NEWER_KEY", "--event", "x.y"))

    @pytest.mark.parametrize(
        "arguments",
        [
            ("set", "no", "--event", "x.y"),
            ("enable", "no"),
            ("disable", "no"),
            ("rotate", "no"),
            ("rotate", "no", "--finish"),
            ("test", "no"),
            ("remove", "no"),
        ],
        ids=lambda arguments: arguments[0],
    )
    def test_of_none(self, run: Run, arguments: tuple[str, ...]) -> None:
        result = run(*arguments)
        assert (result.exit_code, result.output) == (
            1,
            "cubehook: endpoint 'no': is not stored in the outbox\n",
        )


class TestRotate:
    def test_to_the_end(self, run: Run, ops: object, store: EndpointStore) -> None:
        assert ok(run("rotate", "ops", input=f"{NEWER}\n{NEWER}\n")) == "rotated 'ops'\n"
        assert store.mapping("ops")["secret"] == [NEWER, PLANTED_SECRET]
        assert "finished" in ok(run("rotate", "ops", "--finish"))
        assert store.mapping("ops")["secret"] == [NEWER]
        result = run("rotate", "ops", "--finish")
        assert (result.exit_code, result.stderr) == (
            1,
            "cubehook: endpoint 'ops': has one secret only\n",
        )

    def test_at_once(self, run: Run, ops: object, store: EndpointStore) -> None:
        ok(run("rotate", "ops", "--secret", "-", "--drop-former", input=NEWER))
        assert store.mapping("ops")["secret"] == [NEWER]

    def test_finish_goes_alone(self, run: Run, ops: object) -> None:
        assert run("rotate", "ops", "--finish", "--drop-former").exit_code == 2


class TestTest:
    def test_delivered(self, run: Run, store: EndpointStore, receiver: Receiver) -> None:
        store.add(receiver.endpoint(enabled=False))
        result = run("test", "hook")
        assert ok(result).startswith("hook: delivered: status 204, in ")
        (one,) = receiver.received()
        assert one.json["event"] == "cubehook.test"
        found = json.loads(ok(run("test", "hook", "--json")))
        assert (found["outcome"], found["reason"]) == ("delivered", "status 204")
        assert found["event_id"] == receiver.received()[-1].json["id"]
        assert 0 < found["seconds"] < 10

    def test_refused(self, run: Run, store: EndpointStore, receiver: Receiver) -> None:
        receiver.script(503, 404)
        store.add(receiver.endpoint())
        result = run("test", "hook")
        assert result.exit_code == 1
        assert result.stdout.startswith("hook: failed: status 503, in ")
        result = run("test", "hook", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["outcome"] == "failed"

    def test_no_answer(self, run: Run, store: EndpointStore, receiver: Receiver) -> None:
        receiver.hold()
        store.add(receiver.endpoint())
        result = run("test", "hook", "--timeout", "0.2")
        receiver.release()
        assert result.exit_code == 1
        assert "failed: " in result.stdout

    def test_nobody_there(self, run: Run, store: EndpointStore, dead_url: str) -> None:
        store.add({"name": "dead", "url": dead_url, "allow_private_urls": True})
        result = run("test", "dead")
        assert result.exit_code == 1
        assert "dead: failed: " in result.stdout

    def test_a_secret_that_cannot_be_read(self, run: Run, store: EndpointStore) -> None:
        store.add({"name": "ops", "url": PLANTED_URL, "secret": "env:NOT_SET_AT_ALL"})
        result = run("test", "ops")
        assert result.exit_code == 2
        assert "endpoint 'ops': secret: names an environment variable" in result.output


class TestWhich:
    def test_of_a_configuration(self, url: str, tmp_path: Path) -> None:
        handler = {
            "class": "cubehook.WebhookHandler",
            "outbox": url,
            "endpoints": "outbox",
            "allow_private_urls": True,
        }
        path = tmp_path / "logging.json"
        path.write_text(json.dumps({"handlers": {"webhooks": handler}}))
        command = ["endpoints", "add", "ops", "--config", str(path), "--url", "http://10.0.0.1/"]
        assert ok(CliRunner().invoke(cli, command)) == "added 'ops'\n"

    def test_neither_or_both(self) -> None:
        for arguments in ([], ["--outbox", "x", "--config", "y"]):
            result = CliRunner().invoke(cli, ["endpoints", "list", *arguments])
            assert result.exit_code == 2

    def test_a_file_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        outbox = f"sqlite:///{tmp_path}/no.db"
        result = CliRunner().invoke(cli, ["endpoints", "list", "--outbox", outbox])
        assert result.exit_code == 3
        assert list(tmp_path.iterdir()) == []


class TestWorker:
    def test_delivers_to_those_that_are_stored(
        self, url: str, outbox: Outbox, store: EndpointStore, receiver: Receiver
    ) -> None:
        command = [sys.executable, "-m", "cubehook", "worker", "--outbox", url]
        process = subprocess.Popen(
            [*command, "--endpoints", "outbox"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            assert "started" in process.stderr.readline()
            store.add(receiver.endpoint())
            message = Message("1", "a.b", None, "application/json", b'{"id":"1"}')
            outbox.add([(message, [Target("hook")])])
            receiver.wait_for(1)
        finally:
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=10)
        assert process.returncode == 0
        assert "endpoints have changed: 'hook'" in told
        assert SECRET not in told
        assert "127.0.0.1" not in told

    def test_once(self, url: str, outbox: Outbox, store: EndpointStore, receiver: Receiver) -> None:
        store.add(receiver.endpoint())
        message = Message("1", "a.b", None, "application/json", b'{"id":"1"}')
        outbox.add([(message, [Target("hook")])])
        command = ["worker", "--outbox", url, "--endpoints", "outbox", "--once"]
        assert CliRunner().invoke(cli, command).exit_code == 0
        assert len(receiver.received()) == 1

    def test_a_bad_one(self, url: str, store: EndpointStore) -> None:
        store.add({"name": "ops", "url": PLANTED_URL, "secret": "env:NOT_SET_AT_ALL"})
        command = ["worker", "--outbox", url, "--endpoints", "outbox", "--once"]
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 2
        assert "endpoint 'ops': secret: " in result.output

    def test_either_stored_or_listed(self, url: str, tmp_path: Path) -> None:
        handler = {"class": "cubehook.WebhookHandler", "outbox": url}
        listed = {**handler, "endpoints": [{"name": "ops", "url": PLANTED_URL}]}
        handlers = {"one": {**handler, "endpoints": "outbox"}, "two": listed}
        path = tmp_path / "logging.json"
        path.write_text(json.dumps({"handlers": handlers}))
        result = CliRunner().invoke(cli, ["worker", "--config", str(path), "--once"])
        assert result.exit_code == 2
        assert "must be in all of them or none" in result.output
