"""The address guard from end to end: real servers that no packet may reach, and count what does.

The table is in ``test_addresses``, which answers of a resolver are refused in
``test_names_and_addresses``.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import SETTINGS, AdapterFor, Tripwire, Watched, attempt, reply
from receiver import HOST, FaultReceiver

from cubehook import ConfigError, Endpoint, WebhookHandler
from cubehook.attempt import _transport
from cubehook.outcome import Failure, Reply

OTHER_HOST = "127.0.0.2"  # another address of this host on Linux
REAL_LOOKUP = socket.getaddrinfo


@pytest.fixture
def other() -> Iterator[Tripwire]:
    """A forbidden server at an address of its own."""
    try:
        wire = Tripwire(OTHER_HOST)
    except OSError:
        pytest.skip(f"no {OTHER_HOST}")
    yield wire
    wire.close()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes the resolver give these answers, one after the other; returns what is left of them."""

    def answer_with(*answers: list[tuple[str, int]]) -> list[Any]:
        left = list(answers)

        def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
            found = []
            for address, port in left.pop(0):
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                found.append((family, socket.SOCK_STREAM, 6, "", (address, port)))
            return found

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return left

    return answer_with


def test_a_tripwire_counts(tripwire: Tripwire) -> None:
    for _ in range(2):
        socket.create_connection((HOST, tripwire.port), 5).close()
    assert tripwire.accepted() == 2
    assert tripwire.accepted() == 0


# --- Spellings ---

LOOPBACK = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0x7f000001",
    "0177.0.0.1",
    "127.0.0.1.",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
]
METADATA = [
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", [*LOOPBACK, *METADATA])
def test_a_literal_in_any_spelling(
    watched: Watched, tripwire: Tripwire, transport: str, host: str, scheme: str
) -> None:
    forbidden = f"{scheme}://{host}:{tripwire.port}/"
    options = {"allow_insecure_http": True, "allow_private_urls": host in METADATA}
    with pytest.raises(ConfigError):
        Endpoint(url=forbidden, **options)

    # Nor when it gets past the configuration: what is connected to is what is checked.
    settings = SETTINGS | options | {"transport": transport}
    endpoint = Endpoint(url=f"{scheme}://receiver.example/", **settings)
    object.__setattr__(endpoint, "url", forbidden)
    adapter = _transport(endpoint)
    result, _ = attempt(adapter)
    adapter.close()
    assert isinstance(result, Failure)
    # Some systems do not take some spellings.
    assert result.final or result.reason == "name resolution failed"
    if host in ("127.0.0.1", "127.1", "2130706433", "[::ffff:127.0.0.1]"):
        assert result == Failure("loopback address", final=True)
    assert watched.opened == []
    assert tripwire.accepted() == 0


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::1"]
)
def test_a_name_for_an_address_in_any_form(
    adapter_for: AdapterFor,
    watched: Watched,
    tripwire: Tripwire,
    answers: Callable[..., Any],
    address: str,
) -> None:
    answers([(address, tripwire.port)])
    options = {"allow_insecure_http": True, "allow_private_urls": False}
    result, _ = attempt(adapter_for("http://receiver.example/", **options))
    assert isinstance(result, Failure)
    assert result.final
    assert watched.opened == []
    assert tripwire.accepted() == 0


def test_localhost_is_a_name_too(adapter_for: AdapterFor, tripwire: Tripwire) -> None:
    options = {"allow_insecure_http": True, "allow_private_urls": False}
    url = f"http://localhost:{tripwire.port}/"
    assert attempt(adapter_for(url, **options))[0] == Failure("loopback address", final=True)
    assert tripwire.accepted() == 0


# --- Rebinding ---


def test_a_name_is_resolved_once_for_a_connection(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    other: Tripwire,
    answers: Callable[..., Any],
) -> None:
    """A second answer for the same connection would be one that nobody has vetted."""
    left = answers([(HOST, faulty.port())], [(OTHER_HOST, other.port)])
    url = faulty.url("close-early", host="receiver.example")
    adapter = adapter_for(url, allow_private_urls=False, allowed_networks=[f"{HOST}/32"])
    assert reply(adapter) == Reply(204)
    assert len(left) == 1
    faulty.wait_closed()
    # The next connection gets the answer that the attacker has changed.
    assert attempt(adapter)[0] == Failure("not in allowed networks", final=True)
    assert left == []
    assert other.accepted() == 0


