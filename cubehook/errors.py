"""What can go wrong, by who has to act: the operator (configuration), the sender (verification)."""

from __future__ import annotations

from collections.abc import Iterable


class CubehookError(Exception):
    """Base class of every error that cubehook raises."""


class ConfigError(CubehookError, ValueError):
    """The configuration cannot be used; ``problems`` lists every reason at once.

    A problem names the endpoint and the key, never the value: values may be secrets.
    It is a ``ValueError`` because ``logging.config`` reports those with the handler's name.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (
            (problems,) if isinstance(problems, str) else tuple(problems)
        )
        super().__init__("; ".join(self.problems))


class VerificationError(CubehookError):
    """A received webhook is not what it claims to be, is too old, or cannot be read."""
