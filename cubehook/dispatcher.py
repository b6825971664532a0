"""From the lanes to the wire: a pool of worker threads, fair turns, and the times of retries.

A worker takes the next attempt, makes it, and hands in the outcome, over and over; one lock guards
all lanes and is never held during an attempt. A retry that waits is an entry in a heap and holds no
thread.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from cubehook import threads
from cubehook.attempt import Message
from cubehook.lane import Delivery, Lane, LaneSettings
from cubehook.outcome import Dead, Delivered, Failure, Outcome, RetryAt
from cubehook.stats import EndpointStats

logger = logging.getLogger(__name__)

IDLE_SECONDS = 30.0
"""A worker without work ends after so long, as long as another one is there."""


class Job(NamedTuple):
    """An attempt to be made. ``suspect``: the lane was failing when the job was handed out."""

    lane: Lane
    delivery: Delivery
    suspect: bool


class Census(NamedTuple):
    """The counts of all lanes at one moment. ``fanned_out``: events that reached the dispatcher."""

    fanned_out: int
    endpoints: Mapping[str, EndpointStats]
    removed: tuple[EndpointStats, ...]


class _Due(NamedTuple):
    """What becomes due at ``when``: a retry, or (without a delivery) a lane's next probe."""

    when: float
    order: int  # keeps equal moments in order, and from comparing what follows
    lane: Lane
    delivery: Delivery | None


