"""The retry policy, rule by rule: which results are retried, when, how often, and when not."""

from __future__ import annotations

import copy
import email.utils
import pickle
import time
import traceback
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from urllib3 import HTTPConnectionPool, HTTPResponse
from urllib3.exceptions import MaxRetryError
from urllib3.util import Retry

from cubehook.outcome import Dead, Delivered, Failure, Outcome, Reply, RetryAt
from cubehook.retry import (
    MAX_RETRY_AFTER,
    RETRIED_STATUSES,
    WebhookRetry,
    backoff,
    retry_after_seconds,
)

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOW = 1_000.0  # on the dispatcher's clock, which is no wall clock
WALL = 1_784_000_000.0
PLANTED = "pl4nted-V4lue"
DAY = 86_400.0

SECONDS = st.floats(1e-3, 3.2e7)


def decide(policy: WebhookRetry, status: int, retry_after: str | None = None) -> Outcome:
    return policy.decide(Reply(status, retry_after), NOW)


def after(failures: int, policy: WebhookRetry | None = None) -> WebhookRetry:
    """The policy after so many failures in a row."""
    policy = policy or WebhookRetry(total=1000)
    for _ in range(failures):
        policy = policy.increment("POST")
    return policy


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(time, "time", lambda: WALL)
    return WALL


class TestStatuses:
    @pytest.mark.parametrize("status", [200, 201, 202, 203, 204, 206, 226, 299])
    def test_delivered(self, status: int) -> None:
        assert decide(WebhookRetry(), status) == Delivered(status)

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 511, 599])
    def test_retried(self, status: int) -> None:
        outcome = decide(WebhookRetry(), status)
        assert isinstance(outcome, RetryAt)
        assert outcome.reason == f"status {status}"

    @pytest.mark.parametrize("status", [100, 101, 102, 103, 199, 0, -1])
    def test_no_final_status_is_retried_as_no_answer(self, status: int) -> None:
        assert isinstance(decide(WebhookRetry(), status), RetryAt)

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 399])
    def test_redirect_is_dead(self, status: int) -> None:
        assert decide(WebhookRetry(), status) == Dead(f"status {status}")

    @pytest.mark.parametrize(
        "status", [400, 401, 403, 404, 405, 407, 409, 411, 413, 422, 424, 426, 428, 431, 451, 499]
    )
    def test_client_error_is_dead(self, status: int) -> None:
        assert decide(WebhookRetry(), status) == Dead(f"status {status}")

    @pytest.mark.parametrize("status", [600, 999])
    def test_beyond_the_known_is_dead(self, status: int) -> None:
        assert decide(WebhookRetry(), status) == Dead(f"status {status}")

    def test_410_is_dead_and_gone(self) -> None:
        assert decide(WebhookRetry(), 410) == Dead("status 410", gone=True)

    @pytest.mark.parametrize("status", [301, 404, 410, 413])
    def test_retry_after_makes_no_dead_one_live(self, status: int) -> None:
        assert isinstance(decide(WebhookRetry(), status, "5"), Dead)

    def test_the_set_of_statuses(self) -> None:
        assert frozenset({408, 425, 429, *range(500, 600)}) == RETRIED_STATUSES

    @RELAXED
    @given(st.integers(-1, 999), st.none() | st.just("7"))
    def test_is_retry_and_decide_agree(self, status: int, header: str | None) -> None:
        policy = WebhookRetry()
        retried = policy.is_retry("POST", status, has_retry_after=header is not None)
        assert isinstance(decide(policy, status, header), RetryAt) is retried
        assert policy.is_retry("GET", status) is retried

    def test_is_retry_does_not_count(self) -> None:
        # urllib3 asks it before `increment`, which says whether a retry is left.
        assert WebhookRetry(total=0).is_retry("POST", 503)


class TestFailures:
    @pytest.mark.parametrize("reason", ["timeout", "connection refused", "TLS failed"])
    def test_no_answer_is_retried(self, reason: str) -> None:
        outcome = WebhookRetry().decide(Failure(reason), NOW)
        assert isinstance(outcome, RetryAt)
        assert (outcome.reason, outcome.floor) == (reason, NOW)

    def test_a_final_one_is_dead(self) -> None:
        assert WebhookRetry().decide(Failure("private address", final=True), NOW) == Dead(
            "private address"
        )


