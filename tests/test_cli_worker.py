"""``cubehook worker``, run as an operator runs it: options, signals, exit statuses, output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from loopback import PATIENCE, SECRET, Receiver

pytest.importorskip("sqlalchemy")

from cubehook.cli import given
from cubehook.cli.commands import cli
from cubehook.errors import ConfigError
from cubehook.message import Message
from cubehook.outbox import Outbox, Target

ROOT = Path(__file__).parent.parent
PLANTED = "planted-password"
CLASS = "cubehook.WebhookHandler"
Processes = Callable[..., "Process"]


class Process:
    """A worker in a process of its own."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "cubehook", "worker", *arguments],
            env=os.environ | {"PYTHONPATH": paths} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self, pattern: str) -> re.Match[str]:
        """The first line of the log with this, as soon as it is there."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            found = re.search(pattern, line)
            if found:
                return found
        raise AssertionError(f"it ended without {pattern!r}")

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self) -> tuple[int, str]:
        """The exit status and all output that is left."""
        output, log = self.popen.communicate(timeout=PATIENCE)
        return self.popen.returncode, output + log


@pytest.fixture
def start() -> Iterator[Processes]:
    made: list[Process] = []

    def make(*arguments: str, **variables: str) -> Process:
        made.append(Process(*arguments, **variables))
        return made[-1]

    yield make
    for one in made:
        one.popen.kill()
        one.popen.communicate()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'outbox.db'}"


@pytest.fixture
def outbox(url: str) -> Iterator[Outbox]:
    made = Outbox(url)
    yield made
    made.close()


@pytest.fixture
def config(tmp_path: Path, url: str, receiver: Receiver) -> Callable[..., str]:
    """Writes a logging.yaml with one handler, and returns its path."""

    def write(*endpoints: dict[str, Any], **options: Any) -> str:
        handler = {
            "class": CLASS,
            "level": "INFO",
            "outbox": url,
            "deliver": False,
            "endpoints": list(endpoints) or [receiver.endpoint()],
            **options,
        }
        path = tmp_path / "logging.yaml"
        path.write_text(yaml.safe_dump({"version": 1, "handlers": {"webhooks": handler}}))
        return str(path)

    return write


def add(outbox: Outbox, *ids: str, ordered: bool = False) -> None:
    outbox.add(
        [
            (
                Message(
                    one, "sandbox.created", None, "application/json", b'{"id":"%s"}' % one.encode()
                ),
                [Target("hook", ordered)],
            )
            for one in ids
        ]
    )


def statuses(outbox: Outbox) -> dict[str, int]:
    return {status.value: count for status, count in outbox.counts()["hook"].items()}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["worker", *arguments])


class TestSignals:
    def test_sigterm_in_the_middle_loses_nothing_and_sends_nothing_twice(
        self, start: Processes, config: Callable[..., str], outbox: Outbox, receiver: Receiver
    ) -> None:
        ids = [f"id-{number}" for number in range(8)]
        add(outbox, *ids)
        path = config()
        receiver.hold()
        worker = start("--config", path)
        receiver.wait_for(1)
        worker.send(signal.SIGTERM)
        receiver.release()
        status, output = worker.end()
        assert status == 0, output
        assert "0 cut off" in output
        assert start("--config", path, "--once").end()[0] == 0
        assert sorted(str(one.json["id"]) for one in receiver.received()) == ids
        assert statuses(outbox) == {"delivered": 8}

    def test_sigint_ends_it_within_flush_timeout(
        self, start: Processes, config: Callable[..., str], outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, "one")
        receiver.hold()
        worker = start("--config", config(flush_timeout=0.4))
        receiver.wait_for(1)
        worker.send(signal.SIGINT)
        status, output = worker.end()  # while the receiver still hangs
        assert status == 0, output
        assert "0 delivered, 0 retried, 0 dead, 1 cut off" in output
        assert statuses(outbox) == {"leased": 1}

    def test_a_second_signal_ends_it_at_once(
        self, start: Processes, config: Callable[..., str], outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, "one")
        receiver.hold()
        worker = start("--config", config(flush_timeout=60.0))
        receiver.wait_for(1)
        worker.send(signal.SIGTERM)
        worker.send(signal.SIGINT)  # another one: two that are the same may become one
        assert worker.end()[0] in (128 + signal.SIGTERM, 128 + signal.SIGINT)

    def test_a_signal_during_once(
        self, start: Processes, config: Callable[..., str], outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, "one", "two")
        receiver.hold()
        worker = start("--config", config(flush_timeout=0.4), "--once")
        receiver.wait_for(1)
        worker.send(signal.SIGTERM)
        assert worker.end()[0] == 1


class TestOnce:
    def test_delivers_and_says_so(
        self, config: Callable[..., str], outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, "one", "two")
        result = invoke("--config", config(), "--once", "--concurrency", "2", "--lease", "1m")
        assert result.exit_code == 0, result.output
        assert len(receiver.received()) == 2
        assert "stopped: 2 delivered" in result.output

    def test_status_1_if_something_is_left_due(
        self, config: Callable[..., str], outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, "one", "two")
        receiver.script(410)
        assert invoke("--config", config(), "--once").exit_code == 1

    def test_prunes_too(
        self, config: Callable[..., str], outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, "one")
        path = config()
        assert invoke("--config", path, "--once").exit_code == 0
        assert invoke("--config", path, "--once", "--retain-delivered", "0s").exit_code == 0
        assert outbox.counts() == {}

    def test_outbox_and_endpoints_from_elsewhere(
        self,
        tmp_path: Path,
        url: str,
        outbox: Outbox,
        receiver: Receiver,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("OUTBOX_URL", url)
        listed = json.dumps([receiver.endpoint()])
        (tmp_path / "endpoints.json").write_text(listed)
        (tmp_path / "endpoints.yaml").write_text(listed)
        (tmp_path / "url").write_text(url + "\n")
        monkeypatch.setenv("CUBE_API_WEBHOOK_ENDPOINTS", listed)
        for number, arguments in enumerate(
            (
                ["--outbox", "env:OUTBOX_URL", "--endpoints", str(tmp_path / "endpoints.json")],
                ["--outbox", f"file:{tmp_path / 'url'}"],
                ["--outbox", url, "--endpoints", str(tmp_path / "endpoints.yaml")],
            ),
            1,
        ):
            add(outbox, f"id-{number}")
            result = invoke(*arguments, "--once")
            assert result.exit_code == 0, result.output
            assert len(receiver.received()) == number


class TestHealth:
    def test_both_pages(
        self, start: Processes, config: Callable[..., str], eventually: Callable[..., None]
    ) -> None:
        pytest.importorskip("prometheus_client")
        worker = start("--config", config(), "--health", "127.0.0.1:0")
        port = worker.line(r"health and metrics on port (\d+)")[1]

        def get(path: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                return str(answer.read().decode())

        def healthy() -> bool:
            try:
                return json.loads(get("/healthz"))["state"] == "ok"
            except OSError:
                return False

        eventually(healthy)
        assert 'cubehook_endpoint_state{endpoint="hook",state="closed"} 1.0' in get("/metrics")
        worker.send(signal.SIGTERM)
        assert worker.end()[0] == 0

    def test_an_address_that_is_taken(self, config: Callable[..., str], receiver: Receiver) -> None:
        result = invoke("--config", config(), "--once", "--health", f"127.0.0.1:{receiver.port}")
        assert result.exit_code == 2
        assert "--health: cannot listen there" in result.output


class TestSecrecy:
    def test_of_endpoints(
        self, start: Processes, config: Callable[..., str], outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, "one", "two", "three")
        receiver.script(204, 404, 503, path=f"/hook?token={PLANTED}")
        endpoint = receiver.endpoint(backoff_initial=600.0, headers={"X-Token": PLANTED})
        endpoint["url"] += f"?token={PLANTED}"
        status, output = start("--config", config(endpoint), "--once").end()
        assert status == 0, output
        assert "is dead after attempt 1: status 404" in output
        assert "attempt 1 failed: status 503" in output
        for secret in (PLANTED, SECRET, "127.0.0.1", "outbox.db"):
            assert secret not in output

    @pytest.mark.parametrize("driver", ["postgresql", "mysql"])
    def test_of_the_outbox(self, config: Callable[..., str], driver: str) -> None:
        pytest.importorskip({"postgresql": "psycopg", "mysql": "pymysql"}[driver])
        url = f"{driver}://user:{PLANTED}@127.0.0.1:1/name"
        result = invoke("--config", config(outbox=url), "--once")
        assert result.exit_code == 3, result.output
        (said,) = [one for one in result.output.splitlines() if one.startswith("cubehook:")]
        assert said == "cubehook: outbox: the database cannot be reached"
        assert PLANTED not in result.output
        assert "127.0.0.1" not in result.output


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "give either --config or --outbox"),
            (["--config", "x", "--outbox", "y"], "give either --config or --outbox"),
            (["--config", "x", "--endpoints", "y"], "--endpoints goes with --outbox"),
            (["--outbox", "x", "--lease", "1s"], "must be at least 5s"),
            (["--outbox", "x", "--lease", "long"], "must be a number with s, m, h, d or w"),
            (["--outbox", "x", "--retain-delivered", "-1"], "or forever"),
            (["--outbox", "x", "--health", "9000"], "must be HOST:PORT"),
            (["--outbox", "x", "--health", "h:99999"], "must be HOST:PORT"),
            (["--outbox", "x", "--concurrency", "0"], "--concurrency"),
            (["--outbox", f"nope://u:{PLANTED}@h/d"], "its URL must begin with one of"),
            (["--outbox", "env:NO_SUCH_VARIABLE"], "environment variable that is not set"),
            (["--config", "/nowhere.yaml"], "the file cannot be read (FileNotFoundError)"),
        ],
    )
    def test_status_2(self, arguments: list[str], said: str) -> None:
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert said in result.output
        assert PLANTED not in result.output

    def test_no_endpoints(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUBE_API_WEBHOOK_ENDPOINTS", raising=False)
        result = invoke("--outbox", url)
        assert result.exit_code == 2
        assert "there is no endpoint to deliver to" in result.output

    def test_without_sqlalchemy(
        self, config: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "sqlalchemy", None)
        result = invoke("--config", config())
        assert result.exit_code == 2
        assert result.output == "cubehook: this needs: pip install 'cubehook[outbox]'\n"

    def test_without_prometheus(
        self,
        config: Callable[..., str],
        monkeypatch: pytest.MonkeyPatch,
        outbox: Outbox,
    ) -> None:
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        monkeypatch.delitem(sys.modules, "cubehook.metrics", raising=False)
        result = invoke("--config", config(), "--once", "--health", "127.0.0.1:0")
        assert result.exit_code == 0, result.output


class TestConfigurations:
    """What is found in a configuration of logging."""

    @pytest.fixture
    def read(self, tmp_path: Path) -> Callable[..., given.Given]:
        def write_and_read(content: object, suffix: str = ".json") -> given.Given:
            path = tmp_path / f"logging{suffix}"
            path.write_text(content if isinstance(content, str) else json.dumps(content))
            return given.from_file(str(path))

        return write_and_read

    @staticmethod
    def handler(url: str | None, *names: str, **options: Any) -> dict[str, Any]:
        endpoints = [
            {"name": name, "url": f"https://{name}.example.com/{PLANTED}", "secret": PLANTED}
            for name in names
        ]
        found = {"class": CLASS, "endpoints": endpoints, **options}
        return found if url is None else {**found, "outbox": url}

    def test_other_handlers_do_not_matter(self, read: Any, url: str) -> None:
        found = read(
            {
                "version": 1,
                "handlers": {
                    "console": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"},
                    "memory": self.handler(None, "x"),
                    "a": self.handler(url, "ops", flush_timeout=7.0, level="INFO"),
                    "b": self.handler(url, "ops", "billing"),
                },
            }
        )
        assert found.outbox == url
        assert [one.name for one in found.endpoints] == ["ops", "billing"]
        assert found.settings.flush_timeout == 7.0

    def test_references_of_logging_are_resolved(self, read: Any, url: str) -> None:
        handler = self.handler("cfg://db", "ops")
        assert read({"handlers": {"a": handler}, "db": url}).outbox == url

    def test_ini(self, read: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ENDPOINTS", json.dumps(self.handler(url, "ops")["endpoints"]))
        text = f"""
            [loggers]
            keys=root
            [handlers]
            keys=console, webhooks
            [handler_console]
            class=StreamHandler
            args=(sys.stdout,)
            [handler_webhooks]
            class=cubehook.WebhookHandler
            level=INFO
            args=("env:ENDPOINTS",)
            kwargs={{"outbox": "{url}"}}
            """
        found = read(re.sub("^ +", "", text, flags=re.M), ".ini")
        assert found.outbox == url
        assert [one.name for one in found.endpoints] == ["ops"]

    def problem(self, read: Any, content: object, suffix: str = ".json") -> str:
        with pytest.raises(ConfigError) as raised:
            read(content, suffix)
        assert PLANTED not in str(raised.value)
        return str(raised.value)

    def test_none_of_ours(self, read: Any) -> None:
        assert "no handler of class" in self.problem(read, {"handlers": {}})

    def test_none_has_an_outbox(self, read: Any) -> None:
        said = self.problem(read, {"handlers": {"a": self.handler(None, "ops")}})
        assert said == "handler 'a': without an outbox there is nothing to deliver from"

    def test_several_outboxes(self, read: Any, url: str) -> None:
        handlers = {"a": self.handler(url, "ops"), "b": self.handler(url + "2", "ops")}
        assert self.problem(read, {"handlers": handlers}) == (
            "handlers 'a', 'b': have different outboxes; use --outbox"
        )

    def test_two_endpoints_of_one_name(self, read: Any, url: str) -> None:
        other = self.handler(url, "ops")
        other["endpoints"][0]["url"] = "https://other.example.com/"
        handlers = {"a": self.handler(url, "ops"), "b": other}
        said = self.problem(read, {"handlers": handlers})
        assert said == "endpoint 'ops': is another one in each handler"

    def test_every_problem_names_its_handler(self, read: Any, url: str) -> None:
        handlers = {
            "a": self.handler(url, "ops", max_retry=PLANTED),
            "b": self.handler(f"nope://{PLANTED}"),
        }
        said = self.problem(read, {"handlers": handlers})
        assert "handler 'a': unknown key 'max_retry'" in said
        assert "handler 'b': outbox: its URL must begin" in said

    @pytest.mark.parametrize(
        ("text", "suffix", "said"),
        [
            (f'{{"x": "{PLANTED}', ".json", "the file is not JSON (line 1, column 7)"),
            (f"x: [{PLANTED}", ".yaml", "the file is not YAML (line 1, column 21)"),
            (f"x: {PLANTED}", ".yaml", "no configuration of logging"),
            (PLANTED, ".ini", "the file is not INI of logging (MissingSectionHeaderError)"),
            (PLANTED, ".toml", "the file's name must end with"),
            (
                "[handlers]\nkeys=a\n[handler_a]\nclass=cubehook.WebhookHandler\n"
                f"args=(get('{PLANTED}'),)",
                ".ini",
                "handler 'a': args or kwargs are no Python literal",
            ),
            (
                json.dumps({"handlers": {"a": {"class": CLASS, "outbox": f"ext://{PLANTED}.x"}}}),
                ".json",
                "handler 'a': holds what cannot be resolved (ValueError)",
            ),
        ],
        ids=["json", "yaml", "other", "ini", "suffix", "expression", "reference"],
    )
    def test_files_that_cannot_be_read(self, read: Any, text: str, suffix: str, said: str) -> None:
        assert said in self.problem(read, text, suffix)


def test_every_option_is_documented() -> None:
    page = (ROOT / "docs" / "worker.md").read_text(encoding="utf-8")
    for name in ("worker", "deliveries"):
        command = cli.commands[name]
        for one in [command, *getattr(command, "commands", {}).values()]:
            for option in (opt for parameter in one.params for opt in parameter.opts):
                assert f"`{option}" in page or f" {option}" in page, (one.name, option)
