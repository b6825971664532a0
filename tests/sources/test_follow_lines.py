"""A stream cut into lines; and what a line of CubeAPI's log says."""

from __future__ import annotations

import itertools
import json
import logging
import tracemalloc
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubehook.event import is_event_name
from cubehook.sources._cubeapi import NAMELESS, NO_OBJECT, Entry, json_object, moment, parse
from cubehook.sources._lines import MAX_LINE_BYTES, Line, Lines

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class TestLines:
    @given(
        st.lists(
            st.sampled_from(
                [
                    *(b"", b"a", b"bc\r", b"\xff\xfe", b"x" * 9, b"y" * 30),
                    *(b"\0" * 30, b"\0" * 30 + b"z\0"),
                ]
            )
        ),
        st.lists(st.integers(0, 60)),
        st.integers(0, 1000),
    )
    def test_any_pieces_give_the_same_lines(
        self, texts: list[bytes], cuts: list[int], start: int
    ) -> None:
        stream = b"\n".join(texts)
        bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
        pieces = [stream[a:b] for a, b in itertools.pairwise(bounds)]
        lines = Lines(start, longest=20)
        cut = [line for piece in pieces for line in lines.cut(piece)]
        expected, at = [], start
        for whole in texts[:-1]:
            end, text = at + len(whole) + 1, whole.lstrip(b"\0")
            expected.append(Line(end - 1 - len(text), end, text if len(text) <= 20 else None))
            at = end
        assert cut == expected
        rest = (texts[-1] if texts else b"").lstrip(b"\0")
        at = start + len(stream) - len(rest)
        assert lines.start == at
        assert lines.position == start + len(stream)
        assert lines.rest == (
            Line(at, at + len(rest), rest if len(rest) <= 20 else None) if rest else None
        )

    def test_of_a_line_that_is_too_long_nothing_is_kept(self) -> None:
        lines = Lines(0)
        piece = b"x" * 65_536
        tracemalloc.start()
        for _ in range(64):
            assert list(lines.cut(piece)) == []
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 65_536
        assert peak < MAX_LINE_BYTES + 3 * 65_536
        [long, short] = lines.cut(b"\nshort\n")
        assert long == Line(0, 64 * 65_536 + 1, None)
        assert short.text == b"short"

    def test_one_as_long_as_may_be(self) -> None:
        [fits] = Lines(0).cut(b"x" * MAX_LINE_BYTES + b"\n")
        [too_long] = Lines(0).cut(b"x" * (MAX_LINE_BYTES + 1) + b"\n")
        assert (len(fits.text or b""), too_long.text) == (MAX_LINE_BYTES, None)

    def test_a_rest_that_was_taken(self) -> None:
        lines = Lines(0)
        assert list(lines.cut(b"{}")) == []
        lines.take_rest()
        [end, following] = lines.cut(b"\r\n{}\n")
        assert (end.start, end.blank) == (2, True)
        assert (following.start, following.text, following.blank) == (4, b"{}", False)


def entry(text: bytes) -> Entry:
    found = parse(text)
    assert isinstance(found, Entry)
    return found


