"""What all adapters share: the options, and the way of a request from its head to an event.

Nothing is read here: an adapter hands in what it has, and is told how much more may come.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from cubehook import checks, signing
from cubehook.errors import ConfigError, VerificationError
from cubehook.notices import notice

MAX_BYTES = 1_048_576  # the longest body that cubehook can be configured to send

Secrets: TypeAlias = str | bytes | Iterable[str | bytes]
SecretSource: TypeAlias = Secrets | Callable[[], Secrets]

logger = logging.getLogger("cubehook.receivers")

_NUMBER = re.compile(r"[0-9]+")  # int() takes "+5", "5_0" and the digits of any script


class ReceivedEvent(dict[str, Any]):
    """A genuine event: the parsed body, with the request it came in.

    body: the bytes that were signed.
    headers: names in lower case; a repeated header is one, its values joined by ``", "``.
    """

    body: bytes
    headers: Mapping[str, str]


class RequestError(Exception):
    """Answer with ``status`` and ``phrase``, which is fixed and holds nothing that was received."""

    def __init__(self, status: int, phrase: str) -> None:
        super().__init__(phrase)
        self.status = status
        self.phrase = phrase

    @property
    def headers(self) -> dict[str, str]:
        """What the status asks for, beside the headers of any answer."""
        return {"Allow": "POST"} if self.status == 405 else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of an adapter, as the package's docstring tells them.

    Raises `ConfigError` listing every problem at once.
    """

    secret: SecretSource = field(repr=False)
    scheme: str | None = None
    tolerance: float = 300
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        problems: list[str] = []
        for key, value in checks.run(_CHECKS, given, "", problems).items():
            object.__setattr__(self, key, value)
        if problems:
            raise ConfigError(problems)

    def secrets(self) -> tuple[str | bytes, ...]:
        """The secrets of this moment.

        Raises `ConfigError` where a function returns none: a mistake of the receiver's, for which
        no sender must be told that its event is not genuine.
        """
        current = self.secret() if callable(self.secret) else self.secret
        try:
            return _usable(current)
        except ValueError as error:
            raise ConfigError(f"secret: {error}") from None


class Incoming:
    """One request as it comes in: its head when made, then its body in pieces, then the event.

    Each step raises `RequestError` as soon as the request is to be refused.
    """

    def __init__(
        self, settings: Settings, method: str, headers: Iterable[tuple[str | bytes, str | bytes]]
    ) -> None:
        self._settings = settings
        self._pieces: list[bytes] = []
        self._received = 0
        if method != "POST":
            raise _refused(405, "only POST is taken here")
        self.headers = _combined(headers)
        self.length = self._announced()
        """Of the body, in bytes; None: it is as long as it will turn out to be."""

    @property
    def wanted(self) -> int:
        """How many bytes of the body to read at most: one too many tells that it is too long."""
        end = self._settings.max_bytes + 1 if self.length is None else self.length
        return end - self._received

    def add(self, piece: bytes) -> None:
        """Take the next piece of the body."""
        self._received += len(piece)
        if self._received > self._settings.max_bytes:
            raise too_large()
        self._pieces.append(piece)

    def fill(self, read: Callable[[int], bytes]) -> None:
        """Take the body from a function that reads up to so many bytes, and b"" at the end."""
        while self.wanted and (piece := read(self.wanted)):
            self.add(piece)

    def event(self) -> ReceivedEvent:
        """The event, once the body is there."""
        if self.length is None and not self._received:
            raise _refused(400, "a Content-Length is needed")
        if self.length not in (None, self._received):
            raise _refused(400, "body is not as long as its Content-Length")
        body = b"".join(self._pieces)
        secrets = self._settings.secrets()
        try:
            payload = signing.verify(
                body,
                self.headers,
                secrets,
                tolerance=self._settings.tolerance,
                scheme=self._settings.scheme,
            )
        except VerificationError as error:
            # Its text is for the receiver's log: a sender needs to know no more than the status.
            raise _refused(401, "not verified", str(error)) from None
        event = ReceivedEvent(payload)
        event.body, event.headers = body, self.headers
        return event

    def _announced(self) -> int | None:
        # A Content-Length beside a Transfer-Encoding means nothing (RFC 9112 §6.3).
        value = "" if "transfer-encoding" in self.headers else self.headers.get("content-length")
        if not value:
            return None
        if not _NUMBER.fullmatch(value):
            raise _refused(400, "malformed Content-Length")
        # Python refuses to read numbers of thousands of digits.
        if len(value) > 20 or int(value) > self._settings.max_bytes:
            raise too_large()
        return int(value)


def too_large() -> RequestError:
    """The refusal of a body over the bound, be it ours or the framework's."""
    return _refused(413, "body is too large")


def _refused(status: int, phrase: str, reason: str | None = None) -> RequestError:
    notice(logger, logging.WARNING, "refused with %d: %s", status, reason or phrase)
    return RequestError(status, phrase)


def _combined(headers: Iterable[tuple[str | bytes, str | bytes]]) -> dict[str, str]:
    combined: dict[str, str] = {}
    for name, value in headers:
        key, text = _text(name).lower(), _text(value)
        combined[key] = f"{combined[key]}, {text}" if key in combined else text
    return combined


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _usable(value: Any) -> tuple[str | bytes, ...]:
    if isinstance(value, str | bytes):
        value = (value,)
    # The order of the others is not known, or they are not what was meant.
    elif isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"must be a string or a list of strings, not {checks.kind(value)}")
    secrets = tuple(value)
    if not secrets:
        raise ValueError("is empty")
    if not all(isinstance(one, str | bytes) and one for one in secrets):
        raise ValueError("must hold strings only, none of them empty")
    return secrets


def _secret(value: object) -> object:
    return value if callable(value) else _usable(value)


def _scheme(value: object) -> object:
    if value is not None and value not in signing.known():
        raise ValueError(f"must be one of: {', '.join(signing.known())}")
    return value


_CHECKS: dict[str, checks.Check] = {
    "secret": _secret,
    "scheme": _scheme,
    "tolerance": checks.seconds,
    "max_bytes": checks.whole(1, 2**31),
}
