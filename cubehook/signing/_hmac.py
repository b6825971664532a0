"""HMAC-SHA256 for the schemes whose two sides share a secret."""

from __future__ import annotations

import hashlib
import hmac

# Ed25519 keys of Standard Webhooks, see `standard_ed25519`.
_ASYMMETRIC = ("whsk_", "whpk_")


def keyed(key: bytes) -> hmac.HMAC:
    """The HMAC of nothing yet. Half the work of a short one is the key: it is done once, here."""
    return hmac.new(key, digestmod=hashlib.sha256)


def keyed_by_text(secret: str) -> hmac.HMAC:
    """The same with the UTF-8 bytes of any text as the key. Raises ValueError for what is no key.

    A private key is not for sharing. A public one is known to all: a receiver that took it here
    would let everyone in.
    """
    if secret.lstrip().startswith(_ASYMMETRIC):
        raise ValueError("is an Ed25519 key, and must not be used as a shared secret")
    try:
        return keyed(secret.encode("utf-8"))
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None


def digest(key: hmac.HMAC, *parts: bytes) -> bytes:
    """The HMAC of the parts, one after the other; ``key`` itself stays as it is."""
    mac = key.copy()
    for part in parts:
        mac.update(part)
    return mac.digest()
