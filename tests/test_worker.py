"""A worker: it delivers, shares, stops in time, and says how it is."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import SECRET, Clock, Receiver

pytest.importorskip("sqlalchemy")

from cubehook import config
from cubehook.config import Settings
from cubehook.errors import CubehookError
from cubehook.health import HINT, HealthServer
from cubehook.message import Message
from cubehook.outbox import Outbox, OutboxUnavailableError, Status, Target
from cubehook.worker import COUNTS_SECONDS, HEALTHY_SECONDS, Worker

Make = Callable[..., Worker]
Eventually = Callable[..., None]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'outbox.db'}"


@pytest.fixture
def outbox(url: str) -> Iterator[Outbox]:
    made = Outbox(url)
    yield made
    made.close()


@pytest.fixture
def worker(url: str, receiver: Receiver) -> Iterator[Make]:
    """Makes workers for the receiver, which are stopped in the end."""
    made: list[Worker] = []

    def make(*endpoints: dict[str, Any], **options: Any) -> Worker:
        settings = Settings(flush_timeout=options.pop("flush_timeout", 2.0))
        loaded = config.load_endpoints(list(endpoints) or [receiver.endpoint()], settings)
        made.append(Worker(url, loaded, settings, **options))
        return made[-1]

    yield make
    receiver.release()
    for one in made:
        one.stop()  # also those that were: a second time does nothing


def add(
    outbox: Outbox, *ids: str, key: str | None = None, endpoint: str = "hook", ordered: bool = True
) -> None:
    batch = []
    for one in ids:
        body = json.dumps({"id": one}).encode()
        message = Message(one, "sandbox.created", key, "application/json", body)
        batch.append((message, [Target(endpoint, ordered)]))
    outbox.add(batch)


def numbered(count: int) -> list[str]:
    return [f"id-{number}" for number in range(count)]


def ids_of(receiver: Receiver) -> list[str]:
    return [str(one.json["id"]) for one in receiver.received()]


def statuses(outbox: Outbox, endpoint: str = "hook") -> dict[str, int]:
    return {
        status.value: count for status, count in outbox.counts().get(endpoint, {}).items() if count
    }


class TestDelivering:
    def test_what_is_stored_before_and_after_the_start(
        self, worker: Make, outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, "before")
        one = worker()
        one.start()
        receiver.wait_for(1)
        add(outbox, "after")
        receiver.wait_for(2)
        assert one.stop() == 0
        assert ids_of(receiver) == ["before", "after"]
        assert statuses(outbox) == {"delivered": 2}

    def test_two_workers_deliver_each_once_and_in_order(
        self, worker: Make, outbox: Outbox, receiver: Receiver
    ) -> None:
        wanted = numbered(60)
        add(outbox, *wanted[:30], key="a")
        add(outbox, *wanted[30:], key="b")
        both = [worker(), worker()]
        for one in both:
            one.start()
        receiver.wait_for(60)
        assert [one.stop() for one in both] == [0, 0]
        got = ids_of(receiver)
        assert [one for one in got if one in wanted[:30]] == wanted[:30]
        assert [one for one in got if one in wanted[30:]] == wanted[30:]
        assert len(got) == 60
        assert statuses(outbox) == {"delivered": 60}

    def test_a_disabled_endpoints_deliveries_stay(
        self, worker: Make, outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, "one", endpoint="off")
        add(outbox, "two")
        one = worker(receiver.endpoint(), receiver.endpoint("/off", enabled=False))
        assert one.drain()
        one.stop()
        assert ids_of(receiver) == ["two"]
        assert statuses(outbox, "off") == {"waiting": 1}

    def test_an_endpoint_that_batches(
        self, worker: Make, outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, *numbered(3))
        one = worker(receiver.endpoint(batch={"max_events": 10, "linger": 0.1}))
        assert one.drain()
        one.stop()
        assert statuses(outbox) == {"delivered": 3}


class TestDraining:
    def test_ends_when_nothing_is_left(
        self, worker: Make, outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, *numbered(50), key="k")
        one = worker()
        assert one.drain()
        one.stop()
        assert ids_of(receiver) == numbered(50)
        assert statuses(outbox) == {"delivered": 50}

    def test_of_nothing(self, worker: Make) -> None:
        assert worker().drain()

    def test_a_retry_that_is_due_later_is_not_waited_for(
        self, worker: Make, outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, "one", "two", key="k")
        receiver.script(503)
        one = worker(receiver.endpoint(backoff_initial=600.0))
        assert one.drain()
        one.stop()
        assert ids_of(receiver) == ["one"]
        assert statuses(outbox) == {"waiting": 1, "held": 1}

    def test_tells_what_is_left_due(self, worker: Make, outbox: Outbox, receiver: Receiver) -> None:
        add(outbox, "one", "two", "three", ordered=False)
        receiver.script(410)
        one = worker()
        assert not one.drain()
        one.stop()
        assert statuses(outbox) == {"dead": 1, "waiting": 2}

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (OutboxUnavailableError("the database is full"), "^the database is full$"),
            (RuntimeError("some value"), r"^internal error \(RuntimeError\)$"),
        ],
        ids=["known", "unknown"],
    )
    def test_raises_when_the_outbox_fails(
        self,
        worker: Make,
        outbox: Outbox,
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
        said: str,
    ) -> None:
        add(outbox, "one")
        one = worker()

        def fail(*_: Any) -> Any:
            raise error

        monkeypatch.setattr(one.outbox, "lease", fail)
        with pytest.raises(CubehookError, match=said):
            one.drain()

    def test_finish_ends_it(self, worker: Make, outbox: Outbox, receiver: Receiver) -> None:
        add(outbox, "one")
        receiver.hold()
        one = worker()
        results: list[bool] = []
        thread = threading.Thread(target=lambda: results.append(one.drain()))
        thread.start()
        receiver.wait_for(1)
        one.finish()
        thread.join()
        assert results == [False]
        receiver.release()
        assert one.stop() == 0
        assert statuses(outbox) == {"delivered": 1}


class TestStopping:
    def test_ends_the_attempt_under_way_and_gives_back_the_rest(
        self, worker: Make, outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, *numbered(10), ordered=False)
        receiver.hold()
        one = worker()
        one.start()
        receiver.wait_for(1)
        left: list[int] = []
        thread = threading.Thread(target=lambda: left.append(one.stop()))
        thread.start()
        one.wait()
        receiver.release()
        thread.join()
        assert left == [0]
        done = len(receiver.received())
        assert done < 10
        assert statuses(outbox) == {"delivered": done, "waiting": 10 - done}

    def test_what_hangs_is_cut_off_in_time_and_sent_again(
        self, worker: Make, outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, "one", "two", key="k")
        receiver.hold()
        first = worker(lease_seconds=0.8)
        first.start()
        receiver.wait_for(1)
        began = time.monotonic()
        assert first.stop(0.4) == 1
        assert time.monotonic() - began < 0.8
        receiver.release()
        second = worker()
        second.start()
        receiver.wait_for(3)
        assert second.stop() == 0
        assert ids_of(receiver) == ["one", "one", "two"]

    def test_a_database_that_hangs_does_not_keep_it(
        self, worker: Make, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add(outbox, "one")
        one = worker()
        entered, released = threading.Event(), threading.Event()

        def hang(*_: Any) -> Any:
            entered.set()
            released.wait(10)
            return []

        monkeypatch.setattr(one.outbox, "lease", hang)
        one.start()
        assert entered.wait(10)
        began = time.monotonic()
        one.stop(0.3)
        assert time.monotonic() - began < 0.8
        released.set()

    def test_says_what_it_did(
        self,
        worker: Make,
        outbox: Outbox,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level("INFO", "cubehook")
        add(outbox, "one")
        one = worker()
        one.drain()
        one.stop()
        text = caplog.text
        assert "started: delivers to 'hook' from <Outbox on sqlite>" in text
        assert "stopped: 1 delivered, 0 retried, 0 dead, 0 cut off" in text
        assert SECRET not in text
        assert "127.0.0.1" not in text


class TestPruning:
    def test_deletes_what_was_delivered_and_keeps_the_dead(
        self, worker: Make, outbox: Outbox, receiver: Receiver
    ) -> None:
        add(outbox, "one", "two", ordered=False)
        receiver.script(204, 404)
        one = worker(retain_delivered=0.0)
        one.drain()
        one.prune()
        one.stop()
        assert statuses(outbox) == {"dead": 1}
        assert one.metrics().pruned == 1

    def test_keeps_what_is_young(self, worker: Make, outbox: Outbox) -> None:
        add(outbox, "one")
        one = worker(retain_delivered=60.0)
        one.drain()
        assert one.prune() == 0

    def test_begins_with_the_start(
        self, worker: Make, outbox: Outbox, eventually: Eventually
    ) -> None:
        add(outbox, "one")
        first = worker()
        first.drain()
        first.stop()
        assert statuses(outbox) == {"delivered": 1}
        worker(retain_delivered=0.0).start()
        eventually(lambda: not outbox.counts())

    def test_a_failure_is_told_and_passes(
        self,
        worker: Make,
        outbox: Outbox,
        receiver: Receiver,
        eventually: Eventually,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        one = worker(retain_delivered=0.0)

        def fail(**_: Any) -> Any:
            raise OutboxUnavailableError("the database is locked")

        monkeypatch.setattr(one.outbox, "prune", fail)
        add(outbox, "one")
        one.start()
        receiver.wait_for(1)
        eventually(lambda: "not pruned: the database is locked" in caplog.text)


class TestHealth:
    def test_its_states(
        self,
        worker: Make,
        clock: Clock,
        eventually: Eventually,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        one = worker(clock=clock)
        assert one.health().state == "starting"
        assert not one.health().ok
        one.start()
        eventually(lambda: one.health().ok)
        assert one.health().endpoints == {"hook": "closed"}

        def fail(*_: Any) -> Any:
            raise OutboxUnavailableError("the database cannot be reached")

        monkeypatch.setattr(one.outbox, "wanted", fail)
        eventually(lambda: one._failure)
        assert one.health().ok  # a lock that takes a moment is no illness
        clock.advance(HEALTHY_SECONDS + 0.5)
        assert one.health().state == "no outbox"
        assert one.health().outbox_seconds == HEALTHY_SECONDS + 0.5
        monkeypatch.undo()
        eventually(lambda: one.health().ok)
        one.stop()
        assert one.health().state == "stopping"

    def test_an_outbox_that_never_worked(
        self, worker: Make, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = worker()

        def fail(*_: Any) -> Any:
            raise OutboxUnavailableError("the database cannot be reached")

        monkeypatch.setattr(one.outbox, "wanted", fail)
        one.start()
        eventually(lambda: one.health().state == "no outbox")
        assert one.health().outbox_seconds is None

    def test_an_endpoint_that_fails_is_not_the_workers_illness(
        self, worker: Make, outbox: Outbox, receiver: Receiver, eventually: Eventually
    ) -> None:
        add(outbox, "one")
        receiver.script(410)
        one = worker()
        one.start()
        eventually(lambda: one.health().endpoints.get("hook") == "off")
        assert one.health().ok


class TestMetrics:
    def test_the_outbox_is_counted_now_and_then(
        self, worker: Make, outbox: Outbox, clock: Clock
    ) -> None:
        one = worker(clock=clock)
        add(outbox, "one", endpoint="other")
        assert one.metrics().outbox == {"other": {Status.WAITING: 1}}
        add(outbox, "two", endpoint="other")
        assert one.metrics().outbox == {"other": {Status.WAITING: 1}}
        clock.advance(COUNTS_SECONDS)
        assert one.metrics().outbox == {"other": {Status.WAITING: 2}}

    def test_an_outbox_that_cannot_be_counted(
        self, worker: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = worker()

        def fail() -> Any:
            raise OutboxUnavailableError("the database cannot be reached")

        monkeypatch.setattr(one.outbox, "counts", fail)
        assert one.metrics().outbox is None

    def test_the_page_can_be_parsed(self, worker: Make, outbox: Outbox, receiver: Receiver) -> None:
        parser = pytest.importorskip("prometheus_client.parser")
        from cubehook.metrics import exposition

        add(outbox, "one", "two", ordered=False)
        receiver.script(204, 404)
        one = worker()
        one.drain()
        text = exposition(one.metrics)().decode()
        values = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert values["cubehook_attempts_total", "delivered", "hook"] == 1
        assert values["cubehook_attempts_total", "dead", "hook"] == 1
        assert values["cubehook_attempts_total", "hook", "retried"] == 0
        assert values["cubehook_outbox_deliveries", "delivered", "hook"] == 1
        assert values["cubehook_outbox_deliveries", "hook", "waiting"] == 0
        assert values["cubehook_endpoint_state", "closed", "hook"] == 1
        assert values["cubehook_endpoint_state", "hook", "open"] == 0
        assert values["cubehook_leases_lost_total",] == 0
        assert values["cubehook_pruned_total",] == 0
        assert values["cubehook_healthy",] == 1
        assert SECRET not in text
        assert "127.0.0.1" not in text


class TestHealthServer:
    @pytest.fixture
    def serve(self) -> Iterator[Callable[..., Callable[[str], tuple[int, str]]]]:
        """Makes a server of a worker, and returns what gets a page."""
        made: list[HealthServer] = []

        def start(one: Worker, *page: Any, host: str = "127.0.0.1") -> Any:
            server = HealthServer(host, 0, one.health, *page)
            server.start()
            made.append(server)
            shown = f"[{host}]" if ":" in host else host

            def get(path: str) -> tuple[int, str]:
                try:
                    with urllib.request.urlopen(f"http://{shown}:{server.port}{path}") as answer:
                        return answer.status, answer.read().decode()
                except urllib.error.HTTPError as error:
                    with error:
                        return error.code, error.read().decode()

            return get

        yield start
        for one in made:
            one.stop()

    def test_healthz(self, worker: Make, serve: Any, eventually: Eventually) -> None:
        one = worker()
        get = serve(one, None)
        status, page = get("/healthz")
        assert status == 503
        assert json.loads(page)["state"] == "starting"
        one.start()
        eventually(lambda: one.health().ok)
        status, page = get("/healthz?x")
        assert status == 200
        answer = json.loads(page)
        assert answer.pop("outbox_seconds") < HEALTHY_SECONDS
        assert answer == {"ok": True, "state": "ok", "endpoints": {"hook": "closed"}}
        one.finish()
        assert get("/healthz")[0] == 503

    def test_metrics(self, worker: Make, serve: Any) -> None:
        pytest.importorskip("prometheus_client")
        from cubehook.metrics import CONTENT_TYPE, exposition

        one = worker()
        status, page = serve(one, exposition(one.metrics), CONTENT_TYPE)("/metrics")
        assert status == 200
        assert "cubehook_healthy 0.0" in page

    def test_without_the_extra_it_says_what_to_install(self, worker: Make, serve: Any) -> None:
        get = serve(worker(), None)
        assert get("/metrics") == (404, HINT.decode())
        assert get("/other")[0] == 404

    def test_ipv6(self, worker: Make, serve: Any) -> None:
        try:
            get = serve(worker(), None, host="::1")
        except OSError:
            pytest.skip("no IPv6 here")
        assert get("/healthz")[0] == 503
