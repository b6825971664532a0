"""A handler's counts as Prometheus reads them, and the dashboard that shows them."""

from __future__ import annotations

import gc
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from loopback import Receiver

from cubehook import ConfigError, EndpointStats, WebhookHandler

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from cubehook.contrib.prometheus import FAMILIES, WebhookCollector

DASHBOARD = Path(__file__).parents[2] / "examples" / "grafana" / "dashboard.json"
EVENT = {"event": "sandbox.created", "sandbox_id": "sb-1"}
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def read(registry: CollectorRegistry) -> Samples:
    """The samples of a page, as Prometheus' own parser reads it; none twice."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in parse(generate_latest(registry).decode()):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


class TestCounts:
    def test_what_was_delivered(
        self,
        registry: CollectorRegistry,
        receiver: Receiver,
        handler: Callable[..., WebhookHandler],
        logger: logging.Logger,
    ) -> None:
        receiver.script(503, 204, 404)
        webhooks = handler([receiver.endpoint("/ops")], flush_timeout=10, queue_capacity=77)
        receiver.script(503, 204, 404, path="/ops")
        webhooks.name = "webhooks"
        registry.register(WebhookCollector(webhooks))
        logger.info("one", extra=EVENT)
        assert webhooks.flush()
        logger.info("two", extra=EVENT)
        logger.info("three", extra=EVENT)
        logger.info("bad", extra={"event": "no name!"})
        assert webhooks.flush()
        samples = read(registry)
        here: dict[str, Any] = {"handler": "webhooks", "endpoint": "ops"}
        for outcome, count in {"delivered": 2, "retried": 1, "dead": 1}.items():
            assert value(samples, "cubehook_attempts_total", **here, outcome=outcome) == count
        assert value(samples, "cubehook_received_total", **here) == 3
        for gauge in ("queued", "in_flight", "waiting", "failures_in_row"):
            assert value(samples, f"cubehook_{gauge}", **here) == 0
        assert value(samples, "cubehook_stored_total", **here) == 0
        assert value(samples, "cubehook_endpoint_state", **here, state="closed") == 1
        assert value(samples, "cubehook_endpoint_state", **here, state="open") == 0
        assert value(samples, "cubehook_endpoint_state", **here, state="off") == 0
        assert value(samples, "cubehook_handler_received_total", handler="webhooks") == 4
        dropped = {"handler": "webhooks", "reason": "invalid_name"}
        assert value(samples, "cubehook_handler_dropped_total", **dropped) == 1
        assert value(samples, "cubehook_handler_queued", handler="webhooks") == 0
        assert value(samples, "cubehook_handler_queue_capacity", handler="webhooks") == 77

    def test_what_waits_and_what_is_off(
        self,
        registry: CollectorRegistry,
        receiver: Receiver,
        handler: Callable[..., WebhookHandler],
        logger: logging.Logger,
    ) -> None:
        receiver.script(503, path="/slow")
        receiver.script(410, path="/gone")
        webhooks = handler(
            [receiver.endpoint("/slow", backoff_initial=600.0), receiver.endpoint("/gone")]
        )
        registry.register(WebhookCollector(webhooks))
        for text in ("one", "two"):
            logger.info(text, extra=EVENT)
            assert not webhooks.flush(10)  # at once: what is left waits for minutes
        samples = read(registry)
        slow = {"handler": "handler-0", "endpoint": "slow"}
        gone = {"handler": "handler-0", "endpoint": "gone"}
        assert value(samples, "cubehook_waiting", **slow) == 1
        assert value(samples, "cubehook_queued", **slow) == 1
        assert value(samples, "cubehook_handler_queued", handler="handler-0") == 0
        assert value(samples, "cubehook_failures_in_row", **slow) == 1
        assert value(samples, "cubehook_endpoint_state", **gone, state="off") == 1
        dropped = {**gone, "reason": "switched_off"}
        assert value(samples, "cubehook_dropped_total", **dropped) == 1

    def test_counters_do_not_fall_when_an_endpoint_goes(
        self,
        registry: CollectorRegistry,
        receiver: Receiver,
        handler: Callable[..., WebhookHandler],
        logger: logging.Logger,
    ) -> None:
        webhooks = handler([receiver.endpoint("/a"), receiver.endpoint("/b")])
        registry.register(WebhookCollector(webhooks))
        logger.info("one", extra=EVENT)
        assert webhooks.flush(10)
        webhooks.update_endpoints([receiver.endpoint("/a")])
        samples = read(registry)
        assert value(samples, "cubehook_handler_received_total", handler="handler-0") == 2
        assert not [labels for _, labels in samples if ("endpoint", "b") in labels]

    def test_what_is_stored(
        self,
        registry: CollectorRegistry,
        receiver: Receiver,
        handler: Callable[..., WebhookHandler],
        logger: logging.Logger,
        tmp_path: Path,
    ) -> None:
        pytest.importorskip("sqlalchemy")
        webhooks = handler(outbox=f"sqlite:///{tmp_path}/outbox.db", deliver=False)
        registry.register(WebhookCollector(webhooks))
        logger.info("one", extra=EVENT)
        assert webhooks.flush(10)
        samples = read(registry)
        assert value(samples, "cubehook_handler_stored_total", handler="handler-0") == 1


class TestHandlers:
    def test_several(
        self,
        registry: CollectorRegistry,
        receiver: Receiver,
        handler: Callable[..., WebhookHandler],
        logger: logging.Logger,
    ) -> None:
        one, two = handler(), handler()
        one.name = "one"
        registry.register(WebhookCollector(one, two))
        logger.info("one", extra=EVENT)
        assert one.flush(10)
        assert two.flush(10)
        samples = read(registry)
        for name in ("one", "handler-1"):
            labels = {"handler": name, "endpoint": "hook", "outcome": "delivered"}
            assert value(samples, "cubehook_attempts_total", **labels) == 1

    def test_one_that_was_dropped(self, registry: CollectorRegistry, receiver: Receiver) -> None:
        dropped, stays = (WebhookHandler([receiver.endpoint()]) for _ in range(2))
        collector = WebhookCollector(dropped, stays)
        registry.register(collector)
        dropped.close()
        del dropped
        gc.collect()
        shown = {dict(labels).get("handler") for _, labels in read(registry)}
        stays.close()
        assert shown == {"handler-1"}

    def test_one_that_is_closed(
        self,
        registry: CollectorRegistry,
        receiver: Receiver,
        handler: Callable[..., WebhookHandler],
        logger: logging.Logger,
    ) -> None:
        webhooks = handler()
        registry.register(WebhookCollector(webhooks))
        logger.info("one", extra=EVENT)
        assert webhooks.flush(10)
        webhooks.close()
        logger.info("two", extra=EVENT)
        samples = read(registry)
        here = {"handler": "handler-0", "endpoint": "hook", "outcome": "delivered"}
        assert value(samples, "cubehook_attempts_total", **here) == 1
        closed = {"handler": "handler-0", "reason": "closed"}
        assert value(samples, "cubehook_handler_dropped_total", **closed) == 1

    def test_without_endpoints_or_handlers(self, registry: CollectorRegistry) -> None:
        inert = WebhookHandler([])
        registry.register(WebhookCollector(inert))
        assert value(read(registry), "cubehook_handler_received_total", handler="handler-0") == 0
        inert.close()
        registry = CollectorRegistry()
        registry.register(WebhookCollector())
        assert read(registry) == {}

    def test_one_name_twice(self, handler: Callable[..., WebhookHandler]) -> None:
        one, two = handler([]), handler([])
        one.name = "handler-1"
        with pytest.raises(ConfigError, match="'handler-1'"):
            WebhookCollector(one, two)

    def test_what_is_no_handler(self) -> None:
        with pytest.raises(ConfigError, match="WebhookHandler"):
            WebhookCollector(logging.NullHandler())  # type: ignore[arg-type]


class TestRegistration:
    def test_describing_asks_no_handler(
        self, handler: Callable[..., WebhookHandler], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        collector = WebhookCollector(handler([]))
        monkeypatch.setattr(WebhookHandler, "stats", None)
        described = list(collector.describe())
        assert [family.name for family in described] == [family.name for family in FAMILIES]
        assert not any(family.samples for family in described)

    def test_a_second_collector_is_refused(self, registry: CollectorRegistry) -> None:
        registry.register(WebhookCollector())
        with pytest.raises(ValueError, match=r"[Dd]uplicated"):
            registry.register(WebhookCollector())

    def test_some_of_the_names(
        self, registry: CollectorRegistry, handler: Callable[..., WebhookHandler]
    ) -> None:
        webhooks = handler([])
        registry.register(WebhookCollector(webhooks))
        some: Any = registry.restricted_registry(["cubehook_handler_queued"])
        assert {name for name, _ in read(some)} == {"cubehook_handler_queued"}


class TestThePage:
    @pytest.fixture
    def page(
        self,
        registry: CollectorRegistry,
        receiver: Receiver,
        handler: Callable[..., WebhookHandler],
        logger: logging.Logger,
    ) -> CollectorRegistry:
        webhooks = handler([receiver.endpoint(headers={"X-Token": "planted-value"})])
        registry.register(WebhookCollector(webhooks))
        logger.info("one", extra={**EVENT, "note": "planted-value"})
        webhooks.flush(10)
        return registry

    def test_of_rules_of_prometheus(self, page: CollectorRegistry) -> None:
        for family in parse(generate_latest(page).decode()):
            assert re.fullmatch("cubehook(_[a-z]+)+", family.name)
            assert family.documentation.endswith(".")
            assert family.type in ("counter", "gauge")
            for sample in family.samples:
                assert sample.name.endswith("_total") == (family.type == "counter")
                assert sample.value >= 0

    def test_of_openmetrics(self, page: CollectorRegistry) -> None:
        text = openmetrics.generate_latest(page).decode()
        assert len(list(parse_openmetrics(text))) == len(FAMILIES)

    def test_secrets_stay_out(self, page: CollectorRegistry, receiver: Receiver) -> None:
        text = generate_latest(page).decode()
        for secret in ("planted", "127.0.0.1", str(receiver.port), "/hook", receiver.secret):
            assert secret not in text

    def test_what_a_worker_has_too_has_the_same_name(self, page: CollectorRegistry) -> None:
        worker, ours = worker_families(), families(page)
        shared = worker.keys() & ours.keys()
        assert shared == {"cubehook_attempts", "cubehook_in_flight", "cubehook_endpoint_state"}
        for name in shared:
            kind, labels = worker[name]
            assert ours[name] == (kind, labels | {"handler"})


def families(registry: CollectorRegistry) -> dict[str, tuple[str, set[str]]]:
    """The type and the labels of each family."""
    return {
        family.name: (family.type, {label for one in family.samples for label in one.labels})
        for family in parse(generate_latest(registry).decode())
    }


def worker_families() -> dict[str, tuple[str, set[str]]]:
    """What a worker shows."""
    pytest.importorskip("sqlalchemy")
    from cubehook.metrics import exposition
    from cubehook.outbox import Status
    from cubehook.worker import Metrics

    one = EndpointStats("closed", 3, 1, 1, 1, MappingProxyType({}), 0, 0, 0, 0)
    shown = Metrics(True, {"ops": one}, {"ops": dict.fromkeys(Status, 1)}, 0, 0)
    page = exposition(lambda: shown)().decode()
    return {
        family.name: (family.type, {label for each in family.samples for label in each.labels})
        for family in parse(page)
    }


class TestDashboard:
    """What it asks for is what there is."""

    TARGETS = frozenset({"job", "instance"})
    """Labels that Prometheus itself adds."""

    @pytest.fixture
    def dashboard(self) -> Any:
        return json.loads(DASHBOARD.read_text(encoding="utf-8"))

    @pytest.fixture
    def known(self) -> dict[str, set[str]]:
        """The labels of each series there is, by its name."""
        found: dict[str, set[str]] = {}
        ours = {one.name: (one.of({}).type, set(one.labels)) for one in FAMILIES}
        for name, (kind, labels) in [*ours.items(), *worker_families().items()]:
            series = f"{name}_total" if kind == "counter" else name
            found[series] = found.get(series, set()) | labels
        return found

    @staticmethod
    def panels(dashboard: Any) -> Iterator[Any]:
        for panel in dashboard["panels"]:
            yield panel
            yield from panel.get("panels", ())

    def expressions(self, dashboard: Any) -> list[str]:
        found = [
            target["expr"] for one in self.panels(dashboard) for target in one.get("targets", ())
        ]
        asked = [
            one["query"]["query"] for one in dashboard["templating"]["list"] if "definition" in one
        ]
        return found + asked

    def test_every_metric_exists(self, dashboard: Any, known: dict[str, set[str]]) -> None:
        used = set()
        for expression in self.expressions(dashboard):
            names = set(re.findall(r"\bcubehook_\w+", expression))
            assert names, expression
            assert names <= known.keys(), expression
            used |= names
        assert {
            *("cubehook_attempts_total", "cubehook_handler_dropped_total", "cubehook_queued"),
            *(
                "cubehook_endpoint_state",
                "cubehook_outbox_deliveries",
                "cubehook_leases_lost_total",
            ),
        } <= used

    def test_every_label_exists(self, dashboard: Any, known: dict[str, set[str]]) -> None:
        for expression in self.expressions(dashboard):
            there = set(self.TARGETS)
            for name, matchers in re.findall(r"\b(cubehook_\w+)(?:\{([^}]*)\})?", expression):
                asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", matchers))
                assert asked <= known[name] | self.TARGETS, expression
                there |= known[name]
            for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
                assert {label.strip() for label in group.split(",")} <= there, expression

    def test_counters_are_rated(self, dashboard: Any) -> None:
        for expression in self.expressions(dashboard):
            for before in re.findall(r"(\w+\()?cubehook_\w+_total", expression):
                assert before in ("rate(", "increase(", "label_values("), expression

    def test_it_is_of_no_instance(self, dashboard: Any) -> None:
        assert dashboard["id"] is None
        assert "uid" not in dashboard
        assert dashboard["schemaVersion"] == 42
        for panel in self.panels(dashboard):
            if panel["type"] != "row":
                assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}

    def test_the_panels_have_their_places(self, dashboard: Any) -> None:
        panels = list(self.panels(dashboard))
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells

    def test_every_panel_says_what_it_is(self, dashboard: Any) -> None:
        for panel in self.panels(dashboard):
            assert panel["title"]
            if panel["type"] != "row":
                assert panel["description"]
                assert panel["targets"]
