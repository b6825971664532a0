"""One HTTP/1.1 exchange on an open connection: a POST in one write, and the answer to it.

Only what a webhook needs of RFC 9112, and strict where a mistake would let one answer be taken for
another: a connection is used again only if there is no doubt where the answer ended.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Protocol

MOST_HEADERS = 100
"""In one head, or in the trailers of a body; as in ``http.client``."""

MOST_HEAD_BYTES = 65_536
"""Of one head, and of one line of a chunked body."""

_CHUNK = 16_384  # is read at once at most
_HEAD = re.compile(r"(?:[^\x00-\x20\x7f-\uffff:]+:[^\x00\r\n]*(?:\n|$))*")  # RFC 9110 §5
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")  # a line may end with LF alone (RFC 9112 §2.2)
_PROTOCOL = b"HTTP/1."
_STATUS = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?:[ \t].*)?", re.DOTALL)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # token, RFC 9110 §5.6.2
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_BODILESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED, HTTPStatus.SWITCHING_PROTOCOLS)


class Wire(Protocol):
    """A connected socket with a deadline."""

    def sendall(self, data: bytes, /) -> None:
        """Write all of it."""

    def recv_into(self, buffer: Any, /) -> int:
        """Read what there is; 0: the other side has closed."""


class Headers(dict[str, str]):
    """The headers of an answer. Names are in lower case, and are found in any; what came twice is
    a list (RFC 9110 §5.3)."""

    def get(self, name: str, default: Any = None) -> Any:
        """The value of the header ``name``."""
        return super().get(name.lower(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def add(self, name: str, value: str) -> None:
        """One more line of a head; ``name`` in lower case."""
        former = super().get(name)
        self[name] = value if former is None else f"{former}, {value}"


def written(start: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A request. ``start``: the request line and the headers that are always the same.

    Raises ValueError for what would be no header, or two.
    """
    lines = "\n".join([f"{name}: {value}" for name, value in headers.items()])
    if lines.count("\n") != len(headers) - 1 or not _HEAD.fullmatch(lines):
        raise ValueError("not a header")
    head = f"{start}{lines}\n\n".replace("\n", "\r\n")
    return head.encode("latin-1") + body


