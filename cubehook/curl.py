"""One POST through libcurl: `CurlTransport`, which does its work while the interpreter is free.

The promises are those of `transport`: a guarded connect, a true deadline, a bounded answer, no
redirects, nothing read from the environment. It needs the extra ``curl`` (pycurl).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import time
from collections import deque
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

import pycurl
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util import parse_url

from cubehook import _answer, forks, tls
from cubehook._answer import Answer
from cubehook._gate import Gate
from cubehook._multi import Stepwise
from cubehook.connection import resolved
from cubehook.endpoint import Endpoint
from cubehook.outcome import Failure, Reply
from cubehook.transport import MAX_RESPONSE_BYTES, _proxy_headers, with_query

# What pycurl does not name, or did not in 7.45.4, before which it came with too old a libcurl.
_TOO_LARGE = 100  # CURLE_TOO_LARGE
_SUPPRESS_CONNECT_HEADERS = 265  # CURLOPT_SUPPRESS_CONNECT_HEADERS
_NO_PARTIALCHAIN = 4  # CURLSSLOPT_NO_PARTIALCHAIN

_REASONS = {
    pycurl.E_OPERATION_TIMEDOUT: "timeout",
    pycurl.E_COULDNT_CONNECT: "connection failed",
    pycurl.E_SSL_CONNECT_ERROR: "TLS failed",
    pycurl.E_SSL_CERTPROBLEM: "TLS failed",
    pycurl.E_SSL_CIPHER: "TLS failed",
    pycurl.E_BAD_FUNCTION_ARGUMENT: "TLS failed",  # of a key that is none
    pycurl.E_SSL_CACERT_BADFILE: "TLS failed",
    pycurl.E_PEER_FAILED_VERIFICATION: "certificate not valid",
    pycurl.E_GOT_NOTHING: "connection closed",
    pycurl.E_PARTIAL_FILE: "connection closed",
    pycurl.E_SEND_ERROR: "connection closed",
    pycurl.E_RECV_ERROR: "connection closed",
    pycurl.E_UNSUPPORTED_PROTOCOL: "malformed answer",
    pycurl.E_FTP_WEIRD_SERVER_REPLY: "malformed answer",  # the same number for HTTP
    pycurl.E_WRITE_ERROR: "malformed answer",
    pycurl.E_BAD_CONTENT_ENCODING: "malformed answer",
    _TOO_LARGE: "malformed answer",
}
_BROKEN = (pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, pycurl.E_GOT_NOTHING)
# Those that may have a number of the system, which tells more.
_NUMBERED = (pycurl.E_COULDNT_CONNECT, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR)
_NUMBERS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
    errno.ECONNABORTED: "connection closed",
}
_LENGTH = "content-length"
# RFC 9110 §5; libcurl takes a value of nothing but white space, \v and \f included, for none.
_HEADERS = re.compile(r"(?:[^\x00-\x20\x7f-\uffff:;]+(?:;|:[^\x00\r\n\v\f]*)(?:\n|$))*")


class CurlTransport:
    """Sends requests to one endpoint, over connections of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._secure = endpoint.secure
        # The handler has filled in what the endpoint left to it.
        self._timeout = cast(float, endpoint.timeout)
        self._most = endpoint.max_concurrency or 1
        self._setup = _Setup(endpoint)
        self._idle: deque[_Client] = deque()
        self._closed = False

    def post(
        self, headers: Mapping[str, str], body: bytes, limit: float | None = None, query: str = ""
    ) -> Reply | Failure:
        """One attempt, over after the endpoint's ``timeout``, or ``limit`` seconds if sooner.

        query: is added to that of the URL.

        Never raises an ``Exception``: what went wrong is a `Failure`.
        """
        longest = self._timeout if limit is None else min(limit, self._timeout)
        deadline = time.monotonic() + longest
        if self._secure and os.environ.get("SSLKEYLOGFILE"):
            return Failure("SSLKEYLOGFILE is set")  # libcurl would write the keys of TLS there
        if self._closed:
            return Failure("transport error")
        client = None
        try:
            client = self._client()
            return client.post(headers, body, deadline, query)
        except Exception:  # of headers that cannot be sent, say
            return Failure("transport error")
        finally:
            if client is not None:
                self._let_go(client)

    def close(self) -> None:
        """Close the idle connections."""
        self._closed = True
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                self._idle.pop().close()

    def _client(self) -> _Client:
        try:
            return self._idle.pop()  # the one used last: its connection is most likely open
        except IndexError:
            return _Client(self._setup)

    def _let_go(self, client: _Client) -> None:
        if not client.reusable or len(self._idle) >= self._most:
            client.close()
            return
        self._idle.append(client)
        if self._closed:  # meanwhile, and nobody else would look for it
            self.close()


