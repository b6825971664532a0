"""A request that came in: what it says of itself, what of its head may be shown, is it genuine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cubehook import signing
from cubehook.errors import VerificationError

_EVENT = ("x-cube-webhook-event", "x-github-event")
_ID = ("x-cube-webhook-delivery", "webhook-id", "x-github-delivery", "e2b-delivery-id")
_TIME = ("x-cube-webhook-timestamp", "webhook-timestamp")
_SHOWN = ("content-type", "user-agent", *_EVENT, *_ID, *_TIME)
"""Names of headers; the others may hold what opens doors."""

_LONGEST_ID = 255

SCHEMES = tuple(name for name in signing.known() if signing.find(name).signature_header)
"""Those that a receiver can check."""


class Verdict(NamedTuple):
    """genuine: None where nothing was checked. reason: why not; a phrase without any value."""

    genuine: bool | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Captured:
    """One request. Names of headers are in lower case."""

    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, headers: Iterable[tuple[str, str]], body: bytes) -> Captured:
        """What came in; a header that is repeated is one, as RFC 9110 §5.3 has it."""
        combined: dict[str, str] = {}
        for name, value in headers:
            key = name.strip().lower()
            text = value.strip(" \t\r\n")
            combined[key] = f"{combined[key]}, {text}" if key in combined else text
        return cls(combined, body)

    @property
    def payload(self) -> Any:
        """The body, parsed; None where it is not JSON."""
        try:
            return json.loads(self.body.decode())
        except (ValueError, RecursionError):
            return None

    @property
    def event(self) -> str | None:
        """The event's name."""
        return self._header(_EVENT) or self._named("event", "type")

    @property
    def id(self) -> str | None:
        """What tells a request that was sent again."""
        found = self._header(_ID) or self._named("id")
        return found[:_LONGEST_ID] if found else None

    @property
    def timestamp(self) -> int | None:
        """When it says that it was signed, in seconds since the epoch."""
        text = self._header(_TIME) or ""
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= 12 else None

    @property
    def events(self) -> list[Any] | None:
        """Those of a batch; None for a single one."""
        payload = self.payload
        found = payload.get("events") if isinstance(payload, dict) else payload
        return found if isinstance(found, list) else None

    @property
    def shown(self) -> dict[str, str]:
        """The headers that may be shown."""
        return {name: self.headers[name] for name in _SHOWN if name in self.headers}

    @property
    def signatures(self) -> list[str]:
        """The names of the headers with a signature; never what is in them."""
        names = {signing.find(name).signature_header for name in SCHEMES}
        return sorted(name for name in names if name in self.headers)

    def verdict(self, secrets: Sequence[str], scheme: str | None, tolerance: float) -> Verdict:
        """Whether a holder of one of the secrets signed it; see `cubehook.verify`."""
        if not secrets:
            return Verdict(None)
        try:
            signing.verify(self.body, self.headers, secrets, tolerance=tolerance, scheme=scheme)
        except VerificationError as error:
            return Verdict(False, str(error))
        return Verdict(True)

    def _header(self, names: Iterable[str]) -> str | None:
        return next((self.headers[name] for name in names if self.headers.get(name)), None)

    def _named(self, *keys: str) -> str | None:
        payload = self.payload
        if not isinstance(payload, dict):
            return None
        return next((payload[key] for key in keys if isinstance(payload.get(key), str)), None)
