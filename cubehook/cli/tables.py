"""Deliveries as people like to read them, and as JSON. Neither has a URL, there is none to have."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cubehook.cli.moments import iso, shown, span

if TYPE_CHECKING:
    from cubehook.outbox import DeliveryDetails, DeliveryRecord

_WIDTH = 160
"""Of a table that goes to a file or a pipe."""

_STYLES = {
    "waiting": "yellow",
    "held": "dim",
    "leased": "blue",
    "delivered": "green",
    "dead": "bold red",
    "retry": "yellow",
}


def console() -> Console:
    """Where tables go; it marks nothing up by itself, since texts are other people's."""
    width = None if sys.stdout.isatty() else _WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def records(found: Iterable[DeliveryRecord], now: float) -> Table:
    """Deliveries, a row for each."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("number", justify="right")
    for heading in ("stored", "endpoint", "event", "event id", "status"):
        table.add_column(heading, overflow="fold")
    table.add_column("attempts", justify="right")
    table.add_column("last outcome", overflow="fold")
    table.add_column("when", overflow="fold")
    for one in found:
        status = one.status.value
        texts = (str(one.id), shown(one.created), one.endpoint, one.event, one.event_id)
        table.add_row(
            *map(Text, texts),
            Text(status, _STYLES[status]),
            str(one.attempts),
            Text(one.reason or ""),
            _when(one, now),
        )
    return table


def counts(of: Mapping[str, Mapping[str, int]]) -> Table:
    """Deliveries by endpoint and status, with the sums."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=len(of) > 1)
    table.add_column("endpoint", footer="all", overflow="fold")
    statuses = list(next(iter(of.values())))
    for status in statuses:
        total = sum(each[status] for each in of.values())
        table.add_column(status, justify="right", footer=f"{total:,}")
    for name, each in of.items():
        cells = (_count(each[status], status) for status in statuses)
        table.add_row(Text(name), *cells)
    return table


def print_details(to: Console, one: DeliveryDetails, now: float) -> None:
    """Everything of a delivery."""
    record, message = one.record, one.message
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    status = Text(record.status.value, _STYLES[record.status.value])
    when = _when(record, now)
    table.add_row("delivery", str(record.id))
    table.add_row("endpoint", Text(record.endpoint))
    table.add_row("event", Text(record.event))
    table.add_row("event id", Text(record.event_id))
    table.add_row("key", Text(visible(message.key or "")))
    table.add_row("stored", shown(record.created))
    table.add_row("status", Text.assemble(status, f", {when}" if when else ""))
    if record.owner and record.status.value == "leased":
        table.add_row("worker", Text(record.owner))
    to.print(table)
    if one.attempts:
        to.print(_attempts(one))
    to.print(Text(f"body: {len(message.body)} bytes, {message.content_type}", "bold"))
    to.print(Text(visible(message.body.decode(errors="replace"))), soft_wrap=True)


def record_json(one: DeliveryRecord) -> dict[str, Any]:
    """A delivery; moments in ISO 8601, or null."""
    return {
        "delivery": one.id,
        "event_id": one.event_id,
        "event": one.event,
        "endpoint": one.endpoint,
        "status": one.status.value,
        "attempts": one.attempts,
        "reason": one.reason,
        "stored": iso(one.created),
        "due": iso(one.due),
        "leased_until": iso(one.expires),
        "settled": iso(one.settled),
        "worker": one.owner,
    }


def details_json(one: DeliveryDetails) -> dict[str, Any]:
    """A delivery with its body and the attempts, oldest first."""
    try:
        body = {"body": one.message.body.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(one.message.body).decode()}
    return {
        **record_json(one.record),
        "key": one.message.key,
        "content_type": one.message.content_type,
        **body,
        "history": [
            {
                "attempt": each.number,
                "at": iso(each.at),
                "outcome": each.outcome,
                "why": each.reason,
            }
            for each in one.attempts
        ],
    }


def print_json(value: object) -> None:
    """One document, on stdout."""
    print(json.dumps(value, indent=2))  # noqa: T201  # in ASCII: a lone surrogate is in the way of none


def _attempts(one: DeliveryDetails) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("attempt", justify="right")
    for heading in ("at", "outcome", "why"):
        table.add_column(heading)
    for each in one.attempts:
        outcome = Text(each.outcome, _STYLES.get(each.outcome, ""))
        table.add_row(str(each.number), shown(each.at), outcome, Text(each.reason))
    return table


def _count(count: int, status: str) -> Text:
    return Text(f"{count:,}", _STYLES[status] if count else "dim")


def _when(one: DeliveryRecord, now: float) -> str:
    if one.due is not None:
        return f"due in {span(one.due - now)}" if one.due > now else "due now"
    if one.expires is not None:
        left = one.expires - now
        return f"lease ends in {span(left)}" if left > 0 else "lease is over"
    return f"{span(max(now - one.settled, 0.0))} ago" if one.settled is not None else ""


def visible(text: str) -> str:
    """Without what would steer a terminal."""
    return "".join(
        char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text
    )
