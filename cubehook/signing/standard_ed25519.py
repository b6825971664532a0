"""Scheme ``standard-ed25519``: Standard Webhooks with Ed25519, ``v1a,`` in ``webhook-signature``.

It needs the extra ``ed25519``, which is imported when a key of the scheme is made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from cubehook.signing._scheme import Key
from cubehook.signing._standard import StandardWebhooks, key_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ed25519

_SEED_SIZE = 32


class StandardEd25519Scheme(StandardWebhooks):
    """The asymmetric kind: who can verify cannot sign.

    The sender has the private key, ``whsk_`` and the Base64 of seed and public key; receivers have
    the public one, ``whpk_`` and its Base64. They take the private one as well.
    """

    name = "standard-ed25519"
    prefix = "v1a,"
    pattern = re.compile(r"v1a,([A-Za-z0-9+/]{85}[AQgw]==)")

    def key(self, secret: str) -> Key:
        """The Ed25519PrivateKey, whose two parts have to belong together."""
        decoded = key_bytes(secret, "whsk_")
        if len(decoded) != 2 * _SEED_SIZE:
            raise ValueError("must be 'whsk_' and the Base64 of seed and public key (64 bytes)")
        key = _ed25519().Ed25519PrivateKey.from_private_bytes(decoded[:_SEED_SIZE])
        if key.public_key().public_bytes_raw() != decoded[_SEED_SIZE:]:
            raise ValueError("holds a public key that is not the one of its seed")
        return key

    def verification_key(self, secret: str) -> Key:
        """The Ed25519PublicKey, given alone or as a part of the private one."""
        if secret.startswith("whsk_"):
            return self.key(secret).public_key()
        decoded = key_bytes(secret, "whpk_")
        if len(decoded) != _SEED_SIZE:
            raise ValueError("must be 'whpk_' and the Base64 of a public key (32 bytes)")
        return _ed25519().Ed25519PublicKey.from_public_bytes(decoded)

    def signature(self, key: ed25519.Ed25519PrivateKey, start: bytes, body: bytes) -> bytes:
        """Ed25519, which reads what it signs twice: so it has to be in one piece."""
        return key.sign(start + body)

    def matches(
        self,
        given: Sequence[bytes],
        keys: Sequence[ed25519.Ed25519PublicKey],
        start: bytes,
        body: bytes,
    ) -> bool:
        """Nothing in it is secret, so the first match is enough."""
        signed = start + body
        return any(_fits(key, one, signed) for one in given for key in keys)


def _fits(key: ed25519.Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # see `_ed25519`

    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _ed25519() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError:
        raise ValueError("needs: pip install 'cubehook[ed25519]'") from None
    return ed25519
