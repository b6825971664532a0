"""The depot: events into the outbox, whatever the database does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

import cubehook.threads
from cubehook import WebhookFormatter
from cubehook import depot as depot_
from cubehook.courier import Courier
from cubehook.depot import NOT_STORED, UNSTORABLE, Depot
from cubehook.endpoint import Endpoint
from cubehook.errors import ConfigError
from cubehook.message import Message
from cubehook.outbox import OutboxUnavailableError
from cubehook.schedule import Formatted

PATIENCE = 10.0
AWAY = OutboxUnavailableError("the database cannot be reached")


def message(text: str, *, body: Any = b"{}", content_type: str = "text/plain") -> Message:
    return Message(text, "a.b", "key", content_type, body)


def events(*texts: str, endpoint: str = "ops") -> list[Formatted]:
    return [Formatted([(endpoint, message(text))]) for text in texts]


def endpoint(name: str, **keys: Any) -> Endpoint:
    keys = {"max_retries": 3, "backoff_initial": 1.0, "backoff_max": 9.0, **keys}
    return Endpoint(
        name=name,
        url=f"https://{name}.example/",
        secret="test-secret",
        timeout=1.0,
        connect_timeout=1.0,
        max_concurrency=2,
        transport="requests",
        **keys,
    )


FORMATS = {"cube": WebhookFormatter()}


class Store:
    """A depot that only stores, and what fails there before it works again."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.courier = Courier(
            max_concurrency=2, queue_capacity=9, max_payload_bytes=99, formats=FORMATS
        )
        self.depot = Depot(url, self.courier, deliver=False)
        self.errors: list[BaseException] = []
        self.tried = 0
        self.configure(endpoint("ops"), endpoint("loose", ordered=False))
        self._add = self.depot._outbox.add
        monkeypatch.setattr(self.depot._outbox, "add", self.add)

    def configure(self, *endpoints: Endpoint) -> None:
        self.courier.configure(endpoints)
        self.depot.configure(endpoints)

    def add(self, batch: Any) -> int:
        self.tried += 1
        if self.errors:
            raise self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        return self._add(batch)

    @property
    def stored(self) -> list[str]:
        return [one.event_id for one in reversed(self.depot._outbox.list())]

    @property
    def counts(self) -> tuple[int, int, dict[str, int]]:
        """Fanned out, stored, and dropped by the lanes."""
        census = self.courier.dispatcher.stats()
        dropped: dict[str, int] = {}
        for lane in census.endpoints.values():
            for reason, count in lane.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        return census.fanned_out, census.stored, dropped


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Store]]:
    made: list[Store] = []

    def store() -> Store:
        made.append(Store(f"sqlite:///{tmp_path}/outbox.db", monkeypatch))
        return made[-1]

    yield store
    for one in made:
        one.depot.stop(0.0)
        one.courier.dispatcher.stop()


@pytest.fixture
def store(make: Callable[[], Store]) -> Store:
    return make()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depot_, "RETRY_SECONDS", 0.001)


def test_events_are_stored_in_one_transaction_and_counted(store: Store) -> None:
    assert not store.depot.store(events("1", "2", "3"))
    assert (store.tried, store.stored) == (1, ["1", "2", "3"])
    assert store.counts == (3, 3, {})


def test_a_format_is_one_row_for_all_its_endpoints(store: Store) -> None:
    one = message("1")
    store.depot.store([Formatted([("ops", one), ("loose", one)])])
    records = store.depot._outbox.list()
    assert sorted(one.endpoint for one in records) == ["loose", "ops"]
    assert store.counts == (1, 2, {})
    leases = store.depot._outbox.lease(["ops", "loose"], 9, 30.0, "me")
    assert {one.endpoint: one.chained for one in leases} == {"ops": True, "loose": False}


def test_what_is_for_nobody_or_was_not_made_is_counted(store: Store) -> None:
    given = [Formatted([], "unsubscribed"), Formatted([("ops", "too_large")])]
    assert store.depot.store(given)
    assert store.tried == 0
    assert store.counts == (2, 0, {"too_large": 1})
    assert store.courier.dispatcher.stats().dropped == {"unsubscribed": 1}


