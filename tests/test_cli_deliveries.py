"""``cubehook deliveries``: what operators see of an outbox, and what they do to it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from loopback import SECRET, Receiver

pytest.importorskip("sqlalchemy")

from cubehook import config
from cubehook.cli import moments
from cubehook.cli.commands import cli
from cubehook.cli.deliveries import MANY
from cubehook.config import Settings
from cubehook.message import Message
from cubehook.outbox import Outbox, Target
from cubehook.outbox import Result as Settled
from cubehook.outcome import Dead, Delivered, Outcome, RetryAt
from cubehook.retry import WebhookRetry
from cubehook.worker import Worker

ROOT = Path(__file__).parent.parent
PLANTED = "planted-password"
NOW = 1_700_000_000.0
"""2023-11-14T22:13:20Z."""

Run = Callable[..., Result]


class Turned:
    """A clock for an outbox."""

    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Turned:
    return Turned()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'outbox.db'}"


@pytest.fixture
def outbox(url: str, clock: Turned) -> Iterator[Outbox]:
    made = Outbox(url, clock=clock)
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def run(url: str, outbox: Outbox) -> Run:
    """Runs a command on the outbox."""

    def invoke(*arguments: str, input: str | None = None) -> Result:
        command = ["deliveries", arguments[0], "--outbox", url, *arguments[1:]]
        return CliRunner().invoke(cli, command, input=input)

    return invoke


def message(one: str, event: str = "sandbox.created", body: bytes | None = None) -> Message:
    return Message(
        one,
        event,
        None,
        "application/json",
        b'{"id":"%s"}' % one.encode() if body is None else body,
    )


def add(outbox: Outbox, *ids: str, endpoint: str = "ops", event: str = "sandbox.created") -> None:
    outbox.add([(message(one, event), [Target(endpoint, ordered=False)]) for one in ids])


def settle(outbox: Outbox, outcome: Outcome, *endpoints: str, at: float = NOW) -> None:
    """What is waiting gets this outcome."""
    leases = outbox.lease(endpoints or ("ops",), 1000, 30.0, "host:1:ab")
    assert outbox.settle([Settled(lease, outcome, at) for lease in leases]) == 0


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.fixture
def several(outbox: Outbox, clock: Turned) -> Outbox:
    """Some that are dead, delivered, waiting for a retry, and waiting for another endpoint."""
    add(outbox, "dead-1", "dead-2")
    settle(outbox, Dead("status 404"))
    clock.now += 60
    add(outbox, "done", event="sandbox.deleted")
    settle(outbox, Delivered(204))
    clock.now += 60
    add(outbox, "later")
    settle(outbox, RetryAt(NOW + 9e9, 0.0, "status 503", WebhookRetry(total=3)))
    add(outbox, "now", event="template.built", endpoint="billing")
    return outbox


class TestList:
    def test_table(self, several: Outbox, run: Run) -> None:
        result = run("list")
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        (dead,) = [line for line in lines if "dead-1" in line]
        for part in ("2023-11-14 22:13:20Z", "ops", "sandbox.created", "dead", "status 404", "ago"):
            assert part in dead
        (later,) = [line for line in lines if "later" in line]
        assert "due in" in later
        (now,) = [line for line in lines if "template.built" in line]
        assert "due now" in now

    def test_json(self, several: Outbox, run: Run) -> None:
        found = parsed(run("list", "--json"))
        assert [one["event_id"] for one in found] == ["now", "later", "done", "dead-2", "dead-1"]
        assert found[-1] == {
            "delivery": 1,
            "event_id": "dead-1",
            "event": "sandbox.created",
            "endpoint": "ops",
            "status": "dead",
            "attempts": 1,
            "reason": "status 404",
            "stored": "2023-11-14T22:13:20.000+00:00",
            "due": None,
            "leased_until": None,
            "settled": "2023-11-14T22:13:20.000+00:00",
            "worker": found[-1]["worker"],
        }

    @pytest.mark.parametrize(
        ("filters", "ids"),
        [
            (["--endpoint", "billing"], ["now"]),
            (["--status", "dead"], ["dead-2", "dead-1"]),
            (["--status", "dead", "--status", "delivered"], ["done", "dead-2", "dead-1"]),
            (["--event", "sandbox.deleted"], ["done"]),
            (["--event", "template.*"], ["now"]),
            (["--event-id", "later"], ["later"]),
            (["--since", "2023-11-14T22:14:20Z"], ["now", "later", "done"]),
            (["--until", "2023-11-14T22:14:20"], ["dead-2", "dead-1"]),
            (["--until", "2h", "--limit", "1"], ["now"]),
        ],
        ids=" ".join,
    )
    def test_filters(self, several: Outbox, run: Run, filters: list[str], ids: list[str]) -> None:
        assert [one["event_id"] for one in parsed(run("list", "--json", *filters))] == ids

    def test_says_that_there_are_more(self, several: Outbox, run: Run) -> None:
        assert "The last 2; there are more (--limit)." in run("list", "--limit", "2").stdout
        assert "more" not in run("list", "--limit", "5").stdout

    def test_nothing(self, run: Run) -> None:
        result = run("list")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "nothing matched\n"
        result = run("list", "--json")
        assert (result.exit_code, parsed(result)) == (1, [])

    def test_a_lease(self, outbox: Outbox, run: Run) -> None:
        add(outbox, "one")
        outbox.lease(["ops"], 1, 30.0, "host:1:ab")
        (found,) = parsed(run("list", "--json"))
        assert (found["status"], found["worker"]) == ("leased", "host:1:ab")
        assert found["leased_until"] == "2023-11-14T22:13:50.000+00:00"
        assert "lease is over" in run("list").stdout

    def test_markup_in_names_is_text(self, outbox: Outbox, run: Run) -> None:
        add(outbox, "[bold]x[/]", endpoint="[red]:smile:")
        output = run("list").stdout
        assert "[bold]x[/]" in output
        assert "[red]:smile:" in output


class TestShow:
    def test_by_number(self, several: Outbox, run: Run) -> None:
        output = run("show", "1").stdout
        for part in ("dead-1", "sandbox.created", "status 404", '{"id":"dead-1"}', "15 bytes"):
            assert part in output

    def test_by_event_id(self, outbox: Outbox, run: Run) -> None:
        outbox.add([(message("e1"), [Target("ops"), Target("billing")])])
        found = parsed(run("show", "e1", "--json"))
        assert [one["endpoint"] for one in found] == ["ops", "billing"]
        assert {one["body"] for one in found} == {'{"id":"e1"}'}

    def test_attempts(self, outbox: Outbox, run: Run) -> None:
        add(outbox, "one")
        settle(outbox, RetryAt(NOW, 0.0, "status 503", WebhookRetry(total=3)))
        settle(outbox, Dead("status 404"), at=NOW + 1)
        (found,) = parsed(run("show", "1", "--json"))
        assert found["history"] == [
            {
                "attempt": 1,
                "at": "2023-11-14T22:13:20.000+00:00",
                "outcome": "retry",
                "why": "status 503",
            },
            {
                "attempt": 2,
                "at": "2023-11-14T22:13:21.000+00:00",
                "outcome": "dead",
                "why": "status 404",
            },
        ]

    def test_a_long_body_is_not_broken(self, outbox: Outbox, run: Run) -> None:
        body = json.dumps({"id": "x", "text": "word " * 100}).encode()
        outbox.add([(message("one", body=body), [Target("ops")])])
        assert body.decode() in run("show", "1").stdout

    def test_a_body_that_is_no_text(self, outbox: Outbox, run: Run) -> None:
        outbox.add([(message("one", body=b"\xff\x1b[2J"), [Target("ops")])])
        (found,) = parsed(run("show", "1", "--json"))
        assert found["body_base64"] == "/xtbMko="
        assert "\x1b" not in run("show", "1").stdout

    @pytest.mark.parametrize("which", ["99", "no-such-event", "9" * 30])
    def test_not_found(self, several: Outbox, run: Run, which: str) -> None:
        assert run("show", which).exit_code == 1


class TestReplay:
    def test_arrives_with_the_same_id_and_bytes_and_a_new_signature(
        self, url: str, receiver: Receiver, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Outbox(url)  # with the clock of the worker
        body = b'{"id": "e1",  "spaced":  true}'
        real.add([(message("e1", body=body), [Target("hook")])])
        real.close()
        receiver.script(404)
        settings = Settings(flush_timeout=2.0)
        endpoints = config.load_endpoints([receiver.endpoint()], settings)

        def work() -> None:
            worker = Worker(url, endpoints, settings)
            assert worker.drain()
            worker.stop()

        work()
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 10)
        assert parsed(run("replay", "--event-id", "e1", "--json")) == {"replayed": 1}
        work()
        first, second = receiver.received()
        assert first.body == second.body == body
        by_name = {name: (first.headers[name], second.headers[name]) for name in first.headers}
        changed = {name for name, (one, other) in by_name.items() if one != other}
        assert changed == {"x-cube-webhook-timestamp", "x-cube-webhook-signature"}
        (found,) = parsed(run("show", "e1", "--json"))
        assert found["status"] == "delivered"
        assert [one["outcome"] for one in found["history"]] == ["dead", "delivered"]

    def test_the_dead_unless_told(self, several: Outbox, run: Run) -> None:
        result = run("replay")
        assert (result.exit_code, result.stdout) == (0, "replayed 2\n")
        assert parsed(run("stats", "--json"))["ops"]["dead"] == 0
        assert run("replay").exit_code == 1

    def test_delivered(self, several: Outbox, run: Run) -> None:
        assert run("replay", "--status", "delivered").stdout == "replayed 1\n"

    @pytest.mark.parametrize(
        ("filters", "count"),
        [
            (["--event", "sandbox.deleted"], 0),
            (["--event-id", "dead-2"], 1),
            (["--until", "2h"], 2),
        ],
        ids=str,
    )
    def test_filters(self, several: Outbox, run: Run, filters: list[str], count: int) -> None:
        assert parsed(run("replay", "--json", *filters)) == {"replayed": count}

    def test_many_have_to_be_confirmed(self, outbox: Outbox, run: Run) -> None:
        add(outbox, *(f"id-{number}" for number in range(MANY + 1)))
        settle(outbox, Dead("status 404"))
        for given in ("n\n", ""):
            result = run("replay", input=given)
            assert result.exit_code == 1
            assert f"more than {MANY}" in result.stderr
        assert parsed(run("stats", "--json"))["ops"]["dead"] == MANY + 1
        result = run("replay", input="y\n")
        assert result.stdout == f"replayed {MANY + 1}\n"

    def test_yes(self, outbox: Outbox, run: Run) -> None:
        add(outbox, *(f"id-{number}" for number in range(MANY + 1)))
        settle(outbox, Dead("status 404"))
        assert parsed(run("replay", "--yes", "--json")) == {"replayed": MANY + 1}

    def test_what_is_not_settled_cannot_be(self, run: Run) -> None:
        assert run("replay", "--status", "waiting").exit_code == 2

    def test_progress_on_a_terminal(self, outbox: Outbox, url: str) -> None:
        add(outbox, "one", "two")
        settle(outbox, Dead("status 404"))
        done, shown = on_terminal("replay", "--outbox", url)
        assert "replaying" in shown
        assert "2/2" in shown
        assert done == "replayed 2\n"


def on_terminal(*arguments: str) -> tuple[str, str]:
    """The standard output of a command, and what its terminal on stderr shows."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cubehook", "deliveries", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(controller, 4096)
        except OSError:  # how Linux tells that the other side is closed
            break
        if not part:
            break
        shown += part
    done, _ = process.communicate(timeout=10)
    os.close(controller)
    return done, shown.decode()


