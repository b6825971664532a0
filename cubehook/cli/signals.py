"""SIGTERM and SIGINT, the first of which asks to stop and the second one ends the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def first_and_second(on_first: Callable[[], object]) -> Iterator[None]:
    """In this block the first signal calls ``on_first``, in a thread; the second one ends at once.

    In a thread, since a handler runs between any two steps of the main thread, and would wait
    forever for a lock that this one holds. In the main thread only.
    """
    outlet, inlet = os.pipe()
    os.set_blocking(inlet, False)
    # Whatever the main thread is at, the interpreter writes the signal's number at once.
    former_fd = signal.set_wakeup_fd(inlet, warn_on_full_buffer=False)
    former = {number: signal.signal(number, _nothing) for number in _SIGNALS}
    watcher = threading.Thread(
        target=_watch, args=(outlet, on_first), name="cubehook-signals", daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former_fd)
        for number, handler in former.items():
            signal.signal(number, handler)
        os.close(inlet)
        watcher.join()
        os.close(outlet)


def _watch(outlet: int, on_first: Callable[[], object]) -> None:
    asked = False
    while number := os.read(outlet, 1):  # its end comes with the end of the block
        if number[0] not in _SIGNALS:
            continue
        if asked:
            os._exit(128 + number[0])
        asked = True
        on_first()


def _nothing(*_: object) -> None:
    """The watcher does the work; a handler there has to be."""
