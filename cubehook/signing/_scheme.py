"""What every scheme is: how a request is signed and how a receiver checks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Scheme(Protocol):
    """One way to sign a request.

    A scheme has no state: the secrets are given with each call, the first one signs first.
    """

    name: str

    def key(self, secret: str) -> bytes:
        """The signing key that ``secret`` stands for.

        Raises ValueError, without the secret in its text, where the scheme refuses it.
        """

    def sign(
        self, *, message_id: str, event: str, timestamp: int, body: bytes, keys: Sequence[bytes]
    ) -> dict[str, str]:
        """The headers of one attempt at ``timestamp`` (Unix seconds); unsigned without keys."""

    def claims(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers (names in lower case) is of this scheme."""

    def check(
        self,
        headers: Mapping[str, str],
        body: bytes,
        keys: Sequence[bytes],
        now: float,
        tolerance: float,
    ) -> None:
        """Return if the request is genuine and fresh; `cubehook.VerificationError` otherwise."""
