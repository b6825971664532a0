"""``cubehook listen``: real handlers send to it, real sockets, and what it shows of that."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from loopback import PATIENCE

from cubehook import WebhookHandler
from cubehook.cli.captured import Captured
from cubehook.cli.catcher import RESET, TIMEOUT, Catcher, Caught, Failing, Rules
from cubehook.cli.commands import cli

ROOT = Path(__file__).parent.parent
SECRET = "planted-secret-of-listen"


class Listening:
    """The command in a process of its own."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "cubehook", "listen", "--port", "0", *arguments],
            env=os.environ | {"PYTHONPATH": paths, "LISTEN_SECRET": SECRET} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        said = self.popen.stderr if "--json" in arguments else self.popen.stdout
        assert said is not None
        snippet = []
        for line in said:
            if line.startswith(("endpoints:", "  ")):
                snippet.append(line)
            elif snippet:
                break
        (self.endpoint,) = yaml.safe_load("".join(snippet))["endpoints"]

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """The exit status, and what is left of the output."""
        if number is not None:
            self.popen.send_signal(number)
        output, log = self.popen.communicate(timeout=PATIENCE)
        assert "Traceback" not in log
        assert SECRET not in output + log
        assert "v1=" not in output + log
        return self.popen.returncode, output


@pytest.fixture
def listening() -> Iterator[Callable[..., Listening]]:
    made: list[Listening] = []

    def make(*arguments: str, **variables: str) -> Listening:
        made.append(Listening(*arguments, **variables))
        return made[-1]

    yield make
    for one in made:
        one.popen.kill()
        one.popen.communicate()


Make = Callable[..., WebhookHandler]


def log(logger: logging.Logger, **fields: Any) -> None:
    logger.info("", extra={"event": "sandbox.created", "sandbox_id": "sb-1", **fields})


def test_a_handler_made_of_the_snippet(
    listening: Callable[..., Listening],
    handler: Make,
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LISTEN_SECRET", SECRET)
    there = listening("--secret", "env:LISTEN_SECRET", "--fail", "500:2", "--count", "3")
    made = handler([{**there.endpoint, "backoff_initial": 0.01}])
    log(logger, event_id="one", note="\x9b31m")
    assert made.flush(PATIENCE)
    assert made.stats().retried == 2
    status, output = there.end()
    assert status == 0
    assert output.count("sandbox.created  one  signature ok") == 3
    assert "duplicate (2 before)  → 204" in output
    assert output.count("→ 500") == 2
    assert "\x9b" not in output
    assert '"sandbox_id": "sb-1"' in output
    assert "x-cube-webhook-signature" not in output
    assert output.split()[-4:] == ["3", "1", "2", "0"]


def test_json_and_a_wrong_secret(
    listening: Callable[..., Listening], handler: Make, logger: logging.Logger
) -> None:
    there = listening("--secret", "env:LISTEN_SECRET", "--json", "--count", "2")
    wrong = {**there.endpoint, "name": "wrong", "secret": "another"}
    right = {**there.endpoint, "secret": SECRET}
    made = handler([wrong])
    log(logger, event_id="one")
    assert made.flush(PATIENCE)
    assert made.stats().dead == 1
    made.update_endpoints([right])
    log(logger, event_id="two", sandbox_id="sb-2")
    assert made.flush(PATIENCE)
    status, output = there.end()
    first, second, summary = map(json.loads, output.splitlines())
    assert status == 1
    assert (first["genuine"], first["answer"]) == (False, 401)
    assert first["reason"] == "signature does not match"
    assert (second["type"], second["event_id"], second["genuine"]) == ("request", "two", True)
    assert second["body"]["sandbox_id"] == "sb-2"
    assert second["headers"]["content-type"] == "application/json"
    assert not any("signature" in name for name in second["headers"])
    assert summary == {"type": "summary", "received": 2, "unique": 1, "duplicates": 0, "wrong": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_summary(
    listening: Callable[..., Listening], number: signal.Signals
) -> None:
    there = listening()
    status, output = there.end(number)
    assert status == 0
    assert "bad signatures" in output


def test_who_reads_may_go_away(listening: Callable[..., Listening]) -> None:
    there = listening()
    assert there.popen.stdout is not None
    assert "Ctrl-C" in there.popen.stdout.readline()  # all that is said before a request
    there.popen.stdout.close()
    url = there.endpoint["url"]
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=PATIENCE)
    connection.request("POST", "/", b"{}")
    assert connection.getresponse().status == 204
    connection.close()
    assert there.popen.wait(PATIENCE) == 1
    assert there.popen.stderr is not None
    assert "Traceback" not in there.popen.stderr.read()


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["--fail", "500"],
            ["--fail", "100:1"],
            ["--fail", "999999:1"],
            ["--fail", "fire:1"],
            ["--fail", "reset:-1"],
            ["--scheme", "cube"],
            ["--secret", "planted"],
            ["--secret", "env:NOT_SET"],
            ["--host", "no.such.host.invalid"],
            ["--status", "100"],
        ],
        ids=" ".join,
    )
    def test_what_cannot_be(self, arguments: list[str]) -> None:
        result = CliRunner().invoke(cli, ["listen", "--port", "0", *arguments])
        assert result.exit_code == 2, result.output
        assert "planted" not in result.output
        assert isinstance(result.exception, SystemExit)

    def test_a_port_that_is_taken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            result = CliRunner().invoke(cli, ["listen", "--port", port])
        assert result.exit_code == 2
        assert result.stderr.startswith("cubehook: cannot listen there (")


