"""One POST: `WebhookAdapter`, a ``requests`` adapter with a guarded connect and a true deadline.

It never follows a redirect, reads no environment (proxies, ``.netrc``), reads at most 64 KiB of an
answer, and is done by its deadline whatever the other side does. Retries are not its business.
"""

from __future__ import annotations

import base64
import functools
import http.client
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import urllib3
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)
from urllib3.util import Retry, Timeout, Url, parse_url

from cubehook import threads, tls
from cubehook.connection import (
    AddressRefusedError,
    ConnectTimeoutError,
    GuardedHTTPConnectionPool,
    GuardedHTTPSConnectionPool,
    TunnelRefusedError,
)
from cubehook.endpoint import Endpoint
from cubehook.outcome import Failure, Reply

MAX_RESPONSE_BYTES = 65_536
_LENGTH = "content-length"
_OF_THE_WAY = ("host", "accept-encoding", "transfer-encoding")

# What went wrong, by the type of the error at the root; the first match counts.
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectTimeoutError, "connect timeout"),
    (TunnelRefusedError, "refused by the proxy"),
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

    def connect_left(self) -> float:
        """The seconds that connecting may take from now on."""
        return max(min(self._longest_connect, self.deadline - time.monotonic()), 0.001)


class WebhookRequest(PreparedRequest):
    """A request to an endpoint. ``query``: what stands in its URL beside the endpoint's own."""

    query: str = ""


class WebhookResponse(Response):
    """An answer whose body was read as far as it is ever read."""

    complete: bool = True
    # What its base class makes anew for each answer, and no answer to a webhook has.
    url: Any = None
    reason: Any = None
    encoding: Any = None
    history: Any = ()
    elapsed: Any = timedelta(0)
    cookies: Any = functools.cached_property(lambda self: RequestsCookieJar())
    _next: Any = None

    def __init__(self) -> None:
        pass  # all that differs between answers is set by `read`

    @classmethod
    def read(cls, request: PreparedRequest, raw: urllib3.BaseHTTPResponse) -> WebhookResponse:
        """The answer in ``raw``; the connection goes back to its pool, or is closed."""
        response = cls()
        response.request = request
        response.status_code = raw.status
        response.headers = raw.headers  # type: ignore[assignment]  # insensitive to case as well
        response.raw = raw
        response._content, response.complete = _bounded(raw)
        response._content_consumed = True  # type: ignore[attr-defined]
        return response


