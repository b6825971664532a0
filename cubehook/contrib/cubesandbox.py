"""Events from the sandbox SDKs: each call that succeeded logs a tagged record.

It is for ``cubesandbox``, and for ``e2b`` and ``e2b_code_interpreter`` (version 2 and later), which
speak to a CubeSandbox as well.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

from cubehook.contrib._calls import (
    CALLS,
    CLASSES,
    DELETED,
    PAUSED,
    RESUMED,
    SDKS,
    Call,
    Made,
    fields_of,
)
from cubehook.contrib._wrapping import can_be_wrapped, wrapped
from cubehook.errors import ConfigError
from cubehook.notices import SeldomWarning

__all__ = ["instrument", "uninstrument"]

MOST_PAUSED = 10_000
"""Of so many sandboxes at most it is remembered that they were paused."""

_warn = SeldomWarning(logging.getLogger(__name__))
_patching = threading.Lock()
# The events that the call under way, of this thread or task, tells of itself.
_covered: ContextVar[frozenset[str]] = ContextVar("cubehook_covered", default=frozenset())


def instrument(logger: logging.Logger | None = None) -> None:
    """Have the SDKs that are installed log an event for each call that succeeded.

    logger: where to; None: the logger ``cube``. The level is INFO. A second call only changes the
    logger.

    Raises `ConfigError` where no SDK is installed.
    """
    if logger is not None and not isinstance(logger, logging.Logger):
        raise ConfigError("logger: must be a logging.Logger")
    classes = list(_classes())
    if not classes:
        raise ConfigError("there is no SDK to instrument: pip install cubesandbox (or e2b)")
    with _patching:
        _State.logger = logger or logging.getLogger("cube")
        for sandbox in classes:
            for call in CALLS:
                _patch(sandbox, call)


def uninstrument() -> None:
    """Put back what `instrument` has replaced; the SDKs log no events any more."""
    with _patching:
        _State.logger = None
        _State.paused.clear()
        while _State.patches:
            patch = _State.patches.pop()
            # Else somebody has replaced ours: theirs stays, and calls ours, which is silent now.
            if vars(patch.owner).get(patch.name) is patch.ours:
                setattr(patch.owner, patch.name, patch.original)


class _Patch(NamedTuple):
    owner: type
    name: str
    original: Any
    ours: Any


class _State:
    """What is true of this process. logger: None: nothing is told.

    paused: the ids of sandboxes that were paused by it, oldest first.
    """

    logger: logging.Logger | None = None
    patches: list[_Patch] = []  # noqa: RUF012  # of the process, not of an instance
    paused: dict[str, None] = {}  # noqa: RUF012


def _classes() -> Iterator[type]:
    for name in SDKS:
        try:
            sdk = importlib.import_module(name)
        except ImportError:  # not installed, or one that this Python cannot use
            continue
        yield from (getattr(sdk, each) for each in CLASSES if hasattr(sdk, each))


def _patch(sandbox: type, call: Call) -> None:
    """Where the method is defined, so that all subclasses inherit it."""
    owner = next((each for each in sandbox.__mro__ if call.method in vars(each)), None)
    if owner is None:
        return
    original = vars(owner)[call.method]
    if any(original is patch.ours for patch in _State.patches) or not can_be_wrapped(original):
        return
    ours = wrapped(original, _Observer(call))
    setattr(owner, call.method, ours)
    _State.patches.append(_Patch(owner, call.method, original, ours))


class _Observer:
    """Logs the events of one kind of call."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._covers = frozenset({call.event, *call.covers})

    @contextmanager
    def watching(self) -> Iterator[bool]:
        """A call that another one makes is told of by that one, if it has the same event."""
        outer = _covered.get()
        token = _covered.set(outer | self._covers)
        try:
            yield self._call.event not in outer
        finally:
            with suppress(ValueError):  # a coroutine that is thrown away ends anywhere
                _covered.reset(token)

    def tell(self, made: Made) -> None:
        """Log it, unless nothing was done. Nothing is raised."""
        logger = _State.logger
        if logger is None or made.result is False:
            return
        try:
            for fields in fields_of(self._call, made):
                if self._happened(fields):
                    named = fields.get("sandbox_id") or fields.get("snapshot_id")
                    extra = {"event": self._call.event, **fields}
                    logger.info("%s %s", self._call.event, named, extra=extra)
        except Exception as error:  # of an application's handler, say
            _warn("no event for a call of %s (%s)", self._call.method, type(error).__name__)

    def _happened(self, fields: dict[str, object]) -> bool:
        """Remember who is paused: ``connect`` resumes a sandbox or finds it running, and the SDKs
        do not say which."""
        sandbox = str(fields.get("sandbox_id"))
        if self._call.event == PAUSED:
            _State.paused[sandbox] = None
            if len(_State.paused) > MOST_PAUSED:
                with suppress(RuntimeError):  # another thread has just changed it
                    _State.paused.pop(next(iter(_State.paused)), None)
        elif self._call.event in (RESUMED, DELETED):
            was_paused = _State.paused.pop(sandbox, self) is None
            return was_paused or not self._call.only_paused
        return True