def test_a_mixed_answer(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    other: Tripwire,
    answers: Callable[..., Any],
) -> None:
    good, bad = (HOST, faulty.port()), (OTHER_HOST, other.port)
    answers([good, bad], [bad, good], [good, good, bad])
    url = faulty.url("ok", host="receiver.example")
    adapter = adapter_for(url, denied_networks=[f"{OTHER_HOST}/32"])
    for _ in range(3):
        assert attempt(adapter)[0] == Failure("denied network", final=True)
    assert watched.opened == []
    assert other.accepted() == faulty.accepted == 0


@pytest.mark.parametrize("where", ["http://169.254.169.254/latest/", "tripwire", "//localhost/"])
def test_a_redirect_into_the_forbidden(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    watched: Watched,
    tripwire: Tripwire,
    where: str,
) -> None:
    where = f"{tripwire.url}/" if where == "tripwire" else where
    result = reply(adapter_for(faulty.url(f"redirect-to/{where}")))
    assert result.status == 307
    assert len(watched.opened) == 1
    assert tripwire.accepted() == 0
    assert faulty.accepted == 1


# --- allowed_networks, denied_networks ---

LOCAL = "127.0.0.0/8"
HERE = f"{HOST}/32"

NETWORKS = [
    # What the handler says, what the endpoint says, the reason of the refusal.
    ({}, {"allow_private_urls": True}, None),
    ({"allow_private_urls": True}, {}, None),
    ({"allow_private_urls": True}, {"allow_private_urls": False}, "loopback address"),
    ({"allowed_networks": [LOCAL]}, {}, None),
    ({}, {"allowed_networks": [LOCAL]}, None),
    ({"allowed_networks": ["10.0.0.0/8"]}, {"allowed_networks": [LOCAL]}, None),
    (
        {"allowed_networks": [LOCAL]},
        {"allowed_networks": ["10.0.0.0/8"]},
        "not in allowed networks",
    ),
    (
        {"allow_private_urls": True},
        {"allowed_networks": ["10.0.0.0/8"]},
        "not in allowed networks",
    ),
    ({"denied_networks": [LOCAL]}, {"allow_private_urls": True}, "denied network"),
    ({"allow_private_urls": True}, {"denied_networks": [LOCAL]}, "denied network"),
    ({"allowed_networks": [LOCAL]}, {"denied_networks": [HERE]}, "denied network"),
    (
        {"denied_networks": [HERE]},
        {"allow_private_urls": True, "denied_networks": ["10.0.0.0/8"]},
        "denied network",
    ),
    (
        {"denied_networks": ["10.0.0.0/8"]},
        {"allow_private_urls": True, "denied_networks": [HERE]},
        "denied network",
    ),
    (
        {"denied_networks": [LOCAL]},
        {"allow_private_urls": True, "denied_networks": []},
        "denied network",
    ),
    ({"denied_networks": ["::ffff:7f00:0/104"]}, {"allow_private_urls": True}, "denied network"),
]


@pytest.mark.parametrize(("of_handler", "of_endpoint", "refused"), NETWORKS)
def test_networks_of_handler_and_endpoint(
    faulty: FaultReceiver,
    handler_for: Callable[..., WebhookHandler],
    logger: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    of_handler: dict[str, Any],
    of_endpoint: dict[str, Any],
    refused: str | None,
) -> None:
    insecure = {"allow_insecure_http": True}  # the matter here are the addresses
    literal = {"name": "ops", "url": faulty.url("ok"), **insecure, **of_endpoint}
    if refused:
        with pytest.raises(ConfigError) as caught:
            handler_for([literal], **of_handler)
        assert caught.value.problems == (f"endpoint 'ops': url: {refused}",)

    by_name = literal | {"url": faulty.url("ok", host="localhost")}
    made = handler_for([by_name], **of_handler)
    logger.info("", extra={"event": "sandbox.created"})
    assert made.flush(5)
    stats = made.stats()
    assert (stats.delivered, stats.dead, stats.retried) == ((0, 1, 0) if refused else (1, 0, 0))
    assert faulty.accepted == (0 if refused else 1)
    assert not refused or refused in caplog.text


def test_networks_are_obeyed_after_an_update(
    faulty: FaultReceiver, handler_for: Callable[..., WebhookHandler], logger: logging.Logger
) -> None:
    one = {"name": "ops", "url": faulty.url("ok", host="localhost")}
    made = handler_for([one], allow_private_urls=True, denied_networks=["10.0.0.0/8"])
    for networks, delivered in [([], 1), ([LOCAL], 1), (["192.168.0.0/16"], 2)]:
        made.update_endpoints([one | {"denied_networks": networks}])
        logger.info("", extra={"event": "sandbox.created"})
        assert made.flush(5)
        assert made.stats().delivered == delivered
    with pytest.raises(ConfigError):
        made.update_endpoints([one | {"url": "https://10.1.2.3/"}])
