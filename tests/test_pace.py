"""How many attempts at once are of use."""

from __future__ import annotations

import pytest

from cubehook.lane import Delivery, Lane, LaneSettings
from cubehook.message import Message
from cubehook.outcome import Delivered, Reply
from cubehook.pace import Effort, Pace
from cubehook.retry import WebhookRetry


def pace(most: int, *efforts: tuple[float, float]) -> Pace:
    made = Pace(most)
    for seconds, computing in efforts:
        made.note(Effort(seconds, computing))
    return made


@pytest.mark.parametrize(
    ("seconds", "computing", "useful"),
    [
        (0.0005, 0.0005, 1),  # on loopback: there is no waiting to be used
        (0.0006, 0.0005, 1),
        (0.0007, 0.0005, 3),  # one computes while the others wait
        (0.002, 0.0005, 5),
        (0.020, 0.0005, 32),  # more than the share would be of use
        (0.020, 0.004, 6),
        (5.0, 0.0, 32),  # a clock too coarse to tell
    ],
)
def test_table(seconds: float, computing: float, useful: int) -> None:
    assert pace(32, *[(seconds, computing)] * 100).useful == useful


def test_unknown_is_the_share() -> None:
    assert pace(7).useful == 7


def test_what_waits_for_the_interpreter_does_not_count_as_the_receivers_time() -> None:
    slowed = [(0.2, 0.0005)] * 60 + [(0.001, 0.0005)] * 4
    assert pace(32, *slowed * 3).useful == 3


def test_a_few_quick_answers_do_not_slow_a_lane() -> None:
    cached = [(0.2, 0.0005)] * 61 + [(0.001, 0.0005)] * 3
    assert pace(32, *cached * 10).useful == 32


def test_a_receiver_that_became_slow_is_noticed() -> None:
    quick, slow = [(0.001, 0.0005)] * 100, [(0.1, 0.0005)] * 128
    assert pace(32, *quick).useful == 3
    assert pace(32, *quick, *slow).useful == 32


def test_a_receiver_that_became_quick_is_noticed() -> None:
    assert pace(32, *[(0.1, 0.0005)] * 64, *[(0.001, 0.0005)] * 128).useful == 3


@pytest.mark.parametrize(("seconds", "at_once"), [(0.0005, 1), (0.05, 9)])
def test_a_lane_grows_to_what_is_of_use(seconds: float, at_once: int) -> None:
    policy = WebhookRetry()
    lane = Lane(LaneSettings("a", lambda *_: Reply(204), policy, capacity=99, share=9))
    for number in range(20):
        lane.offer(Delivery(Message(str(number), "a.b", None, "", b""), policy))
        lane.settle(lane.take(0.0), Delivered(204), 0.0, Effort(seconds, 0.0005))
    for number in range(20):
        lane.offer(Delivery(Message(str(number), "a.b", None, "", b""), policy))
    while lane.may_send(0.0):
        lane.take(0.0)
    assert lane.in_flight == at_once
