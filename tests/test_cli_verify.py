"""``cubehook verify``: requests as they were captured, in every way that people capture them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from cubehook import signing
from cubehook.cli.commands import cli
from cubehook.cli.verify import parsed

SECRET = "planted-secret-of-verify"
BODY = b'{"id":"delivery-1","event":"sandbox.created","field":"planted-field"}'
ID = "550e8400-e29b-41d4-a716-446655440000"
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LONG_AGO = 1_710_000_000

Run = Callable[..., Result]


def signed(
    at: float | None = None, secret: str = SECRET, scheme: str = "cube", body: bytes = BODY
) -> dict[str, str]:
    found = signing.find(scheme)
    timestamp = int(time.time() if at is None else at)
    return found.sign(
        message_id=ID,
        event="sandbox.created",
        timestamp=timestamp,
        body=body,
        keys=[found.key(secret)],
    )


def lines(headers: Mapping[str, str], before: str = "") -> str:
    return "".join(f"{before}{name}: {value}\n" for name, value in headers.items())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command; nothing secret may be in what it prints, the body neither."""
    monkeypatch.setenv("VERIFY_SECRET", SECRET)

    def invoke(
        headers: str | None, *arguments: str, body: bytes = BODY, secret: str = "env:VERIFY_SECRET"
    ) -> Result:
        command = ["verify", "--secret", secret, *arguments]
        if headers is not None:
            (tmp_path / "headers").write_text(headers)
            command += ["--headers", str(tmp_path / "headers")]
        result = CliRunner().invoke(cli, command, input=body)
        assert "planted" not in result.output
        assert "v1=" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke


def test_genuine(run: Run) -> None:
    result = run(lines(signed()))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"ok: event id {ID}, event sandbox.created, signed at 20")
    assert result.stderr == ""


def curl(headers: Mapping[str, str]) -> str:
    return (
        "*   Trying 127.0.0.1:80...\n> POST /hook?planted-token HTTP/1.1\n> Host: planted.example\n"
        + lines(headers, "> ")
        + "> \n} [69 bytes data]\n< HTTP/1.1 204 No Content\n< webhook-id: planted\n"
    )


def raw(headers: Mapping[str, str]) -> str:
    return "POST /hook HTTP/1.1\r\nHost: a\r\n" + lines(headers).replace("\n", "\r\n") + "\r\n"


@pytest.mark.parametrize(
    "written",
    [
        lines,
        curl,
        raw,
        lambda headers: json.dumps(dict(headers)),
        lambda headers: json.dumps({name: [value] for name, value in headers.items()}),
        lambda headers: lines({name.upper(): value for name, value in headers.items()}),
    ],
    ids=["lines", "curl", "raw", "json", "json-lists", "upper-case"],
)
def test_every_way_to_write_headers(run: Run, written: Callable[[Mapping[str, str]], str]) -> None:
    assert run(written(signed())).exit_code == 0


def test_headers_as_options(run: Run) -> None:
    options = [word for name, value in signed().items() for word in ("-H", f"{name}: {value}")]
    assert run(None, *options).exit_code == 0
    assert run(None, "-H", "no header").exit_code == 2


@pytest.mark.parametrize("body", [BODY + b"\n", BODY[:-1] + b" }", b"", b"\xff"])
def test_the_body_counts_byte_for_byte(run: Run, body: bytes) -> None:
    result = run(lines(signed()), body=body)
    assert result.exit_code == 1
    assert "not ok: signature does not match" in result.stdout


def test_another_secret(run: Run) -> None:
    result = run(lines(signed(secret="another")))
    assert (result.exit_code, result.stdout) == (1, "not ok: signature does not match\n")


