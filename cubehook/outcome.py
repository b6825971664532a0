"""What an attempt brought, and what follows from it: values only, no behaviour.

The transport answers with a `Reply` or a `Failure`; the retry policy turns either into an
outcome; the dispatcher carries the outcome out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from urllib3.util import Retry


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with a status line.

    retry_after: the ``Retry-After`` header as received, or None.
    body: at most 64 KiB of the body, undecoded.
    complete: whether the body was read to its end, within the time and the size.
    """

    status: int
    retry_after: str | None = field(default=None, repr=False)
    body: bytes = field(default=b"", repr=False)
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer, or one whose body says that it failed.

    reason: one of a few fixed phrases. final: trying again is no use. wait: seconds that the
    receiver wants to be left alone, at least.
    """

    reason: str
    final: bool = False
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver took it: a status of 200 to 299, and no word in the body against it."""

    status: int


@dataclass(frozen=True, slots=True)
class RetryAt:
    """To be tried again at ``when``, as ``retry`` says; never before ``floor`` (Retry-After).

    Both moments are seconds on the clock of who asked.
    """

    when: float
    floor: float
    reason: str
    retry: Retry


@dataclass(frozen=True, slots=True)
class Dead:
    """Given up. ``gone``: the endpoint answered 410, so nothing more may be sent to it.

    exhausted: the last retry has failed; otherwise the endpoint refused it for good.
    """

    reason: str
    gone: bool = False
    exhausted: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """No attempt was made: the events of a batch cannot be put together, and go one by one."""


Outcome: TypeAlias = "Delivered | RetryAt | Dead"
"""Of an attempt."""
