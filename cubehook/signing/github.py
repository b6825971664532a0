"""Scheme ``github``: as GitHub signs, HMAC-SHA256 of the body in ``X-Hub-Signature-256``.

https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence

from cubehook.errors import VerificationError
from cubehook.signing._checks import matches_any, required
from cubehook.signing._hmac import digest, keyed_by_text
from cubehook.signing._scheme import Scheme

_SHA256 = re.compile(r"sha256=([0-9a-f]{64})")


class GitHubScheme(Scheme):
    """For receivers that know GitHub's webhooks. The key is the secret's UTF-8 bytes.

    Neither id nor time is signed: a receiver cannot tell a request that was recorded.
    """

    name = "github"
    dated = False
    signature_header = "x-hub-signature-256"

    def key(self, secret: str) -> hmac.HMAC:
        """The HMAC keyed with the secret's UTF-8 bytes."""
        return keyed_by_text(secret)

    def sign(
        self, *, message_id: str, event: str, timestamp: int, body: bytes, keys: Sequence[hmac.HMAC]
    ) -> dict[str, str]:
        """The headers that GitHub sends. Its receivers expect one signature: the first key's."""
        headers = {"X-GitHub-Event": event, "X-GitHub-Delivery": message_id}
        if keys:
            headers["X-Hub-Signature-256"] = "sha256=" + digest(keys[0], body).hex()
        return headers

    def check(
        self,
        headers: Mapping[str, str],
        body: bytes,
        keys: Sequence[hmac.HMAC],
        now: float,
        tolerance: float,
    ) -> None:
        """The signature may be by any of the keys. There is no time to check."""
        given = _SHA256.fullmatch(required(headers, self.signature_header))
        expected = (digest(key, body) for key in keys)
        if not (given and matches_any([bytes.fromhex(given[1])], expected)):
            raise VerificationError("signature does not match")