class TestPrune:
    def test_delivered_unless_told(self, several: Outbox, run: Run) -> None:
        assert run("prune", "--until", "1h").stdout == "pruned 1\n"
        assert parsed(run("stats", "--json"))["ops"] == {
            "waiting": 1,
            "held": 0,
            "leased": 0,
            "delivered": 0,
            "dead": 2,
        }

    def test_the_dead(self, several: Outbox, run: Run) -> None:
        result = run("prune", "--until", "1h", "--status", "dead", "--json")
        assert parsed(result) == {"pruned": 2}
        assert parsed(run("stats", "--json"))["ops"]["delivered"] == 1

    def test_what_is_younger_stays(self, several: Outbox, run: Run) -> None:
        result = run("prune", "--until", "2023-11-14T22:14:00Z")
        assert result.exit_code == 1
        assert result.stderr == "nothing matched\n"

    def test_the_moment_has_to_be_told(self, run: Run) -> None:
        assert run("prune").exit_code == 2

    def test_many_have_to_be_confirmed(self, outbox: Outbox, run: Run) -> None:
        add(outbox, *(f"id-{number}" for number in range(MANY + 1)))
        settle(outbox, Delivered(204))
        result = run("prune", "--until", "2023-11-15", input="n\n")
        assert result.exit_code == 1
        question = "Delete those of 101 delivered that were settled before 2023-11-15 00:00:00Z?"
        assert question in result.stderr
        assert run("prune", "--until", "2023-11-15", "--yes").stdout == "pruned 101\n"