def test_one_of_several_secrets(run: Run, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("newer\n")
    arguments = ("--secret", f"file:{tmp_path / 'secret'}")
    assert run(lines(signed(secret="newer")), *arguments).exit_code == 0


def test_a_secret_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text(lines(signed()))
    (tmp_path / "body").write_bytes(BODY)
    files = ["--headers", str(tmp_path / "headers"), "--body", str(tmp_path / "body")]
    command = ["verify", "--secret", "prompt", *files]
    result = CliRunner().invoke(cli, command, input=f"{SECRET}\n")
    assert result.exit_code == 0, result.output
    assert SECRET not in result.output


class TestTime:
    def test_an_old_one(self, run: Run) -> None:
        result = run(lines(signed(LONG_AGO)))
        assert result.exit_code == 1
        assert "too old or in the future" in result.stdout

    def test_it_can_be_left_out(self, run: Run) -> None:
        result = run(lines(signed(LONG_AGO)), "--tolerance", "none")
        assert result.exit_code == 0
        assert "signed at 2024-03-09 16:00:00Z" in result.stdout
        assert "freshness was not checked" in result.stderr

    @pytest.mark.parametrize(
        ("now", "status"),
        [
            (str(LONG_AGO + 299), 0),
            (str(LONG_AGO + 301), 1),
            (str(LONG_AGO - 301), 1),
            ("2024-03-09T16:04:00Z", 0),
            ("soon", 2),
        ],
    )
    def test_it_can_be_told(self, run: Run, now: str, status: int) -> None:
        result = run(lines(signed(LONG_AGO)), "--now", now)
        assert result.exit_code == status, result.output
        assert "freshness" not in result.output

    def test_what_was_forged_is_not_made_good_by_a_time(self, run: Run) -> None:
        headers = lines(signed(LONG_AGO, secret="another"))
        assert run(headers, "--now", str(LONG_AGO)).exit_code == 1

    def test_a_wider_tolerance(self, run: Run) -> None:
        assert run(lines(signed(time.time() - 3000)), "--tolerance", "1h").exit_code == 0

    def test_a_scheme_without_one(self, run: Run) -> None:
        # What is not signed proves no freshness, whatever it says.
        headers = lines(signed(scheme="github") | {"X-Cube-Webhook-Timestamp": str(LONG_AGO)})
        result = run(headers, "--scheme", "github")
        assert result.exit_code == 0, result.output
        assert "signed at" not in result.stdout
        assert "the scheme signs no time" in result.stderr
        assert run(headers, "--scheme", "github", "--now", str(LONG_AGO)).exit_code == 1
        found = json.loads(run(headers, "--scheme", "github", "--json").stdout)
        assert (found["fresh"], found["signed_at"]) == (None, None)


def test_scheme_standard(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERIFY_SECRET", WHSEC)
    result = run(lines(signed(secret=WHSEC, scheme="standard")))
    assert result.exit_code == 0, result.output
    assert f"event id {ID}" in result.stdout


class TestJSON:
    def test_genuine(self, run: Run) -> None:
        assert json.loads(
            run(lines(signed(LONG_AGO)), "--json", "--now", str(LONG_AGO)).stdout
        ) == {
            "genuine": True,
            "reason": None,
            "fresh": True,
            "event_id": ID,
            "event": "sandbox.created",
            "signed_at": "2024-03-09T16:00:00.000+00:00",
            "batch": None,
        }

    def test_not_genuine(self, run: Run) -> None:
        result = run(lines(signed(secret="another")), "--json")
        found = json.loads(result.stdout)
        assert result.exit_code == 1
        assert (found["genuine"], found["fresh"]) == (False, None)
        assert found["reason"] == "signature does not match"

    def test_a_batch(self, run: Run) -> None:
        body = b'{"id":"b","events":[{"id":"1"},{"id":"2"}]}'
        result = run(lines(signed(body=body)), "--json", body=body)
        assert json.loads(result.stdout)["batch"] == 2

    def test_a_batch_that_is_an_array(self, run: Run) -> None:
        body = b'[{"id":"1"},{"id":"2"}]'
        result = run(lines(signed(body=body)), "--json", body=body)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["batch"] == 2

    def test_the_time_was_not_looked_at(self, run: Run) -> None:
        result = run(lines(signed(LONG_AGO)), "--json", "--tolerance", "none")
        assert json.loads(result.stdout)["fresh"] is None


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["--headers", "-"],
            ["-H", "a: b", "--tolerance", "soon"],
            ["-H", "a: b", "--scheme", "dingtalk"],
            [],
        ],
        ids=["stdin-twice", "tolerance", "nobody-verifies", "no-headers"],
    )
    def test_options(self, run: Run, arguments: list[str]) -> None:
        assert run(None, *arguments).exit_code == 2

    @pytest.mark.parametrize("secret", ["planted-literal", "env:NOT_SET", "file:/not/there"])
    def test_secrets(self, run: Run, secret: str) -> None:
        result = run(lines(signed()), secret=secret)
        assert result.exit_code == 2
        assert "--secret" in result.stderr

    def test_a_file_that_is_not_there(self, run: Run) -> None:
        result = run(None, "--headers", "/planted/headers")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "cannot be read (FileNotFoundError)" in result.stderr

    def test_without_a_secret(self) -> None:
        assert CliRunner().invoke(cli, ["verify", "-H", "a: b"]).exit_code == 2

    def test_headers_that_are_none(self, run: Run) -> None:
        result = run("planted, and no header\n")
        assert result.exit_code == 2
        assert result.stderr.startswith("cubehook: the headers hold no line")


def test_in_a_pipe(tmp_path: Path) -> None:
    """As it is used: the body on stdin, and the exit status in a script."""
    (tmp_path / "headers").write_text(curl(signed()))
    (tmp_path / "secret").write_text(SECRET)
    options = ["--secret", f"file:{tmp_path / 'secret'}", "--headers", str(tmp_path / "headers")]
    done = subprocess.run(
        [sys.executable, "-m", "cubehook", "verify", *options],
        input=BODY,
        capture_output=True,
        timeout=30,
        cwd=Path(__file__).parent.parent,
    )
    assert (done.returncode, done.stderr) == (0, b"")


_TOKEN = st.text("abcXYZ019-_", min_size=1, max_size=10)
_VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@given(st.lists(st.tuples(_TOKEN, _VALUE), min_size=1), st.sampled_from(["", "> ", ">", "  "]))
def test_lines_are_read_as_they_are_written(pairs: list[tuple[str, str]], before: str) -> None:
    text = "".join(f"{before}{name}: {value}\n" for name, value in pairs)
    assert [(name, value.strip()) for name, value in parsed(text)] == pairs


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in parsed(text))
