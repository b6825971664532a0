"""One attempt at a delivery: headers, signature, POST. `Sender` does it for one endpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cubehook import forks, signing
from cubehook._version import __version__
from cubehook.endpoint import Endpoint
from cubehook.message import Message
from cubehook.outcome import Failure, Reply
from cubehook.transport import WebhookAdapter

USER_AGENT = f"cubehook/{__version__}"


class Sender:
    """Sends messages to one endpoint, each attempt signed at its own time."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._adapter = WebhookAdapter(endpoint)
        self._headers = {"User-Agent": USER_AGENT, "Accept": "*/*", **endpoint.headers}
        self._signers = tuple(_signer(name, endpoint) for name in endpoint.schemes)

    def __call__(self, message: Message, limit: float | None = None) -> Reply | Failure:
        """One attempt, over after the endpoint's ``timeout``, or ``limit`` seconds if sooner."""
        headers = self._headers | {"Content-Type": message.content_type}
        timestamp = int(time.time())
        with forks.kept_out:
            for scheme, keys in self._signers:
                headers |= scheme.sign(
                    message_id=message.id,
                    event=message.event,
                    timestamp=timestamp,
                    body=message.body,
                    keys=keys,
                )
        return self._adapter.post(headers, message.body, limit)

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()


def _signer(name: str, endpoint: Endpoint) -> tuple[signing.Scheme, Sequence[bytes]]:
    scheme = signing.find(name)
    return scheme, tuple(scheme.key(secret.value) for secret in endpoint.secrets)
