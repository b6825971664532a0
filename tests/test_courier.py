"""The endpoints at work: what becomes of each as a lane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cubehook import WebhookFormatter, batch
from cubehook.config import load
from cubehook.courier import Courier, policy_of
from cubehook.endpoint import Endpoint


def endpoints(*given: dict[str, Any], **options: Any) -> tuple[Endpoint, ...]:
    plain = {"secret": "test-secret"}
    return load(
        [{**plain, "url": f"https://{one['name']}.example/", **one} for one in given], options
    ).endpoints


FORMATS = {"cube": WebhookFormatter()}


@pytest.fixture
def courier() -> Iterator[Courier]:
    made = Courier(max_concurrency=4, queue_capacity=7, max_payload_bytes=10_000, formats=FORMATS)
    yield made
    made.dispatcher.stop()
    made.close()


def states(courier: Courier) -> dict[str, str]:
    return {name: one.state for name, one in courier.dispatcher.stats().endpoints.items()}


def test_each_enabled_endpoint_has_a_lane(courier: Courier) -> None:
    courier.configure(endpoints({"name": "a"}, {"name": "b", "enabled": False}))
    assert states(courier) == {"a": "closed"}
    courier.configure(endpoints({"name": "b"}))
    assert states(courier) == {"b": "closed"}


def test_a_lane_has_no_more_than_there_are_threads(courier: Courier) -> None:
    (one,) = endpoints({"name": "a", "max_concurrency": 32})
    courier.configure([one])
    assert courier._lane(one).share == 4
    assert courier._lane(one).capacity == 7


def test_senders_of_endpoints_that_are_gone_are_closed(
    courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    courier.configure(endpoints({"name": "a"}, {"name": "b"}))
    for name, sender in courier._senders.items():
        monkeypatch.setattr(sender, "close", lambda name=name: closed.append(name))
    courier.configure(endpoints({"name": "b"}))
    assert closed == ["a"]


def test_a_batch_has_to_have_room_for_the_longest(courier: Courier) -> None:
    single, batched = endpoints({"name": "a"}, {"name": "b", "batch": {"max_events": 2}})
    assert courier.longest(single) == 10_000
    assert courier.longest(batched) == 10_000 - batch.OVERHEAD


def test_the_policy_is_the_endpoints_own() -> None:
    own, common = endpoints(
        {"name": "a", "max_retries": 2, "backoff_initial": 3, "backoff_max": 4},
        {"name": "b"},
        max_retries=7,
    )
    policy = policy_of(own)
    assert (policy.total, policy.backoff_factor, policy.backoff_max) == (2, 3, 4)
    assert policy_of(common).total == 7


def test_a_policy_goes_on_where_another_process_has_stopped() -> None:
    (one,) = endpoints({"name": "a", "max_retries": 3})
    policy = policy_of(one)
    assert policy.resumed(0).total == 3
    assert (policy.resumed(2).total, len(policy.resumed(2).history)) == (1, 2)
    assert policy.resumed(9).total == 0
