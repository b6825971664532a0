"""``cubehook worker``: a `Worker` for the command line, with its log, its signals, its health."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from cubehook.cli import given, logs, moments, problems, signals
from cubehook.cli.types import age
from cubehook.config import Settings, load_endpoints
from cubehook.errors import ConfigError

if TYPE_CHECKING:
    from cubehook.health import HealthServer
    from cubehook.worker import Worker

logger = logging.getLogger("cubehook.worker")

FOREVER = "forever"


@dataclass(frozen=True)
class Options:
    """What the command was told. Times are seconds; None: never."""

    once: bool
    retain_delivered: float | None
    health: tuple[str, int] | None
    lease: float
    concurrency: int | None


def _address(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    host, _colon, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise click.BadParameter("must be HOST:PORT, as in 127.0.0.1:9464")
    return host.strip("[]"), int(port)


def _retention(_: click.Context, __: click.Parameter, value: str) -> float | None:
    if value == FOREVER:
        return None
    try:
        return moments.seconds_of(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}, or {FOREVER}") from None


@click.command()
@click.option("--config", help="A configuration of logging: .yaml, .json or .ini.", metavar="FILE")
@click.option("--outbox", help="URL, env:NAME or file:PATH.", metavar="URL")
@click.option(
    "--endpoints",
    metavar="FILE",
    help="With --outbox: a list of endpoints, .yaml or .json, or 'outbox' for those stored there; "
    "without it they are read from CUBE_API_WEBHOOK_ENDPOINTS.",
)
@click.option("--once", is_flag=True, help="Deliver what is due now, and exit.")
@click.option(
    "--retain-delivered",
    default="7d",
    show_default=True,
    callback=_retention,
    metavar="AGE",
    help=f"Delete what was delivered so long ago; '{FOREVER}' keeps it. Dead letters stay.",
)
@click.option(
    "--health",
    callback=_address,
    metavar="HOST:PORT",
    help="Serve /healthz and /metrics there; better on loopback. Off by default.",
)
@click.option(
    "--lease",
    type=age,
    metavar="AGE",
    default="30s",
    show_default=True,
    help="How long others wait for what a worker had that has died; at least 5s.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    help="Attempts at once; default: max_concurrency of the handler, or 32.",
)
def worker(
    config: str | None,
    outbox: str | None,
    endpoints: str | None,
    once: bool,
    retain_delivered: float | None,
    health: tuple[str, int] | None,
    lease: float,
    concurrency: int | None,
) -> None:
    """Deliver from an outbox, until SIGTERM or SIGINT.

    The outbox and the endpoints are those of the handlers of class cubehook.WebhookHandler in the
    application's logging configuration (--config), or --outbox and --endpoints. Any number of
    workers may share an outbox. A signal lets attempts under way end, for flush_timeout seconds at
    most, and gives the rest back; a second one ends the worker at once.

    \b
    Exit status:
      0  stopped by a signal; with --once: nothing is left due
      1  with --once: something is left due, or a signal came first
      2  the options or the configuration cannot be used
      3  with --once: the outbox cannot be used
    """
    if (config is None) == (outbox is None):
        raise click.UsageError("give either --config or --outbox")
    if config is not None and endpoints is not None:
        raise click.UsageError("--endpoints goes with --outbox")
    if lease < 5:
        raise click.BadParameter("must be at least 5s", param_hint="--lease")
    problems.need_outbox()
    with problems.told():
        found = given.from_file(config) if config else given.from_options(outbox or "", endpoints)
        options = Options(once, retain_delivered, health, lease, concurrency)
        sys.exit(_run(found, options))


def _run(found: given.Given, options: Options) -> int:
    """The exit status."""
    from cubehook.worker import Worker

    if not (found.stored or any(one.enabled for one in found.endpoints)):
        problems.fail("there is no endpoint to deliver to", problems.USAGE)
    settings = found.settings
    if options.concurrency is not None:
        settings = replace(settings, max_concurrency=options.concurrency)
    followed = _Followed(found, settings) if found.stored else None
    made = Worker(
        found.outbox,
        followed.endpoints if followed else found.endpoints,
        settings,
        lease_seconds=options.lease,
        retain_delivered=options.retain_delivered,
    )
    with logs.to_stderr(), signals.first_and_second(made.finish):
        served = _serve_health(made, options.health) if options.health else None
        if followed:
            followed.keep(made)
        try:
            return _work(made, options.once)
        finally:
            if followed:
                followed.follower.stop()
            made.stop()
            if served is not None:
                served.stop()


class _Followed:
    """The endpoints that are stored in the outbox, now; and, once it is told to, later."""

    def __init__(self, found: given.Given, settings: Settings) -> None:
        from cubehook.follower import Follower

        self._settings = settings
        self._worker: Worker | None = None
        self.follower = Follower(found.outbox, self._apply)
        try:
            self.endpoints = load_endpoints(self.follower.first(), settings)
        except ConfigError:
            self.follower.stop()
            raise

    def keep(self, worker: Worker) -> None:
        """Give the worker what changes."""
        self._worker = worker
        self.follower.start()

    def _apply(self, mappings: Sequence[dict[str, Any]]) -> None:
        if self._worker is not None:
            self._worker.update_endpoints(load_endpoints(mappings, self._settings))


def _work(made: Worker, once: bool) -> int:
    if once:
        drained = made.drain()
        made.prune()  # there may have been no time for it
        return 0 if drained else problems.NOTHING
    made.start()
    made.wait()
    return 0


def _serve_health(made: Worker, address: tuple[str, int]) -> HealthServer:
    from cubehook.health import TEXT, HealthServer

    host, port = address
    try:
        from cubehook.metrics import CONTENT_TYPE, exposition
    except ModuleNotFoundError:
        page, content_type = None, TEXT
    else:
        page, content_type = exposition(made.metrics), CONTENT_TYPE
    try:
        server = HealthServer(host, port, made.health, page, content_type)
    except OSError as error:
        problems.fail(f"--health: cannot listen there ({error.strerror})", problems.USAGE)
    server.start()
    logger.info("health and metrics on port %d", server.port)
    return server
