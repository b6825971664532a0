"""libcurl in steps: what it computes is done inside `forks.kept_out`, what it waits for is not."""

from __future__ import annotations

import contextlib
import math
import select
import time

import pycurl

from cubehook import forks

LONGEST_WAIT = 1.0  # seconds; libcurl says when it wants to be called before
_EVENTS = {
    pycurl.POLL_IN: select.POLLIN,
    pycurl.POLL_OUT: select.POLLOUT,
    pycurl.POLL_INOUT: select.POLLIN | select.POLLOUT,
}


class Stepwise:
    """Performs the transfers of one handle."""

    def __init__(self, curl: pycurl.Curl) -> None:
        self._curl = curl
        self._wishes = _Wishes()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._wishes.watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._wishes.set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, 1)

    def perform(self) -> None:
        """As ``pycurl.Curl.perform``. Raises ``pycurl.error`` with libcurl's code."""
        with forks.kept_out:
            self._multi.add_handle(self._curl)
        try:
            code = self._steps()
        finally:
            with forks.kept_out:  # it closes the connection of an attempt that has failed
                self._multi.remove_handle(self._curl)
        if code != pycurl.E_OK:
            raise pycurl.error(code)

    def close(self) -> None:
        """Close the connection; inside `forks.kept_out`."""
        self._multi.close()

    def _steps(self) -> int:
        timer = [(pycurl.SOCKET_TIMEOUT, 0)]
        ready = timer
        while True:
            for descriptor, selected in ready:
                code = self._step(descriptor, selected)
                if code is not None:
                    return code
            ready = self._wishes.wait() or timer

    def _step(self, descriptor: int, selected: int) -> int | None:
        """One step; the code of the transfer once it is over."""
        with forks.kept_out:
            self._multi.socket_action(descriptor, selected)
            _, done, failed = self._multi.info_read()
        if failed:
            return int(failed[0][1])
        return pycurl.E_OK if done else None


class _Wishes:
    """What libcurl wants to be called for. It does not know the handle, which knows it."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._due = math.inf

    def watch(self, event: int, descriptor: int, multi: object, data: object) -> None:
        """Call when there is something to read from or write to this one."""
        if event in _EVENTS:
            self._poll.register(descriptor, _EVENTS[event])
            return
        with contextlib.suppress(KeyError):  # it was never watched
            self._poll.unregister(descriptor)

    def set_timer(self, milliseconds: int) -> None:
        """Call in so many milliseconds, once; -1: not any more."""
        self._due = math.inf if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def wait(self) -> list[tuple[int, int]]:
        """What is ready, as libcurl is told it; nothing: it is time."""
        left = min(max(self._due - time.monotonic(), 0.0), LONGEST_WAIT)
        ready = self._poll.poll(math.ceil(left * 1000))
        if not ready:
            self._due = math.inf
        return [(descriptor, _selected(events)) for descriptor, events in ready]


def _selected(events: int) -> int:
    selected = 0
    if events & select.POLLIN:
        selected |= pycurl.CSELECT_IN
    if events & select.POLLOUT:
        selected |= pycurl.CSELECT_OUT
    if events & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
        selected |= pycurl.CSELECT_ERR
    return selected
