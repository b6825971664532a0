"""``cubehook send``: an event by the way of all events, to real receivers."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from loopback import HANG, SECRET, Receiver

from cubehook.cli.commands import cli

CLASS = "cubehook.WebhookHandler"
PLANTED = "planted"

Run = Callable[..., Result]
Write = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command; neither URL nor secret nor payload may be in what it prints."""
    monkeypatch.setenv("SEND_SECRET", SECRET)

    def invoke(*arguments: str, input: str | None = None) -> Result:
        result = CliRunner().invoke(cli, ["send", *arguments], input=input)
        for text in (PLANTED, "127.0.0.1", SECRET):
            assert text not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        return result

    return invoke


@pytest.fixture
def write(tmp_path: Path, receiver: Receiver) -> Write:
    """Writes a logging.yaml with one handler, and returns its path."""

    def make(*endpoints: dict[str, Any], parts: dict[str, Any] | None = None, **keys: Any) -> str:
        listed = list(endpoints) or [receiver.endpoint()]
        handler = {"class": CLASS, "endpoints": listed, "backoff_initial": 0.02, **keys}
        path = tmp_path / "logging.yaml"
        whole = {"version": 1, "handlers": {"webhooks": handler}, **(parts or {})}
        path.write_text(yaml.safe_dump(whole))
        return str(path)

    return make


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestConfig:
    def test_delivered(self, run: Run, write: Write, receiver: Receiver) -> None:
        result = run("sandbox.created", "--config", write(), "--field", "sandbox_id=planted-sb")
        assert result.exit_code == 0, result.output
        (sent,) = receiver.received()
        assert sent.json["sandbox_id"] == "planted-sb"
        first, last = result.stdout.splitlines()
        assert first.startswith("hook: attempt 1: delivered: status 204, in ")
        assert last == f"sandbox.created {sent.json['id']}: delivered to hook"
        assert result.stderr == ""

    def test_retries_are_shown_as_they_are_made(
        self, run: Run, write: Write, receiver: Receiver
    ) -> None:
        receiver.script(503, (429, {"Retry-After": "0"}))
        result = run("a.b", "--config", write(), "--json")
        first, second, third, last = lines(result)
        assert result.exit_code == 0
        assert (first["outcome"], first["reason"], first["attempt"]) == ("retry", "status 503", 1)
        assert 0 <= first["retry_in"] <= 0.02
        assert second["reason"] == "status 429"
        assert (third["outcome"], third["attempt"], third["retry_in"]) == ("delivered", 3, None)
        assert 0 < third["seconds"] < 5
        assert last == {
            "type": "result",
            "event_id": receiver.received()[0].json["id"],
            "event": "a.b",
            "delivered": ["hook"],
            "failed": {},
            "pending": [],
            "stored": 0,
            "dropped": {},
        }

    def test_refused(self, run: Run, write: Write, receiver: Receiver) -> None:
        receiver.script(400)
        result = run("a.b", "--config", write())
        assert result.exit_code == 1
        assert "hook: attempt 1: dead: status 400, in " in result.stdout
        assert result.stdout.endswith(": failed at hook\n")
        assert result.stderr == ""

    def test_one_of_two(self, run: Run, write: Write, receiver: Receiver) -> None:
        receiver.script(400, path="/bad")
        result = run("a.b", "--config", write(receiver.endpoint(), receiver.endpoint("/bad")))
        assert result.exit_code == 1
        assert result.stdout.endswith(": delivered to hook; failed at bad\n")

    def test_max_retries(self, run: Run, write: Write, receiver: Receiver) -> None:
        receiver.script(default=500)
        result = run("a.b", "--config", write(max_retries=9), "--max-retries", "1", "--json")
        assert result.exit_code == 1
        assert [one.get("outcome") for one in lines(result)] == ["retry", "dead", None]
        assert lines(result)[-1]["failed"] == {"hook": "status 500, no retries left"}
        assert len(receiver.received()) == 2

    def test_a_retry_beyond_the_time_is_not_waited_for(
        self, run: Run, write: Write, receiver: Receiver
    ) -> None:
        receiver.script((503, {"Retry-After": "600"}))
        began = time.monotonic()
        result = run("a.b", "--config", write(), "--timeout", "5", "--json")
        assert time.monotonic() - began < 4
        attempt, last = lines(result)
        assert result.exit_code == 1
        assert 590 < attempt["retry_in"] <= 600
        assert last["pending"] == ["hook"]
        assert len(receiver.received()) == 1  # no last chance either

    def test_a_receiver_that_hangs(self, run: Run, write: Write, receiver: Receiver) -> None:
        receiver.script(HANG)
        result = run("a.b", "--config", write(), "--timeout", "0.3")
        assert result.exit_code == 1
        assert result.stdout.endswith(": not done in time: hook\n")

    def test_one_endpoint_alone(self, run: Run, write: Write, receiver: Receiver) -> None:
        config = write(receiver.endpoint("/one"), receiver.endpoint("/two"))
        assert run("a.b", "--config", config, "--endpoint", "two").exit_code == 0
        assert [one.path for one in receiver.received()] == ["/two"]

    def test_an_endpoint_that_is_not_there(self, run: Run, write: Write) -> None:
        result = run("a.b", "--config", write(), "--endpoint", "ops")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == "cubehook: no handler has an endpoint 'ops'\n"

    def test_nobody_subscribes(self, run: Run, write: Write, receiver: Receiver) -> None:
        result = run("a.b", "--config", write(receiver.endpoint(events=["sandbox.*"])))
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "cubehook: no endpoint subscribes to this event\n"

    def test_ini(self, run: Run, tmp_path: Path, receiver: Receiver) -> None:
        path = tmp_path / "logging.ini"
        path.write_text(
            "[handlers]\nkeys=webhooks\n[handler_webhooks]\n"
            f"class={CLASS}\nargs=({[receiver.endpoint()]!r},)\n"
        )
        assert run("a.b", "--config", str(path), "--max-retries", "0").exit_code == 0

    def test_redaction_and_formatter_are_the_handlers_own(
        self, run: Run, write: Write, receiver: Receiver
    ) -> None:
        config = write(redact=["email"])
        fields = ("--field", "email=planted@example.com", "--field", "password=planted")
        assert run("a.b", "--config", config, *fields).exit_code == 0
        assert set(receiver.received()[0].json) == {"id", "timestamp", "level", "event"}

    @pytest.mark.parametrize("how", ["level", "filter"])
    def test_a_handler_that_does_not_let_it_in(
        self, run: Run, write: Write, receiver: Receiver, how: str
    ) -> None:
        if how == "level":
            config = write(level="ERROR")
        else:
            filters = {"filters": {"none": {"()": "logging.Filter", "name": "elsewhere"}}}
            config = write(parts=filters, filters=["none"])
        result = run("a.b", "--config", config, "--json")
        assert result.exit_code == 1
        assert lines(result)[-1]["dropped"] == {"turned_away": 1}
        assert receiver.received() == []

    def test_the_level_can_be_told(self, run: Run, write: Write, receiver: Receiver) -> None:
        assert run("a.b", "--config", write(level="ERROR"), "--level", "error").exit_code == 0
        assert receiver.received()[0].json["level"] == "error"

    def test_too_large(self, run: Run, write: Write) -> None:
        result = run("a.b", "--config", write(max_payload_bytes=10), "--json")
        assert result.exit_code == 1
        assert lines(result)[-1]["dropped"] == {"too_large": 1}

    def test_a_batch(self, run: Run, write: Write, receiver: Receiver) -> None:
        config = write(receiver.endpoint(batch={"max_events": 5, "linger": 60}))
        assert run("a.b", "--config", config).exit_code == 0
        (event,) = receiver.received()[0].json["events"]
        assert event["event"] == "a.b"

    def test_nothing_of_it_stays_behind(self, run: Run, write: Write, receiver: Receiver) -> None:
        run("a.b", "--config", write())
        assert logging.getLogger("cubehook").level == logging.NOTSET


