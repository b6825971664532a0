"""How requests are signed: one file for each scheme, found here by name; and `verify`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from cubehook.errors import VerificationError
from cubehook.signing._scheme import Scheme
from cubehook.signing.cube import CubeScheme

__all__ = ["Scheme", "find", "known", "verify"]


class HasItems(Protocol):
    """Headers as ``http.server`` and others have them: no mapping, but with ``items()``."""

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Names and values."""


_SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (CubeScheme(),)}


def known() -> tuple[str, ...]:
    """The names of all schemes."""
    return tuple(_SCHEMES)


def find(name: str) -> Scheme:
    """The scheme of that name; KeyError where there is none."""
    return _SCHEMES[name]


def verify(
    body: bytes,
    headers: HasItems | Iterable[tuple[Any, Any]],
    secret: str | bytes | Iterable[str | bytes],
    *,
    tolerance: float = 300,
    scheme: str | None = None,
) -> dict[str, Any]:
    """Check a received webhook and return its parsed body.

    body: the raw bytes as received; a body parsed and written again will not match.
    headers: a mapping, anything with ``items()``, or pairs; names in any case, values str or bytes.
    secret: the secret, or several while one is being replaced.
    tolerance: how far the signed timestamp may be from now, in seconds, either way.
    scheme: the scheme's name; None: the one whose signature header is there.

    Raises `VerificationError`, and nothing else, for everything that is wrong: a signature that
    does not match, a stale or future timestamp, anything malformed, no usable secret.
    """
    try:
        raw = bytes(body)
        lowered = _lowered(headers)
        chosen = _choose(scheme, lowered)
        chosen.check(lowered, raw, _keys(chosen, secret), time.time(), float(tolerance))
        payload = json.loads(raw.decode("utf-8"))
    except VerificationError:
        raise
    except Exception as error:
        # Whatever a hostile request trips over is a request refused; its text may hold values.
        raise VerificationError(f"malformed request ({type(error).__name__})") from None
    if not isinstance(payload, dict):
        raise VerificationError("the body is not a JSON object")
    return payload


def _lowered(headers: Any) -> dict[str, str]:
    lowered: dict[str, str] = {}
    for name, value in headers.items() if hasattr(headers, "items") else headers:
        key = _text(name).lower()
        # A repeated header is one list (RFC 9110 §5.3); where a list makes no sense, such as in a
        # timestamp, it is malformed then.
        lowered[key] = f"{lowered[key]}, {_text(value)}" if key in lowered else _text(value)
    return lowered


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _choose(name: str | None, headers: Mapping[str, str]) -> Scheme:
    if name is not None:
        if name not in _SCHEMES:
            raise VerificationError("unknown scheme")
        return _SCHEMES[name]
    for scheme in _SCHEMES.values():
        if scheme.claims(headers):
            return scheme
    raise VerificationError("no signature header")


def _keys(scheme: Scheme, secret: str | bytes | Iterable[str | bytes]) -> list[bytes]:
    if isinstance(secret, Mapping):
        raise VerificationError("no usable secret")
    secrets = [secret] if isinstance(secret, str | bytes) else list(secret)
    # The text of anything else, such as "None", is a key that can be guessed; so is an empty one.
    if not secrets or not all(isinstance(one, str | bytes) and one for one in secrets):
        raise VerificationError("no usable secret")
    texts = (one.decode("utf-8") if isinstance(one, bytes) else one for one in secrets)
    return [scheme.key(text) for text in texts]
