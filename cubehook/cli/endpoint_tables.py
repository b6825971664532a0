"""Stored endpoints as people like to read them, and as JSON: never a URL, a secret, a header."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from cubehook.cli.moments import iso, shown
from cubehook.endpoint import Endpoint, format_defaults

if TYPE_CHECKING:
    from cubehook.outbox.endpoints import StoredEndpoint

_STYLES = {"on": "green", "off": "dim"}


def table(found: Iterable[StoredEndpoint]) -> Table:
    """Endpoints, a row for each."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("endpoint", "events", "scheme", "format", "status", "secrets", "updated"):
        made.add_column(heading, overflow="fold")
    for one in found:
        state = "on" if one.enabled else "off"
        made.add_row(
            Text(one.name),
            Text(", ".join(_events(one))),
            Text(", ".join(_schemes(one))),
            Text(_format(one)),
            Text(state, _STYLES[state]),
            Text(f"{one.secrets}, rotating" if one.secrets > 1 else str(one.secrets)),
            shown(one.updated),
        )
    return made


def as_json(one: StoredEndpoint) -> dict[str, Any]:
    """An endpoint; moments in ISO 8601."""
    return {
        "name": one.name,
        "enabled": one.enabled,
        "events": _events(one),
        "scheme": _schemes(one),
        "format": _format(one),
        "secrets": one.secrets,
        "encrypted": one.sealed,
        "created": iso(one.created),
        "updated": iso(one.updated),
    }


def _events(one: StoredEndpoint) -> list[str]:
    return list(one.settings.get("events", _default("events")))


def _schemes(one: StoredEndpoint) -> list[str]:
    scheme = one.settings.get("scheme")
    if scheme is None:
        try:
            scheme = format_defaults(_format(one))["scheme"]
        except (LookupError, ValueError):
            scheme = ()  # of a format of the application's, which is not here
    return [scheme] if isinstance(scheme, str) else list(scheme)


def _format(one: StoredEndpoint) -> str:
    return str(one.settings.get("format", _default("format")))


def _default(key: str) -> Any:
    return Endpoint.__dataclass_fields__[key].default
