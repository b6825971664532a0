"""How requests are signed: one file for each scheme, found here by name; and `verify`."""

from __future__ import annotations

from cubehook.signing._keys import signing_keys
from cubehook.signing._registry import find, known, register
from cubehook.signing._scheme import Key, Scheme, Sealed, SealingScheme
from cubehook.signing._verify import check, verify

__all__ = [
    "Key",
    "Scheme",
    "Sealed",
    "SealingScheme",
    "check",
    "find",
    "known",
    "register",
    "signing_keys",
    "verify",
]
