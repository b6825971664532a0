"""What the schemes of Standard Webhooks 1.0.0 share: the headers, what is signed, the Base64.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from cubehook.errors import VerificationError
from cubehook.signing._checks import check_freshness, check_id, required
from cubehook.signing._scheme import Key, Scheme

_ID = "webhook-id"
_TIMESTAMP = "webhook-timestamp"
_SIGNATURE = "webhook-signature"

# A public key takes 0.1 ms for each signature: a request must not bring as many as it likes.
_MOST_SIGNATURES = 16


class StandardWebhooks(Scheme):
    """A scheme that signs ``id.timestamp.body``.

    ``webhook-signature`` is a list with spaces between, and may hold signatures of other kinds.

    prefix: what stands before each signature of this kind.
    pattern: such a signature, its Base64 in group 1, and in the one spelling that the bytes have:
        what Base64 leaves unused of the last letter is zero.
    """

    dated = True
    signature_header = _SIGNATURE
    prefix: str
    pattern: re.Pattern[str]

    def sign(
        self, *, message_id: str, event: str, timestamp: int, body: bytes, keys: Sequence[Key]
    ) -> dict[str, str]:
        """The headers; the signature lists one for each key. The event's name is not in them."""
        headers = {_ID: message_id, _TIMESTAMP: str(timestamp)}
        if keys:
            start = _start(message_id, str(timestamp))
            made = (base64.b64encode(self.signature(key, start, body)) for key in keys)
            headers[_SIGNATURE] = " ".join(self.prefix + one.decode("ascii") for one in made)
        return headers

    def check(
        self,
        headers: Mapping[str, str],
        body: bytes,
        keys: Sequence[Key],
        now: float,
        tolerance: float,
    ) -> None:
        """Any of the first 16 signatures of this kind may match any of the keys."""
        timestamp = required(headers, _TIMESTAMP)
        message_id = required(headers, _ID)
        check_id(message_id)
        # Between the parts of a repeated header there is a comma as well.
        parts = required(headers, _SIGNATURE).replace(", ", " ").split(" ")
        given = [
            base64.b64decode(match[1]) for match in map(self.pattern.fullmatch, parts) if match
        ]
        check_freshness(timestamp, now, tolerance)
        start = _start(message_id, timestamp)
        if not self.matches(given[:_MOST_SIGNATURES], keys, start, body):
            raise VerificationError("signature does not match")

    @abstractmethod
    def signature(self, key: Key, start: bytes, body: bytes) -> bytes:
        """The signature of ``start`` and ``body``, one after the other."""

    @abstractmethod
    def matches(
        self, given: Sequence[bytes], keys: Sequence[Key], start: bytes, body: bytes
    ) -> bool:
        """Whether any given signature of ``start`` and ``body`` is by any of the keys."""


def key_bytes(secret: str, prefix: str) -> bytes:
    """What ``prefix`` and Base64 stand for; nothing where ``secret`` is not that."""
    if not secret.startswith(prefix):
        return b""
    try:
        return base64.b64decode(secret.removeprefix(prefix), validate=True)
    except ValueError:
        return b""


def _start(message_id: str, timestamp: str) -> bytes:
    return f"{message_id}.{timestamp}.".encode("ascii")
