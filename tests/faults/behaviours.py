"""What the fault receiver does with a request: `BEHAVIOURS`, a function for each name.

A behaviour gets the `Exchange`; it returns whether the connection is kept for another request.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import select
import socket
import struct
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import TypeAlias

from exchange import CLOSED, KEPT, Exchange, head

Behaviour: TypeAlias = Callable[[Exchange], bool]


# --- Answers as they should be ---


def ok(exchange: Exchange) -> bool:
    """204."""
    return exchange.answer(204)


def slow(exchange: Exchange) -> bool:
    """204 after a pause."""
    exchange.pause()
    return exchange.answer(204)


def status(exchange: Exchange) -> bool:
    """``status/<code>``: that status."""
    return exchange.answer(int(exchange.argument))


def body(exchange: Exchange) -> bool:
    """``body/<n>``: 200 with a body of so many bytes."""
    return exchange.answer(200, b"x" * int(exchange.argument))


def until_close(exchange: Exchange) -> bool:
    """200 with a body that ends where the connection does, as of old."""
    exchange.send(head(200, "Connection: close") + b"body")
    return CLOSED


def gone(exchange: Exchange) -> bool:
    """410."""
    return exchange.answer(410)


def flaky(exchange: Exchange) -> bool:
    """``flaky/<n>``: 503 for the first n requests, then 204."""
    first = exchange.site.count(exchange.request.path) <= int(exchange.argument)
    return exchange.answer(503 if first else 204)


def ok_then(exchange: Exchange) -> bool:
    """``ok-then/<behaviour>``: 204 for the first request, then that behaviour."""
    if exchange.site.count(exchange.request.path) == 1:
        return ok(exchange)
    name, _, argument = exchange.argument.partition("/")
    return BEHAVIOURS[name](dataclasses.replace(exchange, argument=argument))


RETRY_AFTER: dict[str, Callable[[], str]] = {
    "date": lambda: formatdate(time.time() + 30, usegmt=True),
    "past": lambda: formatdate(time.time() - 3600, usegmt=True),
    "negative": lambda: "-5",
    "absurd": lambda: "9" * 40,
    "unparsable": lambda: "in a while, \xe9\x00;=",
}


def retry_after(exchange: Exchange) -> bool:
    """``retry-after/<value>[/503]``: 429 or 503; the value by name (`RETRY_AFTER`) or literally."""
    value, _, code = exchange.argument.partition("/")
    text = RETRY_AFTER[value]() if value in RETRY_AFTER else value
    return exchange.answer(int(code or 429), b"", f"Retry-After: {text}")


def redirect_self(exchange: Exchange) -> bool:
    """``redirect-self[/<status>]``: to the same URL."""
    location = f"Location: /{exchange.request.path}"
    return exchange.answer(int(exchange.argument or 307), b"", location)


def redirect_other(exchange: Exchange) -> bool:
    """``redirect-other[/<status>]``: to the receiver's other server."""
    location = f"Location: {exchange.site.url('other/ok')}"
    return exchange.answer(int(exchange.argument or 307), b"", location)


def redirect_to(exchange: Exchange) -> bool:
    """``redirect-to/<url>``: to that URL."""
    return exchange.answer(307, b"", f"Location: {exchange.argument}")


# --- No answer ---


def accept_never_read(exchange: Exchange) -> bool:
    """Reads the head and no more of the body than came with it."""
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    exchange.site.stopped.wait(exchange.site.patience)
    return CLOSED


def never_answer(exchange: Exchange) -> bool:
    """Reads the request and says nothing."""
    return exchange.hang()


def reset(exchange: Exchange) -> bool:
    """RST in place of an answer."""
    linger_zero = struct.pack("ii", 1, 0)
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
    return CLOSED


# --- Answers without an end ---


