"""``cubehook consume``, run as an operator runs it: on a real Redis, with signals and kill -9."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import streams
import yaml
from click.testing import CliRunner, Result
from loopback import PATIENCE, SECRET, Receiver
from streams import Stream

pytest.importorskip("redis")

from cubehook.cli.commands import cli

ROOT = Path(__file__).parent.parent
PLANTED = "planted-password"
Processes = Callable[..., "Process"]
Eventually = Callable[..., None]


class Process:
    """A consumer in a process of its own."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "cubehook", "consume", *arguments],
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

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def end(self) -> tuple[int, str]:
        """The exit status and all output that is left."""
        output, log = self.popen.communicate(timeout=PATIENCE)
        return self.popen.returncode, output + log


@pytest.fixture
def stream() -> Iterator[Stream]:
    with streams.opened() as opened:
        opened.make_group()
        yield opened


@pytest.fixture
def config(tmp_path: Path, receiver: Receiver) -> Callable[..., str]:
    """Writes a logging.yaml with one handler, and returns its path."""

    def write(*endpoints: dict[str, Any], **options: Any) -> str:
        handler = {
            "class": "cubehook.WebhookHandler",
            "endpoints": list(endpoints) or [receiver.endpoint()],
            "flush_timeout": 0.3,
            **options,
        }
        path = tmp_path / "logging.yaml"
        path.write_text(yaml.safe_dump({"version": 1, "handlers": {"webhooks": handler}}))
        return str(path)

    return write


@pytest.fixture
def start(stream: Stream, config: Callable[..., str]) -> Iterator[Processes]:
    """Starts consumers of ``stream``."""
    made: list[Process] = []
    path = config()

    def make(*arguments: str) -> Process:
        common = ("env:REDIS", "--config", path, "--stream", stream.name, "--min-idle", "1.5s")
        made.append(Process(*common, *arguments, REDIS=stream.url))
        return made[-1]

    yield make
    for one in made:
        one.popen.kill()
        one.popen.communicate()


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["consume", *arguments])


def once(stream: Stream, path: str, *arguments: str) -> Result:
    return invoke(
        stream.url, "--config", path, "--stream", stream.name, "--min-idle", "1s", "--once",
        *arguments,
    )  # fmt: skip


def sandboxes(receiver: Receiver) -> list[str]:
    return [one.json["sandbox_id"] for one in receiver.received()]


class TestKilled:
    def test_between_send_and_acknowledgement_another_one_takes_over(
        self, start: Processes, stream: Stream, receiver: Receiver, eventually: Eventually
    ) -> None:
        added = [stream.add("create", "sb-1", {"template_id": "tpl"}), stream.add("delete", "sb-1")]
        receiver.hold()
        first = start("--consumer", "first")
        receiver.wait_for(1)
        second = start("--consumer", "second")
        second.line("stands by")
        assert stream.pending() == {"first": added}
        first.kill()
        receiver.release()
        received = receiver.wait_for(3)
        eventually(lambda: not stream.pending())
        assert received[0].body == received[1].body
        assert [one.json["event"] for one in received[1:]] == ["sandbox.created", "sandbox.deleted"]
        assert len({one.headers["x-cube-webhook-delivery"] for one in received[:2]}) == 1
        assert stream.consumers() == {"second"}

    def test_and_started_again_with_the_same_name(
        self, start: Processes, stream: Stream, receiver: Receiver, eventually: Eventually
    ) -> None:
        for number in range(4):
            stream.add("create", f"sb-{number}")
        receiver.hold()
        first = start()
        receiver.wait_for(1)
        first.kill()
        stream.add("create", "sb-4")
        receiver.release()
        again = start()
        received = receiver.wait_for(6)
        assert received[0].body in [one.body for one in received[1:]]
        assert sorted(sandboxes(receiver)[1:]) == [f"sb-{number}" for number in range(5)]
        eventually(lambda: not stream.pending())
        again.send(signal.SIGTERM)
        assert again.end()[0] == 0
        assert stream.consumers() == set()


class TestSignals:
    def test_sigterm(self, start: Processes, stream: Stream, receiver: Receiver) -> None:
        stream.add("create")
        one = start()
        receiver.wait_for(1)
        one.send(signal.SIGTERM)
        status, output = one.end()
        assert status == 0, output
        assert len(receiver.received()) == 1

    def test_while_a_receiver_hangs(
        self, start: Processes, stream: Stream, receiver: Receiver
    ) -> None:
        added = stream.add("create")
        receiver.hold()
        one = start("--consumer", "one")
        receiver.wait_for(1)
        one.send(signal.SIGINT)
        status, output = one.end()
        assert status == 0, output
        assert "stopped: 0 events" in output
        assert stream.pending() == {"one": [added]}