class TestStats:
    def test_table(self, several: Outbox, run: Run) -> None:
        lines = [line.split() for line in run("stats").stdout.splitlines()]
        assert ["endpoint", "waiting", "held", "leased", "delivered", "dead"] in lines
        assert ["billing", "1", "0", "0", "0", "0"] in lines
        assert ["ops", "1", "0", "0", "1", "2"] in lines
        assert ["all", "2", "0", "0", "1", "2"] in lines

    def test_json(self, several: Outbox, run: Run) -> None:
        found = parsed(run("stats", "--json", "--endpoint", "billing"))
        assert found == {
            "billing": {"waiting": 1, "held": 0, "leased": 0, "delivered": 0, "dead": 0}
        }

    def test_nothing(self, run: Run) -> None:
        assert run("stats").exit_code == 1
        assert run("stats", "--endpoint", "no").exit_code == 1


class TestWhich:
    """Which outbox, and what is said of one that cannot be used."""

    def invoke(self, *arguments: str) -> Result:
        result = CliRunner().invoke(cli, ["deliveries", *arguments])
        assert PLANTED not in result.output
        return result

    def test_of_a_configuration(self, tmp_path: Path, url: str, several: Outbox) -> None:
        handler = {
            "class": "cubehook.WebhookHandler",
            "outbox": url,
            "endpoints": [{"name": "ops", "url": f"https://x.example/{PLANTED}", "secret": SECRET}],
        }
        path = tmp_path / "logging.json"
        path.write_text(json.dumps({"handlers": {"webhooks": handler}}))
        result = self.invoke("stats", "--config", str(path), "--json")
        assert parsed(result)["ops"]["dead"] == 2
        shown = self.invoke("show", "1", "--config", str(path)).output
        assert SECRET not in shown
        assert "x.example" not in shown

    def test_of_the_environment(
        self, url: str, several: Outbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OUTBOX_URL", url)
        assert self.invoke("stats", "--outbox", "env:OUTBOX_URL").exit_code == 0

    @pytest.mark.parametrize("command", ["list", "stats", "replay"])
    def test_neither_or_both(self, command: str) -> None:
        for arguments in ([], ["--outbox", "x", "--config", "y"]):
            result = self.invoke(command, *arguments)
            assert result.exit_code == 2
            assert "give either --outbox or --config" in result.output

    def test_a_file_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        result = self.invoke("list", "--outbox", f"sqlite:///{tmp_path}/no.db")
        assert result.exit_code == 3
        assert result.output == "cubehook: outbox: the SQLite file does not exist\n"
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_is_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.db"
        path.write_text("these are my notes")
        result = self.invoke("list", "--outbox", f"sqlite:///{path}")
        assert result.exit_code == 2
        assert "the file is no SQLite database; it was left as it is" in result.output
        assert path.read_text() == "these are my notes"

    def test_a_server_that_is_not_there(self) -> None:
        pytest.importorskip("psycopg")
        result = self.invoke("list", "--outbox", f"postgresql://u:{PLANTED}@127.0.0.1:1/d")
        assert result.exit_code == 3
        assert result.output == "cubehook: outbox: the database cannot be reached\n"

    @pytest.mark.parametrize(
        "outbox", [f"nope://u:{PLANTED}@h", PLANTED, "env:NOT_SET_AT_ALL", "file:/not/there"]
    )
    def test_no_url(self, outbox: str) -> None:
        result = self.invoke("list", "--outbox", outbox)
        assert result.exit_code == 2
        assert result.output.startswith("cubehook: outbox: ")
        assert result.output.count("\n") == 1

    def test_without_sqlalchemy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sqlalchemy", None)
        result = self.invoke("list", "--outbox", "sqlite:////x")
        assert result.exit_code == 2
        assert "pip install 'cubehook[outbox]'" in result.output

    @pytest.mark.parametrize("since", ["yesterday", "-1", "2023-99-01", "99999999999999999d"])
    def test_no_time(self, since: str) -> None:
        result = self.invoke("list", "--outbox", "x", "--since", since)
        assert result.exit_code == 2


class TestMoments:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("7d", 604_800), ("1W", 604_800)],
    )
    def test_ages(self, text: str, seconds: float) -> None:
        assert moments.seconds_of(text) == seconds

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2h", NOW - 7200),
            ("2h ago", NOW - 7200),
            ("2023-11-14T22:13:20Z", NOW),
            ("2023-11-14T23:13:20+01:00", NOW),
            ("2023-11-14 22:13:20", NOW),
            ("2023-11-14", NOW - 80_000),
        ],
    )
    def test_moments(self, text: str, moment: float) -> None:
        assert moments.moment_of(text, NOW) == moment

    def test_spans(self) -> None:
        assert [moments.span(s) for s in (5, 600, 90_000, 1e6)] == ["5 s", "10 min", "25 h", "12 d"]