class WebhookAdapter(HTTPAdapter):
    """Sends requests to one endpoint, over connections of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._url = endpoint.url
        target = endpoint.location
        # A proxy for plain HTTP is asked for the whole URL (RFC 9112 §3.2.2).
        forwarded = bool(endpoint.proxy) and not endpoint.secure
        whole = target._replace(path=target.path or "/").url
        self._target = whole if forwarded else target.request_uri
        # The handler has filled in what the endpoint left to it.
        self._timeout = cast(float, endpoint.timeout)
        self._connect_timeout = cast(float, endpoint.connect_timeout)
        # Retry(False) hands errors on as they are: urllib3 is not to retry anything.
        super().__init__(pool_maxsize=endpoint.max_concurrency or 1, max_retries=Retry(False))
        self._pool = _pool(endpoint)

    def post(
        self, headers: Mapping[str, str], body: bytes, limit: float | None = None, query: str = ""
    ) -> Reply | Failure:
        """One attempt, over after the endpoint's ``timeout``, or ``limit`` seconds if sooner.

        query: is added to that of the URL.

        Never raises an ``Exception``: what went wrong is a `Failure`.
        """
        request = self._prepared(headers, body, query)
        timeout = self._attempt_timeout(limit)
        try:
            with threads.own():  # what urllib3 logs of it names the URL
                response = cast(WebhookResponse, self.send(request, timeout=timeout))
        except AddressRefusedError as refused:
            return Failure(refused.reason, final=True)
        except Exception as error:
            return Failure(reason(error))
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
        proxies: Any = None,  # nor is any proxy used but the endpoint's own
    ) -> Response:
        """As in ``requests``, apart from what the docstring of the module rules out.

        ``timeout`` in seconds can only shorten the endpoint's own.
        """
        if not isinstance(timeout, AttemptTimeout):
            timeout = self._attempt_timeout(timeout if isinstance(timeout, int | float) else None)
        if not isinstance(request, WebhookRequest):
            request = _in_one_piece(request)
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
        """Path and query of the endpoint, or its URL where a proxy forwards the request."""
        query = getattr(request, "query", "")
        return with_query(self._target, query) if query else self._target

    def build_response(self, req: PreparedRequest, resp: Any) -> WebhookResponse:
        """The answer, read as far as it may be."""
        return WebhookResponse.read(req, resp)

    def connected(self, limit: float) -> Any:
        """A connection made as for a request, in ``limit`` seconds; who asks for it closes it.

        Raises what `post` makes a `Failure` of.
        """
        timeout = AttemptTimeout(time.monotonic() + limit, self._connect_timeout)
        return self._pool.connected(timeout)

    def _attempt_timeout(self, limit: float | None) -> AttemptTimeout:
        longest = self._timeout if limit is None else min(limit, self._timeout)
        return AttemptTimeout(time.monotonic() + longest, self._connect_timeout)

    def _prepared(self, headers: Mapping[str, str], body: bytes, query: str = "") -> WebhookRequest:
        # Not PreparedRequest.prepare: the URL was parsed and checked once, at configuration.
        request = WebhookRequest()
        request.method = "POST"
        request.url = with_query(self._url, query) if query else self._url
        request.query = query
        # A plain dict: who reads it looks for this one name only, in this spelling.
        named = {name: value for name, value in headers.items() if name.lower() != _LENGTH}
        request.headers = named | {"Content-Length": str(len(body))}  # type: ignore[assignment]
        request.body = body
        return request

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()
        super().close()


def _in_one_piece(request: PreparedRequest) -> PreparedRequest:
    """What a session has prepared, with its body in bytes, and no header about the way it goes."""
    given: Mapping[str, Any] = request.headers  # of bytes, too
    whole = request.copy()
    whole.body = body = _all_of(request.body or b"")
    whole.headers = CaseInsensitiveDict(
        {
            name: value.decode("latin-1") if isinstance(value, bytes) else value
            for name, value in given.items()
            if name.lower() not in _OF_THE_WAY
        }
    )
    whole.headers["Content-Length"] = str(len(body))
    return whole


def _all_of(body: Any) -> bytes:
    if hasattr(body, "read"):
        body = body.read()
    if isinstance(body, str):
        return body.encode()
    return body if isinstance(body, bytes) else b"".join(body)


def with_query(target: str, query: str) -> str:
    """A URL, or its path, with so much more in its query."""
    return f"{target}{'&' if '?' in target else '?'}{query}"


def _pool(endpoint: Endpoint) -> GuardedHTTPConnectionPool | GuardedHTTPSConnectionPool:
    target = endpoint.location
    given = {name.lower() for name in endpoint.headers}
    options: dict[str, Any] = {
        "guard": endpoint.addresses,
        "fixed": "" if "accept-encoding" in given else "Accept-Encoding: identity\n",
        "maxsize": endpoint.max_concurrency or 1,
    }
    if endpoint.proxy:
        proxy = parse_url(endpoint.proxy)
        options["_proxy_headers"] = _proxy_headers(proxy)
        # urllib3 puts it into its errors, knows of no default port for it, and hands
        # the host on to http.client, which before Python 3.11 takes no brackets beside a port.
        host = str(proxy.host).strip("[]")
        options["_proxy"] = proxy = proxy._replace(auth=None, host=host, port=proxy.port or 80)
        if not endpoint.secure:
            options["forwards_to"] = str(target.netloc)
            target = proxy
    if not endpoint.secure:
        return GuardedHTTPConnectionPool(str(target.host), target.port, **options)
    return GuardedHTTPSConnectionPool(
        str(target.host),
        target.port,
        ssl_context=tls.context(endpoint.ca_bundle, endpoint.client_cert or ()),
        cert_reqs="CERT_REQUIRED",
        **options,
    )


def _proxy_headers(proxy: Url) -> dict[str, str]:
    """What the proxy is told: the user name and password of its URL (RFC 7617)."""
    if not proxy.auth:
        return {}
    user, _, password = proxy.auth.partition(":")
    credentials = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
    return {"Proxy-Authorization": f"Basic {base64.b64encode(credentials).decode()}"}


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
    except BaseException:
        raw.close()
        raise
    if complete:
        raw.release_conn()
    else:
        raw.close()  # what is left on the wire must not be taken for the next answer
    return body[:MAX_RESPONSE_BYTES], complete


def reason(error: BaseException) -> str:
    """A fixed phrase for ``error``: texts of errors name hosts, URLs and more."""
    for cause in causes(error):
        for kind, phrase in _REASONS:
            if isinstance(cause, kind):
                return phrase
    return "transport error"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The errors that wrappers were put around, the innermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        wrapped = [item for item in error.args if isinstance(item, BaseException)]
        error = wrapped[0] if wrapped else error.__cause__
    return reversed(chain)
