"""Text for people: what is left out of it, how it is measured, where it is cut."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable

import pytest
from format_samples import RELAXED
from hypothesis import given
from hypothesis import strategies as st

from cubehook.formats._text import MARK, cut, in_json, kept, one_line, plain, utf8, utf16

SIZES = (len, utf8, utf16, in_json)
anything = st.text(st.characters(exclude_categories=()))
valid = st.text(st.characters(exclude_categories=["Cs"]))

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
GERMANY = "\U0001f1e9\U0001f1ea"
THUMB = "\U0001f44d\U0001f3fd"
HEART = "\u2764\ufe0f"
ACCENT = "e\u0301"
HAN = "\u1112\u1161\u11ab"  # a syllable in three parts
CLUSTERS = [FAMILY, GERMANY, THUMB, HEART, ACCENT, HAN]


class TestOneLine:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("plain", "plain"),
            ("  two  spaces ", "two spaces"),
            ("a\nb\r\nc\td\x00e\x7ff\x85g\u2028h\u2029i\u00a0j\u3000k", "a b c d e f g h i j k"),
            ("\x1b[31mred", "[31mred"),
            ("\u202egnp.exe\u202c", "gnp.exe"),
            ("a\u2066b\u2069c\u200ed\u200fe\u061cf", "abcdef"),
            ("p\u200ba\u2060y\ufeff\u00adpal\U000e0041", "paypal"),
            ("\ud800x\udfff", "\ufffdx\ufffd"),
            (FAMILY + GERMANY + HEART, FAMILY + GERMANY + HEART),
            ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),  # Persian needs its joiners
            ("\u6f22\u5b57 \u00fc \u20ac", "\u6f22\u5b57 \u00fc \u20ac"),
        ],
    )
    def test_examples(self, text: str, line: str) -> None:
        assert one_line(text) == line

    @RELAXED
    @given(anything)
    def test_anything(self, text: str) -> None:
        line = one_line(text)
        assert one_line(line) == line
        line.encode("utf-8")
        assert not [
            char
            for char in line
            if unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs")
            or unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "RLI", "LRI")
        ]


class TestSizes:
    @pytest.mark.parametrize(
        ("size", "sizes"),
        [(len, (1, 1, 1, 1)), (utf8, (1, 2, 3, 4)), (utf16, (1, 1, 1, 2)), (in_json, (1, 2, 3, 4))],
    )
    def test_of_characters(self, size: Callable[[str], int], sizes: tuple[int, ...]) -> None:
        assert tuple(map(size, ("a", "\u00fc", "\u6f22", "\U0001f600"))) == sizes

    def test_in_json_counts_escapes(self) -> None:
        assert in_json('"\\\n\x00') == 2 + 2 + 2 + 6

    @RELAXED
    @given(valid, valid, st.sampled_from(SIZES))
    def test_of_two_texts_is_that_of_both(
        self, one: str, other: str, size: Callable[[str], int]
    ) -> None:
        assert size(one + other) == size(one) + size(other) >= len(one + other)

    @RELAXED
    @given(valid)
    def test_in_json_is_what_json_takes(self, text: str) -> None:
        assert in_json(text) == len(json.dumps(text, ensure_ascii=False).encode()) - 2


class TestCut:
    @pytest.mark.parametrize(
        ("text", "most", "expected"),
        [
            ("short", 5, "short"),
            ("longer", 5, "long…"),
            ("a b c d", 5, "a b…"),
            ("", 0, ""),
            ("x", 0, ""),
            ("xx", 1, "…"),
        ],
    )
    def test_examples(self, text: str, most: int, expected: str) -> None:
        assert cut(text, most, len) == expected

    def test_bytes(self) -> None:
        assert cut("\u6f22\u5b57", 6, utf8) == "\u6f22\u5b57"
        assert cut("\u6f22\u5b57", 5, utf8) == MARK
        assert cut("\u6f22\u5b57", 2, utf8) == ""
        assert cut("\u6f22\u5b57x", 6, utf8) == "\u6f22…"

    @pytest.mark.parametrize("cluster", CLUSTERS, ids=ascii)
    @pytest.mark.parametrize("size", SIZES)
    def test_what_is_seen_as_one_stays_one(self, cluster: str, size: Callable[[str], int]) -> None:
        text = cluster * 5
        for most in range(size(text)):
            shown = cut(text, most, size)
            whole, rest = divmod(len(shown.removesuffix(MARK)), len(cluster))
            assert (rest, shown.removesuffix(MARK)) == (0, cluster * whole)

    def test_a_letter_with_more_accents_than_fit_is_left_out(self) -> None:
        assert cut("a" + "\u0300" * 100, 50, len) == MARK

    @RELAXED
    @given(valid, st.integers(0, 60), st.sampled_from(SIZES))
    def test_anything(self, text: str, most: int, size: Callable[[str], int]) -> None:
        shown = cut(text, most, size)
        assert size(shown) <= most
        if size(text) <= most:
            assert shown == text
        else:
            assert shown == "" or shown.endswith(MARK)
            assert text.startswith(shown.removesuffix(MARK))

    @RELAXED
    @given(st.text(st.sampled_from("ab \u6f22\U0001f600"), min_size=30), st.integers(10, 25))
    def test_takes_as_much_as_fits(self, text: str, most: int) -> None:
        shown = cut(text, most, len).removesuffix(MARK)
        assert text[: most - 1].rstrip() == shown


class TestKept:
    @pytest.mark.parametrize(
        ("sizes", "most", "rest", "number"),
        [
            ([], 0, 5, 0),
            ([3, 3, 3], 9, 5, 3),
            ([3, 3, 3], 8, 2, 2),
            ([3, 3, 3], 8, 5, 1),
            ([9], 8, 1, 0),
            ([3, 3], 5, 9, 0),
        ],
    )
    def test_examples(self, sizes: list[int], most: int, rest: int, number: int) -> None:
        assert kept(sizes, most, rest) == number


class TestPlain:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("text", "text"),
            ("", "(empty)"),
            (" \n", "(empty)"),
            (True, "true"),
            (None, "null"),
            (1.5, "1.5"),
            ([1, "a"], '[1,"a"]'),
            ({"a": {"b": None}}, '{"a":{"b":null}}'),
        ],
    )
    def test_examples(self, value: object, text: str) -> None:
        assert plain(value, 100) == text  # type: ignore[arg-type]

    def test_says_that_more_was_there(self) -> None:
        assert plain("\u200b" * 1000, 10) == MARK
