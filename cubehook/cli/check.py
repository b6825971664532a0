"""``cubehook check``: is a configuration valid, what would be sent where, and does it get there."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cubehook.cli import checked, probe, problems, tables
from cubehook.cli.checked import Handler
from cubehook.cli.probe import OK, Probe
from cubehook.config import ENDPOINTS_VARIABLE
from cubehook.endpoint import Endpoint
from cubehook.errors import ConfigError

SOON_DAYS = 14
"""A certificate that expires within so many days is warned of."""

_SOURCES = ("env", "file")


@click.command()
@click.argument("config", required=False, metavar="[CONFIG]")
@click.option("--connect", is_flag=True, help="Connect as well, with TLS; no request is made.")
@click.option("--offline", is_flag=True, help="Do not even look up names.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 300),
    default=5.0,
    show_default=True,
    help="Seconds for the network, all endpoints together.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(config: str | None, connect: bool, offline: bool, timeout: float, as_json: bool) -> None:
    """Check a configuration, and tell what would be sent where.

    CONFIG is a configuration of logging: .yaml, .json or .ini; all handlers of class
    cubehook.WebhookHandler in it are checked, and every problem is told at once. Without it, the
    endpoints in CUBE_API_WEBHOOK_ENDPOINTS are checked. Files and variables with secrets have to be
    readable here, as they have to be where the handler runs. Nothing is sent, and nothing shown has
    a URL, a secret or a header in it.

    Names are looked up, and the addresses judged by the endpoint's rules, unless --offline. With
    --connect a connection is made as a delivery makes it, through the proxy if there is one, and
    closed. Endpoints that are stored in an outbox are not looked at; see cubehook endpoints.

    \b
    With --json: valid, problems, warnings (lists of texts), handlers: name (null: none), outbox,
    stored, loggers, endpoints: name, enabled, https, events, format, schemes, secrets (where each
    is from), ordered, batch, proxy, transport, limits, addresses and connection (null: not tried).

    \b
    Exit status:
      0  all is well
      1  valid, but there are warnings, or an endpoint cannot be reached
      2  not valid, or the options cannot be used
    """
    if connect and offline:
        raise click.UsageError("--connect and --offline exclude each other")
    try:
        handlers = checked.handlers(config)
    except ConfigError as error:
        _refuse(error, as_json)
    warnings = [text for one in handlers for text in one.warnings()]
    endpoints = [each for one in handlers for each in one.config.endpoints]
    probes = [Probe()] * len(endpoints)
    if not offline:
        probes = probe.probe(endpoints, timeout, connect=connect)
    left = iter(probes)
    warnings += [
        f"{one.place}endpoint {each.name!r}: {text}"
        for one in handlers
        for each in one.config.endpoints
        for text in _unreachable(next(left))
    ]
    if as_json:
        tables.print_json(_json(handlers, probes, warnings))
    else:
        _print(tables.console(), handlers, probes, warnings)
    sys.exit(problems.NOTHING if warnings else 0)


def _refuse(error: ConfigError, as_json: bool) -> None:
    if as_json:
        empty: dict[str, Any] = {"warnings": [], "handlers": []}
        tables.print_json({"valid": False, "problems": list(error.problems)} | empty)
    else:
        for problem in error.problems:
            click.echo(f"cubehook: {' '.join(problem.split())}", err=True)
    sys.exit(problems.USAGE)


def _unreachable(found: Probe) -> list[str]:
    addresses, link = found.addresses, found.connection
    if addresses is not None and addresses.status != OK:
        whose = "of its proxy " if addresses.of == "proxy" else ""
        return [f"the address {whose}is {addresses.status}: {addresses.reason}"]
    if link is not None and link.status != OK:
        return [f"no connection: {link.reason}"]
    if link is not None and link.days is not None and link.days < SOON_DAYS:
        return [f"its certificate expires in {link.days} days"]
    return []


def _json(
    handlers: Sequence[Handler], probes: Sequence[Probe], warnings: list[str]
) -> dict[str, Any]:
    left = iter(probes)
    return {
        "valid": True,
        "problems": [],
        "warnings": warnings,
        "handlers": [
            {
                "name": one.name,
                "outbox": one.config.settings.outbox is not None,
                "stored": one.config.stored,
                "loggers": {each.name: logging.getLevelName(each.level) for each in one.loggers},
                "endpoints": [_endpoint_json(each, next(left)) for each in one.config.endpoints],
            }
            for one in handlers
        ],
    }


def _endpoint_json(one: Endpoint, found: Probe) -> dict[str, Any]:
    return {
        "name": one.name,
        "enabled": one.enabled,
        "https": one.secure,
        "events": list(one.events),
        "format": one.format,
        "schemes": list(one.schemes),
        "secrets": _sources(one),
        "ordered": one.ordered,
        "batch": None if one.batching is None else one.batching._asdict(),
        "proxy": one.proxy is not None,
        "transport": one.transport,
        "limits": {
            "timeout": one.timeout,
            "connect_timeout": one.connect_timeout,
            "max_retries": one.max_retries,
            "backoff_initial": one.backoff_initial,
            "backoff_max": one.backoff_max,
            "max_concurrency": one.max_concurrency,
            "rate": None if one.rate is None else str(one.rate),
        },
        "addresses": None if found.addresses is None else asdict(found.addresses),
        "connection": None if found.connection is None else asdict(found.connection),
    }


def _sources(one: Endpoint) -> list[str]:
    """Where each secret is from. All of them were read, or the configuration were not valid."""
    kinds = (secret.source.partition(":")[0] for secret in one.secrets)
    return [kind if kind in _SOURCES else "literal" for kind in kinds]


def _print(
    to: Console, handlers: Sequence[Handler], probes: Sequence[Probe], warnings: list[str]
) -> None:
    left = iter(probes)
    for one in handlers:
        to.print(Text(_title(one), "bold"))
        if one.config.stored:
            to.print("  its endpoints are stored in the outbox; see: cubehook endpoints list")
        for each in one.config.endpoints:
            to.print(Padding(_table(each, next(left)), (0, 0, 1, 2), expand=False))
    for text in warnings:
        to.print(Text.assemble(("warning: ", "yellow"), text), soft_wrap=True)
    if warnings:
        plural = "s" if len(warnings) > 1 else ""
        to.print(Text(f"valid, with {len(warnings)} warning{plural}", "yellow"))
    else:
        to.print(Text("valid", "green"))


def _title(one: Handler) -> str:
    if one.name is None:
        return ENDPOINTS_VARIABLE
    loggers = ", ".join(f"{each.name} ({logging.getLevelName(each.level)})" for each in one.loggers)
    outbox = ", with an outbox" if one.config.settings.outbox is not None else ""
    return f"handler {one.name!r}{outbox}; loggers: {loggers or 'none'}"


def _table(one: Endpoint, found: Probe) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    state = "" if one.enabled else " (disabled)"
    table.add_row("endpoint", Text(f"{one.name}{state}", "bold"))
    table.add_row("events", Text(", ".join(one.events)))
    table.add_row("body", Text(f"{one.format}, {_grouping(one)}"))
    table.add_row("signed", Text(_signing(one)))
    table.add_row("way", Text(_way(one)))
    table.add_row("limits", Text(_limits(one)))
    if found.addresses is not None:
        table.add_row("addresses", _addresses(found.addresses))
    if found.connection is not None:
        table.add_row("connection", _connection(found.connection))
    return table


def _grouping(one: Endpoint) -> str:
    order = "ordered by key" if one.ordered else "in any order"
    if one.batching is None:
        return f"one event each, {order}"
    most, linger = one.batching
    return f"batches of up to {most}, after {linger:g} s, {'ordered' if one.ordered else order}"


def _signing(one: Endpoint) -> str:
    sources = _sources(one)
    if not sources:
        return f"{', '.join(one.schemes)}, unsigned: no secret"
    count = "1 secret" if len(sources) == 1 else f"{len(sources)} secrets"
    return f"{', '.join(one.schemes)}, {count} ({', '.join(sources)}), read"


def _way(one: Endpoint) -> str:
    return ("https" if one.secure else "plain http") + (
        f"{', through a proxy' if one.proxy else ''}, by {one.transport}"
    )


def _limits(one: Endpoint) -> str:
    return (
        f"{one.timeout:g} s an attempt, {one.connect_timeout:g} s to connect, "
        f"{one.max_retries} retries after {one.backoff_initial:g} to {one.backoff_max:g} s, "
        f"{one.max_concurrency} at once"
    ) + (f", {one.rate}" if one.rate else "")


def _addresses(found: probe.Resolved) -> Text:
    whose = "of the proxy: " if found.of == "proxy" else ""
    if found.status == OK:
        return Text(f"{whose}ok ({found.count})", "green")
    return Text(f"{whose}{found.status}: {found.reason}", "red")


def _connection(found: probe.Connected) -> Text:
    if found.status != OK:
        return Text(f"{found.status}: {found.reason}", "red")
    said = [f"ok, {found.seconds * 1000:.0f} ms"]
    if found.proxy is not None:
        forwards = "to the proxy alone, which forwards"
        said.append("through the proxy" if found.proxy == "tunnel" else forwards)
    if found.tls is not None:
        said.append(f"{found.tls}, certificate good for {found.days} days")
    return Text(", ".join(said), "green")