def drip_header(exchange: Exchange) -> bool:
    """One byte of a header at a time."""
    exchange.send(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    return exchange.drip(b"x")


def drip_body(exchange: Exchange) -> bool:
    """One byte of the body at a time."""
    exchange.send(head(200, "Content-Length: 1000000"))
    return exchange.drip(b"x")


def drip_1xx(exchange: Exchange) -> bool:
    """One 100 Continue at a time."""
    return exchange.drip(head(100))


def endless_body(exchange: Exchange) -> bool:
    """A body of unknown length that does not end."""
    exchange.send(head(200))
    return exchange.flood(b"x" * 65536)


def endless_chunks(exchange: Exchange) -> bool:
    """Chunk after chunk."""
    exchange.send(head(200, "Transfer-Encoding: chunked"))
    return exchange.flood(b"400\r\n" + b"x" * 1024 + b"\r\n")


def flood_1xx(exchange: Exchange) -> bool:
    """100 Continue for ever."""
    return exchange.flood(head(100) * 100)


def endless_trailer(exchange: Exchange) -> bool:
    """A body at its end, and trailers for ever."""
    exchange.send(head(200, "Transfer-Encoding: chunked") + b"2\r\nok\r\n0\r\n")
    return exchange.flood(b"X-Trailer: x\r\n" * 100)


# --- Answers that are too much ---


@functools.cache
def _bomb() -> bytes:
    # The members of a gzip file are decoded one after the other: 48 MiB.
    return gzip.compress(bytes(2**20)) * 48


def gzip_bomb(exchange: Exchange) -> bool:
    """Some 50 KiB that decode to 48 MiB."""
    return exchange.answer(200, _bomb(), "Content-Encoding: gzip")


def huge_header(exchange: Exchange) -> bool:
    """One header of a mebibyte."""
    return exchange.answer(200, b"", f"X-Huge: {'x' * 2**20}")


def many_headers(exchange: Exchange) -> bool:
    """A thousand headers."""
    return exchange.answer(200, b"", *(f"X-{number}: x" for number in range(1000)))


def heavy_headers(exchange: Exchange) -> bool:
    """Ninety headers of 60 KiB."""
    return exchange.answer(200, b"", *(f"X-{number}: {'x' * 61440}" for number in range(90)))


# --- Answers that break off ---


def refuse_early(exchange: Exchange) -> bool:
    """413 as soon as the head is there; the body is not read."""
    exchange.answer(413)
    return CLOSED


def close_mid_answer(exchange: Exchange) -> bool:
    """``close-mid-answer[/status|/body]``: in the headers, the status line or the body."""
    whole = head(200, "Content-Length: 1000") + b"x" * 1000
    cuts = {"": 25, "status": 11, "body": -500}
    exchange.send(whole[: cuts[exchange.argument]])
    return CLOSED


def close_idle(exchange: Exchange) -> bool:
    """``close-idle[/fin]``: 204, then closes as the next request comes: RST, or FIN alone."""
    exchange.answer(204)
    select.select([exchange.connection], [], [], exchange.site.patience)
    if exchange.argument == "fin":
        exchange.connection.recv(65536)  # bytes that were not read make it an RST
    return CLOSED


def close_early(exchange: Exchange) -> bool:
    """204, then closes at once, although it did not say so."""
    exchange.answer(204)
    return CLOSED


# --- Answers that contradict themselves ---


def early_hints(exchange: Exchange) -> bool:
    """``103-then-204``: 103, and the answer after a pause."""
    exchange.send(head(103, "Link: </style.css>; rel=preload"))
    exchange.pause()
    return exchange.answer(204)


def short_length(exchange: Exchange) -> bool:
    """A body shorter than Content-Length, then closes."""
    exchange.send(head(200, "Content-Length: 100") + b"x" * 10)
    return CLOSED


def long_length(exchange: Exchange) -> bool:
    """``long-length[/<n>]``: n bytes (or a few) after the body's end that look like answers."""
    unasked = head(500, "Content-Length: 0")
    surplus = unasked * max(1, int(exchange.argument or 0) // len(unasked))
    exchange.send(head(200, "Content-Length: 2") + b"ok" + surplus)
    return KEPT


def two_lengths(exchange: Exchange) -> bool:
    """Two values of Content-Length."""
    exchange.send(head(200, "Content-Length: 2", "Content-Length: 3") + b"ok")
    return KEPT


def bad_chunking(exchange: Exchange) -> bool:
    """A chunk size that is no number; the connection stays open."""
    exchange.send(head(200, "Transfer-Encoding: chunked") + b"2\r\nok\r\nzz\r\nok\r\n")
    return exchange.hang()


# --- Answers that mean nothing ---


def garbage_200(exchange: Exchange) -> bool:
    """200 with bytes that are no text."""
    return exchange.answer(200, bytes(range(256)), "Content-Type: application/json")


def garbage_header(exchange: Exchange) -> bool:
    """200 with lines that are no headers."""
    exchange.send(b"HTTP/1.1 200 OK\r\n: no name\r\nno colon\r\nContent-Length: 0\r\n\r\n")
    return KEPT


def not_http(exchange: Exchange) -> bool:
    """Another protocol; the connection stays open."""
    exchange.send(b"SSH-2.0-OpenSSH_9.2\r\n")
    return exchange.hang()


BEHAVIOURS: dict[str, Behaviour] = {
    "ok": ok,
    "slow": slow,
    "status": status,
    "body": body,
    "until-close": until_close,
    "gone": gone,
    "flaky": flaky,
    "ok-then": ok_then,
    "retry-after": retry_after,
    "redirect-self": redirect_self,
    "redirect-other": redirect_other,
    "redirect-to": redirect_to,
    "accept-never-read": accept_never_read,
    "never-answer": never_answer,
    "reset": reset,
    "drip-header": drip_header,
    "drip-body": drip_body,
    "drip-1xx": drip_1xx,
    "endless-body": endless_body,
    "endless-chunks": endless_chunks,
    "endless-trailer": endless_trailer,
    "flood-1xx": flood_1xx,
    "gzip-bomb": gzip_bomb,
    "huge-header": huge_header,
    "many-headers": many_headers,
    "heavy-headers": heavy_headers,
    "refuse-early": refuse_early,
    "close-mid-answer": close_mid_answer,
    "close-idle": close_idle,
    "close-early": close_early,
    "103-then-204": early_hints,
    "short-length": short_length,
    "long-length": long_length,
    "two-lengths": two_lengths,
    "bad-chunking": bad_chunking,
    "garbage-200": garbage_200,
    "garbage-header": garbage_header,
    "not-http": not_http,
}
"""By the first part of the path."""

UNREAD = frozenset({"accept-never-read", "refuse-early"})
"""Those that are to see the head alone."""
