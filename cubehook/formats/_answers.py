"""What the services say in the body of an answer: codes, and what follows from them.

Nothing in here raises, and nothing of a body but a number gets into a reason.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cubehook.outcome import Failure, Reply

_LARGEST_CODE = 10**9


@dataclass(frozen=True, slots=True)
class Codes:
    """How one service reports in the JSON of its answers.

    service: its name in a reason. names: the members that may hold the code; 0 is success.
    limits: codes that say "too often", and the seconds to wait after each.
    final: codes that stay the same however often it is tried. Any other is tried again.
    """

    service: str
    names: tuple[str, ...]
    limits: Mapping[int, float]
    final: Collection[int]

    def judge(self, reply: Reply) -> Reply | Failure:
        """What the answer amounts to.

        An answer of success without a code is not the service's: what stands between has written
        it, and the message may be lost. So it is tried again.
        """
        code = self.code(json_object(reply))
        succeeded = 200 <= reply.status < 300
        if code is None:
            return Failure(f"{self.service}: the answer cannot be read") if succeeded else reply
        reason = f"{self.service}: code {code}"
        if code in self.limits and (succeeded or reply.status == 400):
            return Failure(reason, wait=self.limits[code])
        return Failure(reason, final=code in self.final) if code and succeeded else reply

    def code(self, answer: Mapping[str, Any]) -> int | None:
        """The code: the first that is not 0, if there are several; None where there is none."""
        codes = [number for name in self.names if (number := _number(answer.get(name))) is not None]
        return next(filter(None, codes), codes[0] if codes else None)


def json_object(reply: Reply) -> dict[str, Any]:
    """The JSON object in the body; empty where there is none."""
    try:
        value = json.loads(reply.body)
    except Exception:  # no JSON, no text, too deep, too long a number
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and len(value) <= 10:
        value = int(value) if value.removeprefix("-").isdigit() else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if abs(value) < _LARGEST_CODE else None
