"""An endpoint that is down for an hour and comes back, by a clock that is turned.

python -m benchmarks.outage [--events 3600] [--keys 60] [--out build/benchmarks]

The outbox, the relay, the schedule and the lanes are the real ones, but there is no thread and no
wire. What a worker thread does is played: an attempt takes so long, and is answered 503, or 204
once the endpoint is up again. Printed and drawn are the attempts of each second: while it is down
one probe at a time, and afterwards no more than the window of the lane lets through.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cubehook.dispatcher import Dispatcher
from cubehook.lane import LaneSettings
from cubehook.message import Message
from cubehook.outbox import Outbox, Status, Target
from cubehook.outcome import Failure, Reply
from cubehook.pace import Effort
from cubehook.relay import LEASE_SECONDS, Relay
from cubehook.retry import WebhookRetry
from cubehook.schedule import Job

HOUR = 3600.0

_ENDPOINT = "ops"
_START = 1_700_000_000.0
_LEAST_PAUSE = 0.001  # a round takes time, which no clock here counts


@dataclass(frozen=True)
class Site:
    """What is played. down: from the start, for so many seconds, while ``events`` come in evenly.

    answer, computing: seconds of an attempt, by the clock and of the processor. share: the most at
    once. retries: how many before an event is dead.
    """

    events: int = 3600
    keys: int = 60
    down: float = HOUR
    answer: float = 0.05
    computing: float = 0.001
    share: int = 32
    retries: int = 10


@dataclass
class Course:
    """What happened. starts: of each attempt, in seconds from the start. at_once: the most attempts
    under way together, by second. arrived: the numbers of the events, by key, as they came."""

    starts: list[float] = field(default_factory=list)
    at_once: Counter[int] = field(default_factory=Counter)
    arrived: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[str] = field(default_factory=Counter)
    ended: float = 0.0

    def per_second(self) -> Counter[int]:
        """Attempts, by the second that they began in."""
        return Counter(map(int, self.starts))


class _Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = _START

    def __call__(self) -> float:
        return self.now


class _Play:
    """See the module."""

    def __init__(self, site: Site, url: str) -> None:
        self._site = site
        self._clock = _Clock()
        self._outbox = Outbox(url, clock=self._clock)
        self._dispatcher = Dispatcher(site.share, self._clock)
        self._schedule = self._dispatcher._schedule  # no worker may take part
        self._relay = Relay(self._outbox, self._dispatcher, LEASE_SECONDS, self._clock)
        policy = WebhookRetry(total=site.retries)
        lane = LaneSettings(_ENDPOINT, _never, policy, 1024, site.share)
        self._schedule.set_lanes([lane], self._clock())  # not the dispatcher's: it starts threads
        self._relay._policies = {_ENDPOINT: policy}
        self._under_way: list[tuple[float, Job]] = []  # the one that ends first comes first
        self._next_round = _START
        self._stored = 0
        self.course = Course()

    def run(self) -> Course:
        """Until all that was stored is settled."""
        while not self._over():
            self._store()
            self._end()
            self._round()
            self._begin()
            self._clock.now = max(min(self._moments()), self._clock.now)
        for statuses in self._outbox.counts().values():
            self.course.statuses.update({one.value: count for one, count in statuses.items()})
        self.course.ended = self._clock.now - _START
        self._outbox.close()
        return self.course

    def _over(self) -> bool:
        if self._stored < self._site.events or not self._relay.idle:
            return False
        counts = self._outbox.counts().get(_ENDPOINT, {})
        return not any(counts.get(one) for one in (Status.WAITING, Status.HELD, Status.LEASED))

    def _store(self) -> None:
        gap = self._site.down / self._site.events
        due = min(int((self._clock.now - _START) / gap + 1e-6) + 1, self._site.events)
        new = [self._message(number) for number in range(self._stored, due)]
        if new:
            self._outbox.add((message, [Target(_ENDPOINT)]) for message in new)
            self._stored = due

    def _message(self, number: int) -> Message:
        return Message(str(number), "a.b", f"key-{number % self._site.keys}", "text/plain", b"x")

    def _round(self) -> None:
        if self._clock.now < self._next_round:
            return
        pause = self._relay._round()
        self._next_round = self._clock.now + max(pause, _LEAST_PAUSE)

    def _begin(self) -> None:
        now = self._clock.now
        while (job := self._schedule.next(now)) is not None:
            self._under_way.append((now + self._site.answer, job))
            self.course.starts.append(now - _START)
            second = int(now - _START)
            self.course.at_once[second] = max(self.course.at_once[second], len(self._under_way))

    def _end(self) -> None:
        now = self._clock.now
        while self._under_way and self._under_way[0][0] <= now:
            _, job = self._under_way.pop(0)
            up = now - self._site.answer - _START >= self._site.down
            message = job.delivery.message
            if up:
                self.course.arrived[message.key or ""].append(int(message.id))
            outcome = job.delivery.retry.decide(Reply(204 if up else 503), now)
            effort = Effort(self._site.answer, self._site.computing)
            self._schedule.settle(job, outcome, now, effort)
            self._next_round = min(self._next_round, now + _LEAST_PAUSE)  # it wakes the relay

    def _moments(self) -> Iterable[float]:
        """When something happens next."""
        yield self._next_round
        if self._under_way:
            yield self._under_way[0][0]
        if self._schedule.next_due is not None:
            yield self._schedule.next_due
        if self._stored < self._site.events:
            yield _START + self._stored * self._site.down / self._site.events


def play(site: Site, url: str) -> Course:
    """What happens on an outbox there, which is empty."""
    return _Play(site, url).run()


def text(site: Site, course: Course) -> str:
    """The curve: each ten minutes of the outage, each second after it."""
    rates = course.per_second()
    down, last = int(site.down), int(course.ended)
    step = max(down // 6, 1)
    lines = [
        f"{site.events} events of {site.keys} keys, {site.down:,.0f} s down, an answer takes"
        f" {site.answer * 1e3:g} ms, at most {site.share} at once",
        "",
        "second             attempts  most in one s  most at once",
    ]
    for start in range(0, down, step):
        seconds = range(start, min(start + step, down))
        lines.append(
            f"{start:6,} to {seconds[-1]:6,}   {sum(rates[one] for one in seconds):8}"
            f"  {max(rates[one] for one in seconds):13}"
            f"  {max(course.at_once[one] for one in seconds):12}"
        )
    lines.append("-- up again --")
    for second in itertools.chain(range(down, min(last, down + 90) + 1)):
        bar = "#" * round(rates[second] / max(rates.values()) * 60)
        lines.append(
            f"{second:6,}             {rates[second]:8}  {rates[second]:13}"
            f"  {course.at_once[second]:12}  {bar}".rstrip()
        )
    arrived = sum(map(len, course.arrived.values()))
    in_order = all(one == sorted(one) for one in course.arrived.values())
    lines += [
        "",
        f"arrived {arrived} of {site.events}, each key in order: {'yes' if in_order else 'NO'}",
        f"in the outbox: {dict(course.statuses)}",
        f"first arrival {min(_after(site, course), default=0):.1f} s after it was up,"
        f" last {course.ended - site.down:.1f} s",
    ]
    return "\n".join(lines)


def draw(path: Path, site: Site, course: Course) -> None:
    """The same as a picture."""
    from matplotlib.figure import Figure as Picture  # noqa: PLC0415  # the text needs none

    rates = course.per_second()
    picture = Picture(figsize=(12, 7), layout="constrained")
    whole, after = picture.subplots(2, 1)
    seconds = range(int(course.ended) + 1)
    whole.plot(seconds, [rates[one] for one in seconds], linewidth=0.8)
    whole.axvline(site.down, color="#dc2626", linewidth=1)
    whole.set_title("attempts in each second: down, and up again (red)", loc="left")
    whole.set_yscale("symlog")
    whole.set_ylim(bottom=0)
    back = min((one for one in course.starts if one >= site.down), default=course.ended)
    steps = Counter(int((one - back) / site.answer + 1e-6) for one in course.starts if one >= back)
    turns = range(int(1.5 / site.answer))
    after.step([one * site.answer for one in turns], [steps[one] for one in turns], where="post")
    after.axhline(site.share, color="#64748b", linestyle="--", linewidth=1)
    after.set_title(
        f"attempts in each {site.answer * 1e3:g} ms, the time of an answer; dashed: the most"
        f" at once ({site.share})",
        loc="left",
    )
    after.set_xlabel(f"seconds after the first success, {back - site.down:.0f} s after it was up")
    for panel in (whole, after):
        panel.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=100)


def _after(site: Site, course: Course) -> list[float]:
    return [one + site.answer - site.down for one in course.starts if one >= site.down]


def _never(message: Message, limit: float | None) -> Reply | Failure:
    raise AssertionError("nothing is sent here")


def main() -> None:
    """Parse the command line, play, print and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage")
    parser.add_argument("--events", type=int, default=Site.events, help="(%(default)s)")
    parser.add_argument("--keys", type=int, default=Site.keys, help="(%(default)s)")
    parser.add_argument("--share", type=int, default=Site.share, help="(%(default)s)")
    parser.add_argument("--retries", type=int, default=Site.retries, help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    site = Site(given.events, given.keys, share=given.share, retries=given.retries)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="outage-") as folder:
        course = play(site, f"sqlite:///{folder}/outbox.db")
    written = text(site, course)
    print(written)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "outage.txt").write_text(written + "\n", encoding="utf-8")
    draw(given.out / "outage.png", site, course)
    print(f"\nplayed in {time.perf_counter() - began:.1f} s; written to {given.out}: outage.*")


if __name__ == "__main__":
    main()
