"""A feed: what it waits for, and when it gives up waiting."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from loopback import Receiver

from cubehook import WebhookHandler
from cubehook.errors import ConfigError
from cubehook.sources import Feed, SourceEvent, _feed
from cubehook.sources._feed import OutboxAwayError
from cubehook.stats import Stats

Handlers = Callable[..., WebhookHandler]


def event(number: int, level: int = logging.INFO) -> SourceEvent:
    return SourceEvent(f"event-{number}", "sandbox.created", 1.5, {"n": number}, level)


def numbers(receiver: Receiver) -> list[Any]:
    return [one.json["n"] for one in receiver.received()]


class Away(WebhookHandler):
    """Its database is away, or slow. stored: what it says that it has stored, each time."""

    def __init__(self, stopping: threading.Event, stored: Sequence[int]) -> None:
        super().__init__([])
        self._to_stop = stopping
        self._stored = iter(stored)
        self._left = len(stored)

    def flush(self, timeout: float | None = None) -> bool:
        self._left -= 1
        if not self._left:
            self._to_stop.set()
        return False

    def stats(self) -> Stats:
        return replace(super().stats(), stored=next(self._stored))


class TestReady:
    def test_nothing_is_given_before(self, handler: Handlers, receiver: Receiver) -> None:
        asked: list[int] = []

        def ready() -> bool:
            asked.append(len(receiver.received()))
            return True

        feed = Feed([handler()], threading.Event(), ready=ready)
        assert feed.deliver([event(1)])
        assert feed.deliver([event(2)])
        assert asked == [0]
        assert numbers(receiver) == [1, 2]

    def test_it_is_to_stop_before(self, handler: Handlers, receiver: Receiver) -> None:
        answers = iter([False, True])
        feed = Feed([handler()], threading.Event(), ready=lambda: next(answers))
        assert not feed.deliver([event(1)])
        assert receiver.received() == []
        assert feed.deliver([event(2)])
        assert numbers(receiver) == [2]


class TestStoring:
    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_feed, "LOOK_SECONDS", 0.002)
        monkeypatch.setattr(_feed, "STORE_SECONDS", 0.01)

    @pytest.fixture
    def away(self) -> Iterator[Callable[..., Away]]:
        made: list[Away] = []

        def make(stored: Sequence[int]) -> Away:
            made.append(Away(threading.Event(), stored))
            return made[-1]

        yield make
        for one in made:
            one.close()

    def test_it_gives_up_where_nothing_is_stored(self, away: Callable[..., Away]) -> None:
        one = away([7] * 10_000)
        feed = Feed([one], one._to_stop, storing=[one])
        with pytest.raises(OutboxAwayError, match="could be stored"):
            feed.deliver([event(1)])

    def test_it_does_not_while_something_is_stored(self, away: Callable[..., Away]) -> None:
        slow = away(range(50))
        assert not Feed([slow], slow._to_stop, storing=[slow]).deliver([event(1)])

    def test_others_are_waited_for(self, away: Callable[..., Away]) -> None:
        slow = away([7] * 50)
        assert not Feed([slow], slow._to_stop).deliver([event(1)])


class TestHandlers:
    def test_each_has_its_level_and_filters(self, handler: Handlers, receiver: Receiver) -> None:
        strict = handler([receiver.endpoint(path="/strict")], level="WARNING")
        picky = handler([receiver.endpoint(path="/picky")])
        picky.addFilter(lambda record: record.msg["n"] != 2)
        feed = Feed([strict, picky], threading.Event())
        assert feed.deliver([event(1), event(2), event(3, logging.WARNING)])
        by_path = {
            path: [one.json["n"] for one in receiver.received() if one.path == path]
            for path in ("/strict", "/picky")
        }
        assert by_path == {"/strict": [3], "/picky": [1, 3]}

    def test_a_filter_that_fails(self, handler: Handlers, receiver: Receiver) -> None:
        broken = handler()
        broken.addFilter(lambda record: record.sandbox_id == "planted")
        broken.name = "webhooks"
        with pytest.raises(ConfigError) as raised:
            Feed([broken], threading.Event()).deliver([event(1)])
        assert str(raised.value) == "handler 'webhooks': a filter fails (AttributeError)"
        assert receiver.received() == []

    def test_it_is_to_stop_while_each_takes_long(self, handler: Handlers) -> None:
        """Such as one that is ``durable: sync`` while its database is away."""
        stopping = threading.Event()
        slow, taken = handler(), []

        def take(record: logging.LogRecord) -> bool:
            taken.append(record)
            stopping.set()
            return False

        slow.addFilter(take)
        assert not Feed([slow], stopping).deliver([event(number) for number in range(9)])
        assert len(taken) == 1

    def test_410_is_an_end(self, handler: Handlers, receiver: Receiver) -> None:
        receiver.script(410)
        feed = Feed([handler()], threading.Event())
        assert feed.deliver([event(1), event(2)])
        assert feed.deliver([event(3)])
        assert len(receiver.received()) <= 2

    def test_no_more_at_once_than_there_is_room(
        self, handler: Handlers, receiver: Receiver
    ) -> None:
        few = handler(queue_capacity=3)
        assert Feed([few], threading.Event()).deliver([event(number) for number in range(20)])
        assert sorted(numbers(receiver)) == list(range(20))
        assert few.stats().dropped == {}
