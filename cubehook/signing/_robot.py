"""What the schemes of chat robots share: they prove who sends to the service, not what is sent."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence

from cubehook.errors import VerificationError
from cubehook.signing._hmac import keyed_by_text
from cubehook.signing._scheme import Key, SealingScheme


class SecretText:
    """A secret that is text in what is signed as well. Its repr does not show it."""

    __slots__ = ("encoded",)

    def __init__(self, secret: str) -> None:
        keyed_by_text(secret)  # refuses what must not be shared
        self.encoded = secret.encode("utf-8")

    def stamped(self, timestamp: int) -> bytes:
        """The time and the secret, as the robots' services put them together."""
        return b"%d\n%b" % (timestamp, self.encoded)


class RobotScheme(SealingScheme):
    """A scheme that signs the time alone. A robot has one secret: the first key signs."""

    dated = False
    signature_header = ""  # it is in none

    def key(self, secret: str) -> SecretText:
        """The secret itself."""
        return SecretText(secret)

    def sign(
        self, *, message_id: str, event: str, timestamp: int, body: bytes, keys: Sequence[Key]
    ) -> dict[str, str]:
        """No headers."""
        return {}

    def check(
        self,
        headers: Mapping[str, str],
        body: bytes,
        keys: Sequence[Key],
        now: float,
        tolerance: float,
    ) -> None:
        """Refuse: the signature is good for any body, and only the service knows who may send."""
        raise VerificationError(f"scheme {self.name!r} does not sign the body; it proves nothing")


def signature(key: bytes, signed: bytes) -> str:
    """Base64 of the HMAC-SHA256."""
    return base64.b64encode(hmac.digest(key, signed, "sha256")).decode("ascii")