class TestParse:
    @given(
        st.dictionaries(
            st.sampled_from(["timestamp", "level", "event", "event_id", "id"]) | st.text(), JSON
        ),
        st.sampled_from([b"", b"\xef\xbb\xbf"]),
        st.sampled_from([b"", b"\r", b" "]),
    )
    def test_any_object(self, fields: dict[str, Any], before: bytes, after: bytes) -> None:
        found = parse(before + json.dumps(fields).encode() + after)
        name = fields.get("event")
        if not isinstance(name, str) or not is_event_name(name):
            assert found == NAMELESS
        else:
            assert isinstance(found, Entry)
            assert found.name == name
            left = fields.keys() - {"timestamp", "level", "event", "event_id", "id"}
            assert found.fields == {key: fields[key] for key in left}

    @given(st.binary())
    def test_any_bytes(self, text: bytes) -> None:
        assert isinstance(parse(text), Entry | str)

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"[]",
            b'"a.b"',
            b"null",
            b"7",
            b"{",
            b'{"event":"a.b"}}',
            b'{"event":"a.b"}{"event":"a.b"}',
            b"created a sandbox",
            b"[" * 100_000,
            b'{"event":"a.b","n":' + b"9" * 5000 + b"}",
            '{"event":"a.b"}'.encode("utf-16"),
        ],
    )
    def test_no_object(self, text: bytes) -> None:
        assert parse(text) == NO_OBJECT

    @pytest.mark.parametrize("name", [None, 7, "", "a b", "a..b", "a" * 129, "é"])
    def test_no_legal_name(self, name: object) -> None:
        assert parse(json.dumps({"event": name}).encode()) == NAMELESS

    def test_one_of_cubeapi(self) -> None:
        found = entry(
            b'{"timestamp":"2026-07-01T08:00:00.123456789Z","level":"warn","event":"sandbox.created",'
            b'"sandbox_id":"sandbox-123","template_id":null}\r'
        )
        assert (found.name, found.level, found.own_id) == ("sandbox.created", logging.WARNING, None)
        assert found.time == pytest.approx(1782892800.123457, abs=1e-6)
        assert found.fields == {"sandbox_id": "sandbox-123", "template_id": None}
        assert "sandbox-123" not in repr(found)

    def test_what_is_not_utf_8(self) -> None:
        assert entry(b'{"event":"a.b","x":"\xff"}').fields == {"x": "\ufffd"}

    def test_zeros_before_it(self) -> None:
        assert entry(b"\0" * 500 + b'{"event":"a.b"}').name == "a.b"

    @pytest.mark.parametrize(
        ("level", "number"),
        [
            *[("debug", 10), ("trace", 10), ("info", 20), ("INFO", 20), ("warn", 30)],
            *[("Warning", 30), ("error", 40), ("critical", 50), ("fatal", 50)],
            *[("odd", 20), (None, 20), (40, 20), ([], 20)],
        ],
    )
    def test_levels(self, level: object, number: int) -> None:
        assert entry(json.dumps({"event": "a.b", "level": level}).encode()).level == number

    @pytest.mark.parametrize(
        ("fields", "own_id"),
        [
            ({"event_id": "one"}, "one"),
            ({"event_id": "one", "id": "two"}, "one"),
            ({"event_id": "a text, not for headers"}, "a text, not for headers"),
            ({"event_id": 7}, "7"),
            *[({"event_id": one}, None) for one in (None, "", True, [], {}, 1.5)],
            ({"id": "sandbox-123"}, None),  # whose it is, nobody knows: it may come many times
            ({"event_id": None, "id": "two"}, None),
        ],
    )
    def test_own_ids(self, fields: dict[str, object], own_id: str | None) -> None:
        assert entry(json.dumps({"event": "a.b", **fields}).encode()).own_id == own_id


class TestMoment:
    @given(
        st.datetimes(datetime(1971, 1, 1), datetime(2999, 1, 1)),
        st.integers(-1439, 1439),
        st.sampled_from("Tt "),
    )
    def test_rfc_3339(self, given: datetime, minutes: int, between: str) -> None:
        there = given.replace(tzinfo=timezone(timedelta(minutes=minutes)))
        assert moment(there.isoformat(between)) == pytest.approx(there.timestamp(), abs=1e-5)

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("1970-01-01T00:00:01Z", 1.0),
            ("1970-01-01T00:00:01z", 1.0),
            ("1970-01-01T00:00:01", 1.0),
            ("1970-01-01T01:00:01+01:00", 1.0),
            ("1970-01-01T01:00:01+0100", 1.0),
            ("1970-01-01T00:00:00.5Z", 0.5),
            ("1970-01-01T00:00:00.123456789123Z", 0.123456789),
            ("1970-01-01T23:59:60Z", 86_400.0),
        ],
    )
    def test_texts(self, text: str, seconds: float) -> None:
        assert moment(text) == pytest.approx(seconds)

    @pytest.mark.parametrize("unit", [1, 1e3, 1e6, 1e9])
    def test_numbers(self, unit: float) -> None:
        assert moment(1_710_000_000 * unit) == 1_710_000_000
        assert moment(int(1_710_000_000 * unit)) == 1_710_000_000

    @pytest.mark.parametrize(
        "value",
        [
            *[None, True, [], {}, "", "now", "2026-07-01", "1710000000", "2026-07-01T08:00Z"],
            *["2026-13-01T08:00:00Z", "2026-07-01T08:00:61Z", "0000-01-01T00:00:00Z", 10**400],
            *["٢026-07-01T08:00:00Z", "2026-07-01T08:00:00Zx", "9999-12-31T23:59:59-99:99"],
            *["0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "9999-12-31T23:59:60Z"],
            *[-1, -0.5, float("nan"), float("inf"), float("-inf"), 1e30],
        ],
    )
    def test_none(self, value: object) -> None:
        assert moment(value) is None


def test_json_object() -> None:
    assert json_object(b'{"a":1}') == {"a": 1}
    assert json_object(b"[1]") is None
