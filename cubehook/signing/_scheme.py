"""What every scheme is: how a request is signed and how a receiver checks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

Key: TypeAlias = Any
"""What a scheme makes of a secret, and alone looks into. Threads share it: it must not change."""


class Scheme(Protocol):
    """One way to sign a request.

    A scheme has no state: the keys are given with each call, the first one signs first.

    name: what an endpoint's ``scheme`` says.
    dated: whether the signature covers id and time of the request. If not, a request that was
        recorded stays good for ever, so `cubehook.verify` takes the scheme only by its name.
    signature_header: the name of the header that holds the signature, in lower case.
    """

    name: str
    dated: bool
    signature_header: str

    def key(self, secret: str) -> Key:
        """The signing key that ``secret`` stands for.

        Raises ValueError, without the secret in its text, where the scheme refuses it.
        """

    def verification_key(self, secret: str) -> Key:
        """The key that a receiver with ``secret`` checks with; the signing key where they share it.

        Raises ValueError like ``key``.
        """
        return self.key(secret)

    def sign(
        self, *, message_id: str, event: str, timestamp: int, body: bytes, keys: Sequence[Key]
    ) -> dict[str, str]:
        """The headers of one attempt at ``timestamp`` (Unix seconds); unsigned without keys."""

    def check(
        self,
        headers: Mapping[str, str],
        body: bytes,
        keys: Sequence[Key],
        now: float,
        tolerance: float,
    ) -> None:
        """Return if the request is genuine and fresh; `cubehook.VerificationError` otherwise.

        ``headers`` has its names in lower case; ``keys`` are verification keys.
        """


class Sealed(NamedTuple):
    """What a signature that does not stand in a header leaves to be sent.

    body: the body, perhaps with the signature in it. query: what is added to the URL's query.
    """

    body: bytes
    query: Mapping[str, str] = {}


@runtime_checkable
class SealingScheme(Scheme, Protocol):
    """A scheme whose signature stands in the body, or in the query of the URL."""

    def seal(self, *, timestamp: int, body: bytes, keys: Sequence[Key]) -> Sealed:
        """What to send in one attempt at ``timestamp`` (Unix seconds); the same without keys."""
