"""`WebhookHandler`: what an application attaches. It builds the parts, and turns records away."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Mapping, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast

from cubehook import lifecycle, threads
from cubehook.config import Settings, load, load_endpoints
from cubehook.endpoint import DEFAULT_FORMAT, Endpoint
from cubehook.errors import ConfigError
from cubehook.event import tag
from cubehook.formats import BodyFormat, WebhookFormatter, has_batches, redacted
from cubehook.intake import ERROR, MAX_REMEMBERED_NAMES
from cubehook.pipeline import Pipeline
from cubehook.redaction import Redactor
from cubehook.stats import Stats

if TYPE_CHECKING:
    from cubehook.follower import Follower

_DEFAULTS = Settings()
_SAME_CALL = 0.2  # seconds; logging.shutdown flushes a handler and closes it right after


class _Ours(dict[object, bool]):
    """Whether the loggers of these names are cubehook's; each is looked at once."""

    def __missing__(self, name: object) -> bool:
        ours = str(name).partition(".")[0] == "cubehook"
        if len(self) < MAX_REMEMBERED_NAMES:
            self[name] = ours
        return ours


_OURS = _Ours()


class WebhookHandler(logging.Handler):
    """Delivers every log record that is tagged with an event as a signed webhook.

    ::

        logger.info("created", extra={"event": "sandbox.created", "sandbox_id": "sb-1"})

    endpoints: a list of mappings or `Endpoint` objects; ``file:PATH`` or ``env:NAME`` of a JSON
    array; ``outbox``: those stored there, now and as they change; None: read from
    ``CUBE_API_WEBHOOK_ENDPOINTS``. Without any, the handler is inert.
    queue_capacity: events waiting for the listener, and deliveries in the backlog of one endpoint.
    max_concurrency: worker threads, started as needed. max_payload_bytes: longest body.
    timeout, connect_timeout, max_retries, backoff_initial, backoff_max: the endpoints' defaults;
    times in seconds. flush_timeout: the longest that ``flush`` and ``close`` wait, in seconds.
    transport: ``requests``, or ``curl`` (extra ``curl``): libcurl works beside the interpreter.
    outbox: the SQLAlchemy URL of a database that events are stored in before they are delivered;
    ``env:NAME`` or ``file:PATH``; None: memory. durable: ``sync``: a log call returns after the
    commit. deliver: False: only store, for `cubehook worker` to deliver.
    redact: more field names to remove. keep: names to keep although the rules would remove them.
    allow_private_urls, allow_insecure_http, allowed_networks, denied_networks: the endpoints'
    defaults (the last one is added to what they say): which addresses may be connected to.
    level: as for any handler.

    Logging through it never blocks, never raises, and does no I/O. Raises `ConfigError` listing
    every problem of the configuration at once.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint | Mapping[str, Any]] | str | None = None,
        *,
        queue_capacity: int = _DEFAULTS.queue_capacity,
        max_concurrency: int = _DEFAULTS.max_concurrency,
        max_payload_bytes: int = _DEFAULTS.max_payload_bytes,
        timeout: float = _DEFAULTS.timeout,
        connect_timeout: float = _DEFAULTS.connect_timeout,
        max_retries: int = _DEFAULTS.max_retries,
        backoff_initial: float = _DEFAULTS.backoff_initial,
        backoff_max: float = _DEFAULTS.backoff_max,
        flush_timeout: float = _DEFAULTS.flush_timeout,
        transport: str = _DEFAULTS.transport,
        outbox: str | None = None,
        durable: str = _DEFAULTS.durable,
        deliver: bool = _DEFAULTS.deliver,
        redact: Sequence[str] = (),
        keep: Sequence[str] = (),
        allow_private_urls: bool = _DEFAULTS.allow_private_urls,
        allow_insecure_http: bool = _DEFAULTS.allow_insecure_http,
        allowed_networks: Sequence[str] = (),
        denied_networks: Sequence[str] = (),
        level: int | str = logging.NOTSET,
        **unknown: Any,  # named in the ConfigError, with everything else that is wrong
    ) -> None:
        options = {
            "queue_capacity": queue_capacity,
            "max_concurrency": max_concurrency,
            "max_payload_bytes": max_payload_bytes,
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "max_retries": max_retries,
            "backoff_initial": backoff_initial,
            "backoff_max": backoff_max,
            "flush_timeout": flush_timeout,
            "transport": transport,
            "durable": durable,
            "deliver": deliver,
            "redact": redact,
            "keep": keep,
            "allow_private_urls": allow_private_urls,
            "allow_insecure_http": allow_insecure_http,
            "allowed_networks": allowed_networks,
            "denied_networks": denied_networks,
        }
        if outbox is not None:
            options["outbox"] = outbox
        config = load(endpoints, options | unknown)
        self._settings = config.settings
        self._endpoints = config.endpoints
        self._redactor = Redactor(config.settings.redact, config.settings.keep)
        self._format: BodyFormat = WebhookFormatter(
            redact=config.settings.redact, keep=config.settings.keep
        )
        self._close_by: tuple[float, float] | None = None
        self._follower: Follower | None = self._follow() if config.stored else None
        self._build()
        # Not before all has gone well: from here on logging knows of the handler, and flushes it.
        super().__init__(level)
        self.formatter = self._format
        self._pipeline.resume()
        if self._follower is not None:
            self._follower.start()
        lifecycle.renew_after_fork(self)

    def _follow(self) -> Follower:
        """Read the endpoints that are stored, and be told of others."""
        from cubehook.follower import Follower  # noqa: PLC0415  # SQLAlchemy is an extra

        weak = weakref.ref(self)  # its thread must not keep a handler that was dropped

        def apply(endpoints: Sequence[Mapping[str, Any]]) -> None:
            handler = weak()
            if handler is not None:
                handler._replace(endpoints)

        follower = Follower(cast(str, self._settings.outbox), apply)
        try:
            self._endpoints = load_endpoints(follower.first(), self._settings)
        except ConfigError:
            follower.stop()
            raise
        self._unfollow = weakref.finalize(self, follower.stop)
        self._unfollow.atexit = False
        return follower

    def _build(self) -> None:
        self._pipeline = Pipeline(self._settings, self._endpoints, self._format)
        if type(self).emit is WebhookHandler.emit and self._settings.durable == "async":
            # What the method would call, and each call costs the application.
            self.emit = self._pipeline.intake.emit  # type: ignore[method-assign]
        # An application may drop a handler without closing it.
        self._finalizer = weakref.finalize(self, self._pipeline.drain)
        self._finalizer.atexit = False

    def createLock(self) -> None:
        """None: there is nothing to guard."""
        self.lock = threads.NoLock()  # type: ignore[assignment]

    def handle(self, record: logging.LogRecord) -> Any:
        """Take the record if it carries an event that an endpoint subscribed to.

        Everything else is turned away here, for the price of an attribute.
        """
        if self.filters:
            passed: Any = self.filter(record)
            if not passed:
                return passed
            if isinstance(passed, logging.LogRecord):
                record = passed
        try:
            # Not by the record's dict, which the interpreter only makes when it is asked for it.
            name = getattr(record, "event", None)
            if type(name) is not str:
                if name is None and type(record.msg) is str and not hasattr(record, "extra"):
                    return False
                name = tag(record.__dict__)
            if name is None or not self._pipeline.subscriptions[name]:
                return False
            # What cubehook logs, or its threads do, is never an event: it would feed itself. (Not
            # by ``record.thread``: that one may have ended, its number be one of ours by now.)
            if get_ident() in threads.OWN or _OURS[record.name]:
                return False
        except Exception:  # a tag of a class that does strange things
            self.handleError(record)
            return False
        self.emit(record)
        return record

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the event that ``record`` carries. Nothing is raised.

        Nothing waits either, unless the outbox is ``durable: sync``: then for the commit, at most
        ``flush_timeout``.
        """
        self._pipeline.intake.emit(record)
        if self._settings.durable == "sync":
            self._pipeline.committed(self._settings.flush_timeout)

    def handleError(self, record: logging.LogRecord) -> None:
        """Count the event as dropped; the inherited method prints it, and it is payload."""
        self._pipeline.intake.refuse(ERROR)

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        """Write the bodies of endpoints of format ``cube``, the default, with ``fmt`` instead.

        It is shown redacted fields only. None: format ``cube`` as it was.

        Raises `ConfigError` where it cannot put events together and an endpoint's ``batch`` wants
        that.
        """
        if fmt is None:
            fmt = WebhookFormatter(redact=self._settings.redact, keep=self._settings.keep)
        _check_batches(self._endpoints, fmt)
        self._format = redacted(fmt, self._redactor)
        self._pipeline.use_default(self._format)
        super().setFormatter(fmt)

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until what was accepted before has been delivered or given up.

        timeout: seconds; None: ``flush_timeout``. Returns False if something is left: at once when
        all of it waits for retries that are due later, and also when the caller holds logging's
        module lock, as ``dictConfig`` does: the workers need that lock, so it never waits then.
        """
        if lifecycle.holds_logging_lock():
            return self._pipeline.stats().pending == 0
        if timeout is not None:
            return self._pipeline.flush(timeout)
        ends = time.monotonic() + self._settings.flush_timeout
        done = lifecycle.wait(self._settings.flush_timeout, self._pipeline.flush)
        self._close_by = time.monotonic(), ends
        return done

    def close(self) -> None:
        """Take no more events, give those taken a last chance, stop, and say what is left.

        It waits for at most ``flush_timeout``, and no second time if ``flush`` just did. It does
        not wait while ``dictConfig`` replaces it: the old threads go on until they are done.
        """
        if self._follower is not None:
            self._follower.stop()
        pipeline = self._pipeline
        pipeline.shut()
        if lifecycle.holds_logging_lock():
            pipeline.drain()
        elif not pipeline.stopped:
            pipeline.last_chance()
            lifecycle.wait(self._time_to_close(), pipeline.flush)
            pipeline.stop()
        super().close()

    @property
    def pipeline(self) -> Pipeline:
        """The parts behind it, in this process; for cubehook's own commands."""
        return self._pipeline

    @property
    def queue_capacity(self) -> int:
        """How many events it has room for."""
        return self._settings.queue_capacity

    def stats(self) -> Stats:
        """A frozen snapshot of the counts."""
        return self._pipeline.stats()

    def update_endpoints(
        self, endpoints: Sequence[Endpoint | Mapping[str, Any]] | str | None
    ) -> None:
        """Replace the endpoints at run time; takes what ``endpoints`` of the constructor takes.

        An endpoint keeps its backlog by its name. What one that is gone, or disabled, had waiting
        is dropped. One that had been switched off by a 410 is on again. Endpoints stored in the
        outbox are followed no more.

        Raises `ConfigError`, and changes nothing then.
        """
        self._replace(endpoints)
        if self._follower is not None:
            self._follower.stop()
            self._follower = None  # nor in a forked child

    def _replace(self, endpoints: Sequence[Endpoint | Mapping[str, Any]] | str | None) -> None:
        new = load_endpoints(endpoints, self._settings)
        _check_batches(new, self._format)
        self._endpoints = new
        self._pipeline.configure(self._endpoints)
        self._pipeline.resume()

    def renew(self) -> None:
        """Start afresh in a forked child: the parent delivers what the parent logged."""
        self._close_by = None
        self._finalizer.detach()
        closed = self._pipeline.closed
        self._build()
        if closed:
            self._pipeline.shut()
        elif self._follower is not None:
            self._follow_anew(self._follower)

    def _follow_anew(self, parents: Follower) -> None:
        """In a forked child, from its first event on."""
        from cubehook.follower import FirstLook  # noqa: PLC0415  # SQLAlchemy is an extra

        self._unfollow.detach()
        self._follower = follower = parents.renewed()
        self._unfollow = weakref.finalize(self, follower.stop)
        self._unfollow.atexit = False
        self._pipeline.subscriptions = FirstLook(self._endpoints, follower.start)

    def _time_to_close(self) -> float:
        now = time.monotonic()
        ends = now + self._settings.flush_timeout
        if self._close_by is not None and now - self._close_by[0] < _SAME_CALL:
            ends = min(ends, self._close_by[1])
        return max(ends - now, 0.0)

    def __repr__(self) -> str:
        names = ", ".join(repr(endpoint.name) for endpoint in self._endpoints)
        return f"<{type(self).__name__} ({logging.getLevelName(self.level)}) to {names or 'none'}>"


def _check_batches(endpoints: Sequence[Endpoint], formatter: object) -> None:
    batching = [one for one in endpoints if one.batching and one.format == DEFAULT_FORMAT]
    if batching and not has_batches(formatter):
        raise ConfigError(
            f"endpoint {one.name!r}: batch: the formatter has none" for one in batching
        )
