"""Scheme ``e2b``: as E2B signs its webhooks, a plain SHA-256 of secret and body. It is weak.

https://e2b.dev/docs/sandbox/lifecycle-events-webhooks
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cubehook.errors import VerificationError
from cubehook.signing._checks import matches_any, required
from cubehook.signing._hmac import keyed_by_text
from cubehook.signing._scheme import Scheme

if TYPE_CHECKING:
    from hashlib import _Hash

# Base64 of 32 bytes without its padding, in the one spelling that the bytes have.
_SHA256 = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]")


class E2BScheme(Scheme):
    """For receivers that were written for E2B's webhooks; new ones had better take another.

    It is a legacy scheme, because a plain hash is no HMAC: who has one signed body can sign that
    body with bytes of his behind it, without the secret. JSON ends where it ends, so `check`
    refuses what is made that way; a receiver that reads on does not. And neither id nor time is
    signed: a receiver cannot tell a request that was recorded.
    """

    name = "e2b"
    dated = False
    signature_header = "e2b-signature"

    def key(self, secret: str) -> _Hash:
        """The hash of the secret's UTF-8 bytes, to go on from."""
        keyed_by_text(secret)  # refuses what must not be shared
        return hashlib.sha256(secret.encode("utf-8"))

    def sign(
        self, *, message_id: str, event: str, timestamp: int, body: bytes, keys: Sequence[_Hash]
    ) -> dict[str, str]:
        """The headers that E2B sends, but for ``e2b-webhook-id``: there is none.

        Its receivers expect one signature: the first key's.
        """
        headers = {"e2b-delivery-id": message_id}
        if keys:
            signature = base64.b64encode(_digest(keys[0], body)).decode("ascii").rstrip("=")
            headers |= {"e2b-signature-version": "v1", "e2b-signature": signature}
        return headers

    def check(
        self,
        headers: Mapping[str, str],
        body: bytes,
        keys: Sequence[_Hash],
        now: float,
        tolerance: float,
    ) -> None:
        """The signature may be by any of the keys, and the body has to be JSON. There is no time
        to check."""
        given = required(headers, self.signature_header)
        expected = (_digest(key, body) for key in keys)
        if not (
            _SHA256.fullmatch(given) and matches_any([base64.b64decode(given + "=")], expected)
        ):
            raise VerificationError("signature does not match")
        try:
            json.loads(body.decode("utf-8"))
        except (ValueError, RecursionError):
            raise VerificationError("the body is not JSON") from None


def _digest(key: _Hash, body: bytes) -> bytes:
    hashed = key.copy()
    hashed.update(body)
    return hashed.digest()
