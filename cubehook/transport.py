"""One POST: `WebhookAdapter`, a ``requests`` adapter with a guarded connect and a true deadline.

It never follows a redirect, reads no environment (proxies, ``.netrc``), reads at most 64 KiB of an
answer, and is done by its deadline whatever the other side does. Retries are not its business.
"""

from __future__ import annotations

import functools
import http.client
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import urllib3
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)
from urllib3.util import Retry, Timeout

from cubehook import threads
from cubehook.connection import (
    AddressRefusedError,
    ConnectTimeoutError,
    GuardedHTTPConnectionPool,
    GuardedHTTPSConnectionPool,
    TLSContext,
)
from cubehook.endpoint import Endpoint
from cubehook.outcome import Failure, Reply

MAX_RESPONSE_BYTES = 65_536

# What went wrong, by the type of the error at the root; the first match counts.
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectTimeoutError, "connect timeout"),
    (ReadTimeoutError, "timeout"),
    (TimeoutError, "timeout"),
    (NameResolutionError, "name resolution failed"),
    (socket.gaierror, "name resolution failed"),
    (ssl.SSLCertVerificationError, "certificate not valid"),
    (ssl.SSLError, "TLS failed"),
    (ConnectionRefusedError, "connection refused"),
    (http.client.RemoteDisconnected, "connection closed"),
    (ConnectionAbortedError, "connection closed"),
    (ConnectionError, "connection reset"),
    (http.client.HTTPException, "malformed answer"),
    (InvalidHeader, "malformed answer"),
    (NewConnectionError, "connection failed"),
    (OSError, "network error"),
)


class AttemptTimeout(Timeout):
    """The time one attempt may take, as a moment: urllib3's clones of it keep the moment.

    deadline: on the monotonic clock, in seconds.
    connect: the longest that connecting may take, TLS included, in seconds.
    """

    def __init__(self, deadline: float, connect: float) -> None:
        left = max(deadline - time.monotonic(), 0.001)
        super().__init__(connect=min(connect, left), read=left)
        self.deadline = deadline
        self._longest_connect = connect

    def clone(self) -> AttemptTimeout:
        """A fresh timer for the same moment."""
        return AttemptTimeout(self.deadline, self._longest_connect)


class WebhookResponse(Response):
    """An answer whose body was read as far as it is ever read."""

    complete: bool = True

    @classmethod
    def read(cls, request: PreparedRequest, raw: urllib3.BaseHTTPResponse) -> WebhookResponse:
        """The answer in ``raw``; the connection goes back to its pool, or is closed."""
        response = cls()
        response.request = request
        response.status_code = raw.status
        response.headers = CaseInsensitiveDict(raw.headers)
        response.raw = raw
        response._content, response.complete = _bounded(raw)
        response._content_consumed = True  # type: ignore[attr-defined]
        return response


