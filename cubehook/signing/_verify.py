"""`verify`: what a receiver calls."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from cubehook.errors import VerificationError
from cubehook.signing._keys import verification_keys
from cubehook.signing._registry import find, known
from cubehook.signing._scheme import Scheme


class HasItems(Protocol):
    """Headers as ``http.server`` and others have them: no mapping, but with ``items()``."""

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Names and values."""


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
    secret: the secret, or several while one is being replaced. Each scheme uses those it can.
    tolerance: how far the signed timestamp may be from now, in seconds, either way.
    scheme: the scheme's name; None: any whose signature header is there and covers the time. One
        that signs no time, such as ``github``, has to be named: it cannot tell a request that
        was recorded and sent again.

    Raises `VerificationError`, and nothing else, for everything that is wrong: a signature that
    does not match, a stale or future timestamp, anything malformed, no usable secret.
    """
    with _refusing():
        raw = bytes(body)
        _genuine(raw, headers, secret, tolerance, scheme)
        payload = json.loads(raw.decode("utf-8"))
    if not isinstance(payload, dict):
        raise VerificationError("the body is not a JSON object")
    return payload


def check(
    body: bytes,
    headers: HasItems | Iterable[tuple[Any, Any]],
    secret: str | bytes | Iterable[str | bytes],
    *,
    tolerance: float = 300,
    scheme: str | None = None,
) -> None:
    """The same for a body of any kind, such as an array of CloudEvents; it is not parsed."""
    with _refusing():
        _genuine(bytes(body), headers, secret, tolerance, scheme)


@contextmanager
def _refusing() -> Iterator[None]:
    """Whatever a hostile request trips over is a request refused; its text may hold values."""
    try:
        yield
    except VerificationError:
        raise
    except Exception as error:
        raise VerificationError(f"malformed request ({type(error).__name__})") from None


def _genuine(body: bytes, headers: Any, secret: Any, tolerance: float, scheme: str | None) -> None:
    lowered = _lowered(headers)
    _check(_candidates(scheme, lowered), lowered, body, _texts(secret), float(tolerance))


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


def _candidates(name: str | None, headers: Mapping[str, str]) -> list[Scheme]:
    if name is not None:
        if name not in known():
            raise VerificationError("unknown scheme")
        return [find(name)]
    schemes = [find(one) for one in known()]
    # Who strips headers from a recorded request must not thereby choose a scheme without a time.
    found = [one for one in schemes if one.dated and one.signature_header in headers]
    if not found:
        raise VerificationError("no signature header")
    return found


def _texts(secret: str | bytes | Iterable[str | bytes]) -> list[str]:
    if isinstance(secret, Mapping):
        raise VerificationError("no usable secret")
    secrets = [secret] if isinstance(secret, str | bytes) else list(secret)
    # The text of anything else, such as "None", is a key that can be guessed; so is an empty one.
    if not secrets or not all(isinstance(one, str | bytes) and one for one in secrets):
        raise VerificationError("no usable secret")
    return [one.decode("utf-8") if isinstance(one, bytes) else one for one in secrets]


def _check(
    schemes: Sequence[Scheme],
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[str],
    tolerance: float,
) -> None:
    """Return if the request is genuine by one of the schemes, with a secret it can use."""
    now = time.time()
    refusals: list[str] = []
    failure: VerificationError | None = None
    for scheme in schemes:
        if keys := verification_keys(scheme, secrets, refusals):
            try:
                scheme.check(headers, body, keys, now, tolerance)
            except VerificationError as error:
                failure = error
            else:
                return
    reasons = "; ".join(dict.fromkeys(refusals))
    raise failure or VerificationError(f"no usable secret ({reasons})")
