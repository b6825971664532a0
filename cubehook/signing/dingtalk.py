"""Scheme ``dingtalk``: the signature of a custom robot of DingTalk, which stands in the query.

https://open.dingtalk.com/document/robots/customize-robot-security-settings
"""

from __future__ import annotations

from collections.abc import Sequence

from cubehook.signing._robot import RobotScheme, SecretText, signature
from cubehook.signing._scheme import Sealed


class DingTalkScheme(RobotScheme):
    """The HMAC of the time in milliseconds and the secret, keyed with the secret.

    DingTalk takes it for an hour. It is made for each attempt, so a clock that is an hour wrong
    is the only thing that makes it stale.
    """

    name = "dingtalk"

    def seal(self, *, timestamp: int, body: bytes, keys: Sequence[SecretText]) -> Sealed:
        """The body as it is, ``timestamp`` and ``sign`` for the query."""
        if not keys:
            return Sealed(body)
        milliseconds = timestamp * 1000
        sign = signature(keys[0].encoded, keys[0].stamped(milliseconds))
        return Sealed(body, {"timestamp": str(milliseconds), "sign": sign})
