"""``cubehook endpoints``: those that are stored in an outbox, changed while others use them.

Nothing that is printed has a URL, a secret or the value of a header.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from cubehook.cli import endpoint_tables, given, problems, tables, trial, typed
from cubehook.cli.deliveries import check_file

if TYPE_CHECKING:
    from cubehook.outbox.endpoints import EndpointStore

_Option: TypeAlias = "Callable[[Callable[..., Any]], Callable[..., Any]]"

_EXIT = """

\b
Exit status:
  0  done
  1  not found, nothing to do, not confirmed, or test: not delivered
  2  the options, the configuration, the endpoint or the key cannot be used
  3  the outbox cannot be used
"""


def _options(*options: _Option) -> _Option:
    """Several options as one decorator, and the exit statuses in the help."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        command.__doc__ = (command.__doc__ or "").rstrip() + _EXIT
        for option in reversed((*options, *_WHERE, _JSON)):
            command = option(command)
        return command

    return decorate


_WHERE = (
    click.option("--outbox", metavar="URL", help="URL, env:NAME or file:PATH."),
    click.option("--config", metavar="FILE", help="A configuration of logging that names it."),
    click.option(
        "--key",
        callback=typed.reference,
        metavar="SOURCE",
        help="What secrets are encrypted with: env:NAME or file:PATH; default: CUBEHOOK_KEY.",
    ),
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_NAME = click.argument("name")
_URL = "env:NAME, file:PATH or - (stdin) keep it out of the list of processes."
_SECRET = "env:NAME or file:PATH, read where it is used; - (stdin) or prompt: stored, encrypted."  # noqa: S105  # a help text
_KEYS = (
    click.option("--event", "events", multiple=True, metavar="PATTERN", help="May be repeated."),
    click.option("--scheme", "schemes", multiple=True, help="May be repeated."),
    click.option("--format", "format_", metavar="NAME", help="Of the body."),
    click.option(
        "--set",
        "others",
        multiple=True,
        callback=typed.pairs,
        metavar="KEY=VALUE",
        help="Any other key; the value is JSON, or text. May be repeated.",
    ),
)


@click.group()
def endpoints() -> None:
    """Manage the endpoints that are stored in an outbox.

    Handlers and workers that are told `endpoints: outbox` notice a change within 2 seconds.
    URLs, headers and secrets are encrypted with the key in CUBEHOOK_KEY, and never shown.
    """


@endpoints.command("list")
@_options()
def list_(as_json: bool, **where: Any) -> None:
    """List all of them. With --json it is an array, of an object for each."""
    with _opened(where) as store:
        found = store.list()
    if as_json:
        tables.print_json([endpoint_tables.as_json(one) for one in found])
    elif found:
        tables.console().print(endpoint_tables.table(found))
    if not found:
        _end("no endpoint is stored")


@endpoints.command()
@_options(
    _NAME,
    click.option("--url", required=True, callback=typed.text, help=_URL),
    click.option("--secret", callback=typed.secret, metavar="SOURCE", help=_SECRET),
    *_KEYS,
    click.option("--disabled", is_flag=True, help="Not to be used until it is enabled."),
)
def add(name: str, disabled: bool, as_json: bool, **options: Any) -> None:
    """Store a new endpoint."""
    keys = _keys(options) | {"name": name} | ({"enabled": False} if disabled else {})
    with _opened(options, make=True) as store:
        store.add(keys)
        _done(store, name, "added", as_json)
    _note_unread(keys.get("secret"))


@endpoints.command("set")
@_options(
    _NAME,
    click.option("--url", callback=typed.text, help=_URL),
    *_KEYS,
    click.option("--unset", multiple=True, metavar="KEY", help="Back to its default."),
)
def set_(name: str, unset: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Change some keys of an endpoint; the secret: see rotate."""
    if "secret" in unset:
        raise click.UsageError("a secret is not unset; see: cubehook endpoints rotate")
    changes = _keys(options) | dict.fromkeys(unset)
    if not changes:
        raise click.UsageError("give something to change")
    with _opened(options) as store:
        store.set(name, changes)
        _done(store, name, "changed", as_json)


@endpoints.command()
@_options(_NAME)
def disable(name: str, as_json: bool, **where: Any) -> None:
    """Let an endpoint have no events. What is stored for it waits."""
    with _opened(where) as store:
        store.disable(name)
        _done(store, name, "disabled", as_json)


@endpoints.command()
@_options(_NAME)
def enable(name: str, as_json: bool, **where: Any) -> None:
    """Let an endpoint have events again, and what waited for it."""
    with _opened(where) as store:
        store.enable(name)
        _done(store, name, "enabled", as_json)


@endpoints.command()
@_options(
    _NAME,
    click.option("--secret", callback=typed.secret, metavar="SOURCE", help=_SECRET),
    click.option("--finish", is_flag=True, help="Sign with the newest secret alone from now on."),
    click.option("--drop-former", is_flag=True, help="Do not sign with the former one any more."),
)
def rotate(
    name: str, secret: str | None, finish: bool, drop_former: bool, as_json: bool, **where: Any
) -> None:
    """Give an endpoint a new secret, without a pause.

    The new one signs first, the former one signs as well until --finish: the receiver can be given
    the new one at any time in between. Without --secret it is asked for.
    """
    if finish and (secret or drop_former):
        raise click.UsageError("--finish goes alone")
    with _opened(where) as store:
        if finish:
            if not store.drop_former(name):
                _end(f"endpoint {name!r}: has one secret only")
            _done(store, name, "finished the rotation of", as_json)
            return
        store.get(name)  # before anything is asked
        new = secret or typed.asked()
        store.rotate(name, new, keep_former=not drop_former)
        _done(store, name, "rotated", as_json)
    _note_unread(new)


@endpoints.command()
@_options(_NAME, click.option("--timeout", type=click.FloatRange(0.1, 300), help="Seconds."))
def test(name: str, timeout: float | None, as_json: bool, **where: Any) -> None:
    """Send an event cubehook.test to an endpoint, and show what comes of it.

    From here, once, and signed as any other; a disabled endpoint is sent it, too.
    """
    with _opened(where) as store:
        keys = store.mapping(name)
        result = trial.send(keys, _settings(where), timeout)
    if as_json:
        tables.print_json(result.as_json())
    else:
        click.echo(f"{name}: {result}")
    sys.exit(0 if result.delivered else problems.NOTHING)


@endpoints.command()
@_options(_NAME, click.option("--yes", is_flag=True, help="Do not ask."))
def remove(name: str, yes: bool, as_json: bool, **where: Any) -> None:
    """Delete an endpoint. What is stored for it stays, and is not delivered."""
    with _opened(where) as store:
        store.get(name)
        if not yes:
            click.confirm(f"Remove endpoint {name!r}?", abort=True, err=True)
        store.remove(name)
    if as_json:
        tables.print_json({"removed": name})
    else:
        click.echo(f"removed {name!r}")


@endpoints.command()
@_options()
def reseal(as_json: bool, **where: Any) -> None:
    """Encrypt all of them with the first key, so that the other keys can be thrown away."""
    with _opened(where) as store:
        count = store.reseal()
    if as_json:
        tables.print_json({"resealed": count})
    else:
        click.echo(f"resealed {count}")


def _keys(options: Mapping[str, Any]) -> dict[str, Any]:
    """An endpoint's keys, of the options that were given."""
    named = {
        "url": options["url"],
        "secret": options.get("secret"),
        "events": list(options["events"]),
        "scheme": list(options["schemes"]),
        "format": options["format_"],
    }
    return {**options["others"], **{key: value for key, value in named.items() if value}}


def _settings(where: Mapping[str, Any]) -> Any:
    from cubehook.config import Settings

    return given.from_file(where["config"]).settings if where["config"] else Settings()


@contextmanager
def _opened(where: Mapping[str, Any], make: bool = False) -> Iterator[EndpointStore]:
    """The endpoints that the options name. What goes wrong in the block ends the command.

    make: a new database is made where there is none.
    """
    outbox, config = where["outbox"], where["config"]
    if (outbox is None) == (config is None):
        raise click.UsageError("give either --outbox or --config")
    problems.need_outbox()
    with problems.told():
        from cubehook.outbox import Outbox
        from cubehook.outbox.endpoints import EndpointStore, NotStoredError

        url = given.from_file(config).outbox if config else given.outbox_alone(outbox)
        if not make:
            check_file(url)
        opened = Outbox(url)
        try:
            yield EndpointStore(opened, where["key"], settings=_settings(where))
        except NotStoredError as error:
            _end(str(error))
        finally:
            opened.close()


def _done(store: EndpointStore, name: str, what: str, as_json: bool) -> None:
    if as_json:
        tables.print_json(endpoint_tables.as_json(store.get(name)))
    else:
        click.echo(f"{what} {name!r}")


def _note_unread(secret: str | None) -> None:
    from cubehook.outbox.endpoints import is_unread

    if is_unread(secret):
        text = "note: its secret cannot be read here; it has to be readable where it is used"
        click.echo(text, err=True)


_end = partial(problems.fail, status=problems.NOTHING)
