"""A handler with an outbox, on each database: from the log call to the receiver and back."""

from __future__ import annotations

import logging
import logging.config
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import stored
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

import cubehook.threads
from cubehook import ConfigError, WebhookHandler, depot, relay
from cubehook.outbox import Outbox, Status

if TYPE_CHECKING:
    from conftest import Receiver

PATIENCE = 10.0
Make = Callable[..., WebhookHandler]

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def log(logger: logging.Logger, *ids: object, **fields: Any) -> None:
    for one in ids:
        extra = {"event": "a.b", "event_id": str(one), **fields}
        logger.info("a message", extra=extra)


def balanced(handler: WebhookHandler) -> bool:
    stats = handler.stats()
    ended = stats.delivered + stats.dead + sum(stats.dropped.values()) + stats.stored
    return stats.received == ended + stats.pending and all(
        one.received
        == one.delivered + one.dead + sum(one.dropped.values()) + one.stored + one.pending
        for one in stats.endpoints.values()
    )


@pytest.fixture
def look(url: str) -> Iterator[Outbox]:
    """Another one's view of the same outbox."""
    one = Outbox(url)
    yield one
    stored.check_invariants(one)
    one.close()


@pytest.fixture
def statuses(look: Outbox) -> Callable[[], dict[str, str]]:
    return lambda: {one.event_id: one.status.value for one in look.list()}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depot, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(relay, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(relay, "POLL_SECONDS", 0.01)


def make_broken(handler: WebhookHandler) -> Callable[[], None]:
    """Let the database be away for this handler. Returns what ends it."""
    database = handler._pipeline._depot._outbox._database  # type: ignore[union-attr]
    run = database._once

    def broken(*args: Any) -> Any:
        raise OSError("no route to host")

    database._once = broken  # type: ignore[method-assign]
    return lambda: setattr(database, "_once", run)


# --- The way through ---


def test_events_are_delivered_in_order_and_settled(
    url: str,
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    statuses: Callable[[], dict[str, str]],
    eventually: Callable[..., None],
) -> None:
    made = handler(outbox=url)
    log(logger, *range(20), sandbox_id="one")
    log(logger, *range(20, 30))
    ids = [int(one.json["id"]) for one in receiver.wait_for(30)]
    assert [one for one in ids if one < 20] == list(range(20))
    assert sorted(ids) == list(range(30))
    eventually(lambda: set(statuses().values()) == {"delivered"})
    eventually(lambda: made.stats().delivered == 30)
    assert made.stats().stored == 30
    assert balanced(made)


def test_a_handler_that_only_stores(
    url: str,
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    statuses: Callable[[], dict[str, str]],
) -> None:
    made = handler(outbox=url, deliver=False)
    log(logger, "1", "2")
    assert made.flush(PATIENCE)
    assert statuses() == {"1": "waiting", "2": "waiting"}
    assert (made.stats().stored, made.stats().pending) == (2, 0)
    assert not [one for one in threading.enumerate() if one.name == "cubehook-relay"]
    made.close()
    assert receiver.received() == []


def test_what_a_former_handler_has_left_is_delivered_without_an_event(
    url: str, handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    first = handler(outbox=url, deliver=False)
    log(logger, "1")
    first.close()
    logger.removeHandler(first)
    handler(outbox=url)
    assert receiver.wait_for(1)[0].json["id"] == "1"


def test_what_is_left_is_delivered_once_there_are_endpoints(
    url: str, handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    first = handler(outbox=url, deliver=False)
    log(logger, "1")
    first.close()
    made = handler([], outbox=url)
    made.update_endpoints([receiver.endpoint()])
    assert receiver.wait_for(1)[0].json["id"] == "1"


def test_retries_go_on_in_another_process(
    url: str,
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    look: Outbox,
    eventually: Callable[..., None],
) -> None:
    receiver.script(default=503)
    options = {"outbox": url, "max_retries": 2}
    endpoint = receiver.endpoint(backoff_initial=0.01)
    for _ in range(2):
        made = handler([endpoint], **options)
        before = len(receiver.received())
        log(logger, "1")  # once: it has the same id
        receiver.wait_for(before + 1)
        made.close()
        logger.removeHandler(made)
        assert balanced(made)
    handler([endpoint], **options)
    eventually(lambda: [one.status for one in look.list()] == [Status.DEAD])
    assert [one.attempts for one in look.list()] == [3]
    assert len(receiver.received()) == 3


def test_the_same_bytes_each_time(
    url: str, handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    receiver.script(503, 503)
    handler([receiver.endpoint(backoff_initial=0.01)], outbox=url)
    log(logger, "1")
    assert len({one.body for one in receiver.wait_for(3)}) == 1


# --- durable: sync ---


def test_sync_returns_after_the_commit(
    url: str, handler: Make, logger: logging.Logger, statuses: Callable[[], dict[str, str]]
) -> None:
    handler(outbox=url, durable="sync", deliver=False, flush_timeout=PATIENCE)
    for number in range(5):
        log(logger, number)
        assert len(statuses()) == number + 1


def test_sync_commits_together_what_many_threads_log(
    url: str,
    handler: Make,
    logger: logging.Logger,
    statuses: Callable[[], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = handler(outbox=url, durable="sync", deliver=False, flush_timeout=PATIENCE)
    log(logger, "first")
    outbox = made._pipeline._depot._outbox  # type: ignore[union-attr]
    add, sizes, go_on = outbox.add, [], threading.Event()

    def slow(batch: Any) -> int:
        assert go_on.wait(PATIENCE)
        sizes.append(len(batch))
        return add(batch)

    monkeypatch.setattr(outbox, "add", slow)
    threads = [threading.Thread(target=log, args=(logger, number)) for number in range(16)]
    for one in threads:
        one.start()
    while made.stats().queued < 16:
        assert made.stats().queued <= 16
    go_on.set()
    for one in threads:
        one.join(PATIENCE)
    assert len(statuses()) == 17
    assert sum(sizes) == 16
    assert len(sizes) <= 4


@pytest.mark.usefixtures("impatient")
def test_sync_waits_no_longer_than_flush_timeout(
    url: str,
    handler: Make,
    logger: logging.Logger,
    statuses: Callable[[], dict[str, str]],
    eventually: Callable[..., None],
) -> None:
    made = handler(outbox=url, durable="sync", deliver=False, flush_timeout=0.1)
    repair = make_broken(made)
    before = time.monotonic()
    log(logger, "1")
    assert 0.1 <= time.monotonic() - before < PATIENCE / 2
    assert made.stats().queued == 1
    repair()
    eventually(lambda: statuses() == {"1": "waiting"})
    assert balanced(made)


def test_sync_does_not_wait_under_loggings_lock(
    url: str, handler: Make, logger: logging.Logger
) -> None:
    made = handler(outbox=url, durable="sync", deliver=False, flush_timeout=PATIENCE)
    repair = make_broken(made)
    before = time.monotonic()
    with logging._lock:  # type: ignore[attr-defined]
        log(logger, "1")
    assert time.monotonic() - before < PATIENCE / 2
    repair()


def test_sync_an_event_within_an_event(
    url: str, handler: Make, logger: logging.Logger, statuses: Callable[[], dict[str, str]]
) -> None:
    class Talkative(dict[str, Any]):
        """Logs an event when it is looked at."""

        def items(self) -> Any:
            log(logger, "inner")
            return super().items()

    handler(outbox=url, durable="sync", deliver=False, flush_timeout=PATIENCE)
    log(logger, "outer", data=Talkative(a=1))
    assert "outer" in statuses()


def test_sync_where_no_thread_can_be_started(
    url: str,
    handler: Make,
    logger: logging.Logger,
    statuses: Callable[[], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(*args: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(cubehook.threads, "start", start)
    made = handler(outbox=url, durable="sync", flush_timeout=PATIENCE)
    log(logger, "1", "2")
    assert statuses() == {"1": "waiting", "2": "waiting"}
    assert balanced(made)


@pytest.mark.usefixtures("impatient")
def test_without_threads_and_database_the_end_comes_all_the_same(
    url: str, handler: Make, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*args: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(cubehook.threads, "start", start)
    made = handler(outbox=url, flush_timeout=0.1)
    make_broken(made)
    log(logger, *range(100))
    before = time.monotonic()
    made.flush()
    made.close()
    assert time.monotonic() - before < PATIENCE / 2
    assert made.stats().dropped == {"not_stored": 100}
    assert balanced(made)


# --- The database is away ---


@pytest.mark.usefixtures("impatient")
def test_events_wait_while_the_database_is_away_and_none_is_lost(
    url: str,
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., None],
) -> None:
    made = handler(outbox=url, queue_capacity=40)
    repair = make_broken(made)
    log(logger, *range(30), sandbox_id="one")
    eventually(lambda: "events wait to be stored" in caplog.text)
    assert not made.flush(0.05)
    assert receiver.received() == []
    assert balanced(made)
    repair()
    ids = [int(one.json["id"]) for one in receiver.wait_for(30)]
    assert ids == list(range(30))
    assert caplog.text.count("events wait to be stored") == 1


@pytest.mark.usefixtures("impatient")
def test_a_full_queue_drops_the_newest_meanwhile(
    url: str, handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler(outbox=url, queue_capacity=5)
    repair = make_broken(made)
    log(logger, *range(60))
    assert made.stats().dropped["queue_full"] > 0
    assert balanced(made)
    repair()
    assert made.flush(PATIENCE)
    kept = 60 - made.stats().dropped["queue_full"]
    receiver.wait_for(kept)
    assert balanced(made)


@pytest.mark.usefixtures("impatient")
def test_close_while_the_database_is_away_is_bounded_and_says_what_is_lost(
    url: str, handler: Make, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    made = handler(outbox=url, flush_timeout=0.1)
    make_broken(made)
    log(logger, *range(50))
    before = time.monotonic()
    made.close()
    assert time.monotonic() - before < PATIENCE / 2
    assert made.stats().dropped == {"not_stored": 50}
    assert " not_stored" in caplog.text
    assert balanced(made)


@pytest.mark.usefixtures("impatient")
def test_a_write_lock_of_another_process_is_waited_for(
    kind: str, url: str, handler: Make, logger: logging.Logger, receiver: Receiver, look: Outbox
) -> None:
    if kind != "sqlite":
        pytest.skip("a server locks rows")
    look.prepare()
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    made = handler(outbox=url)
    log(logger, "1")
    assert not made.flush(0.05)
    other.execute("COMMIT")
    other.close()
    assert receiver.wait_for(1)


# --- The ends ---


def test_close_is_quick_while_the_receiver_hangs(
    url: str,
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    statuses: Callable[[], dict[str, str]],
) -> None:
    receiver.hold()
    made = handler(outbox=url, flush_timeout=0.2)
    log(logger, *range(5))
    receiver.wait_for(1)
    before = time.monotonic()
    made.close()
    assert time.monotonic() - before < PATIENCE / 2
    found = list(statuses().values())
    assert (found.count("leased"), found.count("waiting")) == (1, 4)
    assert balanced(made)
    receiver.release()


def test_a_handler_that_is_replaced_lets_its_threads_go(
    url: str,
    receiver: Receiver,
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "hooks": {
                "class": "cubehook.WebhookHandler",
                "endpoints": [receiver.endpoint()],
                "outbox": url,
            }
        },
        "loggers": {"app.twice": {"level": "INFO", "handlers": ["hooks"]}},
    }

    def relays() -> int:
        return sum(one.name == "cubehook-relay" for one in threading.enumerate())

    eventually(lambda: relays() == 0)
    for _ in range(3):
        logging.config.dictConfig(config)
    eventually(lambda: relays() == 1)
    log(logging.getLogger("app.twice"), "1")
    receiver.wait_for(1)
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    logging.getLogger("app.twice").handlers.clear()
    eventually(lambda: relays() == 0)


def test_a_dropped_handler_lets_its_threads_go(
    url: str, receiver: Receiver, eventually: Callable[..., None]
) -> None:
    made = WebhookHandler([receiver.endpoint()], outbox=url)
    assert made.stats().received == 0
    del made
    eventually(lambda: not [one for one in threading.enumerate() if one.name == "cubehook-relay"])


def test_close_from_a_thread_of_its_own_does_not_wait_for_itself(
    url: str, handler: Make, logger: logging.Logger, eventually: Callable[..., None]
) -> None:
    made = handler(outbox=url)

    class Closing(logging.Formatter):
        content_type = "text/plain"

        def format(self, record: logging.LogRecord) -> str:
            made.close()
            return "text"

    made.setFormatter(Closing())
    log(logger, "1")
    eventually(lambda: made._pipeline.stopped)


# --- Forks ---


def test_parent_and_child_deliver_each_event_once(
    url: str,
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    statuses: Callable[[], dict[str, str]],
    eventually: Callable[..., None],
) -> None:
    made = handler(outbox=url, flush_timeout=PATIENCE)
    log(logger, *range(10))
    receiver.wait_for(10)

    def child() -> bool:
        assert not [one for one in threading.enumerate() if one.name == "cubehook-relay"]
        log(logger, *range(10, 20))
        done = made.flush(PATIENCE)
        made.close()
        return done

    signal.alarm(30)
    assert stored.in_child(child)
    signal.alarm(0)
    log(logger, *range(20, 30))
    receiver.wait_for(30)
    eventually(lambda: list(statuses().values()) == ["delivered"] * 30)
    assert sorted(int(one.json["id"]) for one in receiver.received()) == list(range(30))


def test_forks_while_it_is_busy(
    url: str, handler: Make, logger: logging.Logger, receiver: Receiver
) -> None:
    made = handler(outbox=url, flush_timeout=PATIENCE)
    for number in range(10):
        log(logger, *(f"{number}-{one}" for one in range(20)))

        def child(number: int = number) -> bool:
            log(logger, f"child-{number}")
            stored_all = made.flush(PATIENCE)
            made.close()  # what it has leased goes back
            return stored_all

        signal.alarm(30)
        assert stored.in_child(child)
        signal.alarm(0)
    ids = {one.json["id"] for one in receiver.wait_for(210)}
    assert len(ids) == 210


def test_a_closed_handler_stays_closed_in_a_child(
    url: str, handler: Make, logger: logging.Logger
) -> None:
    made = handler(outbox=url)
    made.close()

    def child() -> bool:
        log(logger, "1")
        return made.stats().dropped == {"closed": 1} and threading.active_count() == 1

    assert stored.in_child(child)


def test_what_a_child_commits_is_there_when_its_parent_has_gone(
    kind: str, url: str, handler: Make, logger: logging.Logger, look: Outbox
) -> None:
    """A child has not the locks of its parent, and SQLite in it must not think so."""
    if kind != "sqlite":
        pytest.skip("there is no file")
    made = handler(outbox=url, deliver=False, flush_timeout=PATIENCE)
    log(logger, "1")
    assert made.flush(PATIENCE)
    (ready, is_ready), (go_on, may_go_on) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            log(logger, "2")
            made.flush(PATIENCE)
            os.write(is_ready, b".")
            os.read(go_on, 1)
            log(logger, "3")
            made.flush(PATIENCE)
        finally:
            os._exit(0)
    os.read(ready, 1)
    made.close()
    come_and_go = (
        "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM cubehook_events')"
    )
    subprocess.run([sys.executable, "-c", come_and_go, url.removeprefix("sqlite:///")], check=True)
    os.write(may_go_on, b".")
    os.waitpid(child, 0)
    for one in (ready, is_ready, go_on, may_go_on):
        os.close(one)
    assert {one.event_id for one in look.list()} == {"1", "2", "3"}


# --- Configuration ---


def test_a_damaged_file_is_refused_at_start_and_left_alone(
    kind: str, url: str, look: Outbox, receiver: Receiver
) -> None:
    if kind != "sqlite":
        pytest.skip("there is no file")
    look.prepare()
    look.close()
    path = Path(url.removeprefix("sqlite:///"))
    sound = path.read_bytes()
    damaged = sound[:100] + b"\xff" * 3000 + sound[3100:]
    path.write_bytes(damaged)
    for extra in path.parent.glob("outbox.db-*"):
        extra.unlink()
    with pytest.raises(ConfigError, match="outbox: the SQLite file is damaged"):
        WebhookHandler([receiver.endpoint()], outbox=url)
    assert path.read_bytes() == damaged
    path.write_bytes(sound)


@pytest.mark.usefixtures("impatient")
def test_a_handler_comes_up_while_the_database_is_down(
    kind: str, url: str, handler: Make, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "sqlite":
        pytest.skip("there is no server")
    engine = create_engine(url)
    nowhere = engine.url.set(host="127.0.0.1", port=1, query={}, password="p4ssw0rd")
    made = handler(outbox=nowhere.render_as_string(hide_password=False), flush_timeout=0.1)
    log(logger, "1")
    assert not made.flush()
    made.close()
    assert "the database cannot be reached" in caplog.text
    assert "p4ssw0rd" not in caplog.text + repr(made) + repr(made._settings)
    engine.dispose()


def test_a_table_that_is_gone_comes_back(
    bare_url: str,
    handler: Make,
    logger: logging.Logger,
    receiver: Receiver,
    eventually: Callable[..., None],
) -> None:
    """The database was made anew meanwhile."""
    handler(outbox=bare_url, flush_timeout=PATIENCE)
    log(logger, "1")
    receiver.wait_for(1)
    engine = create_engine(bare_url)

    def drop_all() -> bool:
        try:
            with engine.begin() as connection:
                for table in ("attempts", "deliveries", "events", "lanes", "schema_version"):
                    connection.execute(text(f"DROP TABLE IF EXISTS cubehook_{table}"))
        except DBAPIError:  # who delivers meanwhile locks the tables in another order
            return False
        return True

    eventually(drop_all)
    engine.dispose()
    log(logger, "2")
    assert receiver.wait_for(2)[1].json["id"] == "2"


def test_another_handler_on_the_same_file_leaves_its_locks_alone(
    kind: str, url: str, handler: Make, logger: logging.Logger, look: Outbox
) -> None:
    """Who opens and closes the file past SQLite takes away this process's locks: another process
    that comes and goes would then take the log of what is committed with it."""
    if kind != "sqlite":
        pytest.skip("there is no file")
    made = handler(outbox=url, deliver=False, flush_timeout=PATIENCE)
    log(logger, "1")
    assert made.flush(PATIENCE)
    handler(outbox=url, deliver=False)

    path = url.removeprefix("sqlite:///")
    come_and_go = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1])
other.execute("SELECT count(*) FROM cubehook_events").fetchone()
other.close()
"""
    # (No fork: it would have SQLite's notes of what this process has locked.)
    subprocess.run([sys.executable, "-c", come_and_go, path], check=True)
    assert Path(f"{path}-wal").exists()
    log(logger, "2")
    assert made.flush(PATIENCE)
    assert {one.event_id for one in look.list()} == {"1", "2"}
