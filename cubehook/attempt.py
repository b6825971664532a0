"""One attempt at a delivery: headers, signature, POST. `Sender` does it for one endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias
from urllib.parse import urlencode

from cubehook import forks
from cubehook._version import __version__
from cubehook.endpoint import Endpoint
from cubehook.keyring import Keyring
from cubehook.message import Message
from cubehook.outcome import Failure, Reply
from cubehook.signing import Key, Scheme, SealingScheme, find
from cubehook.transport import WebhookAdapter

USER_AGENT = f"cubehook/{__version__}"

Judge: TypeAlias = Callable[[Reply], "Reply | Failure"]
"""What an answer amounts to, by the rules of a format."""


def by_status(reply: Reply) -> Reply:
    """The judgement of most formats: the status says it all."""
    return reply


class Transport(Protocol):
    """What makes the requests to one endpoint."""

    def post(
        self, headers: Mapping[str, str], body: bytes, limit: float | None = None, query: str = ""
    ) -> Reply | Failure:
        """One attempt, over after the endpoint's ``timeout``, or ``limit`` seconds if sooner.

        query: is added to that of the URL.
        """

    def close(self) -> None:
        """Close the idle connections."""


class Sender:
    """Sends messages to one endpoint, each attempt signed at its own time.

    judge: of the endpoint's format.
    """

    def __init__(self, endpoint: Endpoint, judge: Judge = by_status) -> None:
        self._judge = judge
        self._transport = _transport(endpoint)
        given = {name.lower() for name in endpoint.headers}
        ours = {"User-Agent": USER_AGENT, "Accept": "*/*"}
        self._headers = {
            **{name: value for name, value in ours.items() if name.lower() not in given},
            **endpoint.headers,
        }
        # Asked once: it is no cheap question.
        self._seals = any(isinstance(find(name), SealingScheme) for name in endpoint.schemes)
        self._keyring = Keyring(endpoint.name, endpoint.schemes, endpoint.secrets)

    def __call__(self, message: Message, limit: float | None = None) -> Reply | Failure:
        """One attempt, over after the endpoint's ``timeout``, or ``limit`` seconds if sooner."""
        timestamp = int(time.time())
        signers = self._keyring.current()
        body, query = message.body, ""
        if self._seals:
            body, query = _sealed(signers, timestamp, body)
        signed = _signed(signers, timestamp, message, body)
        headers = self._headers | {"Content-Type": message.content_type} | signed
        reply = self._transport.post(headers, body, limit, query)
        return self._judge(reply) if isinstance(reply, Reply) else reply

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()


_Signers: TypeAlias = "tuple[tuple[Scheme, tuple[Key, ...]], ...]"


def _sealed(signers: _Signers, timestamp: int, body: bytes) -> tuple[bytes, str]:
    """Body and query with the signatures that stand in there."""
    query: dict[str, str] = {}
    for scheme, keys in signers:
        if isinstance(scheme, SealingScheme):
            with forks.kept_out:
                body, added = scheme.seal(timestamp=timestamp, body=body, keys=keys)
            query |= added
    return body, urlencode(query)


def _signed(signers: _Signers, timestamp: int, message: Message, body: bytes) -> dict[str, str]:
    """The headers that sign the body."""
    headers: dict[str, str] = {}
    with forks.kept_out:
        for scheme, keys in signers:
            signed = scheme.sign(
                message_id=message.id,
                event=message.event,
                timestamp=timestamp,
                body=body,
                keys=keys,
            )
            for name, value in signed.items():
                # What two schemes differ in is a list, such as of `webhook-signature`.
                other = headers.get(name, value)
                headers[name] = value if other == value else f"{other} {value}"
    return headers


def _transport(endpoint: Endpoint) -> Transport:
    if endpoint.transport == "curl":
        from cubehook.curl import CurlTransport  # noqa: PLC0415  # pycurl is an extra

        return CurlTransport(endpoint)
    return WebhookAdapter(endpoint)
