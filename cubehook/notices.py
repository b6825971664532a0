"""What cubehook itself logs, in a way that an application's broken handler cannot hurt."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping

WARNING_INTERVAL = 30.0
"""What may go on and on is warned of at most once in so many seconds."""


def notice(logger: logging.Logger, level: int, text: str, *args: object) -> None:
    """Log; an exception of an application's handler must not end a thread of ours."""
    with contextlib.suppress(Exception):
        logger.log(level, text, *args, stacklevel=2)


def words(counts: Mapping[str, int]) -> str:
    """Counts as they are told: ``2 queue_full, 1 too_large``."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


class SeldomWarning:
    """Warns of what may go on and on, at most once in `WARNING_INTERVAL`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._at = -WARNING_INTERVAL

    def __call__(self, text: str, *args: object) -> None:
        """Warn, unless it is too soon."""
        if time.monotonic() - self._at >= WARNING_INTERVAL:
            self._at = time.monotonic()
            notice(self._logger, logging.WARNING, text, *args)