@pytest.mark.usefixtures("impatient")
def test_a_database_that_is_away_is_waited_for(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.errors = [AWAY] * 4 + [ConfigError("outbox: is damaged")]
    waited = threading.Thread(target=store.depot.store, args=(events("1", "2"),))
    waited.start()
    while store.tried < 10:
        assert waited.is_alive()
    store.errors = []
    waited.join(PATIENCE)
    assert store.stored == ["1", "2"]
    assert store.counts == (2, 2, {})
    assert len(caplog.records) == 1
    assert "events wait to be stored" in caplog.text


@pytest.mark.usefixtures("impatient")
def test_what_could_not_be_stored_in_the_end_is_counted(store: Store) -> None:
    store.errors = [AWAY]
    store.depot.give_up()
    assert store.depot.store(events("1", "2"))
    assert store.counts == (2, 0, {NOT_STORED: 2})


@pytest.mark.usefixtures("impatient")
def test_once_given_up_nothing_more_is_waited_for(store: Store) -> None:
    """Each try may take seconds, and there may be many events."""
    store.errors = [AWAY]
    store.depot.wait_no_longer_than(0.0)
    store.depot.store(events("1"))
    assert store.tried == 1
    store.depot.store(events("2"))
    assert store.tried == 1
    store.errors = []
    store.depot.wait_no_longer_than(1.0)
    store.depot.store(events("3"))
    assert store.stored == ["3"]


def test_the_end_does_not_keep_from_storing(store: Store) -> None:
    store.depot.give_up()
    assert not store.depot.store(events("1"))
    assert store.stored == ["1"]


@pytest.mark.parametrize(
    "bad",
    [
        message("bad", content_type="text/plain\nX-Y: z"),
        message("bad", body="text"),
        message("bad", body=b"x" * 1_048_577),
        message("x" * 129),
        message(None),  # type: ignore[arg-type]
    ],
    ids=["content type", "text", "long", "long id", "no id"],
)
def test_what_no_database_could_keep_holds_up_nothing(store: Store, bad: Message) -> None:
    given = [*events("1"), Formatted([("ops", bad), ("loose", message("bad"))]), *events("2")]
    assert store.depot.store(given)
    assert store.stored == ["1", "2"]
    assert store.counts == (3, 2, {UNSTORABLE: 2})


def test_a_full_database_loses_nothing_that_is_committed(store: Store) -> None:
    store.depot.store(events("first"))

    def limit(connection: Any, most: int) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {most}")

    engine = store.depot._outbox._database._engine
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        limit(connection, pages)
    big = message("big", body=b"x" * 500_000)
    store.depot.wait_no_longer_than(0.0)
    assert store.depot.store([Formatted([("ops", big)])])
    assert store.counts == (2, 1, {NOT_STORED: 1})
    with engine.connect() as connection:
        limit(connection, 1_000_000)
    store.depot.wait_no_longer_than(1.0)
    assert not store.depot.store([Formatted([("ops", big)])])
    assert store.stored == ["first", "big"]


def test_a_depot_that_only_stores_has_no_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*args: Any) -> None:
        raise AssertionError("there is nothing to do")

    monkeypatch.setattr(cubehook.threads, "start", start)
    store.depot.start()
    store.depot.wake()


def test_the_url_is_nowhere_to_be_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("psycopg")
    courier = Courier(max_concurrency=2, queue_capacity=9, max_payload_bytes=99, formats=FORMATS)
    url = "postgresql://user:p4ssw0rd@127.0.0.1:1/planted?connect_timeout=1"
    depot = Depot(url, courier, deliver=True)
    depot.configure([endpoint("ops")])
    depot.wait_no_longer_than(0.0)
    depot.store(events("1"))
    assert "events wait to be stored: the database cannot be reached" in caplog.text
    for secret in ("p4ssw0rd", "planted", "user"):
        assert secret not in caplog.text
        assert secret not in repr(depot)
        assert secret not in repr(depot._outbox)
    depot.stop(0.0)
