"""A request that came in: what it says of itself, what of its head may be shown, is it genuine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cubehook import signing
from cubehook.batch import BATCH_EVENT
from cubehook.errors import VerificationError

_EVENT = ("x-cube-webhook-event", "x-github-event")
_ID = ("x-cube-webhook-delivery", "webhook-id", "x-github-delivery", "e2b-delivery-id")
_TIME = ("x-cube-webhook-timestamp", "webhook-timestamp")
_SHOWN = ("content-type", "user-agent", *_EVENT, *_ID, *_TIME)
"""Names of headers; the others may hold what opens doors."""

_LONGEST_ID = 255
_MOST_LEVELS = 128
"""Of nesting, twice of what cubehook sends: what parses need not be writable (Python 3.12)."""

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
    payload: Any = field(init=False)
    """The body, parsed; None where it is not JSON, or none that can be shown."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "payload", _parsed(self.body))

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
        found = self.payload
        if isinstance(found, dict) and found.get("type") == BATCH_EVENT:
            found = found.get("data")  # of format ``standard``
        if isinstance(found, dict) and "event" not in found:
            found = found.get("events")
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
        """Whether a holder of one of the secrets signed it; see `cubehook.signing.check`."""
        if not secrets:
            return Verdict(None)
        try:
            signing.check(self.body, self.headers, secrets, tolerance=tolerance, scheme=scheme)
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


def _parsed(body: bytes) -> Any:
    try:
        value = json.loads(body.decode(), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return None
    return value if _is_flat(value) else None


def _finite(text: str) -> float:
    """No NaN, which is no JSON, nor a number like 1e999, which would become Infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _is_flat(value: Any) -> bool:
    level = [value]
    for _ in range(_MOST_LEVELS):
        containers = [one for one in level if isinstance(one, dict | list)]
        if not containers:
            return True
        level = [
            each for one in containers for each in (one.values() if isinstance(one, dict) else one)
        ]
    return False
