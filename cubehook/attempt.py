"""One attempt at a delivery: headers, signature, POST. `Sender` does it for one endpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from cubehook import forks
from cubehook._version import __version__
from cubehook.endpoint import Endpoint
from cubehook.keyring import Keyring
from cubehook.message import Message
from cubehook.outcome import Failure, Reply
from cubehook.transport import WebhookAdapter

USER_AGENT = f"cubehook/{__version__}"


class Transport(Protocol):
    """What makes the requests to one endpoint."""

    def post(
        self, headers: Mapping[str, str], body: bytes, limit: float | None = None
    ) -> Reply | Failure:
        """One attempt, over after the endpoint's ``timeout``, or ``limit`` seconds if sooner."""

    def close(self) -> None:
        """Close the idle connections."""


class Sender:
    """Sends messages to one endpoint, each attempt signed at its own time."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._transport = _transport(endpoint)
        given = {name.lower() for name in endpoint.headers}
        ours = {"User-Agent": USER_AGENT, "Accept": "*/*"}
        self._headers = {
            **{name: value for name, value in ours.items() if name.lower() not in given},
            **endpoint.headers,
        }
        self._keyring = Keyring(endpoint.name, endpoint.schemes, endpoint.secrets)

    def __call__(self, message: Message, limit: float | None = None) -> Reply | Failure:
        """One attempt, over after the endpoint's ``timeout``, or ``limit`` seconds if sooner."""
        headers = self._headers | {"Content-Type": message.content_type} | self._signed(message)
        return self._transport.post(headers, message.body, limit)

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()

    def _signed(self, message: Message) -> dict[str, str]:
        headers: dict[str, str] = {}
        timestamp = int(time.time())
        signers = self._keyring.current()
        with forks.kept_out:
            for scheme, keys in signers:
                signed = scheme.sign(
                    message_id=message.id,
                    event=message.event,
                    timestamp=timestamp,
                    body=message.body,
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
