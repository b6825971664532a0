"""What never leaves: secrets, by the name of their field or by their shape, at any depth.

What does leave is plain JSON: strict ``json.dumps`` and UTF-8 take every result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cubehook._names import is_sensitive, normalise
from cubehook._plain import MAX_DEPTH, TRUNCATED, JSONValue, Walk
from cubehook._values import REDACTED, redact_text

__all__ = ["MAX_DEPTH", "REDACTED", "TRUNCATED", "JSONValue", "Redactor"]

_CACHED_NAMES = 4096
_CACHED_NAME_LENGTH = 128


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Redactor:
    """Removes sensitive fields, replaces secrets in texts, and makes everything plain JSON.

    ``redact`` names more fields to remove; ``keep`` names fields that stay although the tables
    would remove them, spelled in full (``keep=["env"]`` does not keep ``env_hash``). Both are
    compared normalised, and ``redact`` wins. Instances are immutable and safe to share.
    """

    _redact: frozenset[str]
    _keep: frozenset[str]

    def __init__(self, redact: Iterable[str] = (), keep: Iterable[str] = ()) -> None:
        object.__setattr__(self, "_redact", _normalised(redact))
        object.__setattr__(self, "_keep", _normalised(keep))

    def __repr__(self) -> str:
        return f"<Redactor redact={len(self._redact)} keep={len(self._keep)}>"

    def is_sensitive(self, name: str) -> bool:
        """Whether a field of this name is removed."""
        return self._name(str.__str__(name)) is None

    def fields(self, fields: Mapping[Any, object]) -> dict[str, JSONValue]:
        """The fields of an event without the sensitive ones, in plain JSON."""
        return Walk(self._name).top(fields)

    def value(self, value: object) -> JSONValue:
        """The value in plain JSON, without what is sensitive in it; never raises."""
        return Walk(self._name).node(value, 1)

    def text(self, text: str) -> str:
        """The text with the secrets in it replaced by ``[redacted]``."""
        return redact_text(str.__str__(text))

    def _name(self, name: str) -> str | None:
        """The name without a secret in it, or None when its field is to be removed."""
        # Long ones not through the cache: it is to stay small in bytes as well.
        decide = _decide if len(name) <= _CACHED_NAME_LENGTH else _decide.__wrapped__
        return decide(name, self._redact, self._keep)


def _normalised(names: Iterable[str]) -> frozenset[str]:
    names = (names,) if isinstance(names, str) else names
    return frozenset(filter(None, (normalise(str(name)) for name in names)))


@lru_cache(maxsize=_CACHED_NAMES)
def _decide(name: str, redact: frozenset[str], keep: frozenset[str]) -> str | None:
    clean = redact_text(name)
    if is_sensitive(name, redact, keep):
        return None
    # Without the secret in it the name may read differently; a second pass would see that one.
    return None if clean != name and is_sensitive(clean, redact, keep) else clean
