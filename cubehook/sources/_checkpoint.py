"""Where a source goes on after a restart: a small JSON file that one process at a time may use."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from cubehook.errors import ConfigError

VERSION = 1


class Checkpoint:
    """A file that is replaced as a whole, so that a crash leaves the former or the new one.

    Use it in a ``with`` block, which is refused (`ConfigError`) while another process is in its
    own. The lock is on a file beside it, since the file itself is another one after each `save`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_name(f"{path.name}.lock")
        self._new_path = path.with_name(f"{path.name}.new")
        self._lock = -1

    @property
    def files(self) -> frozenset[str]:
        """All that it writes."""
        return frozenset(map(str, (self.path, self._lock_path, self._new_path)))

    def __enter__(self) -> Checkpoint:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"the checkpoint cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.__exit__(None, None, None)
            raise ConfigError("the checkpoint is in use by another process") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._lock)

    def load(self) -> Mapping[str, Any] | None:
        """What was saved last; None: nothing yet. Raises `ConfigError` for what cannot be read."""
        try:
            found = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"the checkpoint cannot be read ({error.strerror})") from None
        except (ValueError, RecursionError):
            raise ConfigError("the checkpoint is damaged: it is not JSON") from None
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise ConfigError("the checkpoint is not one of this version of cubehook")
        return found

    def save(self, content: Mapping[str, object]) -> None:
        """Replace it; on return it is on the disk. Raises OSError."""
        text = json.dumps({"version": VERSION, **content}).encode()
        new = os.open(self._new_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(new, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(new)
        self._new_path.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
