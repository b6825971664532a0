"""``cubehook send``: one event by the way of all events, with each attempt shown as it is made."""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TextIO

import click

from cubehook import config as configs
from cubehook import signing
from cubehook.cli import attached, given, keys, problems, typed, watching
from cubehook.cli.sent import NOT_STORED, TURNED_AWAY, Lines, Page, Result
from cubehook.endpoint import Endpoint
from cubehook.errors import ConfigError
from cubehook.event import Event, is_event_name, random_id
from cubehook.handler import WebhookHandler

LEVELS = ("debug", "info", "warning", "error")

_NAME = "url"
"""Of the endpoint that --url makes."""


def _event(_: click.Context, __: click.Parameter, value: str) -> str:
    if not is_event_name(value):
        raise click.BadParameter("must be dotted words of letters, digits, _ and -")
    return value


def _fields(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in value:
        key, equals, text = each.partition("=")
        if not equals or not key:
            raise click.BadParameter("must be KEY=VALUE")
        try:
            found[key] = json.loads(text)
        except (ValueError, RecursionError):
            found[key] = text
    return found


@click.command()
@click.argument("event", callback=_event)
@click.option(
    "--field",
    "fields",
    multiple=True,
    callback=_fields,
    metavar="KEY=VALUE",
    help="A field of the event; the value is JSON, or text. May be repeated.",
)
@click.option(
    "--json-fields",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE",
    help="A JSON object of fields; - is stdin. --field goes over it.",
)
@click.option("--config", metavar="FILE", help="A configuration of logging: .yaml, .json or .ini.")
@click.option("--endpoint", metavar="NAME", help="With --config: to this endpoint alone.")
@click.option(
    "--url",
    callback=typed.text,
    help="Instead: an endpoint of this URL; env:NAME, file:PATH or - (stdin) keep it out of the "
    "list of processes.",
)
@keys.option("With --url, what to sign with:")
@click.option(
    "--scheme", "schemes", type=click.Choice(signing.known()), multiple=True, help="With --url."
)
@click.option("--format", "format_", metavar="NAME", help="With --url: of the body.")
@click.option("--allow-private-urls", is_flag=True, help="With --url.")
@click.option("--allow-insecure-http", is_flag=True, help="With --url.")
@click.option("--level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--max-retries", type=click.IntRange(0, 1000), help="In place of what is configured.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds for everything, retries included.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON objects, one on each line.")
def send(
    event: str,
    fields: dict[str, Any],
    json_fields: TextIO | None,
    config: str | None,
    endpoint: str | None,
    level: str,
    max_retries: int | None,
    timeout: float,
    as_json: bool,
    **direct: Any,
) -> None:
    """Send one event, as if an application had logged it, and show each attempt.

    By the handlers of class cubehook.WebhookHandler in a logging configuration (--config), with
    their filters, subscriptions, redaction, signatures and retries; or to an endpoint that is told
    here (--url). The id is a new one, unless there is a field event_id.

    A handler with an outbox stores the event there, whatever its `deliver` says, and sends nothing:
    whoever delivers from the outbox does.

    \b
    With --json each line is an object. "type": "attempt": endpoint, attempt, outcome (delivered,
    retry, dead), reason, seconds, retry_in (seconds, or null). The last line is "type": "result":
    event_id, event, delivered and pending (endpoints), failed (reasons by endpoint), stored (how
    many deliveries are in an outbox now), dropped (how many, by reason; turned_away: by the level
    or a filter of a handler).

    \b
    Exit status:
      0  delivered to every endpoint that subscribes to it, or stored
      1  not so: refused, out of retries or of time, or no endpoint subscribes to it
      2  the options, the fields or the configuration cannot be used
      3  the outbox cannot be used
    """
    _check_options(config, endpoint, direct)
    values = {**(_object(json_fields) if json_fields else {}), **fields}
    record = _record(event, level, values)
    watching.keep_quiet()
    with problems.told(), ExitStack() as stack:
        if config is not None:
            handlers = stack.enter_context(_of_file(config, event, endpoint, max_retries))
        else:
            handlers = stack.enter_context(_of_url(direct, max_retries))
        show = Lines() if as_json else Page()
        result = _carry_out(handlers, record, timeout, show)
        show.result(result)
        sys.exit(_status(result))


def _check_options(config: str | None, endpoint: str | None, direct: Mapping[str, Any]) -> None:
    if (config is None) == (direct["url"] is None):
        raise click.UsageError("give either --config or --url")
    if endpoint is not None and config is None:
        raise click.UsageError("--endpoint goes with --config")
    if config is not None and any(direct.values()):
        raise click.UsageError("what an endpoint is like goes with --url, not with --config")


def _object(file: TextIO) -> dict[str, Any]:
    try:
        found = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        why = type(error).__name__
        raise click.BadParameter(f"is not JSON ({why})", param_hint="--json-fields") from None
    if not isinstance(found, dict):
        raise click.BadParameter("must be a JSON object", param_hint="--json-fields")
    return found


def _record(event: str, level: str, fields: Mapping[str, Any]) -> logging.LogRecord:
    """As ``logger.info(event, extra=…)`` makes it."""
    logger = logging.getLogger(attached.LOGGER)
    extra = {"event_id": random_id(), **fields, "event": event}
    number = logging.getLevelName(level.upper())
    try:
        return logger.makeRecord(
            attached.LOGGER, number, "cubehook", 0, event, (), None, extra=extra
        )
    except KeyError:
        raise click.UsageError("a field has the name of one of logging's own") from None


@contextmanager
def _of_file(
    path: str, event: str, only: str | None, max_retries: int | None
) -> Iterator[list[WebhookHandler]]:
    """The handlers with an endpoint for the event, changed as the options say."""
    instead: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    for name, one in given.configured(path).items():
        chosen = [each for each in one.endpoints if only in (None, each.name)]
        names.update(each.name for each in chosen)
        if one.stored and only is not None:
            raise ConfigError(
                f"handler {name!r}: its endpoints are in the outbox; see: cubehook endpoints test"
            )
        if one.stored or any(each.subscribes(event) for each in chosen):
            instead[name] = _changes(one, chosen, max_retries, only is not None)
    if only is not None and not names:
        raise ConfigError(f"no handler has an endpoint {only!r}")
    if not instead:
        problems.fail("no endpoint subscribes to this event", problems.NOTHING)
    with attached.handlers(path, instead) as made:
        yield made


def _changes(
    one: configs.Config, chosen: Sequence[Endpoint], max_retries: int | None, chose: bool
) -> dict[str, Any]:
    changes: dict[str, Any] = {} if one.settings.outbox is None else {"deliver": False}
    if one.stored or not (chose or max_retries is not None):
        return changes
    if max_retries is not None:
        chosen = [replace(each, max_retries=max_retries) for each in chosen]
    return changes | {"endpoints": list(chosen)}


@contextmanager
def _of_url(direct: Mapping[str, Any], max_retries: int | None) -> Iterator[list[WebhookHandler]]:
    endpoint = {
        "url": direct["url"],
        "secret": list(direct["secrets"]),
        "scheme": list(direct["schemes"]),
        "format": direct["format_"],
        "allow_private_urls": direct["allow_private_urls"],
        "allow_insecure_http": direct["allow_insecure_http"],
    }
    told = {key: value for key, value in endpoint.items() if value}
    options: dict[str, Any] = {} if max_retries is None else {"max_retries": max_retries}
    made = WebhookHandler([{"name": _NAME, "events": ["*"], **told}], **options)
    try:
        yield [made]
    finally:
        made.close()


def _carry_out(
    handlers: Sequence[WebhookHandler],
    record: logging.LogRecord,
    timeout: float,
    show: Lines | Page,
) -> Result:
    """Give the event to the handlers, and show the attempts until all is done, or time is over."""
    news: queue.SimpleQueue[watching.Attempt | None] = queue.SimpleQueue()
    ends = time.monotonic() + timeout
    taken = []
    for handler in handlers:
        watching.watch(handler, news.put)
        if record.levelno >= handler.level and handler.handle(record):
            taken.append(handler)

    def wait() -> None:
        for handler in taken:
            handler.flush(max(ends - time.monotonic(), 0.0))
        news.put(None)

    threading.Thread(target=wait, name="cubehook-send", daemon=True).start()
    reasons: dict[str, str] = {}
    try:
        while (attempt := news.get()) is not None:
            show.attempt(attempt)
            reasons[attempt.endpoint] = attempt.reason
    finally:
        found = _result(taken, record, reasons)
        for handler in handlers:
            watching.end(handler)
    if len(taken) < len(handlers):
        turned_away = {TURNED_AWAY: len(handlers) - len(taken)}
        return replace(found, dropped={**found.dropped, **turned_away})
    return found


def _result(
    handlers: Sequence[WebhookHandler], record: logging.LogRecord, reasons: Mapping[str, str]
) -> Result:
    delivered: list[str] = []
    failed: dict[str, str] = {}
    pending: list[str] = []
    dropped: dict[str, int] = {}
    stored = 0
    for handler in handlers:
        stats = handler.stats()
        stored += stats.stored
        if stats.pending and not any(one.pending for one in stats.endpoints.values()):
            # Not even in a lane: it waits for the database.
            dropped[NOT_STORED] = dropped.get(NOT_STORED, 0) + stats.pending
        for reason, count in stats.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
        for name, one in stats.endpoints.items():
            delivered += [name] * (one.delivered > 0)
            pending += [name] * (one.pending > 0)
            if one.dead:
                failed[name] = reasons.get(name, "dead")
    event = Event.from_record(record)
    assert event is not None  # it has a legal name
    return Result(event.id, event.name, tuple(delivered), failed, tuple(pending), stored, dropped)


def _status(result: Result) -> int:
    if result.fine:
        return 0
    return problems.UNAVAILABLE if NOT_STORED in result.dropped else problems.NOTHING