class _Setup:
    """What all handles of an endpoint have in common."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.guard = endpoint.addresses
        self.secure = endpoint.secure
        self.connect_timeout = cast(float, endpoint.connect_timeout)
        target = endpoint.location
        proxy = parse_url(endpoint.proxy) if endpoint.proxy else None
        where = proxy or target
        # Not libcurl's default ports, of which that for proxies is another one.
        self.port = where.port or (443 if self.secure and proxy is None else 80)
        self.host = str(where.host).strip("[]")
        self.url = target._replace(path=target.path or "/").url
        self.options: dict[int, Any] = {
            pycurl.URL: self.url,
            pycurl.PATH_AS_IS: 1,
            pycurl.POST: 1,
            pycurl.USERAGENT: "",  # ours is among the headers, and no matter of a proxy
            pycurl.NOSIGNAL: 1,
            pycurl.FOLLOWLOCATION: 0,
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.HTTP09_ALLOWED: 0,
            pycurl.MAXCONNECTS: 1,
            # Empty, or what was told, in the place of what the environment says.
            pycurl.PROXY: "",
            pycurl.NOPROXY: "",
            pycurl.NETRC: pycurl.NETRC_IGNORED,
        }
        if proxy is not None:
            headers = {**_proxy_headers(proxy), "Proxy-Connection": ""}
            self.options |= {
                pycurl.PROXY: proxy._replace(auth=None, port=self.port, path=None).url,
                pycurl.PROXYTYPE: pycurl.PROXYTYPE_HTTP,
                pycurl.HEADEROPT: pycurl.HEADER_SEPARATE,
                pycurl.PROXYHEADER: [f"{name}:{value}" for name, value in headers.items()],
                _SUPPRESS_CONNECT_HEADERS: 1,
            }
        if self.secure:
            self.options |= _tls_options(endpoint)

    def __repr__(self) -> str:
        return "<_Setup>"  # not the options: they hold all that is secret


def _tls_options(endpoint: Endpoint) -> dict[int, Any]:
    options: dict[int, Any] = {
        pycurl.SSL_VERIFYPEER: 1,
        pycurl.SSL_VERIFYHOST: 2,
        pycurl.SSLVERSION: pycurl.SSLVERSION_TLSv1_2,
        pycurl.SSL_OPTIONS: _NO_PARTIALCHAIN,  # as Python does without it
        # libcurl may have been built with some of its own.
        pycurl.CAINFO: None,
        pycurl.CAPATH: None,
        # Without, OpenSSL would ask the terminal for the passphrase of a key.
        pycurl.KEYPASSWD: "",
    }
    if endpoint.ca_bundle is None:
        options[pycurl.CAINFO] = DEFAULT_CA_BUNDLE_PATH
    certificate = endpoint.client_cert or ()
    if endpoint.ca_bundle is None and not certificate:
        return options
    # What the files held when they were checked: every connection of the endpoint has the same,
    # even where they are half written by now, or may not be read any more.
    files = tls.context(endpoint.ca_bundle, certificate).files
    if endpoint.ca_bundle is not None:
        if endpoint.ca_bundle in files:
            options[pycurl.CAINFO_BLOB] = files[endpoint.ca_bundle]
        else:
            options[pycurl.CAPATH] = endpoint.ca_bundle  # a folder, looked into when connecting
    if certificate:
        options[pycurl.SSLCERT_BLOB] = files[certificate[0]]
        options[pycurl.SSLKEY_BLOB] = files[certificate[-1]]
    return options


class _Client:
    """One libcurl handle with the connection it keeps. One thread uses it at a time."""

    def __init__(self, setup: _Setup) -> None:
        self._setup = setup
        self._gate = Gate(setup.guard, secure=setup.secure)
        self._answer = Answer()
        self._query = ""  # that the handle's URL has beside the endpoint's own
        self.reusable = False
        with forks.kept_out:  # libcurl has a lock of its own for what all handles share
            self._curl = pycurl.Curl()
            self._steps = Stepwise(self._curl) if setup.secure else None
        for option, value in setup.options.items():
            if value is None:
                self._curl.unsetopt(option)
            else:
                self._curl.setopt(option, value)
        self._curl.setopt(pycurl.OPENSOCKETFUNCTION, self._gate.open)
        self._curl.setopt(pycurl.SOCKOPTFUNCTION, self._gate.note)
        self._curl.setopt(pycurl.HEADERFUNCTION, self._answer.hear)
        self._curl.setopt(pycurl.WRITEFUNCTION, self._answer.take)

    def __del__(self) -> None:
        if not sys.is_finalizing() and hasattr(self, "_steps"):
            self.close()

    def post(
        self, headers: Mapping[str, str], body: bytes, deadline: float, query: str
    ) -> Reply | Failure:
        """One attempt until ``deadline`` (monotonic seconds)."""
        if query != self._query:
            self._query = query
            url = self._setup.url
            self._curl.setopt(pycurl.URL, with_query(url, query) if query else url)
        self._curl.setopt(pycurl.HTTPHEADER, _lines(headers))
        self._curl.setopt(pycurl.POSTFIELDS, body)
        result = self._attempt(deadline) if self.reusable else None
        # None: it has found its connection closed, and may not make another without a look at the
        # address. Nobody has answered to anything.
        return self._connected(deadline) if result is None else result

    def close(self) -> None:
        """Close the connection."""
        self.reusable = False
        self._gate.leave_to_parent()
        with forks.kept_out if self._steps is not None else contextlib.nullcontext():
            if self._steps is not None:
                self._steps.close()
            self._curl.close()

    def _connected(self, deadline: float) -> Reply | Failure:
        """An attempt that makes a connection, to addresses vetted here."""
        ends = min(deadline, time.monotonic() + self._setup.connect_timeout)
        host, port = self._setup.host, self._setup.port
        try:
            found = resolved(host, port)
        except OSError:
            found = []
        addresses = list(dict.fromkeys(str(target[0]) for *_, target in found))
        if not addresses:
            return Failure("name resolution failed")
        for address in addresses:
            # One refused address refuses the name: an attacker's answer mixes both kinds.
            refusal = self._gate.refusal(address)
            if refusal is not None:
                return Failure(refusal, final=True)
        left = ends - time.monotonic()
        if left <= 0:
            return Failure("connect timeout")
        # For whatever name it spells in whatever way: libcurl shall not resolve anything.
        spelled = (f"[{one}]" if ":" in one else one for one in addresses)
        self._curl.setopt(pycurl.RESOLVE, [f"*:{port}:{','.join(spelled)}"])
        self._curl.setopt(pycurl.CONNECTTIMEOUT_MS, max(int(left * 1000), 1))
        self._gate.vetted = addresses
        try:
            return self._attempt(deadline) or Failure("connection failed")
        finally:
            self._gate.vetted = ()

    def _attempt(self, deadline: float) -> Reply | Failure | None:
        """None: it would have had to connect, which only a vetted attempt may."""
        left = deadline - time.monotonic()
        if left <= 0:
            return Failure("timeout" if self.reusable else "connect timeout")
        self._answer.clear()
        self._gate.refused = None
        self._curl.setopt(pycurl.TIMEOUT_MS, max(int(left * 1000), 1))
        self.reusable = False
        try:
            if self._steps is None:
                self._curl.perform()
            else:
                self._steps.perform()
        except pycurl.error as error:
            return self._failed(int(error.args[0]))
        head = self._answer.head()
        if head is None:
            return Failure("connection closed")
        self.reusable = True
        return self._reply(head, complete=True)

    def _reply(self, head: list[bytes], *, complete: bool) -> Reply:
        body = bytes(self._answer.body[:MAX_RESPONSE_BYTES])
        return Reply(_answer.status(head), _answer.retry_after(head), body, complete)

    def _failed(self, code: int) -> Reply | Failure | None:
        if self._gate.refused is not None:
            return Failure(self._gate.refused, final=True) if self._gate.refused else None
        head = self._answer.head()
        if head is not None:
            return self._reply(head, complete=False)  # the status line is the receiver's answer
        if not self._gate.vetted and code in _BROKEN and not self._answer.begun:
            return None  # it was closed as it was used again (RFC 9112 §9.3.1)
        return Failure(self._reason(code))

    def _reason(self, code: int) -> str:
        if self._gate.vetted and not self._is_connected():
            if code == pycurl.E_OPERATION_TIMEDOUT:
                return "connect timeout"
            if self._curl.getinfo(pycurl.HTTP_CONNECTCODE) not in (0, HTTPStatus.OK):
                return "refused by the proxy"
        if self._answer.too_long:
            return "malformed answer"
        number = self._curl.getinfo(pycurl.OS_ERRNO) if code in _NUMBERED else 0
        if number:
            return _NUMBERS.get(number, "network error")
        return _REASONS.get(code, "network error")

    def _is_connected(self) -> bool:
        """Whether a connection was made in this attempt, TLS included."""
        made = pycurl.APPCONNECT_TIME if self._setup.secure else pycurl.CONNECT_TIME
        return bool(self._curl.getinfo(made))


def _lines(headers: Mapping[str, str]) -> list[bytes]:
    """The headers as libcurl takes them. Raises ValueError for what would be no header or two."""
    given = [
        # Without a value it would take the header away.
        f"{name}: {value}" if value.strip(" \t") else f"{name};"
        for name, value in headers.items()
        if name.lower() != _LENGTH
    ]
    text = "\n".join(given)
    lines = text.encode("latin-1").split(b"\n") if given else []
    if len(lines) != len(given) or not _HEADERS.fullmatch(text):
        raise ValueError("not a header")
    # Else libcurl waits for an interim answer before it sends a long body.
    lines.append(b"Expect:")
    return lines
