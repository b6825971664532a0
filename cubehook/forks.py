"""No fork while a thread of ours is inside OpenSSL.

OpenSSL has locks that the interpreter knows nothing of. A child that is forked while another
thread holds one has it held for ever: its next signature or TLS connection, cubehook's or the
application's own, would never end. So what calls OpenSSL does it inside ``kept_out``, in steps
that compute and do not wait for a network, and a fork waits for the step under way.
"""

from __future__ import annotations

import contextlib
import os
import threading

LONGEST_WAIT = 1.0
"""Seconds that a fork waits at most; a step takes micro- to milliseconds."""

kept_out = threading.RLock()  # reentrant: a signing scheme of the application's may fork


def _before() -> None:
    kept_out.acquire(timeout=LONGEST_WAIT)


def _after_in_parent() -> None:
    with contextlib.suppress(RuntimeError):  # it was not to be had in time
        kept_out.release()


def _after_in_child() -> None:
    kept_out._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
