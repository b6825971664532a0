"""Signing keys from files: a rotation needs no restart."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cubehook import Endpoint, WebhookHandler, keyring, verify
from cubehook.errors import VerificationError
from cubehook.keyring import Keyring
from cubehook.secret import Secret

if TYPE_CHECKING:
    from conftest import Receiver

PATIENCE = 10.0
BODY = b'{"id":"1"}'


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at every time."""
    monkeypatch.setattr(keyring, "LOOK_SECONDS", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("the-first-one\n")
    return path


def replace(file: Path, content: str) -> None:
    """As tools that mount secrets do it: another file in its place, at another time."""
    new = file.with_suffix(".new")
    new.write_text(content)
    before = file.stat().st_mtime_ns if file.exists() else 0
    os.utime(new, ns=(before + 10**9, before + 10**9))
    new.replace(file)


def ring(*sources: str) -> Keyring:
    return Keyring("ops", ("cube",), tuple(Secret.read(source) for source in sources))


def signs_with(ring: Keyring, *secrets: str) -> bool:
    """Whether a request is signed with just these secrets."""

    headers: dict[str, str] = {}
    for scheme, keys in ring.current():
        now = int(time.time())
        headers |= scheme.sign(message_id="1", event="a.b", timestamp=now, body=BODY, keys=keys)
    assert headers["X-Cube-Webhook-Signature"].count("v1=") == len(secrets)
    for secret in secrets:
        try:
            verify(BODY, headers, secret)
        except VerificationError:
            return False
    return True


def test_a_file_that_was_replaced_is_read_again(file: Path) -> None:
    made = ring(f"file:{file}", "literal")
    assert signs_with(made, "the-first-one", "literal")
    replace(file, "the-second-one\n")
    assert signs_with(made, "the-second-one", "literal")


def test_a_file_is_not_read_again_without_need(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ring(f"file:{file}")
    monkeypatch.setattr(Secret, "read", None)
    before = made.current()
    assert made.current() is before


def test_files_are_looked_at_now_and_then(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "LOOK_SECONDS", 3600.0)
    made = ring(f"file:{file}")
    replace(file, "the-second-one\n")
    assert signs_with(made, "the-first-one")


@pytest.mark.parametrize("content", ["", "\n", "x" * 70_000])
def test_what_cannot_be_used_is_told_once_and_the_former_one_stays(
    file: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = ring(f"file:{file}")
    replace(file, content)
    for _ in range(3):
        assert signs_with(made, "the-first-one")
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("endpoint 'ops': secret: ")
    assert "the former one stays" in told
    assert str(file) not in told
    replace(file, "the-third-one")
    assert signs_with(made, "the-third-one")


def test_a_file_that_is_gone_changes_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = ring(f"file:{file}")
    file.unlink()
    assert signs_with(made, "the-first-one")
    assert caplog.records == []
    replace(file, "the-second-one")
    assert signs_with(made, "the-second-one")


def test_a_secret_that_its_scheme_refuses(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = Keyring("ops", ("standard",), (Secret.read(f"file:{file}"),))
    before = made.current()
    replace(file, "planted-and-no-whsec")
    assert made.current() is before
    assert "planted" not in caplog.text


def test_the_environment_is_read_again_by_update_endpoints_only(
    handler: Callable[..., WebhookHandler],
    logger: logging.Logger,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET", receiver.secret)
    endpoint = receiver.endpoint(secret="env:A_SECRET")
    made = handler([endpoint])

    def log() -> None:
        logger.info("a message", extra={"event": "a.b"})
        assert made.flush(PATIENCE)

    monkeypatch.setenv("A_SECRET", "the-second-one")
    log()
    assert receiver.problems == []
    made.update_endpoints([endpoint])
    receiver.secret = "the-second-one"
    log()
    assert receiver.problems == []
    assert len(receiver.received()) == 2


def test_a_rotation_on_disk_reaches_the_wire(
    handler: Callable[..., WebhookHandler], logger: logging.Logger, receiver: Receiver, file: Path
) -> None:
    receiver.secret = "the-first-one"
    made = handler([receiver.endpoint(secret=f"file:{file}")])
    for secret in ("the-first-one", "the-second-one"):
        replace(file, secret)
        receiver.secret = secret
        extra: dict[str, Any] = {"event": "a.b"}
        logger.info("a message", extra=extra)
        assert made.flush(PATIENCE)
    assert receiver.problems == []
    assert len(receiver.received()) == 2


def test_objects_given_again_have_their_secrets_read_again(
    handler: Callable[..., WebhookHandler],
    logger: logging.Logger,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    monkeypatch.setenv("A_SECRET", receiver.secret)
    endpoint = Endpoint(**receiver.endpoint(secret="env:A_SECRET"))
    made = handler([endpoint])
    monkeypatch.setenv("A_SECRET", "the-second-one")
    receiver.secret = "the-second-one"
    made.update_endpoints([endpoint])
    logger.info("a message", extra={"event": "a.b"})
    assert made.flush(PATIENCE)
    assert receiver.problems == []