class Dispatcher:
    """Owns the lanes and the worker threads.

    max_concurrency: the most threads, started as needed. clock: monotonic seconds.
    """

    def __init__(self, max_concurrency: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = max_concurrency
        self._clock = clock
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # idle workers wait here …
        self._timer = threading.Condition(self._lock)  # … but one, which waits for what is due
        self._ended = threading.Condition(self._lock)  # who flushes waits here
        self.fanned_out = 0  # events, whatever became of them
        self._lanes: dict[str, Lane] = {}
        self._retired: dict[str, Lane] = {}
        self._line: deque[Lane] = deque()  # lanes with something ready, in turn
        self._suspects: deque[Lane] = deque()  # the same for lanes that are failing
        self._heap: list[_Due] = []
        self._order = itertools.count()
        self._generation = 0
        self._unfinished: Counter[int] = Counter()  # by generation
        self._threads = self._idle = self._busy = self._suspects_busy = 0
        self._idle_lanes = self._waiters = 0
        self._has_timer = self._stopping = self._draining = False
        self._when_drained: Callable[[], None] = lambda: None

    # What the listener and the handler call.

    def set_lanes(self, settings: Iterable[LaneSettings]) -> None:
        """The lanes from now on. Those that stay keep their backlog; what one that is no longer
        there had waiting is dropped."""
        with self._lock:
            wanted = {each.name: each for each in settings}
            for name in [name for name in self._lanes if name not in wanted]:
                lane = self._retired[name] = self._lanes.pop(name)
                lane.off = True
                self._abandon(lane, "endpoint_removed")
            for name, each in wanted.items():
                known = self._lanes.get(name) or self._retired.pop(name, None)
                if known is None:
                    self._lanes[name] = Lane(each)
                else:
                    known.reconfigure(each)
                    self._lanes[name] = known
            self._idle_lanes = sum(lane.in_flight == 0 for lane in self._lanes.values())
            for lane in self._lanes.values():
                self._enlist(lane, self._clock())
            self._call_worker()

    def submit(self, batch: Iterable[tuple[str, Message | str]]) -> bool:
        """Fan out one event: offer its messages to the lanes of these names.

        In place of a message stands the reason why it could not be made, for the lane to count.
        Returns whether anything was dropped.
        """
        with self._lock:
            now, dropped = self._clock(), False
            self.fanned_out += 1
            for name, message in batch:
                lane = self._lanes.get(name)
                if lane is not None:  # else the endpoint was removed this very moment
                    dropped |= not self._offer(lane, message, now)
            self._call_worker()
            return dropped

    def _offer(self, lane: Lane, message: Message | str, now: float) -> bool:
        if isinstance(message, str):
            lane.drop(message)
            return False
        delivery = Delivery(message, lane.policy, self._generation)
        if not lane.offer(delivery):
            return False
        self._unfinished[self._generation] += 1
        self._enlist(lane, now)
        return True

    def wait(self, timeout: float) -> bool:
        """Wait until everything submitted before has ended, or for ``timeout`` seconds.

        False if something is left. That is said at once when nothing can end in the time: when
        all that is left waits for a retry that is due later.
        """
        ends = self._clock() + timeout
        with self._lock:
            last, self._generation = self._generation, self._generation + 1
            self._waiters += 1
            while self._left(last) and self._clock() < ends and self._can_end_before(ends):
                if self._threads == 0:
                    self._help(last, ends)
                else:
                    self._ended.wait(ends - self._clock())
            self._waiters -= 1
            return not self._left(last)

    def hurry(self) -> None:
        """Make every waiting retry due now, unless a ``Retry-After`` forbids: the last chance."""
        with self._lock:
            now = self._clock()
            for lane in self._lanes.values():
                lane.probe_at = now
            self._heap = [
                due._replace(when=max(due.delivery.floor, now) if due.delivery else now)
                for due in self._heap
            ]
            heapq.heapify(self._heap)
            self._timer.notify()
            self._work.notify()

    def drain(self, when_done: Callable[[], None]) -> None:
        """Let the threads end once nothing is pending, and then call ``when_done``."""
        with self._lock:
            self._draining = True
            self._when_drained = when_done
            self._finish([])

    def stop(self) -> int:
        """Let the threads end after the attempts under way. Returns how much is left undone."""
        with self._lock:
            self._stopping = True
            self._wake_all()
            return sum(self._unfinished.values())

    @property
    def pending(self) -> int:
        """Deliveries that have not ended."""
        with self._lock:
            return sum(self._unfinished.values())

    def stats(self) -> Census:
        """The counts at one moment."""
        with self._lock:
            return Census(
                fanned_out=self.fanned_out,
                endpoints={name: lane.stats() for name, lane in self._lanes.items()},
                removed=tuple(lane.stats() for lane in self._retired.values()),
            )

    # What a worker does.

    def run(self) -> None:
        """A worker: attempt after attempt, until there is no more need of it."""
        self._attempts(None, None)

    def _attempts(self, last: int | None, ends: float | None) -> None:
        finished: tuple[Job, Outcome] | None = None
        while (job := self._exchange(finished, last, ends)) is not None:
            outcome = self._attempt(job, ends)
            _report(job, outcome)
            finished = job, outcome

    def _attempt(self, job: Job, ends: float | None) -> Outcome:
        limit = None if ends is None else max(ends - self._clock(), 0.001)
        try:
            result = job.lane.send(job.delivery.message, limit)
        except Exception as error:
            # A signing scheme of the application's may raise; the lane must go on.
            result = Failure(f"internal error ({type(error).__name__})")
        return job.delivery.retry.decide(result, self._clock())

    def _exchange(
        self, finished: tuple[Job, Outcome] | None, last: int | None, ends: float | None
    ) -> Job | None:
        """Hand in an outcome and get the next attempt; None: the worker may go.

        last, ends: for a thread that helps out: it stays for that generation and until then.
        """
        with self._lock:
            if finished is not None:
                self._settle(*finished)
            while not self._stopping:
                job = self._next()
                if job is not None:
                    self._call_worker()  # there may be more than this thread can take
                    return job
                if last is not None:
                    if not self._left(last) or not self._wait_as_helper(ends or 0.0):
                        return None
                elif not self._wait_for_work():
                    break
            if last is None:
                self._threads -= 1
                self._wake_all()
            return None

    def _settle(self, job: Job, outcome: Outcome) -> None:
        lane, now = job.lane, self._clock()
        self._busy -= 1
        self._suspects_busy -= job.suspect
        ended = lane.settle(job.delivery, outcome, now)
        self._idle_lanes += lane.in_flight == 0 and self._lanes.get(lane.name) is lane
        if ended:
            self._finish([job.delivery])
        elif isinstance(outcome, RetryAt):
            self._push(outcome.when, lane, job.delivery)
        if lane.off:
            self._abandon(lane, None)
        self._enlist(lane, now)
        if self._waiters:
            self._ended.notify_all()  # what is left may all be due too late to wait for

    def _next(self) -> Job | None:
        """The next attempt that may begin now."""
        now = self._clock()
        self._ripen(now)
        # Failing lanes get half of the threads at most, and one of them first: an endpoint that
        # hangs shall neither starve the others nor be starved by them.
        first, second = self._line, self._suspects
        if self._suspects_busy == 0:
            first, second = second, first
        return self._next_of(first, now) or self._next_of(second, now)

    def _next_of(self, line: deque[Lane], now: float) -> Job | None:
        suspects = line is self._suspects
        if suspects and self._suspects_busy >= max(self._most // 2, 1):
            return None
        for _ in range(len(line)):
            lane = line.popleft()
            lane.listed = False
            if bool(lane.failures) is not suspects or (lane.in_flight and not self._spare()):
                self._enlist(lane, now)
            elif lane.ready and lane.may_send(now):
                return self._start(lane, suspects, now)
            # Else it is listed again when an attempt of its own has ended, or a time has come.
        return None

    def _start(self, lane: Lane, suspect: bool, now: float) -> Job:
        self._idle_lanes -= lane.in_flight == 0
        self._busy += 1
        self._suspects_busy += suspect
        job = Job(lane, lane.take(), suspect)
        self._enlist(lane, now)
        return job

    def _spare(self) -> bool:
        """Whether a thread is free beyond one for each lane that has none yet."""
        reserved = min(self._idle_lanes, self._most // 2)
        return self._busy + reserved < self._most

    def _ripen(self, now: float) -> None:
        """Move what is due from the heap to its lane."""
        while self._heap and self._heap[0].when <= now:
            due = heapq.heappop(self._heap)
            if due.delivery is not None:
                due.lane.due(due.delivery)
            else:
                due.lane.alarm = 0.0
            self._enlist(due.lane, now)

    # The threads and their waiting. All of it with the lock held.

    def _call_worker(self) -> None:
        """See to it that a worker comes, if there is something to do or nobody watches the time."""
        unwatched = self._heap and not self._has_timer
        if self._stopping or not (self._line or self._suspects or unwatched):
            return
        if self._idle - self._has_timer > 0:
            self._work.notify()
        elif self._has_timer:
            self._timer.notify()
        elif self._threads < self._most:
            self._start_thread()

    def _start_thread(self) -> None:
        try:
            threads.start(f"worker-{self._threads}", self.run)
        except RuntimeError:
            return  # the interpreter is shutting down: who flushes will do the work
        self._threads += 1

    def _wait_for_work(self) -> bool:
        """False: the worker is not needed any more."""
        if self._draining and not self._unfinished:
            return False
        self._idle += 1
        try:
            if self._has_timer:
                notified = self._work.wait(IDLE_SECONDS)
                # A notice can cross with the end of the wait: look before leaving.
                return notified or not self._has_timer or bool(self._line or self._suspects)
            self._has_timer = True
            try:
                left = self._heap[0].when - self._clock() if self._heap else None
                self._timer.wait(left)
            finally:
                self._has_timer = False
            return True
        finally:
            self._idle -= 1

    def _wait_as_helper(self, ends: float) -> bool:
        """False: there is no time left."""
        now = self._clock()
        due = self._heap[0].when if self._heap else ends
        if now >= ends or not self._heap:
            return False
        self._ended.wait(max(min(due, ends) - now, 0.0))
        return True

    def _help(self, last: int, ends: float) -> None:
        """Do the workers' work in this thread: where no thread can be started any more."""
        self._lock.release()
        try:
            with threads.own():
                self._attempts(last, ends)
        finally:
            self._lock.acquire()

    # The rest, with the lock held too.

    def _enlist(self, lane: Lane, now: float) -> None:
        """Put a lane that can send at the end of its line, or set the alarm for its next probe."""
        if lane.listed or not lane.ready:
            return
        if lane.may_send(now):
            lane.listed = True
            (self._suspects if lane.failures else self._line).append(lane)
        elif lane.open and not lane.in_flight and lane.alarm < lane.probe_at:
            lane.alarm = lane.probe_at
            self._push(lane.probe_at, lane, None)

    def _push(self, when: float, lane: Lane, delivery: Delivery | None) -> None:
        due = _Due(when, next(self._order), lane, delivery)
        heapq.heappush(self._heap, due)
        if self._heap[0] is due:
            self._timer.notify()  # it waits for a later moment

    def _abandon(self, lane: Lane, reason: str | None) -> None:
        mine = [due for due in self._heap if due.lane is lane]
        if mine:
            self._heap = [due for due in self._heap if due.lane is not lane]
            heapq.heapify(self._heap)
        waiting = [due.delivery for due in mine if due.delivery is not None]
        self._finish(lane.give_up(waiting, reason))

    def _finish(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self._unfinished[delivery.generation] -= 1
            if not self._unfinished[delivery.generation]:
                del self._unfinished[delivery.generation]
                self._ended.notify_all()
        if self._draining and not self._unfinished:
            self._when_drained()
            self._wake_all()

    def _left(self, last: int) -> bool:
        return any(generation <= last for generation in self._unfinished)

    def _can_end_before(self, ends: float) -> bool:
        return bool(
            self._busy or self._line or self._suspects or (self._heap and self._heap[0].when < ends)
        )

    def _wake_all(self) -> None:
        self._work.notify_all()
        self._timer.notify_all()
        self._ended.notify_all()


def _report(job: Job, outcome: Outcome) -> None:
    """Log what came of an attempt: names and counts only, never a URL or a value."""
    if isinstance(outcome, Delivered):
        logger.debug("endpoint %r: delivered %s", job.lane.name, job.delivery.message.id)
        return
    attempt = len(job.delivery.retry.history) + 1
    what = (job.lane.name, job.delivery.message.event, job.delivery.message.id, attempt)
    if isinstance(outcome, Dead):
        logger.error("endpoint %r: %s %s is dead after attempt %d: %s", *what, outcome.reason)
        if outcome.gone:
            logger.error("endpoint %r is gone: off until the endpoints are updated", job.lane.name)
        return
    logger.warning(
        "endpoint %r: %s %s: attempt %d failed: %s; to be retried", *what, outcome.reason
    )
