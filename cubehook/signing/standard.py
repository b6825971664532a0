"""Scheme ``standard``: Standard Webhooks with HMAC-SHA256, ``v1,`` in ``webhook-signature``."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence

from cubehook.signing._checks import matches_any
from cubehook.signing._hmac import digest, keyed
from cubehook.signing._standard import StandardWebhooks, key_bytes


class StandardScheme(StandardWebhooks):
    """The symmetric kind. The key is what the Base64 of a ``whsec_`` secret stands for."""

    name = "standard"
    prefix = "v1,"
    pattern = re.compile(r"v1,([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)")

    def key(self, secret: str) -> hmac.HMAC:
        """The HMAC keyed with the secret's 24 to 64 bytes."""
        decoded = key_bytes(secret, "whsec_")
        if not 24 <= len(decoded) <= 64:
            raise ValueError("must be 'whsec_' and the Base64 of 24 to 64 bytes")
        return keyed(decoded)

    def signature(self, key: hmac.HMAC, start: bytes, body: bytes) -> bytes:
        """HMAC-SHA256."""
        return digest(key, start, body)

    def matches(
        self, given: Sequence[bytes], keys: Sequence[hmac.HMAC], start: bytes, body: bytes
    ) -> bool:
        """In constant time for each pair."""
        return matches_any(given, (digest(key, start, body) for key in keys))
