"""An endpoint that is down for an hour, by a clock that is turned: what comes then, how fast."""

from __future__ import annotations

import pytest

pytest.importorskip("sqlalchemy")
outage = pytest.importorskip("benchmarks.outage")  # not in an installed package

from cubehook.lane import LONGEST_PROBE_PAUSE, OPEN_AFTER  # noqa: E402

DOWN = 3600


@pytest.fixture(scope="module")
def site() -> outage.Site:
    return outage.Site(events=600, keys=60, share=8)


@pytest.fixture(scope="module")
def course(site: outage.Site, tmp_path_factory: pytest.TempPathFactory) -> outage.Course:
    return outage.play(site, f"sqlite:///{tmp_path_factory.mktemp('outage')}/outbox.db")


def test_all_arrive_once_and_each_key_in_order(site: outage.Site, course: outage.Course) -> None:
    assert course.statuses == {"delivered": site.events}
    assert len(course.arrived) == site.keys
    for number in range(site.keys):
        assert course.arrived[f"key-{number}"] == list(range(number, site.events, site.keys))


def test_while_it_is_down_it_is_probed_one_at_a_time(course: outage.Course) -> None:
    seconds = range(DOWN)
    assert max(course.at_once[second] for second in seconds) == 1
    # The pause between two is from half of the longest to the whole of it.
    probes = sum(course.per_second()[second] for second in seconds)
    assert DOWN / LONGEST_PROBE_PAUSE < probes < OPEN_AFTER + 10 + 2 * DOWN / LONGEST_PROBE_PAUSE


def test_when_it_is_up_the_next_probe_finds_out(course: outage.Course) -> None:
    first = min(start for start in course.starts if start >= DOWN)
    assert first - DOWN <= LONGEST_PROBE_PAUSE


def test_the_rate_after_it_is_bounded_and_grows_with_each_success(
    site: outage.Site, course: outage.Course
) -> None:
    after = [start for start in course.starts if start >= DOWN]
    assert max(course.at_once.values()) <= site.share
    assert max(course.per_second().values()) <= site.share / site.answer
    # The probe is alone until it is answered; after n successes, n + 1 at once are allowed.
    for number, start in enumerate(after):
        answered = sum(one + site.answer <= start + 1e-6 for one in after[:number])
        assert number + 1 - answered <= answered + 1
    assert course.ended - after[0] >= site.events * site.answer / site.share
