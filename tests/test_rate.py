"""``rate_limit``: how it is written, and that no moment sees more than it allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubehook import rate
from cubehook.rate import Rate, Window

PLANTED = "planted-value"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20/60s", Rate(20, 60.0)),
        ("20/m", Rate(20, 60.0)),
        ("1/s", Rate(1, 1.0)),
        ("5/0.5s", Rate(5, 0.5)),
        ("100000/24h", Rate(100_000, 86_400.0)),
        (Rate(3, 2.0), Rate(3, 2.0)),
        ("none", "none"),
    ],
)
def test_what_it_can_say(text: object, expected: object) -> None:
    assert rate.check(text) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(None, 20, True, "", "20", "/60s", "20/", "20/60", "-1/60s", "2.5/60s", "20 / 60s"),
        *("20/60d", "20/-1s", "0/60s", "100001/60s", "20/0s", "20/999999h", "٢/60s", "None"),
        *("20/1e3s", f"{PLANTED}/60s", "20/60s\n"),
    ],
)
def test_what_it_cannot(value: object) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        rate.check(value)
    assert PLANTED not in str(caught.value)


def test_it_is_shown_as_it_is_written() -> None:
    assert str(Rate(20, 60.0)) == "20/60s"
    assert rate.check(str(Rate(5, 0.5))) == Rate(5, 0.5)


@given(
    most=st.integers(1, 5),
    seconds=st.integers(1, 20),
    pauses=st.lists(st.integers(0, 15), min_size=1, max_size=60),
)
def test_no_stretch_of_time_has_more(most: int, seconds: int, pauses: list[int]) -> None:
    """Whoever tries at these moments, and waits where told to, keeps to the rate; and nobody is
    told to wait who need not."""
    window, begun, now = Window(Rate(most, float(seconds))), [], 0
    for pause in pauses:
        now += pause
        recent = [one for one in begun if one + seconds > now]
        assert (window.free_at() <= now) is (len(recent) < most)
        assert window.room(now) == most - len(recent)
        if window.free_at() <= now:
            window.note(now)
            begun.append(now)
    for first in begun:
        assert sum(first <= one < first + seconds for one in begun) <= most