class TestOnce:
    def test_delivers_what_is_there(
        self, stream: Stream, config: Callable[..., str], receiver: Receiver
    ) -> None:
        stream.add("create", "sb-1")
        stream.add("rename", "sb-1")
        stream.add("create", "sb-2")
        result = once(stream, config())
        assert result.exit_code == 0, result.output
        assert sandboxes(receiver) == ["sb-1", "sb-2"]
        assert "stopped: 2 events, 1 skipped, 0 gone" in result.output

    def test_a_retry_keeps_the_order_of_a_sandbox(
        self, stream: Stream, config: Callable[..., str], receiver: Receiver
    ) -> None:
        for op in ("create", "update", "delete"):
            stream.add(op)
        receiver.script(503, 503)
        assert once(stream, config()).exit_code == 0
        events = [one.json["event"] for one in receiver.received()]
        assert events == [*["sandbox.created"] * 3, "sandbox.timeout.updated", "sandbox.deleted"]

    def test_stored_is_safe(
        self, stream: Stream, config: Callable[..., str], tmp_path: Path, receiver: Receiver
    ) -> None:
        pytest.importorskip("sqlalchemy")
        from cubehook.outbox import Outbox

        stream.add("create")
        url = f"sqlite:///{tmp_path / 'outbox.db'}"
        result = once(stream, config(outbox=url, deliver=False))
        assert result.exit_code == 0, result.output
        assert (stream.pending(), receiver.received()) == ({}, [])
        outbox = Outbox(url)
        assert {key.value: n for key, n in outbox.counts()["hook"].items()}["waiting"] == 1
        outbox.close()

    @pytest.mark.parametrize("stored", [True, False])
    def test_the_outbox_is_away(
        self,
        stream: Stream,
        config: Callable[..., str],
        tmp_path: Path,
        receiver: Receiver,
        monkeypatch: pytest.MonkeyPatch,
        stored: bool,
    ) -> None:
        """Nothing is acknowledged, also where the endpoints are stored in it."""
        pytest.importorskip("sqlalchemy")
        from cubehook.outbox import Outbox, OutboxUnavailableError

        def away(*_: object) -> None:
            raise OutboxUnavailableError("the database cannot be reached")

        monkeypatch.setattr("cubehook.sources._feed.STORE_SECONDS", 0.05)
        monkeypatch.setattr(Outbox, "_run", away)
        added = stream.add("create")
        endpoints: Any = "outbox" if stored else [receiver.endpoint()]
        path = config(outbox=f"sqlite:///{tmp_path / 'outbox.db'}", endpoints=endpoints)
        result = once(stream, path, "--consumer", "one")
        assert result.exit_code == 3, result.output
        assert ("endpoints could not be read" in result.output) == stored
        assert stream.pending() == {"one": [added]}

    def test_another_one_is_at_work(
        self, start: Processes, stream: Stream, config: Callable[..., str]
    ) -> None:
        start("--consumer", "first").line("at work as consumer 'first'")
        result = once(stream, config(), "--consumer", "second")
        assert result.exit_code == 1, result.output
        assert "cubehook: another consumer of the group is at work" in result.output

    def test_redis_is_not_there(self, config: Callable[..., str], dead_url: str) -> None:
        address = dead_url.partition("//")[2].partition("/")[0]
        url = f"redis://user:{PLANTED}@{address}/0"
        result = invoke(url, "--config", config(), "--once")
        assert result.exit_code == 3, result.output
        assert "cubehook: Redis cannot be reached (ConnectionRefusedError)" in result.output
        assert PLANTED not in result.output
        assert address not in result.output

    def test_no_stream(self, stream: Stream, config: Callable[..., str]) -> None:
        stream.redis.delete(stream.name)
        stream.redis.set(stream.name, "text")
        result = once(stream, config())
        assert result.exit_code == 2
        assert "cubehook: the key is not a stream" in result.output


class TestSource:
    def test_in_a_file(
        self, stream: Stream, config: Callable[..., str], tmp_path: Path, receiver: Receiver
    ) -> None:
        (tmp_path / "url").write_text(stream.url + "\n")
        stream.add("create")
        arguments = ("--config", config(), "--stream", stream.name, "--once")
        result = invoke(f"file:{tmp_path / 'url'}", *arguments)
        assert result.exit_code == 0, result.output
        assert len(receiver.received()) == 1

    def test_no_secret_in_the_log(
        self, stream: Stream, config: Callable[..., str], receiver: Receiver
    ) -> None:
        for _ in range(3):
            stream.add("create", PLANTED, {"template_id": PLANTED})
        receiver.script(404, 503)
        result = once(stream, config())
        assert result.exit_code == 0
        for secret in (PLANTED, SECRET, "127.0.0.1", stream.url):
            assert secret not in result.output


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--group", "cube-proxy-sidecar"], "is the group of CubeSandbox's own lifecycle"),
            (["--group", ""], "must be a name"),
            (["--stream", "a\nb"], "must be a name"),
            (["--consumer", ""], "must be a name"),
            (["--min-idle", "0.5s"], "must be at least 1s"),
            (["--min-idle", "soon"], "must be a number"),
            (["--from", "middle"], "'start', 'end'"),
        ],
    )
    def test_options(self, config: Callable[..., str], arguments: list[str], said: str) -> None:
        result = invoke("redis://h/0", "--config", config(), *arguments)
        assert result.exit_code == 2
        assert said in " ".join(result.output.split())

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            (f"http://{PLANTED}/0", "the URL must begin with redis://, rediss:// or unix://"),
            (f"redis://h/0?{PLANTED}=1", "the URL is no URL of a Redis server"),
            ("env:CUBEHOOK_NOT_SET", "REDIS: names an environment variable that is not set"),
            ("file:/nowhere", "REDIS: names a file that cannot be read"),
        ],
    )
    def test_sources(self, config: Callable[..., str], source: str, said: str) -> None:
        result = invoke(source, "--config", config())
        assert result.exit_code == 2
        assert said in result.output
        assert PLANTED not in result.output

    def test_no_endpoint(self, config: Callable[..., str], receiver: Receiver) -> None:
        result = invoke("redis://h/0", "--config", config(receiver.endpoint(enabled=False)))
        assert result.exit_code == 2
        assert "there is no endpoint to deliver to" in result.output

    def test_without_the_library(
        self, config: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [one for one in sys.modules if one.startswith("cubehook.sources.redis")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delitem(sys.modules, "cubehook.sources._redis", raising=False)
        monkeypatch.delitem(sys.modules, "cubehook.sources._turn", raising=False)
        monkeypatch.setitem(sys.modules, "redis", None)
        result = invoke("redis://h/0", "--config", config())
        assert result.exit_code == 2
        assert "this needs: pip install 'cubehook[redis]'" in result.output
