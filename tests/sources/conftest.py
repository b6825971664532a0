"""What tests of the stream share: a stream of their own, and a feed that does as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import streams
from loopback import PATIENCE

from cubehook.sources import SourceEvent


@pytest.fixture
def stream() -> Iterator[streams.Stream]:
    with streams.opened() as opened:
        yield opened


class FakeFeed:
    """Says that events are safe at once; or, while it is held, not before it is released."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.safe: list[SourceEvent] = []
        self._news = threading.Condition()
        self._open = True
        self._offered = 0

    def hold(self) -> None:
        with self._news:
            self._open = False

    def release(self) -> None:
        with self._news:
            self._open = True
            self._news.notify_all()

    def stop(self) -> None:
        """What a signal does."""
        self.stopping.set()
        with self._news:
            self._news.notify_all()

    def deliver(self, events: Sequence[SourceEvent]) -> bool:
        with self._news:
            self._offered += len(events)
            self._news.notify_all()
            self._news.wait_for(lambda: self._open or self.stopping.is_set())
            if not self._open:
                return False
            self.safe += events
            self._news.notify_all()
        return True

    def wait_for(self, count: int) -> list[SourceEvent]:
        """As soon as so many are safe."""
        with self._news:
            arrived = self._news.wait_for(lambda: len(self.safe) >= count, PATIENCE)
        assert arrived, f"{len(self.safe)} of {count}"
        return self.safe

    def wait_for_offer(self, count: int) -> None:
        """As soon as so many were offered."""
        with self._news:
            assert self._news.wait_for(lambda: self._offered >= count, PATIENCE)


class Consumer:
    """A consumer in a thread."""

    def __init__(self, stream: streams.Stream, name: str, **options: Any) -> None:
        from cubehook.sources.redis_stream import Place, RedisStream

        self.feed = FakeFeed()
        place = Place(stream.name, stream.group, name, **{"min_idle": 0.9, **options})
        self.source = RedisStream(stream.url, place, self.feed, self.feed.stopping)  # type: ignore[arg-type]
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def start(self) -> Consumer:
        self._thread.start()
        return self

    def stop(self) -> Consumer:
        """Returns when it has ended."""
        self.feed.stop()
        if self._thread.ident is not None:
            self._thread.join()
        self.source.close()
        return self

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.source.run()
        except Exception as error:
            self.failure = error


@pytest.fixture
def consumer(request: pytest.FixtureRequest) -> Iterator[Callable[..., Consumer]]:
    """Makes consumers of ``stream``, or of another one."""
    made: list[Consumer] = []

    def make(name: str = "one", on: streams.Stream | None = None, **options: Any) -> Consumer:
        stream = on or request.getfixturevalue("stream")
        made.append(Consumer(stream, name, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()