class TestCatcher:
    """The server alone, in this process."""

    @pytest.fixture
    def caught(self) -> list[Caught]:
        return []

    @pytest.fixture
    def catch(self, caught: list[Caught]) -> Iterator[Callable[..., Catcher]]:
        made: list[Catcher] = []

        def make(**rules: Any) -> Catcher:
            made.append(Catcher("127.0.0.1", 0, Rules(**rules), caught.append))
            made[-1].start()
            return made[-1]

        yield make
        for one in made:
            one.stop()  # once more is no harm

    def post(
        self, catcher: Catcher, body: bytes = b"{}", **headers: str
    ) -> tuple[int, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", catcher.port, timeout=PATIENCE)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", "/planted-path", body, named)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders())

    def test_failures_come_one_after_the_other_for_each_id(
        self, catch: Callable[..., Catcher], caught: list[Caught]
    ) -> None:
        catcher = catch(
            failing=(Failing(503, 1), Failing(RESET, 1), Failing(429, 1)), retry_after=5
        )
        for each in (b"a", b"b"):
            body = b'{"id": "%s"}' % each
            status, headers = self.post(catcher, body)
            assert (status, headers["Retry-After"]) == (503, "5")
            with pytest.raises(ConnectionResetError):
                self.post(catcher, body)
            assert self.post(catcher, body)[0] == 429
            status, headers = self.post(catcher, body)
            assert (status, "Retry-After" in headers) == (204, False)
        assert [one.times for one in caught] == [0, 1, 2, 3] * 2

    def test_no_answer(
        self, catch: Callable[..., Catcher], caught: list[Caught], eventually: Any
    ) -> None:
        catcher = catch(failing=(Failing(TIMEOUT, 1),))
        with socket.create_connection(("127.0.0.1", catcher.port), 0.2) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
            with pytest.raises(TimeoutError):
                sock.recv(1)
        eventually(lambda: [one.answer for one in caught] == [TIMEOUT])

    def test_requests_at_the_same_time(
        self, catch: Callable[..., Catcher], caught: list[Caught], eventually: Any
    ) -> None:
        catcher = catch(failing=(Failing(TIMEOUT, 1),))
        hanging = [threading.Thread(target=self._hang, args=(catcher, n)) for n in range(8)]
        for one in hanging:
            one.start()
        eventually(lambda: len(caught) == 8)
        assert self.post(catcher, b'{"id": "0"}')[0] == 204
        catcher.stop()
        for one in hanging:
            one.join(PATIENCE)

    def _hang(self, catcher: Catcher, number: int) -> None:
        with pytest.raises(http.client.RemoteDisconnected):
            self.post(catcher, b'{"id": "%d"}' % number)

    @pytest.mark.parametrize(
        ("head", "status"),
        [
            (b"POST / HTTP/1.1\r\n\r\n", 411),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
            (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
            (b"GET / HTTP/1.1\r\n\r\n", 405),
            (b"PUT / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 405),
        ],
    )
    def test_what_it_does_not_take(
        self, catch: Callable[..., Catcher], caught: list[Caught], head: bytes, status: int
    ) -> None:
        catcher = catch()
        with socket.create_connection(("127.0.0.1", catcher.port), PATIENCE) as sock:
            sock.sendall(head)
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert caught == []

    def test_a_status_of_its_own(self, catch: Callable[..., Catcher]) -> None:
        assert self.post(catch(status=202))[0] == 202

    def test_forged_ids_do_not_count(
        self, catch: Callable[..., Catcher], caught: list[Caught]
    ) -> None:
        catcher = catch(secrets=(SECRET,), failing=(Failing(500, 1),))
        for _ in range(2):
            assert self.post(catcher, b'{"id": "a"}', webhook_id="a")[0] == 401
        assert [one.times for one in caught] == [0, 0]

    @pytest.mark.parametrize(
        ("body", "id_", "event", "events"),
        [
            (b'{"id": "a", "event": "b"}', "a", "b", None),
            (b'{"id": "a", "events": [{}, {}]}', "a", None, 2),
            (b'{"type": "b", "data": {}}', None, "b", None),
            (b'{"id": "a", "event": "b", "events": [1, 2]}', "a", "b", None),  # a field
            (b'{"type": "cubehook.batch", "data": {"events": [{}]}}', None, "cubehook.batch", 1),
            (b"[{}]", None, None, 1),
            (b"\xff", None, None, None),
            (b"[" * 100_000, None, None, None),
            (b'{"id": 7}', None, None, None),
            (b"", None, None, None),
        ],
    )
    def test_bodies_of_all_kinds(
        self,
        catch: Callable[..., Catcher],
        caught: list[Caught],
        body: bytes,
        id_: str | None,
        event: str | None,
        events: int | None,
    ) -> None:
        assert self.post(catch(), body)[0] == 204
        request = caught[0].request
        assert (request.id, request.event) == (id_, event)
        assert (None if request.events is None else len(request.events)) == events
        assert caught[0].verdict.genuine is None


class TestBodiesThatAreNoJSONAgain:
    """They parse, in Python, and yet there is no JSON to write of them."""

    @pytest.mark.parametrize(
        "body",
        [
            b'{"a": NaN}',
            b'{"a": -Infinity}',
            b'{"a": 1e999}',
            b"[" * 990 + b"]" * 990,
            b'{"a":' * 500 + b"1" + b"}" * 500,
        ],
        ids=["nan", "infinity", "too-large", "deep-list", "deep-object"],
    )
    def test_are_none(self, body: bytes) -> None:
        assert Captured.of([], body).payload is None

    @pytest.mark.parametrize(("depth", "shown"), [(100, True), (10_000, False)])
    def test_by_depth(self, depth: int, shown: bool) -> None:
        payload = Captured.of([], b"[" * depth + b"]" * depth).payload
        assert (payload is not None) is shown

    def test_in_lines_for_programs(self, listening: Callable[..., Listening]) -> None:
        there = listening("--json", "--count", "2")
        for body in (b'{"a": NaN}', b'{"a": 1e999}'):
            post(there, body)
        _, output = there.end()
        for line in output.splitlines():
            json.loads(line, parse_constant=pytest.fail)
        assert [json.loads(line).get("body") for line in output.splitlines()] == [None] * 3


def post(there: Listening, body: bytes) -> None:
    connection = http.client.HTTPConnection(there.endpoint["url"].split("/")[2], timeout=PATIENCE)
    connection.request("POST", "/", body)
    assert connection.getresponse().status == 204
    connection.close()


def test_an_output_that_cannot_spell_everything(listening: Callable[..., Listening]) -> None:
    there = listening("--count", "1", PYTHONIOENCODING="ascii")
    post(there, '{"a": "\u4e2d"}'.encode())
    status, output = there.end()
    assert status == 0
    assert r'"a": "\u4e2d"' in output


def test_a_batch_of_cloudevents_is_genuine(
    listening: Callable[..., Listening], handler: Make, logger: logging.Logger
) -> None:
    """The body is an array."""
    there = listening("--secret", "env:LISTEN_SECRET", "--json", "--count", "1")
    endpoint = {**there.endpoint, "secret": SECRET, "format": "cloudevents"}
    made = handler([{**endpoint, "batch": {"max_events": 2, "linger": 60}, "ordered": False}])
    log(logger)
    log(logger)
    assert made.flush(PATIENCE)
    status, output = there.end()
    assert status == 0
    first = json.loads(output.splitlines()[0])
    assert (first["genuine"], first["batch"], first["answer"]) == (True, 2, 204)


def test_not_verified_is_said(
    listening: Callable[..., Listening], handler: Make, logger: logging.Logger
) -> None:
    there = listening("--count", "1")
    assert "secret" not in there.endpoint
    made = handler([{**there.endpoint, "batch": {"max_events": 5}, "events": ["*"]}])
    log(logger)
    assert made.flush(PATIENCE)
    status, output = there.end()
    assert status == 0
    assert "not verified: not signed" in output
