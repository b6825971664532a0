"""The endpoints at work: a sender and a lane for each, and the dispatcher that serves them.

It is what a handler and a worker have in common: whoever has messages gives them to its dispatcher.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from cubehook import batch
from cubehook.attempt import Judge, Sender
from cubehook.dispatcher import Dispatcher
from cubehook.endpoint import Endpoint
from cubehook.formats import BatchFormat, BodyFormat
from cubehook.lane import Batching, LaneSettings
from cubehook.message import Message
from cubehook.notices import notice
from cubehook.outcome import Failure, Reply
from cubehook.retry import WebhookRetry

logger = logging.getLogger(__name__)


class Courier:
    """See the module.

    max_concurrency: worker threads. queue_capacity: deliveries in the backlog of one endpoint.
    max_payload_bytes: longest body, of a batch too. formats: by name, looked up at each batch.
    on_return: see `Dispatcher`.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        queue_capacity: int,
        max_payload_bytes: int,
        formats: Mapping[str, BodyFormat],
        on_return: Callable[[], object] = lambda: None,
    ) -> None:
        self.dispatcher = Dispatcher(max_concurrency, on_return=on_return)
        self._most = max_concurrency
        self._capacity = queue_capacity
        self._max_payload_bytes = max_payload_bytes
        self._formats = formats
        self._senders: dict[str, Sender] = {}

    def configure(self, endpoints: Sequence[Endpoint]) -> None:
        """The endpoints from now on."""
        former = self._senders
        self._senders = {one.name: Sender(one, self._judge(one.format)) for one in endpoints}
        self.dispatcher.set_lanes(self._lane(one) for one in endpoints if one.enabled)
        for name in former.keys() - self._senders.keys():
            former[name].close()  # the others' are closed when their last attempt lets go of them

    def longest(self, endpoint: Endpoint) -> int:
        """The longest body of one event, in bytes; it must fit into a batch, if there are any."""
        return self._max_payload_bytes - (batch.OVERHEAD if endpoint.batching else 0)

    def close(self) -> None:
        """Close the idle connections."""
        for sender in self._senders.values():
            sender.close()

    def _lane(self, endpoint: Endpoint) -> LaneSettings:
        return LaneSettings(
            name=endpoint.name,
            send=self._senders[endpoint.name],
            policy=policy_of(endpoint),
            capacity=self._capacity,
            share=min(cast(int, endpoint.max_concurrency), self._most),
            ordered=endpoint.ordered,
            batching=self._batching(endpoint),
            rate=endpoint.rate,
        )

    def _judge(self, name: str) -> Judge:
        assert name in self._formats, "made before the endpoints are configured"

        def judge(reply: Reply) -> Reply | Failure:
            return self._formats[name].judge(reply)  # looked up each time: it may have changed

        return judge

    def _batching(self, endpoint: Endpoint) -> Batching | None:
        if endpoint.batching is None:
            return None

        def join(messages: Sequence[Message]) -> Message:
            # Looked up each time: it may have changed.
            body_format = cast(BatchFormat, self._formats[endpoint.format])
            try:
                return batch.joined(messages, body_format, self._max_payload_bytes)
            except Exception as error:
                # A format of the application's: the events then go one by one.
                names = type(error).__name__, type(body_format).__name__
                notice(logger, logging.ERROR, "a batch cannot be written (%s in %s)", *names)
                raise

        return Batching(*endpoint.batching, self.longest(endpoint), join)


def policy_of(endpoint: Endpoint) -> WebhookRetry:
    """The retry policy of a delivery before its first attempt."""
    return WebhookRetry(
        total=cast(int, endpoint.max_retries),
        backoff_factor=cast(float, endpoint.backoff_initial),
        backoff_max=cast(float, endpoint.backoff_max),
    )
