"""Checks that the schemes share; each raises `VerificationError` and nothing else."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping

from cubehook.errors import VerificationError

_ID = re.compile(r"[!-~]{1,255}")
_UNIX_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)


def required(headers: Mapping[str, str], name: str) -> str:
    """The header ``name`` (lower case)."""
    try:
        return headers[name]
    except KeyError:
        raise VerificationError(f"no {name} header") from None


def check_id(delivery: str) -> None:
    """Refuse what is no delivery id."""
    # A dot in the id would let a body begin inside it: the parts are joined by dots.
    if not _ID.fullmatch(delivery) or "." in delivery:
        raise VerificationError("malformed delivery id")


def check_freshness(timestamp: str, now: float, tolerance: float) -> None:
    """Refuse a timestamp (Unix seconds as text) further than ``tolerance`` from ``now``."""
    if not _UNIX_SECONDS.fullmatch(timestamp):
        raise VerificationError("malformed timestamp")
    if not abs(now - int(timestamp)) <= tolerance:  # not >: NaN must not pass
        raise VerificationError("timestamp is too old or in the future")


def matches_any(given: Iterable[bytes], expected: Iterable[bytes]) -> bool:
    """Whether any given signature equals any expected one, in constant time for each pair."""
    expected = list(expected)
    found = False
    for one in given:
        for other in expected:
            found |= hmac.compare_digest(one, other)
    return found
