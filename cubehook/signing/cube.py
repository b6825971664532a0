"""Scheme ``cube``: HMAC-SHA256 over ``timestamp.id.body`` in ``X-Cube-Webhook-Signature``."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence

from cubehook.errors import VerificationError
from cubehook.signing._checks import check_freshness, check_id, matches_any, required
from cubehook.signing._hmac import digest, keyed_by_text
from cubehook.signing._scheme import Scheme

_SIGNATURE = "x-cube-webhook-signature"
_TIMESTAMP = "x-cube-webhook-timestamp"
_DELIVERY = "x-cube-webhook-delivery"

_V1 = re.compile(r"v1=([0-9a-f]{64})")


class CubeScheme(Scheme):
    """The default scheme. The key is the secret's UTF-8 bytes."""

    name = "cube"
    dated = True
    signature_header = _SIGNATURE

    def key(self, secret: str) -> hmac.HMAC:
        """The HMAC keyed with the secret's UTF-8 bytes."""
        return keyed_by_text(secret)

    def sign(
        self, *, message_id: str, event: str, timestamp: int, body: bytes, keys: Sequence[hmac.HMAC]
    ) -> dict[str, str]:
        """The scheme's headers; the signature lists one ``v1=`` for each key."""
        headers = {
            "X-Cube-Webhook-Event": event,
            "X-Cube-Webhook-Delivery": message_id,
            "X-Cube-Webhook-Timestamp": str(timestamp),
        }
        if keys:
            start = _start(str(timestamp), message_id)
            headers["X-Cube-Webhook-Signature"] = ",".join(
                "v1=" + digest(key, start, body).hex() for key in keys
            )
        return headers

    def check(
        self,
        headers: Mapping[str, str],
        body: bytes,
        keys: Sequence[hmac.HMAC],
        now: float,
        tolerance: float,
    ) -> None:
        """Any of the listed signatures may match any of the keys: both sides can rotate."""
        timestamp = required(headers, _TIMESTAMP)
        delivery = required(headers, _DELIVERY)
        check_id(delivery)
        given = [
            bytes.fromhex(match[1])
            for part in required(headers, _SIGNATURE).split(",")
            if (match := _V1.fullmatch(part.strip(" \t")))
        ]
        check_freshness(timestamp, now, tolerance)
        start = _start(timestamp, delivery)
        if not matches_any(given, (digest(key, start, body) for key in keys)):
            raise VerificationError("signature does not match")


def _start(timestamp: str, message_id: str) -> bytes:
    return f"{timestamp}.{message_id}.".encode("ascii")
