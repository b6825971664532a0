"""``cubehook deliveries``: what an outbox has, for people and, with ``--json``, for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cubehook.cli import given, moments, problems, tables
from cubehook.cli.types import moment

if TYPE_CHECKING:
    from cubehook.outbox import DeliveryDetails, Filter, Outbox

STATUSES = ("waiting", "held", "leased", "delivered", "dead")
SETTLED = ("delivered", "dead")

MANY = 100
"""To change more than so many, a person is asked first."""

_Command = TypeVar("_Command", bound=Callable[..., Any])

_EXIT = """

\b
Exit status:
  0  done
  1  nothing matched, or not found, or not confirmed
  2  the options or the configuration cannot be used
  3  the outbox cannot be used
"""


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Several options as one decorator, and the exit statuses in the help."""

    def decorate(command: _Command) -> _Command:
        command.__doc__ = (command.__doc__ or "").rstrip() + _EXIT
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_WHERE = (
    click.option("--outbox", metavar="URL", help="URL, env:NAME or file:PATH."),
    click.option("--config", metavar="FILE", help="A configuration of logging that names it."),
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_YES = click.option("--yes", is_flag=True, help=f"Do not ask, however many (over {MANY}) they are.")
_ENDPOINT = click.option("--endpoint", metavar="NAME", help="Only of this endpoint.")
_WHICH = (
    _ENDPOINT,
    click.option("--event", metavar="NAME", help="Only of this event, or of prefix.*"),
    click.option("--event-id", metavar="ID", help="Only of the event with this id."),
    click.option(
        "--since",
        type=moment,
        metavar="TIME",
        help="Only what was stored then or later: 2h, or a date.",
    ),
    click.option(
        "--until", type=moment, metavar="TIME", help="Only what was stored before: 2h, or a date."
    ),
)


def _status(choices: tuple[str, ...], text: str) -> Callable[[_Command], _Command]:
    kind = click.Choice(choices)
    return click.option("--status", "statuses", multiple=True, type=kind, help=text)


@click.group()
def deliveries() -> None:
    """Look at the deliveries in an outbox; send some again; delete old ones.

    Times are UTC: ISO 8601, or so long ago, as in 90s, 5m, 2h, 7d, 1w. Bodies are shown as they
    are stored, which is redacted; URLs and secrets are never shown.
    """


@deliveries.command("list")
@_options(
    *_WHERE,
    _status(STATUSES, "Only of this status; may be repeated."),
    *_WHICH,
    click.option("--limit", type=click.IntRange(1), default=50, show_default=True),
    _JSON,
)
def list_(outbox: str | None, config: str | None, limit: int, as_json: bool, **which: Any) -> None:
    """List deliveries, the last one stored first.

    With --json it is an array, of an object for each.
    """
    with _opened(outbox, config) as store:
        found = store.list(_filter(**which), limit + 1)
    shown = found[:limit]
    if as_json:
        tables.print_json([tables.record_json(one) for one in shown])
    elif shown:
        console = tables.console()
        console.print(tables.records(shown, time.time()))
        if len(found) > limit:
            console.print(f"The last {limit}; there are more (--limit).")
    _end(bool(shown))


@deliveries.command()
@_options(click.argument("which"), *_WHERE, _JSON)
def show(which: str, outbox: str | None, config: str | None, as_json: bool) -> None:
    """Show a delivery by its number, or all of an event by the event's id.

    With its attempts, and the body as it is sent. With --json it is an array, of an object for
    each; a body that is no UTF-8 text is there as body_base64.
    """
    with _opened(outbox, config) as store:
        found = list(_details(store, which))
    if as_json:
        tables.print_json([tables.details_json(one) for one in found])
    else:
        for one in found:
            tables.print_details(tables.console(), one, time.time())
    _end(bool(found))


@deliveries.command()
@_options(*_WHERE, _status(SETTLED, "dead unless told."), *_WHICH, _YES, _JSON)
def replay(outbox: str | None, config: str | None, yes: bool, as_json: bool, **which: Any) -> None:
    """Have dead deliveries sent again, by whoever delivers from the outbox.

    With the same id and the same bytes, and a new signature. Their attempts are counted anew. With
    --status delivered, what was delivered is sent again. With --json it is {"replayed": 12}.
    """
    which["statuses"] = which["statuses"] or ("dead",)
    chosen = _filter(**which)
    with _opened(outbox, config) as store:
        few = len(store.list(chosen, MANY + 1))
        if few > MANY and not yes:
            _confirm(f"Send more than {MANY} deliveries again?")
        replayed = _replay(store, chosen, _total(store, chosen)) if few else 0
    _report("replayed", replayed, as_json)


@deliveries.command()
@_options(
    *_WHERE,
    click.option(
        "--until", type=moment, metavar="TIME", required=True, help="Settled before: 7d, or a date."
    ),
    _status(SETTLED, "delivered unless told; may be repeated."),
    _YES,
    _JSON,
)
def prune(
    outbox: str | None,
    config: str | None,
    until: float,
    statuses: tuple[str, ...],
    yes: bool,
    as_json: bool,
) -> None:
    """Delete deliveries that were settled before a moment.

    Dead ones only with --status dead. With --json it is {"pruned": 12}.
    """
    chosen = statuses or ("delivered",)
    with _opened(outbox, config) as store:
        count = _total(store, _filter(chosen)) or 0
        if count > MANY and not yes:
            what = " and ".join(sorted(set(chosen)))
            _confirm(
                f"Delete those of {count} {what} that were settled before {moments.shown(until)}?"
            )
        pruned = store.prune(
            delivered_before=until if "delivered" in chosen else 0.0,
            dead_before=until if "dead" in chosen else None,
        )
    _report("pruned", pruned, as_json)


@deliveries.command()
@_options(*_WHERE, _ENDPOINT, _JSON)
def stats(outbox: str | None, config: str | None, endpoint: str | None, as_json: bool) -> None:
    """Count deliveries by endpoint and status.

    With --json it is an object of endpoints, each with the count of every status.
    """
    with _opened(outbox, config) as store:
        found = store.counts()
    counts = {
        name: dict.fromkeys(STATUSES, 0)
        | {status.value: count for status, count in found[name].items()}
        for name in sorted(found)
        if endpoint in (None, name)
    }
    if as_json:
        tables.print_json(counts)
    elif counts:
        tables.console().print(tables.counts(counts))
    _end(bool(counts))


@contextmanager
def _opened(outbox: str | None, config: str | None) -> Iterator[Outbox]:
    """The outbox that the options name. What goes wrong in the block ends the command."""
    if (outbox is None) == (config is None):
        raise click.UsageError("give either --outbox or --config")
    problems.need_outbox()
    with problems.told():
        from cubehook.outbox import Outbox

        url = given.from_file(config).outbox if config else given.outbox_alone(outbox or "")
        check_file(url)
        store = Outbox(url)
        try:
            yield store
        finally:
            store.close()


def check_file(url: str) -> None:
    """Who only looks shall not make a new database where a path is wrong."""
    from sqlalchemy import make_url

    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        problems.fail("outbox: the SQLite file does not exist", problems.UNAVAILABLE)


def _filter(statuses: tuple[str, ...], **which: Any) -> Filter:
    from cubehook.outbox import Filter, Status

    return Filter(statuses=tuple(map(Status, statuses)), **which)


def _details(store: Outbox, which: str) -> Iterator[DeliveryDetails]:
    from cubehook.outbox import Filter

    if which.isascii() and which.isdecimal() and len(which) < 19:
        numbers = [int(which)]
    else:
        numbers = [one.id for one in reversed(store.list(Filter(event_id=which), 1000))]
    for number in numbers:
        found = store.show(number)
        if found is not None:
            yield found


def _total(store: Outbox, which: Filter) -> int | None:
    """How many there are; None where only going through all of them could tell."""
    if which.event or which.event_id or which.since is not None or which.until is not None:
        return None
    return sum(
        count
        for name, counts in store.counts().items()
        if which.endpoint in (None, name)
        for status, count in counts.items()
        if status in which.statuses
    )


def _replay(store: Outbox, which: Filter, total: int | None) -> int:
    """How many; with a progress bar where a person looks on."""
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    replayed = 0
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as progress:
        task = progress.add_task("", total=total)
        for count in store.replay(which):
            replayed += count
            progress.advance(task, count)
    return replayed


def _confirm(question: str) -> None:
    click.confirm(question, abort=True, err=True)


def _report(done: str, count: int, as_json: bool) -> None:
    if as_json:
        tables.print_json({done: count})
    elif count:
        click.echo(f"{done} {count}")
    _end(count > 0)


def _end(found: bool) -> None:
    """End the command; where nothing was found, say so."""
    if not found:
        click.echo("nothing matched", err=True)
        sys.exit(problems.NOTHING)
