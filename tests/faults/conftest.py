"""What the tests under fire share: a receiver, a trusted CA, adapters, and an eye on sockets."""

from __future__ import annotations

import gc
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import certificates as certs
import pytest
from harness import DRIP, SETTINGS, AdapterFor, Tripwire, Watched
from receiver import FaultReceiver

from cubehook import Endpoint, WebhookHandler, connection
from cubehook import tls as tls_
from cubehook.attempt import Transport, _transport

try:
    from cubehook import _gate, curl
except ImportError:  # an extra
    curl = None  # type: ignore[assignment]


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
def tripwire() -> Iterator[Tripwire]:
    """A server that nothing may connect to."""
    wire = Tripwire()
    yield wire
    wire.close()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """The package's sockets. Collection is off: what is closed was closed on purpose."""
    sockets = Watched()
    monkeypatch.setattr(connection, "DeadlineSocket", sockets.subclass(connection.DeadlineSocket))
    if curl is not None:
        monkeypatch.setattr(_gate, "Socket", sockets.libcurls(_gate.Socket))
    gc.disable()
    yield sockets
    gc.enable()


@pytest.fixture(scope="session")
def trusting(certificates: certs.Certificates | None) -> ssl.SSLContext | None:
    """A TLS context as the package makes it, which trusts the test CA; None without one."""
    if certificates is None:
        return None
    context = tls_._made.__wrapped__(None, (), ())  # not the one that all tests share
    context.load_verify_locations(certificates.ca)
    return context


@pytest.fixture
def trusted(
    trusting: ssl.SSLContext | None,
    certificates: certs.Certificates | None,
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
) -> ssl.SSLContext:
    """The package's TLS context in this test, which trusts the test CA; skips without one."""
    if trusting is None or certificates is None:
        pytest.skip("no openssl command")
    if curl is not None:
        monkeypatch.setattr(curl, "DEFAULT_CA_BUNDLE_PATH", str(certificates.ca))
    watching = watched.subclass(trusting.sslsocket_class)
    monkeypatch.setattr(trusting, "sslsocket_class", watching)
    monkeypatch.setattr(tls_, "context", lambda *_: trusting)
    return trusting


@pytest.fixture
def adapter_for(watched: Watched, transport: str) -> Iterator[AdapterFor]:
    """Makes adapters of each transport; afterwards closes them and looks that no socket is left."""
    made: list[Transport] = []

    def make(url: str, **settings: Any) -> Transport:
        endpoint = Endpoint(url=url, transport=transport, **(SETTINGS | settings))
        made.append(_transport(endpoint))
        return made[-1]

    yield make
    for adapter in made:
        adapter.close()
    assert watched.still_open == []


@pytest.fixture
def handler_for(
    faulty: FaultReceiver, handler: Callable[..., WebhookHandler]
) -> Iterator[Callable[..., WebhookHandler]]:
    """Makes handlers as ``handler`` does; afterwards closes them and waits for their threads."""
    made: list[WebhookHandler] = []

    def make(*args: Any, **options: Any) -> WebhookHandler:
        made.append(handler(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
    for thread in threading.enumerate():
        if thread.name.startswith("cubehook"):
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    """Whether the connection is encrypted; it is trusted then."""
    if request.param:
        request.getfixturevalue("trusted")
    return bool(request.param)
