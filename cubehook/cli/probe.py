"""How far a delivery to an endpoint would come: its name, its addresses, the connection.

It goes the way of a delivery, through the same sockets and the same guards, up to the request,
which is not made. Nothing that is told has a name or an address in it.
"""

from __future__ import annotations

import math
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from urllib3.util import parse_url

from cubehook import connection, threads, transport
from cubehook.connection import AddressRefusedError
from cubehook.endpoint import Endpoint

OK, REFUSED, NOT_RESOLVED, TIMEOUT, FAILED = (
    "ok",
    "refused",
    "not resolvable",
    "timeout",
    "failed",
)

# What OpenSSL has against a certificate; its own words may hold the name it was asked for.
_FLAWS = {
    9: "not yet valid",
    10: "expired",
    18: "self-signed",
    19: "self-signed authority",
    20: "unknown authority",
    62: "for another name",
    64: "for another address",
}


@dataclass(frozen=True, slots=True)
class Resolved:
    """What became of the name. of: ``endpoint`` or ``proxy``. count: addresses. reason: why not."""

    status: str
    of: str
    count: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """What became of the connection. tls: its version. days: until the certificate expires.

    proxy: ``tunnel`` through one, or ``forward``: only the proxy itself was reached; None: none.
    """

    status: str
    reason: str | None = None
    tls: str | None = None
    days: int | None = None
    proxy: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Probe:
    """Of one endpoint; None: not tried."""

    addresses: Resolved | None = None
    connection: Connected | None = None


def probe(endpoints: Sequence[Endpoint], timeout: float, *, connect: bool) -> list[Probe]:
    """A probe of each endpoint, all at the same time, which is over after ``timeout`` seconds."""
    found: list[Probe] = [
        Probe(
            Resolved(TIMEOUT, _of(one), reason="no answer in time"),
            Connected(TIMEOUT, "timeout") if connect else None,
        )
        for one in endpoints
    ]
    ends = time.monotonic() + timeout

    def run(index: int, endpoint: Endpoint) -> Callable[[], None]:
        def work() -> None:
            addresses = _resolved(endpoint)
            found[index] = Probe(addresses, found[index].connection)
            if connect:
                reached = addresses.status == OK
                link = _connected(endpoint, ends) if reached else _unreached(addresses)
                found[index] = Probe(addresses, link)

        return work

    # Daemons, since nothing ends a look-up that hangs.
    started = [threads.start(f"probe-{i}", run(i, one)) for i, one in enumerate(endpoints)]
    for thread in started:
        thread.join(max(ends - time.monotonic(), 0.0))
    return list(found)


def _of(endpoint: Endpoint) -> str:
    return "proxy" if endpoint.proxy else "endpoint"


def _resolved(endpoint: Endpoint) -> Resolved:
    target = parse_url(endpoint.proxy) if endpoint.proxy else endpoint.location
    of = _of(endpoint)
    try:
        found = connection.resolved(str(target.host).strip("[]"), target.port or 443)
    except socket.gaierror:
        return Resolved(NOT_RESOLVED, of, reason="name resolution failed")
    except OSError:
        return Resolved(FAILED, of, reason="network error")
    addresses = {str(sockaddr[0]) for *_, sockaddr in found}
    for address in addresses:
        refusal = endpoint.addresses.refusal(address, secure=endpoint.secure)
        if refusal is not None:
            return Resolved(REFUSED, of, len(addresses), refusal)
    return Resolved(OK, of, len(addresses))


def _unreached(addresses: Resolved) -> Connected:
    return Connected(FAILED, addresses.reason)


def _connected(endpoint: Endpoint, ends: float) -> Connected:
    began = time.monotonic()
    try:
        with (
            closing(transport.WebhookAdapter(endpoint)) as adapter,
            closing(adapter.connected(ends - began)) as conn,
        ):
            return _described(endpoint, conn, time.monotonic() - began)
    except AddressRefusedError as refused:
        return Connected(REFUSED, refused.reason)
    except Exception as error:
        return Connected(FAILED, _reason(error))


def _described(endpoint: Endpoint, conn: Any, seconds: float) -> Connected:
    proxy = None
    if endpoint.proxy:
        proxy = "tunnel" if endpoint.secure else "forward"
    if not isinstance(conn.sock, ssl.SSLSocket):
        return Connected(OK, proxy=proxy, seconds=round(seconds, 6))
    certificate = conn.sock.getpeercert() or {}
    expires = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = math.floor((expires - time.time()) / 86_400)
    return Connected(OK, None, conn.sock.version(), days, proxy, round(seconds, 6))


def _reason(error: Exception) -> str:
    reason = transport.reason(error)
    for cause in transport.causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            flaw = _FLAWS.get(cause.verify_code)
            return f"{reason} ({flaw})" if flaw else reason
    return reason