class TestBackoff:
    @RELAXED
    @given(
        failures=st.integers(1, 10_000),
        initial=SECONDS,
        highest=SECONDS,
        luck=st.floats(0, 1),
    )
    @example(1, 1.0, 3600.0, 0.0)
    @example(1, 1.0, 3600.0, 1.0)
    @example(12, 1.0, 3600.0, 1.0)
    @example(13, 1.0, 3600.0, 0.0)
    @example(5_000, 1e-3, 3.2e7, 1.0)
    @example(3, 10.0, 5.0, 0.5)
    def test_is_within_half_the_base_and_the_base(
        self, failures: int, initial: float, highest: float, luck: float
    ) -> None:
        # 1023 doublings are the most a float takes; any highest is reached long before.
        base = min(initial * 2.0 ** min(failures - 1, 900), highest)
        with mock.patch("random.random", return_value=luck):
            delay = backoff(failures, initial, highest)
        assert base / 2 <= delay <= base
        assert delay == pytest.approx(base / 2 + luck * base / 2)

    @pytest.mark.parametrize(
        ("failures", "base"),
        [(1, 1), (2, 2), (3, 4), (4, 8), (10, 512), (12, 2048), (13, 3600), (14, 3600), (99, 3600)],
    )
    def test_base_doubles_up_to_the_highest(
        self, monkeypatch: pytest.MonkeyPatch, failures: int, base: float
    ) -> None:
        monkeypatch.setattr("random.random", lambda: 1.0)
        assert backoff(failures, 1.0, 3600.0) == base
        assert after(failures).get_backoff_time() == base
        monkeypatch.setattr("random.random", lambda: 0.0)
        assert backoff(failures, 1.0, 3600.0) == base / 2
        assert after(failures).get_backoff_time() == base / 2

    @pytest.mark.parametrize("failures", [0, -1, -1000])
    def test_is_nothing_before_the_first_failure(self, failures: int) -> None:
        assert backoff(failures, 1.0, 3600.0) == 0.0
        assert WebhookRetry().get_backoff_time() == 0.0

    def test_is_drawn_anew_each_time(self) -> None:
        assert len({backoff(5, 1.0, 3600.0) for _ in range(20)}) > 10

    def test_of_a_policy_uses_its_own_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("random.random", lambda: 1.0)
        policy = WebhookRetry(total=9, backoff_factor=0.25, backoff_max=0.75)
        delays = [after(n, policy).get_backoff_time() for n in range(1, 5)]
        assert delays == [0.25, 0.5, 0.75, 0.75]

    def test_first_retry_waits_for_the_initial_backoff(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("random.random", lambda: 0.0)
        outcome = WebhookRetry(backoff_factor=8.0).decide(Failure("timeout"), NOW)
        assert isinstance(outcome, RetryAt)
        assert (outcome.when, outcome.floor) == (NOW + 4.0, NOW)


class TestRetriesLeft:
    @pytest.mark.parametrize("most", [0, 1, 2, 10])
    @pytest.mark.parametrize(
        ("result", "reason"),
        [(Reply(503), "status 503"), (Failure("timeout"), "timeout")],
        ids=["status", "failure"],
    )
    def test_dead_exactly_after_max_retries(
        self, result: Reply | Failure, reason: str, most: int
    ) -> None:
        policy = WebhookRetry(total=most)
        for done in range(most):
            outcome = policy.decide(result, NOW)
            assert isinstance(outcome, RetryAt)
            assert isinstance(outcome.retry, WebhookRetry)
            policy = outcome.retry
            assert (policy.total, len(policy.history)) == (most - done - 1, done + 1)
        assert policy.decide(result, NOW) == Dead(f"{reason}, no retries left", exhausted=True)

    @pytest.mark.parametrize("most", [0, 1, 5])
    def test_increment_raises_exactly_after_max_retries(self, most: int) -> None:
        policy = after(most, WebhookRetry(total=most))
        with pytest.raises(MaxRetryError):
            policy.increment("POST")

    def test_success_after_failures_is_delivered(self) -> None:
        assert decide(after(2, WebhookRetry(total=2)), 204) == Delivered(204)

    def test_increment_leaves_the_policy_as_it_was(self) -> None:
        policy = WebhookRetry(total=3)
        policy.increment("POST")
        assert (policy.total, policy.history) == (3, ())

    def test_total_is_the_only_limit(self) -> None:
        # urllib3 counts connect, read, redirect, status and other errors apart, if told to.
        policy = WebhookRetry(total=3, connect=0, read=0, status=0, other=0, redirect=0)
        for _ in range(3):
            policy = policy.increment("POST", error=ConnectionError())
        with pytest.raises(MaxRetryError):
            policy.increment("POST", error=ConnectionError())


class TestNothingIsKept:
    def increment(self, policy: WebhookRetry, pool: HTTPConnectionPool | None) -> WebhookRetry:
        return policy.increment(
            "POST",
            url=f"/{PLANTED}?token={PLANTED}",
            error=OSError(f"no way to https://{PLANTED}/"),
            _pool=pool,
        )

    def test_history_has_neither_url_nor_error(self) -> None:
        following = self.increment(WebhookRetry(), None)
        (entry,) = following.history
        assert entry == ("POST", None, None, None, None)
        assert PLANTED not in repr(following)

    def test_history_has_the_status(self) -> None:
        response = HTTPResponse(status=503, headers={"Location": f"/{PLANTED}"})
        following = WebhookRetry().increment("POST", f"/{PLANTED}", response)
        assert following.history == (("POST", None, None, 503, None),)

    @pytest.mark.parametrize("with_pool", [True, False])
    def test_max_retry_error_has_neither_url_nor_error(self, with_pool: bool) -> None:
        pool = HTTPConnectionPool("a.example") if with_pool else None
        with pytest.raises(MaxRetryError) as caught:
            self.increment(WebhookRetry(total=0), pool)
        assert (caught.value.url, caught.value.reason) == (None, None)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        for text in (
            str(caught.value),
            repr(caught.value),
            repr(caught.value.args),
            "".join(traceback.format_exception_only(caught.value)),
        ):
            assert PLANTED not in text


class TestPolicyObject:
    def test_is_a_urllib3_retry_that_answers_for_itself(self) -> None:
        policy = WebhookRetry()
        assert isinstance(policy, Retry)
        assert (policy.total, policy.backoff_factor, policy.backoff_max) == (10, 1.0, 3600.0)
        assert policy.allowed_methods is None  # else POST is never retried
        assert policy.status_forcelist == RETRIED_STATUSES

    def test_new_keeps_the_settings(self) -> None:
        policy = WebhookRetry(total=7, backoff_factor=0.5, backoff_max=12.0, raise_on_status=False)
        copied = after(2, policy).new(total=5)
        assert type(copied) is WebhookRetry
        assert (copied.total, copied.backoff_factor, copied.backoff_max) == (5, 0.5, 12.0)
        assert copied.raise_on_status is False
        assert copied.allowed_methods is None
        assert copied.status_forcelist == RETRIED_STATUSES
        assert len(copied.history) == 2

    def test_what_is_retried_cannot_be_talked_out_of_it(self) -> None:
        policy = WebhookRetry(allowed_methods=["GET"], status_forcelist=[404])
        assert policy.is_retry("POST", 503)
        assert not policy.is_retry("POST", 404)

    def test_copies_and_pickles(self) -> None:
        policy = after(2, WebhookRetry(total=3, backoff_factor=0.5))
        for other in (copy.copy(policy), copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
            assert (other.total, other.backoff_factor, other.history) == (1, 0.5, policy.history)

    def test_never_sleeps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def slept(seconds: float) -> None:
            raise AssertionError("it slept")

        monkeypatch.setattr(time, "sleep", slept)
        policy = after(5)
        policy.sleep()
        policy.sleep(HTTPResponse(status=503, headers={"Retry-After": "60"}))

    def test_urllib3_reads_retry_after_by_the_same_rules(self) -> None:
        response = HTTPResponse(status=503, headers={"Retry-After": "999999"})
        assert WebhookRetry().get_retry_after(response) == DAY
        assert WebhookRetry().parse_retry_after("nonsense") == 0.0


def http_date(moment: float) -> str:
    return email.utils.formatdate(moment, usegmt=True)


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local time that is not GMT, for what would be read as local time."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-9")
        time.tzset()
        yield
    time.tzset()


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            ("0", 0),
            ("1", 1),
            ("120", 120),
            ("007", 7),
            (" 30 ", 30),
            ("\t30", 30),
            ("86400", DAY),
            ("86401", DAY),
            ("999999999", DAY),
            ("9" * 18, DAY),
            ("9" * 19, DAY),
            pytest.param("9" * 10_000, DAY, id="ten thousand digits"),
        ],
    )
    def test_seconds(self, header: str, seconds: float) -> None:
        assert retry_after_seconds(header) == seconds

    @pytest.mark.parametrize("ahead", [1, 90, 3_600, DAY - 1, DAY, DAY + 1, 3e8])
    def test_date_ahead(self, wall: float, ahead: float) -> None:
        assert retry_after_seconds(http_date(wall + ahead)) == min(ahead, DAY)

    @pytest.mark.parametrize("ago", [0, 1, 3_600, 3e8])
    def test_date_past(self, wall: float, ago: float) -> None:
        assert retry_after_seconds(http_date(wall - ago)) == 0.0

    @pytest.mark.parametrize(
        "layout",
        [
            pytest.param("%a, %d %b %Y %H:%M:%S GMT", id="IMF-fixdate"),
            pytest.param("%A, %d-%b-%y %H:%M:%S GMT", id="RFC 850"),
            pytest.param("%a %b %d %H:%M:%S %Y", id="asctime"),
            pytest.param("%a, %d %b %Y %H:%M:%S", id="without a zone"),
            pytest.param("%a, %d %b %Y %H:%M:%S -0000", id="zone unknown"),
        ],
    )
    def test_date_without_another_zone_is_gmt(
        self, wall: float, far_from_greenwich: None, layout: str
    ) -> None:
        moment = datetime.fromtimestamp(wall + 600, timezone.utc)
        assert retry_after_seconds(moment.strftime(layout)) == 600.0

    def test_date_in_another_zone(self, wall: float) -> None:
        moment = datetime.fromtimestamp(wall + 600, timezone(timedelta(hours=-5)))
        assert retry_after_seconds(moment.strftime("%a, %d %b %Y %H:%M:%S %z")) == 600.0

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param(None, id="absent"),
            pytest.param("", id="empty"),
            pytest.param("   ", id="white space"),
            "-1",
            "-86400",
            "+5",
            "5.5",
            "1e3",
            "0x10",
            "5s",
            "5, 6",
            "1_000",
            "inf",
            "nan",
            "soon",
            pytest.param("\uff15", id="fullwidth digit"),
            pytest.param("\u0661\u0662", id="arabic digits"),
            pytest.param("\u00b2", id="superscript"),
            "Mon, 99 Foo 2026 99:99:99 GMT",
            "Thu, 01 Jan 0000 00:00:00 GMT",
            "2026-07-01T08:00:00Z",
            pytest.param("Thu, 01 Jan " + "9" * 5_000 + " 00:00:00 GMT", id="absurd year"),
            "\0",
            ":",
            ", ,",
        ],
    )
    def test_unreadable_is_no_wait(self, header: str | None) -> None:
        assert retry_after_seconds(header) == 0.0

    @RELAXED
    @given(
        st.text()
        | st.text("0123456789 :,+-JanMonGMT\uff15\u0661.")
        | st.from_regex(
            r"\A[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d(:\d\d)? ?\S{0,6}"
        )
    )
    @example("Mon")
    @example("1 1 1 1:1:1 +99999999999999999999")
    def test_is_always_within_a_day(self, header: str) -> None:
        assert 0.0 <= retry_after_seconds(header) <= MAX_RETRY_AFTER == DAY

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 503, 599])
    def test_is_a_floor_on_every_retried_status(
        self, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        monkeypatch.setattr("random.random", lambda: 1.0)
        policy = WebhookRetry(backoff_factor=100.0)
        for header, floor, when in (
            ("30", 30, 100),
            ("100", 100, 100),
            ("101", 101, 101),
            ("999999", DAY, DAY),
            ("-1", 0, 100),
            (None, 0, 100),
        ):
            outcome = decide(policy, status, header)
            assert isinstance(outcome, RetryAt)
            assert (outcome.floor, outcome.when) == (NOW + floor, NOW + when)

    def test_may_exceed_backoff_max(self) -> None:
        outcome = decide(WebhookRetry(backoff_factor=1.0, backoff_max=2.0), 503, "600")
        assert isinstance(outcome, RetryAt)
        assert outcome.when == NOW + 600.0

    @RELAXED
    @given(SECONDS, SECONDS, st.integers(0, 50), st.integers(0, 2 * 86_400))
    def test_a_retry_is_never_before_floor_or_backoff(
        self, initial: float, highest: float, failures: int, asked: int
    ) -> None:
        policy = after(
            failures, WebhookRetry(total=60, backoff_factor=initial, backoff_max=highest)
        )
        outcome = decide(policy, 503, str(asked))
        assert isinstance(outcome, RetryAt)
        base = min(initial * 2.0**failures, highest)
        assert outcome.floor == NOW + min(asked, DAY)
        assert max(base / 2, min(asked, DAY)) <= outcome.when - NOW + 1e-6
        assert outcome.when - NOW <= max(base, min(asked, DAY)) + 1e-6
