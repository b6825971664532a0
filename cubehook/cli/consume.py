"""``cubehook consume``: webhooks of what CubeMaster writes into its lifecycle stream in Redis."""

from __future__ import annotations

import socket
import sys
import threading
from typing import TYPE_CHECKING

import click

from cubehook.cli import attached, logs, problems, signals
from cubehook.cli.types import age
from cubehook.errors import ConfigError, CubehookError
from cubehook.secret import Secret
from cubehook.sources._lifecycle import RESERVED_GROUP, STREAM

if TYPE_CHECKING:
    from cubehook.sources.redis_stream import Place, RedisStream

GROUP = "cubehook"
LEAST_IDLE = 1.0


def _named(_: click.Context, __: click.Parameter, value: str) -> str:
    if not value or not value.isprintable():
        raise click.BadParameter("must be a name")
    return value


def _group(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value == RESERVED_GROUP:
        raise click.BadParameter(
            f"{RESERVED_GROUP} is the group of CubeSandbox's own lifecycle manager, which would "
            "miss what is read in it"
        )
    return _named(context, parameter, value)


@click.command()
@click.argument("source", metavar="REDIS")
@click.option(
    "--config",
    required=True,
    metavar="FILE",
    help="A configuration of logging: .yaml, .json or .ini.",
)
@click.option("--stream", default=STREAM, show_default=True, callback=_named, metavar="KEY")
@click.option("--group", default=GROUP, show_default=True, callback=_group, metavar="NAME")
@click.option(
    "--consumer",
    default=socket.gethostname,
    show_default="the name of the host",
    callback=_named,
    metavar="NAME",
    help="As whom to read in the group.",
)
@click.option(
    "--from",
    "start",
    type=click.Choice(["start", "end"]),
    default="end",
    show_default=True,
    help="Where a group begins that is not there yet: at the oldest entry, or after the last one.",
)
@click.option(
    "--min-idle",
    type=age,
    metavar="AGE",
    default="60s",
    show_default=True,
    help="After so long a consumer that was not heard of is dead; at least 1s.",
)
@click.option("--once", is_flag=True, help="Deliver what is there, and exit.")
def consume(
    source: str,
    config: str,
    stream: str,
    group: str,
    consumer: str,
    start: str,
    min_idle: float,
    once: bool,
) -> None:
    """Deliver the lifecycle events that CubeMaster writes into REDIS, until SIGTERM or SIGINT.

    REDIS is redis://…, rediss://… or unix://…; better env:NAME or file:PATH of that. The endpoints
    are those of the handlers of class cubehook.WebhookHandler in a logging configuration. An entry
    is acknowledged once its event was delivered, given up, or stored in an outbox. Of several
    consumers of a group one is at work, the others stand by.

    \b
    Exit status:
      0  stopped by a signal; with --once: what was there is acknowledged
      1  with --once: another consumer is at work, or a signal came first
      2  the options or the configuration cannot be used, or Redis refuses them
      3  with --once: Redis cannot be reached, or an outbox cannot be used
    """
    if min_idle < LEAST_IDLE:
        raise click.BadParameter("must be at least 1s", param_hint="--min-idle")
    try:
        from cubehook.sources.redis_stream import Place
    except ModuleNotFoundError:
        problems.fail("this needs: pip install 'cubehook[redis]'", problems.USAGE)
    place = Place(stream, group, consumer, from_start=start == "start", min_idle=min_idle)
    with problems.told():
        sys.exit(_run(_url(source), config, place, once))


def _url(source: str) -> str:
    try:
        return Secret.read(source).value
    except ValueError as error:
        raise ConfigError(f"REDIS: {error}") from None


def _run(url: str, config: str, place: Place, once: bool) -> int:
    """The exit status."""
    from cubehook.sources.redis_stream import RedisStream

    loaded = attached.for_a_source(config)
    stopping = threading.Event()
    with logs.to_stderr(), attached.of_a_source(config, loaded) as handlers:
        feed = attached.feed(handlers, loaded, stopping, once=once)
        source = RedisStream(url, place, feed, stopping)
        try:
            with signals.first_and_second(stopping.set):
                return _work(source, once)
        finally:
            source.close()


def _work(source: RedisStream, once: bool) -> int:
    from cubehook.sources.redis_stream import BusyError

    if not once:
        source.run()
        return 0
    try:
        return 0 if source.drain() else problems.NOTHING
    except BusyError as error:
        problems.fail(str(error), problems.NOTHING)
    except ConfigError:
        raise
    except CubehookError as error:
        problems.fail(str(error), problems.UNAVAILABLE)