class WebhookAdapter(HTTPAdapter):
    """Sends requests to one endpoint, over connections of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._url = endpoint.url
        self._path = endpoint.location.request_uri
        # The handler has filled in what the endpoint left to it.
        self._timeout = cast(float, endpoint.timeout)
        self._connect_timeout = cast(float, endpoint.connect_timeout)
        # Retry(False) hands errors on as they are: urllib3 is not to retry anything.
        super().__init__(pool_maxsize=endpoint.max_concurrency or 1, max_retries=Retry(False))
        self._pool = self._make_pool(endpoint)

    def post(
        self, headers: Mapping[str, str], body: bytes, limit: float | None = None
    ) -> Reply | Failure:
        """One attempt, over after the endpoint's ``timeout``, or ``limit`` seconds if sooner.

        Never raises an ``Exception``: what went wrong is a `Failure`.
        """
        request = self._prepared(headers, body)
        timeout = self._attempt_timeout(limit)
        try:
            with threads.own():  # what urllib3 logs of it names the URL
                response = cast(WebhookResponse, self.send(request, timeout=timeout))
        except AddressRefusedError as refused:
            return Failure(refused.reason, final=True)
        except Exception as error:
            return Failure(_reason(error))
        return Reply(
            status=response.status_code,
            retry_after=response.headers.get("Retry-After"),
            body=response.content or b"",
            complete=response.complete,
        )

    def send(
        self,
        request: PreparedRequest,
        stream: bool = True,
        timeout: Any = None,
        verify: Any = True,  # certificates are verified, whatever is asked for
        cert: Any = None,
        proxies: Any = None,  # nor is a proxy used
    ) -> Response:
        """As in ``requests``, apart from what the docstring of the module rules out.

        ``timeout`` in seconds can only shorten the endpoint's own.
        """
        if not isinstance(timeout, AttemptTimeout):
            timeout = self._attempt_timeout(timeout if isinstance(timeout, int | float) else None)
        return super().send(request, stream=True, timeout=timeout)

    # The hooks that HTTPAdapter.send goes through. Everything they look up for each request in
    # the base class is the same for all requests of one endpoint.

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """The endpoint's own pool."""
        return self._pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the pool's TLS context verifies, always."""

    def request_url(self, request: PreparedRequest, proxies: Any) -> str:
        """Path and query of the endpoint."""
        return self._path

    def build_response(self, req: PreparedRequest, resp: Any) -> WebhookResponse:
        """The answer, read as far as it may be."""
        return WebhookResponse.read(req, resp)

    def _attempt_timeout(self, limit: float | None) -> AttemptTimeout:
        longest = self._timeout if limit is None else min(limit, self._timeout)
        return AttemptTimeout(time.monotonic() + longest, self._connect_timeout)

    def _prepared(self, headers: Mapping[str, str], body: bytes) -> PreparedRequest:
        # Not PreparedRequest.prepare: the URL was parsed and checked once, at configuration.
        request = PreparedRequest()
        request.method = "POST"
        request.url = self._url
        request.headers = CaseInsensitiveDict(headers)
        request.headers["Content-Length"] = str(len(body))
        request.body = body
        return request

    def _make_pool(self, endpoint: Endpoint) -> urllib3.HTTPConnectionPool:
        location = endpoint.location
        host, port = str(location.host), location.port
        guard, size = endpoint.addresses, endpoint.max_concurrency or 1
        if not endpoint.secure:
            return GuardedHTTPConnectionPool(host, port, maxsize=size, guard=guard)
        return GuardedHTTPSConnectionPool(
            host,
            port,
            maxsize=size,
            guard=guard,
            ssl_context=_tls_context(),
            cert_reqs="CERT_REQUIRED",
        )

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()
        super().close()


@functools.cache
def _tls_context() -> ssl.SSLContext:
    # Reading the CA bundle takes tens of milliseconds and a megabyte: one context serves all.
    # Not urllib3's or ssl's default context: those write keys to where SSLKEYLOGFILE says.
    context = TLSContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context


def _bounded(raw: urllib3.BaseHTTPResponse) -> tuple[bytes, bool]:
    """The body as far as it is read, undecoded, and whether that is all of it."""
    if raw.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
        raw.close()  # what follows is not HTTP
        return b"", False
    try:
        body = raw.read(MAX_RESPONSE_BYTES + 1, decode_content=False)
        complete = len(body) <= MAX_RESPONSE_BYTES and not raw.length_remaining
    except (HTTPError, OSError, http.client.HTTPException, ValueError):
        # The status line is the receiver's answer; a body that breaks off does not unsay it.
        body, complete = b"", False
    if complete:
        raw.release_conn()
    else:
        raw.close()  # what is left on the wire must not be taken for the next answer
    return body[:MAX_RESPONSE_BYTES], complete


def _reason(error: BaseException) -> str:
    """A fixed phrase for ``error``: texts of errors name hosts, URLs and more."""
    for cause in _causes(error):
        for kind, reason in _REASONS:
            if isinstance(cause, kind):
                return reason
    return "transport error"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The errors that wrappers were put around, the innermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        wrapped = [item for item in error.args if isinstance(item, BaseException)]
        error = wrapped[0] if wrapped else error.__cause__
    return reversed(chain)
