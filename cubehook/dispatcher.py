"""From the lanes to the wire: a pool of worker threads that make the attempts.

A worker takes the next attempt from the schedule, makes it, and hands in the outcome, over and
over. One lock guards the schedule and is never held during an attempt; a retry that waits is an
entry in a heap and holds no thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cubehook import threads
from cubehook.lane import Delivery, LaneSettings
from cubehook.notices import notice
from cubehook.outcome import Dead, Delivered, Failure, Outcome, Split
from cubehook.pace import Effort
from cubehook.schedule import Census, Formatted, Job, Schedule

logger = logging.getLogger(__name__)

MEASURED_EACH = 8
"""Of so many attempts of a thread one has its computing measured."""

IDLE_SECONDS = 30.0
"""A worker without work ends after so long, as long as another one is there."""


class Finished(NamedTuple):
    """An attempt that was made."""

    job: Job
    outcome: Outcome | Split
    effort: Effort


class Dispatcher:
    """Owns the schedule and the worker threads.

    max_concurrency: the most threads, started as needed. clock: monotonic seconds. on_return: is
    called, with a lock held, when there is something for `returned`. watch: may be set, to what is
    told of each attempt, without a lock, in the thread that made it; it must not raise.
    """

    def __init__(
        self,
        max_concurrency: int,
        clock: Callable[[], float] = time.monotonic,
        on_return: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_return = on_return
        self._most = max_concurrency
        self.clock = self._clock = clock
        self._schedule = Schedule(max_concurrency)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # idle workers wait here …
        self._timer = threading.Condition(self._lock)  # … but one, which waits for what is due
        self._ended = threading.Condition(self._lock)  # who flushes waits here
        self._threads = self._idle = 0
        self._awaited: list[int] = []  # the generations that somebody waits for
        self._circuits: deque[tuple[str, bool]] = deque()  # changes that are not yet logged
        self._watched_until: float | None = None  # what the one with the timer waits for
        self._has_timer = self._stopping = self._draining = False
        self._short = False  # there should be more threads, and there can be none
        self._when_drained: Callable[[], None] = lambda: None
        self.watch: Callable[[Finished], object] | None = None

    # What the listener and the handler call.

    def set_lanes(self, settings: Iterable[LaneSettings]) -> None:
        """The lanes from now on. Those that stay keep their backlog; what one that is no longer
        there had waiting is dropped."""
        with self._lock:
            self._schedule.set_lanes(settings, self._clock())
            self._call_worker()
            self._tell_waiters()

    def submit(self, events: Iterable[Formatted]) -> bool:
        """Fan out these events. Returns whether anything was dropped."""
        with self._lock:
            now, dropped = self._clock(), False
            for event in events:
                dropped |= self._schedule.fan_out(event, now)
            self._call_worker()
            return dropped

    def lend(self, deliveries: Iterable[tuple[str, Delivery]]) -> None:
        """Take deliveries that are leased from the outbox, for the lanes of these names.

        Each comes back by `returned`, after one attempt or without any.
        """
        with self._lock:
            now = self._clock()
            for name, delivery in deliveries:
                if not self._schedule.lend(name, delivery, now):
                    self._schedule.refuse(delivery)
            self._call_worker()

    def appetites(self) -> dict[str, int]:
        """See `Schedule.appetites`."""
        with self._lock:
            return self._schedule.appetites(self._clock())

    def returned(self) -> list[tuple[object, Outcome | None]]:
        """See `Schedule.returned`."""
        with self._lock:
            return self._schedule.returned()

    def give_back(self) -> None:
        """End what is leased from the outbox and not in flight."""
        with self._lock:
            self._schedule.give_back()
            self._on_return()
            self._end_if_drained()
            self._tell_waiters()

    def wait(self, timeout: float) -> bool:
        """Wait until everything submitted before has ended, or for ``timeout`` seconds.

        False if something is left. That is said at once when nothing can end in the time: when
        all that is left waits for a retry that is due later.
        """
        ends = self._clock() + timeout
        with self._lock:
            last = self._seal()
            self._awaited.append(last)
            while self._schedule.pending_of(last) and self._can_end_before(ends):
                if self._threads == 0 or (self._short and self._schedule.in_line):
                    self._help(last, ends)
                else:
                    self._ended.wait(ends - self._clock())
            self._awaited.remove(last)
            return not self._schedule.pending_of(last)

    def hurry(self) -> None:
        """Make every waiting retry due now, unless a ``Retry-After`` forbids: the last chance."""
        with self._lock:
            self._schedule.hurry(self._clock())
            self._call_worker()

    def drain(self, when_done: Callable[[], None]) -> None:
        """Let the threads end once nothing is pending, and then call ``when_done``."""
        with self._lock:
            self._draining = True
            self._when_drained = when_done
            self._seal()  # nothing more will join a batch
            self._end_if_drained()

    def stop(self) -> None:
        """Let the threads end after the attempts under way, whatever is left."""
        with self._lock:
            self._stopping = True
            self._wake_all()

    @property
    def pending(self) -> int:
        """Deliveries that have not ended."""
        with self._lock:
            return self._schedule.pending

    def stats(self) -> Census:
        """The counts at one moment."""
        with self._lock:
            return self._schedule.census()

    # What a worker does.

    def _run(self) -> None:
        self._attempts(None, None)

    def _attempts(self, last: int | None, ends: float | None) -> None:
        """Attempt after attempt, until there is no more need of this thread.

        last, ends: for a thread that helps out: it stays for that generation, and until then.
        """
        finished: Finished | None = None
        turn = 0
        while (job := self._exchange(finished, last, ends)) is not None:
            self._report_circuits()
            # The thread's own time is asked of the kernel, which is too dear to do each time.
            measured = turn % MEASURED_EACH == 0
            turn += 1
            began, computed = time.perf_counter(), time.thread_time() if measured else 0.0
            outcome = self._attempt(job, ends)
            seconds = time.perf_counter() - began
            effort = Effort(seconds, time.thread_time() - computed if measured else None)
            _report(job, outcome)
            finished = Finished(job, outcome, effort)
            if self.watch is not None:
                self.watch(finished)
        self._report_circuits()

    def _attempt(self, job: Job, ends: float | None) -> Outcome | Split:
        limit = None
        if ends is not None:  # a helper is alone: each lane in line gets its part of the time
            limit = max((ends - self._clock()) / (1 + self._schedule.in_line), 0.001)
        try:
            job.delivery.prepare()
        except Exception:  # of the application's format
            return Split()
        try:
            result = job.lane.send(job.delivery.message, limit)
        except Exception as error:
            # A signing scheme of the application's may raise; the lane must go on.
            result = Failure(f"internal error ({type(error).__name__})")
        return job.delivery.retry.decide(result, self._clock())

    def _exchange(
        self, finished: Finished | None, last: int | None, ends: float | None
    ) -> Job | None:
        """Hand in an outcome and get the next attempt; None: the thread may go."""
        with self._lock:
            if finished is not None:
                self._settle(finished)
            while not self._stopping:
                job = self._schedule.next(self._clock())
                if job is not None:
                    self._call_worker()  # there may be more than this thread can take
                    return job
                if last is None or ends is None:
                    if not self._wait_for_work():
                        break
                elif not self._schedule.pending_of(last) or not self._wait_as_helper(ends):
                    return None
            if last is None:
                self._threads -= 1
                self._wake_all()
            return None

    def _settle(self, finished: Finished) -> None:
        lane = finished.job.lane
        was_open = lane.open
        leased = finished.job.delivery.lease is not None
        self._schedule.settle(finished.job, finished.outcome, self._clock(), finished.effort)
        if leased:
            self._on_return()
        if lane.open != was_open:
            self._circuits.append((lane.name, lane.open))
        self._end_if_drained()
        self._tell_waiters()

    def _report_circuits(self) -> None:
        """Log, without the lock, which circuits have opened and closed."""
        while self._circuits:
            with contextlib.suppress(IndexError):  # another worker was faster
                name, opened = self._circuits.popleft()
                notice(
                    logger,
                    logging.WARNING,
                    "endpoint %r: circuit %s",
                    name,
                    "open" if opened else "closed",
                )

    # The threads and their waiting. All of it with the lock held.

    def _seal(self) -> int:
        in_line = self._schedule.in_line
        last = self._schedule.new_generation(self._clock())
        if self._schedule.in_line > in_line:  # of a lane that waited for more
            self._call_worker()
        return last

    def _call_worker(self) -> None:
        """See to it that a worker comes, if there is something to do or nobody watches the time."""
        due = self._schedule.next_due
        watched = due is None or (self._has_timer and self._watched_until == due)
        if self._stopping or (watched and not self._schedule.in_line):
            return
        if self._has_timer and not watched:
            self._timer.notify()  # it waits for another moment
        elif self._idle > self._has_timer:
            self._work.notify()
        elif self._has_timer:
            self._timer.notify()
        elif self._threads < self._most:
            self._start_thread()

    def _start_thread(self) -> None:
        try:
            threads.start(f"worker-{self._threads}", self._run)
        except RuntimeError:  # the interpreter is shutting down
            self._short = True
            self._ended.notify_all()  # who flushes will do the work
        else:
            self._short = False
            self._threads += 1

    def _wait_for_work(self) -> bool:
        """False: the worker is not needed any more."""
        if self._draining and not self._schedule.pending:
            return False
        self._idle += 1
        try:
            due = self._schedule.next_due
            if self._has_timer:
                if due != self._watched_until:
                    self._timer.notify()
                notified = self._work.wait(IDLE_SECONDS)
                # A notice can cross with the end of the wait: look before leaving.
                return notified or not self._has_timer or self._schedule.in_line > 0
            self._has_timer = True
            self._watched_until = due
            self._timer.wait(None if due is None else due - self._clock())
            self._has_timer = False
            return True
        finally:
            self._idle -= 1

    def _wait_as_helper(self, ends: float) -> bool:
        """False: there is no time left, or nothing to wait for."""
        if not self._can_end_before(ends):
            return False
        due = self._schedule.next_due
        self._ended.wait(max(min(ends, ends if due is None else due) - self._clock(), 0.0))
        return True

    def _help(self, last: int, ends: float) -> None:
        """Do the workers' work in this thread: where no thread can be started any more."""
        self._lock.release()
        try:
            with threads.own():
                self._attempts(last, ends)
        finally:
            self._lock.acquire()

    def _can_end_before(self, ends: float) -> bool:
        due = self._schedule.next_due
        possible = not self._schedule.idle or (due is not None and due < ends)
        return possible and self._clock() < ends and not self._stopping

    def _end_if_drained(self) -> None:
        if self._draining and not self._schedule.pending:
            self._when_drained()
            self._wake_all()

    def _tell_waiters(self) -> None:
        # Not each time: a thread that is woken takes the interpreter from who works. But also when
        # nothing is under way: what is left may all be due too late to wait for.
        schedule = self._schedule
        if self._awaited and (
            self._short
            or schedule.idle
            or not all(schedule.pending_of(last) for last in self._awaited)
        ):
            self._ended.notify_all()

    def _wake_all(self) -> None:
        self._work.notify_all()
        self._timer.notify_all()
        self._ended.notify_all()


def _report(job: Job, outcome: Outcome | Split) -> None:
    """Log what came of an attempt: names and counts only, never a URL or a value."""
    lane, message = job.lane, job.delivery.message
    if isinstance(outcome, Split):
        return
    if isinstance(outcome, Delivered):
        if logger.isEnabledFor(logging.DEBUG):
            notice(logger, logging.DEBUG, "endpoint %r: delivered %s", lane.name, message.id)
        return
    attempt = len(job.delivery.retry.history) + 1
    if not isinstance(outcome, Dead):
        notice(
            logger,
            logging.WARNING,
            "endpoint %r: %s %s: attempt %d failed: %s",
            *(lane.name, message.event, message.id, attempt, outcome.reason),
        )
        return
    for part in job.delivery.parts or (job.delivery,):  # of a batch each event is named
        notice(
            logger,
            logging.ERROR,
            "endpoint %r: %s %s is dead after attempt %d: %s",
            *(lane.name, part.message.event, part.message.id, attempt, outcome.reason),
        )
    if outcome.gone:
        notice(
            logger,
            logging.ERROR,
            "endpoint %r is gone: off until the endpoints are updated",
            lane.name,
        )
