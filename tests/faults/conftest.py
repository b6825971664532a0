"""What the tests under fire share: a receiver, a trusted CA, adapters, and an eye on sockets."""

from __future__ import annotations

import gc
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import certificates as certs
import pytest
from harness import DRIP, SETTINGS, AdapterFor, Watched
from receiver import FaultReceiver

from cubehook import Endpoint, connection, transport


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> certs.Certificates | None:
    """The test CA's certificates; None without an ``openssl`` command."""
    return certs.make(tmp_path_factory.mktemp("certificates")) if certs.available() else None


@pytest.fixture
def faulty(certificates: certs.Certificates | None) -> Iterator[FaultReceiver]:
    """A running fault receiver. It must have met no errors but its own faults."""
    before = set(threading.enumerate())
    with FaultReceiver(certificates, drip=DRIP) as running:
        yield running
    assert running.unexpected == []
    assert set(threading.enumerate()) <= before


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """The package's sockets. Collection is off: what is closed was closed on purpose."""
    sockets = Watched()
    monkeypatch.setattr(connection, "DeadlineSocket", sockets.subclass(connection.DeadlineSocket))
    gc.disable()
    yield sockets
    gc.enable()


@pytest.fixture(scope="session")
def trusting(certificates: certs.Certificates | None) -> ssl.SSLContext | None:
    """A TLS context as the package makes it, which trusts the test CA; None without one."""
    if certificates is None:
        return None
    context = transport._tls_context.__wrapped__()  # not the one that all tests share
    context.load_verify_locations(certificates.ca)
    return context


@pytest.fixture
def trusted(
    trusting: ssl.SSLContext | None, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> ssl.SSLContext:
    """The package's TLS context in this test, which trusts the test CA; skips without one."""
    if trusting is None:
        pytest.skip("no openssl command")
    watching = watched.subclass(trusting.sslsocket_class)
    monkeypatch.setattr(trusting, "sslsocket_class", watching)
    monkeypatch.setattr(transport, "_tls_context", lambda: trusting)
    return trusting


@pytest.fixture
def adapter_for(watched: Watched) -> Iterator[AdapterFor]:
    """Makes adapters; afterwards closes them and looks that no socket is left."""
    made: list[transport.WebhookAdapter] = []

    def make(url: str, **settings: Any) -> transport.WebhookAdapter:
        endpoint = Endpoint(url=url, **(SETTINGS | settings))
        made.append(transport.WebhookAdapter(endpoint))
        return made[-1]

    yield make
    for adapter in made:
        adapter.close()
    assert watched.still_open == []


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    """Whether the connection is encrypted; it is trusted then."""
    if request.param:
        request.getfixturevalue("trusted")
    return bool(request.param)
