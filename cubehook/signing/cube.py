"""Scheme ``cube``: HMAC-SHA256 over ``timestamp.id.body`` in ``X-Cube-Webhook-Signature``."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

from cubehook.errors import VerificationError
from cubehook.signing._checks import check_freshness, matches_any, required

_SIGNATURE = "x-cube-webhook-signature"
_TIMESTAMP = "x-cube-webhook-timestamp"
_DELIVERY = "x-cube-webhook-delivery"

_V1 = re.compile(r"v1=([0-9a-f]{64})")
_ID = re.compile(r"[!-~]{1,255}")


class CubeScheme:
    """The default scheme. The key is the secret's UTF-8 bytes."""

    name = "cube"

    def key(self, secret: str) -> bytes:
        """The secret's UTF-8 bytes."""
        return secret.encode("utf-8")

    def sign(
        self, *, message_id: str, event: str, timestamp: int, body: bytes, keys: Sequence[bytes]
    ) -> dict[str, str]:
        """The scheme's headers; the signature lists one ``v1=`` for each key."""
        headers = {
            "X-Cube-Webhook-Event": event,
            "X-Cube-Webhook-Delivery": message_id,
            "X-Cube-Webhook-Timestamp": str(timestamp),
        }
        if keys:
            signed = _signed(str(timestamp), message_id, body)
            headers["X-Cube-Webhook-Signature"] = ",".join(
                "v1=" + hmac.digest(key, signed, hashlib.sha256).hex() for key in keys
            )
        return headers

    def claims(self, headers: Mapping[str, str]) -> bool:
        """Whether the signature header is there."""
        return _SIGNATURE in headers

    def check(
        self,
        headers: Mapping[str, str],
        body: bytes,
        keys: Sequence[bytes],
        now: float,
        tolerance: float,
    ) -> None:
        """Any of the listed signatures may match any of the keys: both sides can rotate."""
        timestamp = required(headers, _TIMESTAMP)
        delivery = required(headers, _DELIVERY)
        # A dot in the id would let a body begin inside it: the parts are joined by dots.
        if not _ID.fullmatch(delivery) or "." in delivery:
            raise VerificationError("malformed delivery id")
        given = [
            bytes.fromhex(match[1])
            for part in required(headers, _SIGNATURE).split(",")
            if (match := _V1.fullmatch(part.strip(" \t")))
        ]
        check_freshness(timestamp, now, tolerance)
        signed = _signed(timestamp, delivery, body)
        expected = [hmac.digest(key, signed, hashlib.sha256) for key in keys]
        if not matches_any(given, expected):
            raise VerificationError("signature does not match")


def _signed(timestamp: str, message_id: str, body: bytes) -> bytes:
    return b"%b.%b.%b" % (timestamp.encode("ascii"), message_id.encode("ascii"), body)
