"""Endpoints in the outbox: stored, changed, encrypted, and noticed by who uses them."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import stored
from sqlalchemy import create_engine, select, text, update

pytest.importorskip("cryptography")

from cryptography.fernet import Fernet

from cubehook import ConfigError, WebhookHandler, config, follower, relay
from cubehook.config import Settings
from cubehook.follower import Follower
from cubehook.outbox import Outbox, OutboxUnavailableError, schema
from cubehook.outbox.endpoints import KEY_VARIABLE, EndpointStore, NotStoredError
from cubehook.worker import Worker

if TYPE_CHECKING:
    from conftest import Receiver

PLANTED = "planted"
SECRET = "planted-secret-0123456789"
NEWER = "planted-newer-0123456789"
URL = "https://planted.example/planted-path"
HEADERS = {"X-Token": "planted-header"}
KEY = Fernet.generate_key().decode()
OTHER = Fernet.generate_key().decode()

Make = Callable[..., WebhookHandler]
Eventually = Callable[..., None]


def given(name: str = "ops", **keys: Any) -> dict[str, Any]:
    return {"name": name, "url": URL, "secret": SECRET, "events": ["a.*"], **keys}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.delenv("PLANTED_NOT_SET", raising=False)
    return KEY


@pytest.fixture
def store(outbox: Outbox, clock: Any) -> EndpointStore:
    return EndpointStore(outbox, clock=clock)


@pytest.fixture
def keyless(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> EndpointStore:
    monkeypatch.delenv(KEY_VARIABLE)
    return EndpointStore(outbox)


def problems_of(work: Callable[[], object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        work()
    error = caught.value
    assert PLANTED not in str(error)
    assert PLANTED not in repr(error.__cause__) + repr(error.__context__)
    return list(error.problems)


class TestStoring:
    def test_as_it_was_given(self, store: EndpointStore) -> None:
        store.add(given(headers=HEADERS, timeout=3.5, ordered=False))
        assert store.mappings() == [
            given(headers=HEADERS, timeout=3.5, ordered=False, enabled=True)
        ]
        assert store.mapping("ops") == store.mappings()[0]

    def test_shown_without_what_is_secret(self, store: EndpointStore, clock: Any) -> None:
        store.add(given(headers=HEADERS, proxy="http://u:planted@proxy.example", enabled=False))
        (one,) = store.list()
        assert one == store.get("ops")
        assert (one.settings, one.enabled) == ({"events": ["a.*"]}, False)
        assert (one.secrets, one.sealed) == (1, True)
        assert one.created == one.updated == clock()
        assert PLANTED not in repr(one)

    def test_by_name(self, store: EndpointStore) -> None:
        for name in ("b", "a", "a "):
            store.add(given(name))
        assert [one.name for one in store.list()] == ["a", "a ", "b"]

    def test_all_problems_at_once(self, store: EndpointStore) -> None:
        wrong = {"name": "ops", "url": "ftp://planted", "secret": "", "timeout": 0, "retries": 1}
        found = problems_of(lambda: store.add(wrong))
        assert len(found) == 4
        assert all(one.startswith("endpoint 'ops': ") for one in found)
        assert store.list() == []
        assert store.revision() == ""

    def test_nameless(self, store: EndpointStore) -> None:
        wrong = {"url": URL}
        assert problems_of(lambda: store.add(wrong)) == ["endpoint: name: is missing"]

    def test_no_batches(self, store: EndpointStore) -> None:
        wrong = given(batch={"max_events": 2, "linger": 1.0})
        (problem,) = problems_of(lambda: store.add(wrong))
        assert "batch" in problem

    def test_twice(self, store: EndpointStore) -> None:
        store.add(given())
        found = problems_of(lambda: store.add(given()))
        assert found == ["endpoint 'ops': name: is stored already"]

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_by_many_processes(self, store: EndpointStore, url: str) -> None:
        def work(number: int) -> Callable[[], object]:
            return lambda: EndpointStore(Outbox(url)).add(given(f"e{number}"))

        stored.run_children(work(number) for number in range(4))
        assert len(store.mappings()) == 4

    def test_the_handlers_defaults_count(self, outbox: Outbox, store: EndpointStore) -> None:
        private = given(url="http://10.0.0.1/planted")
        assert problems_of(lambda: store.add(private))
        EndpointStore(outbox, settings=Settings(allow_private_urls=True)).add(private)


class TestChanging:
    def test_set(self, store: EndpointStore, clock: Any) -> None:
        store.add(given(timeout=2.0))
        clock.now += 5
        store.set("ops", {"events": ["b.c"], "timeout": None, "max_retries": 1})
        assert store.mapping("ops") == given(events=["b.c"], max_retries=1, enabled=True)
        one = store.get("ops")
        assert one.updated == one.created + 5

    def test_set_what_is_wrong(self, store: EndpointStore) -> None:
        store.add(given())
        before = store.mapping("ops"), store.revision()
        assert len(problems_of(lambda: store.set("ops", {"url": PLANTED, "timeout": -1}))) == 2
        assert problems_of(lambda: store.set("ops", {"url": None})) == [
            "endpoint 'ops': url: is missing"
        ]
        assert problems_of(lambda: store.set("ops", {"name": "other"}))
        assert (store.mapping("ops"), store.revision()) == before

    def test_disable_and_enable_need_no_key(
        self, store: EndpointStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.add(given())
        monkeypatch.delenv(KEY_VARIABLE)
        store.disable("ops")
        assert not store.get("ops").enabled
        store.enable("ops")
        assert store.get("ops").enabled

    def test_rotate(self, store: EndpointStore) -> None:
        store.add(given())
        store.rotate("ops", NEWER)
        assert store.mapping("ops")["secret"] == [NEWER, SECRET]
        assert store.get("ops").secrets == 2
        assert store.drop_former("ops")
        assert store.mapping("ops")["secret"] == [NEWER]
        assert not store.drop_former("ops")

    def test_rotate_at_once(self, store: EndpointStore) -> None:
        store.add(given())
        store.rotate("ops", NEWER, keep_former=False)
        assert store.mapping("ops")["secret"] == [NEWER]

    def test_rotate_to_the_same(self, store: EndpointStore) -> None:
        store.add(given())
        assert problems_of(lambda: store.rotate("ops", SECRET))

    def test_rotate_to_what_the_scheme_cannot_use(self, store: EndpointStore) -> None:
        store.add(given(scheme="standard", secret="whsec_" + "QUFB" * 8))
        assert problems_of(lambda: store.rotate("ops", "whsec_planted!"))
        assert store.get("ops").secrets == 1

    def test_remove(self, store: EndpointStore) -> None:
        store.add(given())
        store.remove("ops")
        assert store.list() == []

    @pytest.mark.parametrize(
        "change",
        [
            lambda store: store.get("no"),
            lambda store: store.mapping("no"),
            lambda store: store.set("no", {"timeout": 1.0}),
            lambda store: store.enable("no"),
            lambda store: store.rotate("no", NEWER),
            lambda store: store.drop_former("no"),
            lambda store: store.remove("no"),
        ],
    )
    def test_of_none(self, store: EndpointStore, change: Callable[..., object]) -> None:
        with pytest.raises(NotStoredError, match="'no'"):
            change(store)
        assert store.revision() == ""

    def test_each_makes_a_revision(self, store: EndpointStore, outbox: Outbox) -> None:
        seen = {store.revision()}
        for number, change in enumerate(
            [
                lambda: store.add(given()),
                lambda: store.set("ops", {"timeout": 2.0}),
                lambda: store.disable("ops"),
                lambda: store.enable("ops"),
                lambda: store.rotate("ops", NEWER),
                lambda: store.drop_former("ops"),
                store.reseal,
                lambda: store.remove("ops"),
            ],
            2,
        ):
            change()
            seen.add(store.revision())
            assert len(seen) == number
        assert store.revision() == EndpointStore(outbox).revision()


class TestEncryption:
    def test_nothing_can_be_read_in_the_database(
        self, store: EndpointStore, outbox: Outbox, kind: str, tmp_path: Path
    ) -> None:
        store.add(given(headers=HEADERS))
        store.rotate("ops", NEWER)
        with stored.engine_of(outbox).connect() as connection:
            rows = connection.execute(text("SELECT * FROM cubehook_endpoints")).all()
        assert b"planted" not in b"".join(
            bytes(value) if not isinstance(value, str | int) else str(value).encode()
            for row in rows
            for value in row
        )
        if kind == "sqlite":
            files = [path.read_bytes() for path in tmp_path.glob("outbox.db*")]
            assert any(b"cubehook_endpoints" in content for content in files)
            for content in files:
                assert b"planted" not in content
                assert KEY.encode() not in content

    @pytest.mark.parametrize("source", ["env", "file"])
    def test_where_the_key_may_be(
        self, outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
    ) -> None:
        path = tmp_path / "key"
        path.write_text(f"{KEY}\n")
        monkeypatch.setenv("OTHER_VARIABLE", KEY)
        place = f"file:{path}" if source == "file" else "env:OTHER_VARIABLE"
        monkeypatch.delenv(KEY_VARIABLE)
        EndpointStore(outbox, place).add(given())
        monkeypatch.setenv(KEY_VARIABLE, place)
        assert EndpointStore(outbox).mapping("ops")["secret"] == SECRET

    def test_another_key(self, store: EndpointStore, outbox: Outbox) -> None:
        store.add(given())
        store.add(given("second"))
        wrong = EndpointStore(outbox, OTHER)
        assert problems_of(wrong.mappings) == [
            f"endpoint {name!r}: was encrypted with another key, or is damaged"
            for name in ("ops", "second")
        ]
        assert problems_of(lambda: wrong.set("ops", {"timeout": 1.0}))
        assert problems_of(lambda: wrong.rotate("ops", NEWER))
        assert [one.name for one in wrong.list()] == ["ops", "second"]

    def test_no_key_any_more(self, store: EndpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        store.add(given())
        monkeypatch.delenv(KEY_VARIABLE)
        assert problems_of(store.mappings) == [
            "endpoint 'ops': is encrypted, and there is no key (CUBEHOOK_KEY is not set)"
        ]

    @pytest.mark.parametrize(
        "wrong", ["planted", "planted" * 7, "env:PLANTED_NOT_SET", "file:/planted", " , ", "ü" * 44]
    )
    def test_no_key(self, outbox: Outbox, wrong: str) -> None:
        (problem,) = problems_of(EndpointStore(outbox, wrong).mappings)
        assert problem.startswith("key: ")

    def test_a_key_is_rotated(self, store: EndpointStore, outbox: Outbox) -> None:
        store.add(given())
        both = EndpointStore(outbox, f"{OTHER}, {KEY}")
        assert both.mapping("ops")["secret"] == SECRET
        assert both.reseal() == 1
        assert EndpointStore(outbox, OTHER).mapping("ops") == given(enabled=True)
        assert problems_of(store.mappings)

    def test_nothing_to_reseal_with(self, keyless: EndpointStore) -> None:
        assert problems_of(keyless.reseal) == ["key: is missing (CUBEHOOK_KEY is not set)"]

    def test_what_is_refused_without_a_key(self, keyless: EndpointStore) -> None:
        wrong = given(headers=HEADERS, proxy="http://u:planted@proxy.example")
        found = problems_of(lambda: keyless.add(wrong))
        assert [one.split(": ")[1] for one in found] == ["secret", "headers", "proxy"]
        assert all("needs a key to be encrypted with" in one for one in found)
        mixed = given(secret=["env:PLANTED_NOT_SET", SECRET])
        assert len(problems_of(lambda: keyless.add(mixed))) == 1

    def test_references_need_no_key_and_are_read_where_they_are_used(
        self, keyless: EndpointStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keyless.add(given(secret="env:PLANTED_NOT_SET"))
        assert not keyless.get("ops").sealed
        assert keyless.mapping("ops")["secret"] == "env:PLANTED_NOT_SET"
        with pytest.raises(ConfigError, match="variable that is not set"):
            config.load_endpoints(keyless.mappings(), Settings())
        monkeypatch.setenv("PLANTED_NOT_SET", SECRET)
        (endpoint,) = config.load_endpoints(keyless.mappings(), Settings())
        assert endpoint.secrets[0].value == SECRET

    def test_a_reference_that_can_be_read_is_checked(
        self, store: EndpointStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PLANTED_NOT_SET", "planted!")
        wrong = given(scheme="standard", secret="env:PLANTED_NOT_SET")
        assert problems_of(lambda: store.add(wrong))

    def test_a_swapped_blob_is_noticed(self, store: EndpointStore, outbox: Outbox) -> None:
        store.add(given())
        store.add(given("evil", url="https://evil.example/"))
        table = schema.endpoints
        with stored.engine_of(outbox).begin() as connection:
            mine = select(table.c.private).where(table.c.name == "ops")
            private = connection.scalar(mine)
            other = update(table).where(table.c.name == "evil")
            connection.execute(other.values(private=private))
        assert problems_of(store.mappings) == [
            "endpoint 'evil': holds what was stored for another endpoint"
        ]

    @pytest.mark.parametrize("private", [b"planted", b"[]", b"\xff"])
    def test_damage(self, store: EndpointStore, outbox: Outbox, private: bytes) -> None:
        store.add(given())
        with stored.engine_of(outbox).begin() as connection:
            connection.execute(update(schema.endpoints).values(private=private, sealed=False))
        (problem,) = problems_of(store.mappings)
        assert problem.startswith("endpoint 'ops': ")

    @pytest.mark.parametrize("settings", [b"planted", b"[]"])
    def test_damaged_settings(self, store: EndpointStore, outbox: Outbox, settings: bytes) -> None:
        store.add(given())
        with stored.engine_of(outbox).begin() as connection:
            connection.execute(update(schema.endpoints).values(settings=settings))
        assert problems_of(store.mappings) == ["endpoint 'ops': is damaged"]
        assert problems_of(store.list) == ["endpoint 'ops': is damaged"]

    def test_without_cryptography(self, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
        found = problems_of(lambda: EndpointStore(outbox).add(given()))
        assert found == ["key: needs: pip install 'cubehook[crypto]'"]


class TestMigration:
    def test_from_version_1(self, bare_url: str) -> None:
        outbox = Outbox(bare_url)
        stored.add(outbox, "a1", "b1")
        engine = create_engine(bare_url)
        with engine.begin() as connection:
            schema.endpoints.drop(connection)
            schema.endpoints_revision.drop(connection)
            connection.execute(update(schema.schema_version).values(version=1))
        engine.dispose()
        outbox.close()
        newer = Outbox(bare_url)
        EndpointStore(newer).add(given())
        assert stored.ids(stored.lease(newer)) == ["a1", "b1"]
        assert EndpointStore(newer).mapping("ops") == given(enabled=True)
        newer.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(relay, "POLL_SECONDS", 0.01)


@pytest.fixture
def live(url: str) -> Iterator[EndpointStore]:
    """Of an operator, with the clock that handlers have."""
    outbox = Outbox(url)
    yield EndpointStore(outbox)
    outbox.close()


def log(logger: logging.Logger, *ids: str) -> None:
    for one in ids:
        logger.info("a message", extra={"event": "a.b", "event_id": one})


def takes(made: WebhookHandler) -> bool:
    return bool(made._pipeline.subscriptions["a.b"])


def followers() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "cubehook-endpoints"]


@pytest.mark.usefixtures("quick")
class TestHandler:
    @pytest.fixture
    def follow(self, url: str, handler: Make) -> Make:
        def make(**options: Any) -> WebhookHandler:
            return handler("outbox", **{"outbox": url, **options})

        return make

    def test_begins_with_what_is_stored(
        self, live: EndpointStore, follow: Make, logger: logging.Logger, receiver: Receiver
    ) -> None:
        live.add(receiver.endpoint())
        follow()
        log(logger, "1")
        assert receiver.wait_for(1)[0].json["id"] == "1"

    def test_notices_add_disable_enable_remove(
        self,
        live: EndpointStore,
        follow: Make,
        logger: logging.Logger,
        receiver: Receiver,
        eventually: Eventually,
    ) -> None:
        made = follow()
        assert not takes(made)
        live.add(receiver.endpoint())
        eventually(lambda: takes(made), 2.0)
        log(logger, "1")
        receiver.wait_for(1)
        live.disable("hook")
        eventually(lambda: not takes(made), 2.0)
        log(logger, "2")
        live.enable("hook")
        eventually(lambda: takes(made), 2.0)
        log(logger, "3")
        assert [one.json["id"] for one in receiver.wait_for(2)] == ["1", "3"]
        live.remove("hook")
        eventually(lambda: not takes(made), 2.0)

    def test_notices_a_new_secret(
        self,
        live: EndpointStore,
        follow: Make,
        logger: logging.Logger,
        receiver: Receiver,
        eventually: Eventually,
    ) -> None:
        live.add(receiver.endpoint(secret=NEWER))
        live.rotate("hook", receiver.secret)  # which the receiver wants
        made = follow()
        log(logger, "1")
        receiver.wait_for(1)
        live.drop_former("hook")
        eventually(lambda: [len(one.secrets) for one in made._endpoints] == [1], 2.0)
        log(logger, "2")
        receiver.wait_for(2)

    def test_in_time_as_it_comes(
        self,
        live: EndpointStore,
        follow: Make,
        receiver: Receiver,
        eventually: Eventually,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.undo()
        monkeypatch.setenv(KEY_VARIABLE, KEY)
        assert follower.LOOK_SECONDS == 1.0
        made = follow()
        live.add(receiver.endpoint())
        eventually(lambda: takes(made), 2.0)

    def test_also_one_that_only_stores(
        self,
        live: EndpointStore,
        follow: Make,
        logger: logging.Logger,
        receiver: Receiver,
        outbox: Outbox,
        eventually: Eventually,
    ) -> None:
        made = follow(deliver=False)
        live.add(receiver.endpoint())
        eventually(lambda: takes(made), 2.0)
        log(logger, "1")
        eventually(lambda: [one.event_id for one in outbox.list()] == ["1"])
        live.set("hook", {"events": ["c.d"]})
        eventually(lambda: not takes(made), 2.0)
        log(logger, "2")
        assert made.flush(5.0)
        assert [one.event_id for one in outbox.list()] == ["1"]
        assert receiver.received() == []

    def test_a_bad_one_is_reported_once_and_the_former_stay(
        self,
        live: EndpointStore,
        follow: Make,
        logger: logging.Logger,
        receiver: Receiver,
        eventually: Eventually,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        live.add(receiver.endpoint())
        made = follow()
        live.add(given("bad", secret="env:PLANTED_NOT_SET"))
        eventually(lambda: "stay" in caplog.text)
        looks = 0
        look = Follower._look

        def counted(self: Follower) -> None:
            nonlocal looks
            look(self)
            looks += 1

        monkeypatch.setattr(Follower, "_look", counted)
        eventually(lambda: looks > 3)
        reports = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
        assert reports == [
            "stored endpoints cannot be used, the former ones stay: endpoint 'bad': secret: names "
            "an environment variable that is not set"
        ]
        log(logger, "1")
        receiver.wait_for(1)
        monkeypatch.setenv("PLANTED_NOT_SET", SECRET)
        eventually(lambda: len(made._endpoints) == 2, 2.0)
        assert PLANTED not in caplog.text.replace("PLANTED_NOT_SET", "")

    def test_a_bad_one_to_begin_with(
        self, live: EndpointStore, url: str, eventually: Eventually
    ) -> None:
        live.add(given("bad", secret="env:PLANTED_NOT_SET"))
        (problem,) = problems_of(lambda: WebhookHandler("outbox", outbox=url))
        assert problem.startswith("endpoint 'bad': secret: ")
        eventually(lambda: followers() == [])

    def test_needs_an_outbox(self) -> None:
        found = problems_of(lambda: WebhookHandler("outbox"))
        assert found == ["endpoints: 'outbox' needs an outbox"]

    def test_the_database_is_away_to_begin_with(
        self,
        live: EndpointStore,
        follow: Make,
        receiver: Receiver,
        eventually: Eventually,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        live.add(receiver.endpoint())
        read = Follower._read

        def fail(self: Follower) -> Any:
            raise OutboxUnavailableError("the database cannot be reached")

        monkeypatch.setattr(Follower, "_read", fail)
        made = follow()
        assert made._endpoints == ()
        eventually(lambda: made._follower is not None and made._follower._started)
        monkeypatch.setattr(Follower, "_read", read)
        eventually(lambda: made._endpoints, 2.0)
        warnings = [one for one in caplog.records if "cannot be read" in one.getMessage()]
        assert len(warnings) == 1

    def test_endpoints_given_by_hand_are_the_last(
        self, live: EndpointStore, follow: Make, receiver: Receiver, eventually: Eventually
    ) -> None:
        made = follow()
        made.update_endpoints([receiver.endpoint(), receiver.endpoint("/two")])
        eventually(lambda: followers() == [])
        live.add(given())
        assert [one.name for one in made._endpoints] == ["hook", "two"]

    def test_nothing_is_left_behind(
        self, live: EndpointStore, url: str, eventually: Eventually
    ) -> None:
        WebhookHandler("outbox", outbox=url).close()
        eventually(lambda: followers() == [])
        WebhookHandler("outbox", outbox=url)  # dropped without a word
        eventually(lambda: followers() == [])

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_follows_from_its_first_event_on(
        self,
        live: EndpointStore,
        follow: Make,
        logger: logging.Logger,
        receiver: Receiver,
        url: str,
        eventually: Eventually,
    ) -> None:
        made = follow(deliver=False)

        def child() -> bool:
            if followers():
                return False
            log(logger, "1")  # which nobody has subscribed to
            eventually(lambda: takes(made))
            log(logger, "2")
            return made.flush(5.0)

        reading, writing = os.pipe()

        def told() -> bool:
            os.close(writing)
            os.read(reading, 1)
            return child()

        process = stored._fork(told)
        os.close(reading)
        live.add(receiver.endpoint())
        os.close(writing)
        assert stored._ended_well(process)
        look = Outbox(url)
        assert [one.event_id for one in look.list()] == ["2"]
        look.close()


@pytest.mark.usefixtures("quick")
def test_a_worker_takes_other_endpoints(
    live: EndpointStore, outbox: Outbox, receiver: Receiver, url: str, eventually: Eventually
) -> None:
    settings = Settings(flush_timeout=2.0)
    worker = Worker(url, (), settings)
    following = Follower(
        url, lambda found: worker.update_endpoints(config.load_endpoints(found, settings))
    )
    assert following.first() == []
    worker.start()
    following.start()
    try:
        stored.add(outbox, "a1", targets=[stored.Target("hook")])
        live.add(receiver.endpoint())
        receiver.wait_for(1)
        live.disable("hook")
        eventually(lambda: not worker._dispatcher.stats().endpoints, 2.0)
        stored.add(outbox, "a2", targets=[stored.Target("hook")])
        live.enable("hook")  # what was stored meanwhile has waited
        receiver.wait_for(2)
    finally:
        following.stop()
        worker.stop()
