"""One exchange on an open connection: what is written, and every way an answer may come."""

from __future__ import annotations

import http.client
import io
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubehook.exchange import MOST_HEAD_BYTES, MOST_HEADERS, Answer, written

START = "POST /hook HTTP/1.1\nHost: ops.example\n"


class Wire:
    """The pieces that come, one with each read; then the other side has closed."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.written = b""

    def sendall(self, data: bytes) -> None:
        self.written += data

    def recv_into(self, buffer: Any) -> int:
        if not self.pieces:
            return 0
        piece = self.pieces.pop(0)
        taken, rest = piece[: len(buffer)], piece[len(buffer) :]
        if rest:
            self.pieces.insert(0, rest)
        buffer[: len(taken)] = taken
        return len(taken)


class Read:
    """An answer, read to its end; ``reusable``: what was said of the connection."""

    def __init__(self, *pieces: bytes, most: int = 1_000_000) -> None:
        self.said: list[bool] = []
        self.wire = Wire(*pieces)
        answer = Answer(self.wire, self.said.append)
        self.status, self.headers = answer.status, answer.headers
        self.body = answer.read(most)
        self.left = answer.length_remaining
        answer.release_conn()
        (self.reusable,) = self.said


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(bounds)]


class TestWritten:
    def test_in_one_piece(self) -> None:
        assert written(START, {"X-A": "1", "X-B": "\xe9 "}, b"{}") == (
            b"POST /hook HTTP/1.1\r\nHost: ops.example\r\nX-A: 1\r\nX-B: \xe9 \r\n\r\n{}"
        )

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("X-A", "a\r\nX-B: 2"),
            ("X-A", "a\nX-B: 2"),
            ("X-A", "a\r"),
            ("X-A", "\x00"),
            ("X A", "a"),
            ("X-A\n", "a"),
            ("", "a"),
            ("X-\xe9", "a"),
            ("X-A", "\u2713"),
        ],
    )
    def test_what_would_be_another_header_is_refused(self, name: str, value: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  # a UnicodeEncodeError is one, too
            written(START, {"X-Good": "1", name: value}, b"")


ANSWERS: dict[str, tuple[bytes, int, bytes, bool]] = {
    "a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", True),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "no reason": (b"HTTP/1.1 204\r\n\r\n", 204, b"", True),
    "LF alone": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, b"ok", True),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n", 304, b"", True),
    "a length that is said twice": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nok",
        *(200, b"ok", True),
    ),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\n\r\n",
        *(200, b"ok", True),
    ),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
        *(200, b"ok", True),
    ),
    "interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        *(200, b"ok", True),
    ),
    "kept alive in 1.0": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        *(200, b"ok", True),
    ),
    "to the end": (b"HTTP/1.1 200 OK\r\n\r\nok", 200, b"ok", False),
    "to be closed": (
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok",
        *(200, b"ok", False),
    ),
    "to be closed, in a list": (
        b"HTTP/1.1 200 OK\r\nConnection: x,  CLOSE\r\nContent-Length: 2\r\n\r\nok",
        *(200, b"ok", False),
    ),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False),
    "chunks and a length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\n\r\n",
        *(200, b"ok", False),
    ),
    "another coding": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nok",
        *(200, b"ok", False),
    ),
    "a length that is none": (
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        200,
        b"ok",
        False,
    ),
    "a length in other digits": (
        "HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\nok".encode("latin-1"),
        *(200, b"ok", False),
    ),
    "something after it": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
        *(200, b"ok", False),
    ),
    "an end of a line that is one to some": (
        b"HTTP/1.1 200 OK\r\nX: a\rContent-Length: 9\r\nContent-Length: 2\r\n\r\nok",
        *(200, b"ok", False),
    ),
    "a body where none may be": (
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        *(204, b"", False),
    ),
    "a coding where no body may be": (
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        *(204, b"", False),
    ),
    "a line that is no header": (
        b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 2\r\n\r\nok",
        *(200, b"ok", False),
    ),
    "a space before the colon": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\nok",
        *(200, b"ok", False),
    ),
    "another protocol": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 101, b"", True),
}

BROKEN = {
    "nothing": (b"", http.client.RemoteDisconnected),
    "a part of the first line": (b"HTTP/1.1 20", ConnectionAbortedError),
    "a part of the head": (b"HTTP/1.1 200 OK\r\nX: y\r\n", ConnectionAbortedError),
    "a part of the body": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        ConnectionAbortedError,
    ),
    "a part of a chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nok",
        ConnectionAbortedError,
    ),
    "no last chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        ConnectionAbortedError,
    ),
    "interim answers alone": (b"HTTP/1.1 100 Continue\r\n\r\n", ConnectionAbortedError),
    "a chunk without a size": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n",
        http.client.HTTPException,
    ),
    "a chunk of another size": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n",
        http.client.HTTPException,
    ),
    "two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        http.client.HTTPException,
    ),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n", http.client.BadStatusLine),
    "another version": (b"HTTP/2 200 OK\r\n\r\n", http.client.BadStatusLine),
    "a status of two digits": (b"HTTP/1.1 99 OK\r\n\r\n", http.client.BadStatusLine),
    "a status of four": (b"HTTP/1.1 2000 OK\r\n\r\n", http.client.BadStatusLine),
    "an empty line first": (b"\r\nHTTP/1.1 200 OK\r\n\r\n", http.client.BadStatusLine),
    "a head without an end": (
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (MOST_HEAD_BYTES // 6 + 9),
        http.client.HTTPException,
    ),
    "too many headers": (
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (MOST_HEADERS + 1) + b"\r\n",
        http.client.HTTPException,
    ),
    "too many trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"X: y\r\n" * (MOST_HEADERS + 2),
        http.client.HTTPException,
    ),
    "a chunk's line without an end": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * (MOST_HEAD_BYTES + 9),
        http.client.HTTPException,
    ),
}


class TestAnswers:
    @pytest.mark.parametrize("name", ANSWERS)
    @pytest.mark.parametrize("pieces", ["whole", "bytes"])
    def test_what_is_read_and_whether_another_can_follow(self, name: str, pieces: str) -> None:
        raw, status, body, reusable = ANSWERS[name]
        parts = [raw] if pieces == "whole" else [bytes([one]) for one in raw]
        if name == "something after it" and pieces == "bytes":
            pytest.skip("what is not there yet is seen before the connection is used again")
        read = Read(*parts)
        assert (read.status, read.body, read.reusable) == (status, body, reusable)

    @pytest.mark.parametrize("name", BROKEN)
    def test_what_is_none(self, name: str) -> None:
        raw, error = BROKEN[name]
        with pytest.raises(error):
            Read(raw)

    def test_what_is_no_answer_is_seen_before_it_ends(self) -> None:
        """Of a receiver that says something else and then waits for us."""
        wire = Wire(b"SSH-2.0-Open")
        wire.recv_into(none := bytearray(12))
        assert none == b"SSH-2.0-Open"
        wire.pieces = [b"SSH-2.0-Open", b"never read"]
        with pytest.raises(http.client.BadStatusLine):
            Answer(wire, lambda reusable: None)
        assert wire.pieces == [b"never read"]

    def test_headers_are_found_in_any_case_and_twice_is_a_list(self) -> None:
        raw = b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nRETRY-after:\t2 \r\nX-F: a\r\n\tb\r\n\r\n"
        headers = Read(raw).headers
        assert headers.get("Retry-After") == headers["retry-AFTER"] == "1, 2"
        assert headers.get("x-f") == "a b"
        assert "X-F" in headers
        assert "X-G" not in headers
        assert headers.get("X-G") is None

    def test_a_body_is_read_as_far_as_it_is_wanted(self) -> None:
        for raw in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nabcd",
        ):
            read = Read(raw, most=3)
            assert read.body == b"abc"
            assert read.left != 0

    def test_of_what_comes_after_it_nothing_is_read(self) -> None:
        """It may be the next answer, and another's."""
        for raw in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            # Of RFC 2616, and none at all: who says so keeps the connection open.
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Identity\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ):
            wire = Wire(raw)
            answer = Answer(wire, lambda reusable: None)
            wire.pieces = [b"1\r\nx\r\n0\r\n\r\n"]
            assert answer.read(9) == b"ok"
            assert answer.read(9) == b""
            assert len(wire.pieces) == 1

    def test_a_connection_is_let_go_of_once(self) -> None:
        """``requests.Response.close`` comes after; the connection may be in use again by then."""
        said: list[bool] = []
        answer = Answer(Wire(b"HTTP/1.1 204 OK\r\n\r\n"), said.append)
        answer.release_conn()
        answer.release_conn()
        answer.close()
        assert said == [True]

    def test_close_says_that_the_connection_is_of_no_more_use(self) -> None:
        said: list[bool] = []
        Answer(Wire(b"HTTP/1.1 204 OK\r\n\r\n"), said.append).close()
        assert said == [False]

    @given(places=st.lists(st.integers(0, 10_000), max_size=8), name=st.sampled_from([*ANSWERS]))
    def test_in_whatever_pieces_it_comes(self, places: list[int], name: str) -> None:
        raw, status, body, _ = ANSWERS[name]
        read = Read(*cut(raw, places))
        assert (read.status, read.body) == (status, body)

    @given(
        raw=st.binary(max_size=300),
        start=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]),
        places=st.lists(st.integers(0, 400), max_size=4),
    )
    def test_whatever_comes_it_is_an_answer_or_one_of_three_errors(
        self, raw: bytes, start: bytes, places: list[int]
    ) -> None:
        try:
            read = Read(*cut(start + raw, places))
        except (http.client.HTTPException, ConnectionError):
            return
        assert 200 <= read.status <= 999 or read.status == 101

    @given(
        status=st.integers(200, 599),
        headers=st.lists(
            st.tuples(
                st.from_regex(r"X-[A-Za-z0-9]{1,9}", fullmatch=True),
                st.from_regex(r"[!-~]([ -~]{0,9}[!-~])?", fullmatch=True),
            ),
            max_size=5,
        ),
        body=st.binary(max_size=100),
        chunked=st.booleans(),
    )
    def test_as_http_client_reads_it(
        self, status: int, headers: list[tuple[str, str]], body: bytes, chunked: bool
    ) -> None:
        if status in (204, 304):
            body, chunked = b"", False
        lines = [f"{name}: {value}" for name, value in headers]
        if chunked:
            lines.append("Transfer-Encoding: chunked")
            parts = cut(body, [7, 30])
            told = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in parts if one)
            told += b"0\r\n\r\n"
        else:
            lines.append(f"Content-Length: {len(body)}")
            told = body
        head = "\r\n".join([f"HTTP/1.1 {status} Reason", *lines, "", ""]).encode()
        other = http.client.HTTPResponse(Readable(head + told), method="POST")  # type: ignore[arg-type]
        other.begin()
        read = Read(head + told)
        assert (read.status, read.body) == (other.status, other.read())
        assert read.reusable is not other.will_close
        for name, _ in headers:
            assert read.headers[name] == ", ".join(other.headers.get_all(name, []))


class Readable:
    """What ``http.client`` takes for a socket."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def makefile(self, *_: Any) -> io.BytesIO:
        return self._file