class Answer:
    """The answer that comes next on ``wire``, its head read; ``read`` reads the body.

    status: of the final answer, or 101. length_remaining: bytes of the body that were not read yet;
    None where only its end will tell. let_go: is called with whether the connection is of use after
    the answer.

    Raises ``http.client.HTTPException`` for what is no answer, ``ConnectionError`` where it broke
    off, and whatever the socket raises.
    """

    def __init__(self, wire: Wire, let_go: Callable[[bool], object]) -> None:
        self._wire = wire
        self._let_go = let_go
        self._buffer = bytearray()
        self._begun = False  # whether anything came
        self._ended = False  # whether the other side has closed
        self._doubtful = False  # whether the connection is of no more use
        self._chunked = False
        self.length_remaining: int | None = None
        self.status, minor, lines = self._head()
        self.headers = self._parsed(lines)
        self._frame(minor)

    def read(self, most: int, decode_content: bool = False) -> bytes:
        """The body, undecoded, or its first ``most`` bytes.

        Raises what the class does.
        """
        if self._chunked:
            return self._read_chunks(most)
        if self.length_remaining is None:
            return self._read_to_the_end(most)
        wanted = min(most, self.length_remaining)
        body = self._take(wanted)
        self.length_remaining -= wanted
        return body

    def release_conn(self) -> None:
        """The body was read: the connection may be used again, if it can be."""
        self._end(not (self._doubtful or self._ended or self._buffer))

    def close(self) -> None:
        """The connection is not to be used again."""
        self._end(False)

    def _end(self, reusable: bool) -> None:
        # Once: by the second time somebody else may have the connection.
        let_go, self._let_go = self._let_go, _nothing
        let_go(reusable)

    def _head(self) -> tuple[int, int, list[bytes]]:
        """Status, minor version of HTTP and header lines of the first answer that is final."""
        while True:
            lines = self._lines()
            match = _STATUS.fullmatch(lines[0])
            if match is None:
                raise http.client.BadStatusLine("")
            status = int(match[2])
            # Every interim answer is passed over (RFC 9110 §15.2).
            if status >= HTTPStatus.OK or status == HTTPStatus.SWITCHING_PROTOCOLS:
                return status, int(match[1]), lines[1:]

    def _lines(self) -> list[bytes]:
        """The lines of a head, without their ends."""
        looked = 0
        while (end := _BLANK_LINE.search(self._buffer, max(looked - 3, 0))) is None:
            looked = len(self._buffer)
            if looked > MOST_HEAD_BYTES:
                raise http.client.HTTPException("the head is too long")
            if not self._buffer.startswith(_PROTOCOL[:looked]):
                raise http.client.BadStatusLine("")  # it may never say more
            self._need_more()
        head = bytes(self._buffer[: end.start()])
        del self._buffer[: end.end()]
        self._doubtful |= head.count(b"\r") > head.count(b"\r\n")  # to some it ends a line alone
        lines = head.split(b"\n")
        if len(lines) > MOST_HEADERS + 1:
            raise http.client.HTTPException("the head is too long")
        return [line.removesuffix(b"\r") for line in lines]

    def _parsed(self, lines: list[bytes]) -> Headers:
        headers = Headers()
        name = ""
        for line in lines:
            if name and line[:1] in b" \t":  # folded (RFC 9112 §5.2)
                headers[name] += " " + line.strip(b" \t").decode("latin-1")
                continue
            key, colon, value = line.partition(b":")
            if colon and _NAME.fullmatch(key):
                name = key.decode("ascii").lower()
                headers.add(name, value.strip(b" \t").decode("latin-1"))
            else:
                self._doubtful = True  # who writes such a line may err in others
                name = ""
        return headers

    def _frame(self, minor: int) -> None:
        """How long the body is, and whether another answer can follow (RFC 9112 §6.3, §9.3)."""
        headers = self.headers
        options = {one.strip().lower() for one in headers.get("connection", "").split(",")}
        self._doubtful |= "close" in options or (minor == 0 and "keep-alive" not in options)
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if self.status in _BODILESS:
            self.length_remaining = 0
            self._doubtful |= coding is not None or length not in (None, "0")
        elif coding is not None and coding.lower() != "identity":  # which is none (RFC 2616 §3.6)
            self._chunked = coding.lower() == "chunked"
            self._doubtful |= length is not None or minor == 0 or not self._chunked
        elif length is not None:
            self._doubtful |= coding is not None
            first, *others = {one.strip() for one in length.split(",")}
            if others:
                raise http.client.HTTPException("several lengths")
            self.length_remaining = int(first) if _LENGTH.fullmatch(first) else None
        self._doubtful |= self.length_remaining is None and not self._chunked

    def _read_chunks(self, most: int) -> bytes:
        body = bytearray()
        while len(body) < most:
            match = _SIZE.fullmatch(self._line())
            if match is None:
                raise http.client.HTTPException("a chunk without a size")
            size = int(match[1], 16)
            if size == 0:
                self._pass_trailers()
                self._chunked, self.length_remaining = False, 0
                break
            body += self._take(min(size, most - len(body)))
            if len(body) == most:
                self._doubtful = True  # what is left of it stays unread
            elif self._line():
                raise http.client.HTTPException("a chunk of another size")
        return bytes(body)

    def _pass_trailers(self) -> None:
        for _ in range(MOST_HEADERS + 1):
            if not self._line():
                return
        raise http.client.HTTPException("too many trailers")

    def _read_to_the_end(self, most: int) -> bytes:
        while len(self._buffer) < most and not self._ended:
            self._more()
        body = bytes(self._buffer[:most])
        del self._buffer[:most]
        self.length_remaining = 0 if self._ended else None
        return body

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._need_more()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _line(self) -> bytes:
        """The next line of a chunked body, without its end."""
        looked = 0
        while (end := self._buffer.find(b"\n", looked)) < 0:
            looked = len(self._buffer)
            if looked > MOST_HEAD_BYTES:
                raise http.client.LineTooLong("line")
            self._need_more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r")

    def _need_more(self) -> None:
        self._more()
        if self._ended:
            if self._begun:
                raise ConnectionAbortedError("the answer broke off")
            raise http.client.RemoteDisconnected("")

    def _more(self) -> None:
        chunk = bytearray(_CHUNK)
        received = self._wire.recv_into(chunk)
        self._begun |= received > 0
        self._ended = received == 0
        self._buffer += chunk[:received]


def _nothing(reusable: bool) -> None:
    """For a connection that was let go of."""
