"""What is stored of an endpoint, and its two halves: what may be shown, and what may not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cubehook import checks
from cubehook.config import Settings, load_endpoints
from cubehook.errors import ConfigError
from cubehook.outbox._sealing import KEY_VARIABLE, Keys
from cubehook.secret import Secret

PRIVATE = ("url", "secret", "headers", "proxy")
"""Keys whose values are, or may hold, secrets: they are never shown."""

_APART = ("name", "enabled")
"""Keys with a column of their own."""


@dataclass(frozen=True, slots=True)
class StoredEndpoint:
    """An endpoint in the outbox, as far as it may be shown.

    settings: its keys but for `PRIVATE`, as they were given. secrets: how many it has; sealed:
    whether they are encrypted. created, updated: seconds since the Unix epoch.
    """

    name: str
    settings: Mapping[str, Any]
    enabled: bool
    secrets: int
    sealed: bool
    created: float
    updated: float

    @classmethod
    def of(cls, row: Any) -> StoredEndpoint:
        """Of a row of the table. Raises `ConfigError` for a damaged one."""
        try:
            settings = json.loads(row.settings)
        except ValueError:  # its text has a piece of what was read
            settings = None
        if not isinstance(settings, dict):
            raise ConfigError(f"endpoint {row.name!r}: is damaged")
        return cls(
            name=row.name,
            settings=settings,
            enabled=row.enabled,
            secrets=row.secrets,
            sealed=row.sealed,
            created=row.created,
            updated=row.updated,
        )


def values_of(given: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
    """What the columns get for an endpoint's keys, which were checked. No times."""
    private = {key: value for key, value in given.items() if key in PRIVATE or key == "name"}
    public = {key: given[key] for key in given if key not in (*PRIVATE, *_APART)}
    data = _json(private)
    return {
        "name": given["name"],
        "settings": _json(public),
        "private": keys.seal(data) if keys else data,
        "sealed": bool(keys),
        "secrets": len(sources(given.get("secret"))),
        "enabled": given.get("enabled", True),
    }


def mapping_of(row: Any, keys: Keys) -> dict[str, Any]:
    """An endpoint's keys, from a row of the table.

    Raises ValueError, with a phrase and no value, for what cannot be decrypted.
    """
    private = json.loads(keys.open(row.private) if row.sealed else row.private)
    if not isinstance(private, dict) or private.pop("name", None) != row.name:
        # Whoever can write to the database could send one endpoint's secrets to another's URL.
        raise ValueError("holds what was stored for another endpoint")
    shown = StoredEndpoint.of(row)
    return {"name": shown.name, "enabled": shown.enabled, **shown.settings, **private}


def problems_of(given: Mapping[Any, Any], keys: Keys, settings: Settings) -> list[str]:
    """What is wrong with an endpoint that is to be stored; each names it and the key."""
    name = given.get("name")
    found: list[str] = [] if name is not None else ["endpoint: name: is missing"]
    load_endpoints([_readable(given)], settings, found)
    if not keys:
        found += (f"endpoint {name!r}: {problem}" for problem in _bare(given))
    return found


def sources(secret: object) -> list[Any]:
    """The key ``secret`` as a list."""
    if secret is None:
        return []
    return list(secret) if checks.is_list(secret) else [secret]  # type: ignore[call-overload]


def is_reference(source: object) -> bool:
    """Whether it tells where a secret is, and is none itself."""
    return isinstance(source, str) and source.startswith(("env:", "file:"))


def is_unread(source: object) -> bool:
    """Whether it names a secret that cannot be read here; perhaps it can where it is used."""
    if not is_reference(source):
        return False
    try:
        Secret.read(str(source))
    except ValueError:
        return True
    return False


def _readable(given: Mapping[Any, Any]) -> dict[Any, Any]:
    """Without references that only those can read who send to the endpoint."""
    secrets = sources(given.get("secret"))
    here = [one for one in secrets if not is_unread(one)]
    if len(here) == len(secrets):
        return dict(given)
    rest = {key: value for key, value in given.items() if key != "secret"}
    return rest | ({"secret": here} if here else {})


def _bare(given: Mapping[Any, Any]) -> Iterator[str]:
    """What may not be stored without a key."""
    if not all(map(is_reference, sources(given.get("secret")))):
        yield f"secret: {_NEEDS_KEY}; or give env:NAME or file:PATH of it"
    if given.get("headers"):
        yield f"headers: {_NEEDS_KEY}"
    if "@" in str(given.get("proxy", "")):
        yield f"proxy: a password {_NEEDS_KEY}"


_NEEDS_KEY = f"needs a key to be encrypted with ({KEY_VARIABLE} is not set)"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    """Mappings and sequences of other kinds, such as those of ``logging.config``."""
    return dict(value) if isinstance(value, Mapping) else list(value)
