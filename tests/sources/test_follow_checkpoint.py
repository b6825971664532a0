"""The file that says where to go on."""

from __future__ import annotations

import errno
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from cubehook.errors import ConfigError
from cubehook.sources._checkpoint import Checkpoint

PLANTED = "planted-secret"


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "some" / "folder" / "checkpoint.json"
    with Checkpoint(path) as checkpoint:
        assert checkpoint.load() is None
        checkpoint.save({"files": [1]})
        checkpoint.save({"files": [2]})
    with Checkpoint(path) as checkpoint:
        assert checkpoint.load() == {"version": 1, "files": [2]}
        assert checkpoint.files >= {str(one) for one in path.parent.iterdir()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.json"
    with Checkpoint(path) as first:
        first.save({})  # the file is another one now
        with pytest.raises(ConfigError, match="in use by another"), Checkpoint(path):
            pass
    with Checkpoint(path):
        pass


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'{"version": 2}',
        f'"{PLANTED}"'.encode(),
    ],
)
def test_a_damaged_one_is_left_alone(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "checkpoint.json"
    path.write_bytes(text)
    with Checkpoint(path) as checkpoint, pytest.raises(ConfigError, match="checkpoint") as raised:
        checkpoint.load()
    assert path.read_bytes() == text
    assert PLANTED not in str(raised.value)


def test_no_folder_to_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"), Checkpoint(tmp_path / "file" / "x"):
        pass
    with Checkpoint(tmp_path / "folder") as checkpoint:
        (tmp_path / "folder").mkdir()
        with pytest.raises(ConfigError, match="cannot be read"):
            checkpoint.load()


def test_one_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.json"

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Checkpoint(path) as checkpoint:
        checkpoint.save({"files": []})
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            checkpoint.save({"files": [1]})
    assert json.loads(path.read_text()) == {"version": 1, "files": []}