class TestOutbox:
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        pytest.importorskip("sqlalchemy")
        return f"sqlite:///{tmp_path / 'outbox.db'}"

    @pytest.mark.parametrize("deliver", [True, False])
    def test_it_is_stored_and_not_sent(
        self, run: Run, write: Write, receiver: Receiver, url: str, deliver: bool
    ) -> None:
        from cubehook.outbox import Outbox

        config = write(outbox=url, deliver=deliver)
        result = run("a.b", "--config", config, "--json", "--field", "event_id=one")
        assert result.exit_code == 0, result.output
        (last,) = lines(result)
        assert (last["stored"], last["event_id"]) == (1, "one")
        outbox = Outbox(url)
        (stored,) = outbox.list()
        outbox.close()
        assert (stored.event_id, stored.status.value) == ("one", "waiting")
        assert receiver.received() == []

    def test_it_says_so(self, run: Run, write: Write, url: str) -> None:
        result = run("a.b", "--config", write(outbox=url))
        assert "1 stored in the outbox, for those who deliver from it" in result.stdout

    def test_a_database_that_cannot_be_reached(self, run: Run, write: Write, dead_url: str) -> None:
        pytest.importorskip("psycopg")
        place = dead_url.removeprefix("http://").removesuffix("/dead")
        outbox = f"postgresql+psycopg://planted:planted@{place}/planted"
        result = run("a.b", "--config", write(outbox=outbox), "--timeout", "0.3")
        assert result.exit_code == 3, result.output
        assert "1 dropped: not_stored" in result.stdout

    def test_a_database_that_is_none(
        self, run: Run, write: Write, url: str, tmp_path: Path
    ) -> None:
        (tmp_path / "outbox.db").write_bytes(b"planted, and no database" * 100)
        result = run("a.b", "--config", write(outbox=url))
        assert result.exit_code == 2
        assert "handler 'webhooks': outbox: " in result.stderr

    def test_endpoints_that_are_stored_there(
        self, run: Run, write: Write, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fernet = pytest.importorskip("cryptography.fernet")
        from cubehook.outbox import Outbox
        from cubehook.outbox.endpoints import KEY_VARIABLE, EndpointStore

        monkeypatch.setenv(KEY_VARIABLE, fernet.Fernet.generate_key().decode())
        outbox = Outbox(url)
        outbox.prepare()
        EndpointStore(outbox).add({"name": "ops", "url": "https://planted.example/"})
        outbox.close()
        config = write(outbox=url)
        whole = yaml.safe_load(Path(config).read_text())
        whole["handlers"]["webhooks"]["endpoints"] = "outbox"
        Path(config).write_text(yaml.safe_dump(whole))
        assert run("sandbox.created", "--config", config).exit_code == 0
        assert run("a.b", "--config", config).exit_code == 1
        assert run("a.b", "--config", config, "--endpoint", "ops").exit_code == 2


class TestURL:
    def test_signed(self, run: Run, receiver: Receiver) -> None:
        options = ("--secret", "env:SEND_SECRET", "--allow-private-urls")
        result = run("a.b", "--url", receiver.url(), *options)
        assert result.exit_code == 0, result.output
        assert "url: attempt 1: delivered" in result.stdout
        assert receiver.received()[0].json["event"] == "a.b"

    def test_from_a_file(self, run: Run, receiver: Receiver, tmp_path: Path) -> None:
        (tmp_path / "url").write_text(receiver.url())
        (tmp_path / "secret").write_text(SECRET)
        options = ("--secret", f"file:{tmp_path / 'secret'}", "--allow-private-urls")
        assert run("a.b", "--url", f"file:{tmp_path / 'url'}", *options).exit_code == 0

    def test_several_schemes(self, run: Run, receiver: Receiver) -> None:
        schemes = ("--scheme", "cube", "--scheme", "github")
        options = ("--secret", "env:SEND_SECRET", "--allow-private-urls", *schemes)
        assert run("a.b", "--url", receiver.url(), *options).exit_code == 0
        assert "x-hub-signature-256" in receiver.received()[0].headers

    def test_nobody_there(self, run: Run, dead_url: str) -> None:
        options = ("--allow-private-urls", "--max-retries", "0", "--json")
        result = run("a.b", "--url", dead_url, *options)
        assert result.exit_code == 1
        assert lines(result)[0]["reason"] == "connection refused, no retries left"

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--url", "https://planted.example/", "--secret", "planted-literal"],
            ["--url", "https://planted.example/", "--secret", "env:NOT_SET"],
            ["--url", "http://planted.example/"],
            ["--url", "planted"],
            ["--url", "https://planted.example/", "--scheme", "planted"],
            ["--url", "https://planted.example/", "--format", "planted"],
            ["--url", "https://planted.example/", "--endpoint", "ops"],
            ["--url", "https://planted.example/", "--config", "x.yaml"],
            ["--config", "x.yaml", "--secret", "env:SEND_SECRET"],
            ["--config", "x.yaml", "--allow-private-urls"],
            ["--config", "not-there.yaml"],
            [],
        ],
        ids=str,
    )
    def test_what_cannot_be(self, run: Run, arguments: list[str]) -> None:
        result = CliRunner().invoke(cli, ["send", "a.b", *arguments])
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        shown = result.stderr.replace("'planted' is not one of", "")  # click's, of a choice
        assert PLANTED not in shown


