"""Scheme ``feishu``: the signature of a custom bot of Feishu or Lark, which stands in the body.

https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot
"""

from __future__ import annotations

from collections.abc import Sequence

from cubehook.signing._robot import RobotScheme, SecretText, signature
from cubehook.signing._scheme import Sealed


class FeishuScheme(RobotScheme):
    """The HMAC of nothing, keyed with the time in seconds and the secret.

    Feishu takes it for an hour. It is made for each attempt, so a clock that is an hour wrong
    is the only thing that makes it stale.
    """

    name = "feishu"

    def seal(self, *, timestamp: int, body: bytes, keys: Sequence[SecretText]) -> Sealed:
        """The body with ``timestamp`` and ``sign`` before its other members.

        What is no JSON object stays as it is: Feishu takes none.
        """
        if not keys or not body.startswith(b"{"):
            return Sealed(body)
        sign = signature(keys[0].stamped(timestamp), b"")
        rest = body[1:].lstrip()
        comma = b"" if rest.startswith(b"}") else b","
        return Sealed(
            b'{"timestamp":"%d","sign":"%b"%b%b' % (timestamp, sign.encode("ascii"), comma, rest)
        )
