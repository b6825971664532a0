"""What cubehook itself logs, in a way that an application's broken handler cannot hurt."""

from __future__ import annotations

import contextlib
import logging


def notice(logger: logging.Logger, level: int, text: str, *args: object) -> None:
    """Log; an exception of an application's handler must not end a thread of ours."""
    with contextlib.suppress(Exception):
        logger.log(level, text, *args, stacklevel=2)