class TestFields:
    URL = ("--allow-private-urls", "--secret", "env:SEND_SECRET")

    def sent(self, run: Run, receiver: Receiver, *arguments: str, input: str = "") -> Any:
        result = run("a.b", "--url", receiver.url(), *self.URL, *arguments, input=input)
        assert result.exit_code == 0, result.output
        found = receiver.received()[-1].json
        return {key: found[key] for key in found if key not in ("id", "timestamp", "level")}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("3", 3),
            ("true", True),
            ("null", None),
            ('{"a": [1]}', {"a": [1]}),
            ("text", "text"),
            ("a=b", "a=b"),
            ("", ""),
            ('"3"', "3"),
        ],
    )
    def test_json_or_text(self, run: Run, receiver: Receiver, text: str, value: Any) -> None:
        assert self.sent(run, receiver, "--field", f"key={text}") == {"event": "a.b", "key": value}

    def test_a_file_with_fields_over_it(self, run: Run, receiver: Receiver, tmp_path: Path) -> None:
        (tmp_path / "fields.json").write_text('{"a": 1, "b": 2}')
        arguments = ("--json-fields", str(tmp_path / "fields.json"), "--field", "b=3")
        assert self.sent(run, receiver, *arguments) == {"event": "a.b", "a": 1, "b": 3}

    def test_stdin(self, run: Run, receiver: Receiver) -> None:
        found = self.sent(run, receiver, "--json-fields", "-", input='{"a": 1}')
        assert found == {"event": "a.b", "a": 1}

    def test_no_field_is_the_event(self, run: Run, receiver: Receiver) -> None:
        assert self.sent(run, receiver, "--field", "event=c.d") == {"event": "a.b"}

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--field", "planted"],
            ["--field", "=planted"],
            ["--field", "message=planted"],
            ["--field", "levelno=planted"],
            ["--json-fields", "-"],
        ],
    )
    def test_what_cannot_be(self, run: Run, receiver: Receiver, arguments: list[str]) -> None:
        result = run("a.b", "--url", receiver.url(), *self.URL, *arguments, input='["planted"]')
        assert (result.exit_code, result.stdout) == (2, "")

    @pytest.mark.parametrize("event", ["planted event", "", "*", "a..b"])
    def test_names_that_are_none(self, run: Run, receiver: Receiver, event: str) -> None:
        assert run(event, "--url", receiver.url(), *self.URL).exit_code == 2


def test_who_reads_may_go_away(write: Write, receiver: Receiver) -> None:
    receiver.hold()
    sending = subprocess.Popen(
        [sys.executable, "-m", "cubehook", "send", "a.b", "--config", write()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    receiver.wait_for(1)
    assert sending.stdout is not None
    sending.stdout.close()
    receiver.release()
    assert sending.wait(30) == 1
    assert sending.stderr is not None
    assert "Traceback" not in sending.stderr.read()
    sending.stderr.close()
