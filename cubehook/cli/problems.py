"""How a command fails: one line on stderr, without any value, and an exit status that tells."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from cubehook.errors import ConfigError, CubehookError

NOTHING = 1
USAGE = 2
UNAVAILABLE = 3


@contextmanager
def told() -> Iterator[None]:
    """End the command with a line and a status, for an error of ours in this block."""
    try:
        yield
    except ConfigError as error:
        fail(str(error), USAGE)
    except CubehookError as error:
        fail(f"outbox: {error}", UNAVAILABLE)


def need_outbox() -> None:
    """End the command if SQLAlchemy is not there."""
    try:
        import sqlalchemy  # noqa: F401
    except ModuleNotFoundError:
        fail("this needs: pip install 'cubehook[outbox]'", USAGE)


def fail(text: str, status: int) -> NoReturn:
    """Say why on one line, and exit."""
    print(f"cubehook: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201
    sys.exit(status)
