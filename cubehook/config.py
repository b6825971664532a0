"""From what an operator wrote to validated endpoints and settings, or to one `ConfigError`.

Endpoints come as a list of mappings (YAML, JSON, keyword arguments), from the environment, or from
a file; every problem names the endpoint and the key, never a value.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from cubehook import checks
from cubehook import endpoint as endpoints_
from cubehook.addresses import Network
from cubehook.destination import ADDRESS_CHECKS
from cubehook.endpoint import DELIVERY_CHECKS, Endpoint
from cubehook.errors import ConfigError
from cubehook.secret import Secret, variable

ENDPOINTS_VARIABLE = "CUBE_API_WEBHOOK_ENDPOINTS"
STORED = "outbox"
"""In the place of a list of endpoints: those that are stored in the outbox."""

MAX_PAYLOAD_CEILING = 1_048_576

_DEEPEST = 4  # the list, the endpoint, its headers or events, and one to be refused
_MAX_FILE_BYTES = 16 * 1_048_576


@dataclass(frozen=True, slots=True)
class Settings:
    """What a handler is told apart from its endpoints. Times are seconds, sizes bytes.

    queue_capacity: events waiting for the listener, and deliveries of one endpoint's backlog.
    max_concurrency: worker threads, started as needed.
    max_payload_bytes: longest body; an event over it is dropped.
    flush_timeout: the longest that ``flush`` and ``close`` wait when not told otherwise.
    redact, keep: names that are removed, or kept, beside what the rules say.
    denied_networks: added to every endpoint's own.
    outbox: the URL of the database that events are stored in; None: memory. durable: ``async``, or
    ``sync``: a log call returns after the commit. deliver: whether this process delivers as well.
    The others are the defaults of the endpoints.
    """

    queue_capacity: int = 1024
    max_concurrency: int = 32
    max_payload_bytes: int = 262_144
    timeout: float = 10.0
    connect_timeout: float = 5.0
    max_retries: int = 10
    backoff_initial: float = 1.0
    backoff_max: float = 3600.0
    flush_timeout: float = 5.0
    transport: str = "requests"
    outbox: str | None = field(default=None, repr=False)
    durable: str = "async"
    deliver: bool = True
    redact: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    allow_private_urls: bool = False
    allow_insecure_http: bool = False
    allowed_networks: tuple[Network, ...] = ()
    denied_networks: tuple[Network, ...] = ()


def _outbox(value: object) -> str:
    """The URL of a database; it may hold a password."""
    text = Secret.read(checks.string(value)).value
    if importlib.util.find_spec("sqlalchemy") is None:
        raise ValueError("needs: pip install 'cubehook[outbox]'")
    from cubehook.outbox import Outbox  # noqa: PLC0415  # SQLAlchemy is an extra

    try:
        Outbox(text)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("outbox: ")) from None
    return text


SETTING_CHECKS: dict[str, checks.Check] = {
    "queue_capacity": checks.whole(1, 10_000_000),
    "max_payload_bytes": checks.whole(1, MAX_PAYLOAD_CEILING),
    "flush_timeout": checks.seconds,
    "outbox": _outbox,
    "durable": checks.one_of("async", "sync"),
    "deliver": checks.flag,
    "redact": checks.strings,
    "keep": checks.strings,
    **DELIVERY_CHECKS,
    **ADDRESS_CHECKS,
}
"""What each key of a handler takes, beside ``endpoints``."""


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that can be used: every endpoint has a name and all its settings.

    stored: the endpoints are those in the outbox, and so none of them is here.
    """

    settings: Settings
    endpoints: tuple[Endpoint, ...]
    stored: bool = False


def load(endpoints: object = None, options: Mapping[str, object] | None = None) -> Config:
    """The configuration that ``endpoints`` and the handler's ``options`` amount to.

    endpoints: a list of mappings or `Endpoint` objects; ``file:PATH`` (JSON) or ``env:NAME``;
    ``outbox``: those stored there, which whoever uses the configuration reads and follows; None:
    read from ``CUBE_API_WEBHOOK_ENDPOINTS``, and no endpoints where that is unset or empty.

    Raises `ConfigError` listing every problem at once.
    """
    problems: list[str] = []
    given = options or {}
    values = checks.run(SETTING_CHECKS, given, "", problems, others=("endpoints", "level"))
    settings = Settings(**values)
    readable = all(key in values for key in ("backoff_initial", "backoff_max") if key in given)
    if readable and settings.backoff_initial > settings.backoff_max:
        problems.append("backoff_initial: must not be greater than backoff_max")
    for key in ("durable", "deliver"):
        if getattr(settings, key) != getattr(Settings(), key) and given.get("outbox") is None:
            problems.append(f"{key}: needs an outbox")
    stored = isinstance(endpoints, str) and endpoints == STORED
    if stored and given.get("outbox") is None:
        problems.append("endpoints: 'outbox' needs an outbox")
    loaded = () if stored else load_endpoints(endpoints, settings, problems)
    if problems:
        raise ConfigError(problems)
    return Config(settings, loaded, stored)


def load_endpoints(
    endpoints: object, settings: Settings, problems: list[str] | None = None
) -> tuple[Endpoint, ...]:
    """The endpoints alone, with the settings they leave to the handler filled in.

    Raises `ConfigError`, unless ``problems`` is there to take what is wrong.
    """
    found: list[str] = []
    items = _plain(_given(_plain(endpoints, found), found), found)
    loaded = [_endpoint(item, index, settings, found) for index, item in enumerate(items)]
    found += _duplicates(items)
    if settings.outbox is not None:
        found += [
            f"endpoint {one.name!r}: batch: cannot be used with an outbox"
            for one in loaded
            if one is not None and one.batching
        ]
    if problems is not None:
        problems += found
    elif found:
        raise ConfigError(found)
    return tuple(one for one in loaded if one is not None)


def _plain(value: object, problems: list[str], depth: int = 0) -> Any:
    """The value in plain dicts and lists, as deep as an endpoint goes.

    Those of ``logging.config`` resolve ``cfg://`` and ``ext://`` only where an item is looked up.
    """
    try:
        if isinstance(value, Mapping) and depth < _DEEPEST:
            return {key: _plain(value[key], problems, depth + 1) for key in value}
        if isinstance(value, list) and depth < _DEEPEST:
            return [_plain(value[index], problems, depth + 1) for index in range(len(value))]
    except Exception as error:
        problems.append(f"endpoints: holds what cannot be resolved ({type(error).__name__})")
    return value


def _given(endpoints: object, problems: list[str]) -> list[Any]:
    if endpoints is None:
        return _parsed(variable(ENDPOINTS_VARIABLE) or "", ENDPOINTS_VARIABLE, problems)
    if isinstance(endpoints, str):
        return _referenced(endpoints, problems)
    if not checks.is_list(endpoints):
        problems.append(f"endpoints: must be a list, not {checks.kind(endpoints)}")
        return []
    return list(endpoints)  # type: ignore[call-overload,no-any-return]


def _referenced(reference: str, problems: list[str]) -> list[Any]:
    kind, _, name = reference.partition(":")
    if kind == "env":
        text = variable(name)
        if text is not None:
            return _parsed(text, "endpoints", problems)
        problems.append("endpoints: names an environment variable that is not set")
    elif kind == "file":
        try:
            with open(name, encoding="utf-8") as file:
                return _parsed(file.read(_MAX_FILE_BYTES), "endpoints", problems)
        except (OSError, ValueError) as error:
            why = type(error).__name__
            problems.append(f"endpoints: names a file that cannot be read ({why})")
    else:
        problems.append("endpoints: must be a list, or file:PATH, or env:NAME")
    return []


def _parsed(text: str, place: str, problems: list[str]) -> list[Any]:
    if not text.strip():
        return []  # an empty variable is how shells and Compose files write "unset"
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        problems.append(f"{place}: is not JSON (line {error.lineno}, column {error.colno})")
        return []
    except (ValueError, RecursionError):
        problems.append(f"{place}: is not JSON that can be read")
        return []
    if isinstance(value, list):
        return value
    problems.append(f"{place}: must be a JSON array, not {checks.kind(value)}")
    return []


def _endpoint(item: object, index: int, settings: Settings, problems: list[str]) -> Endpoint | None:
    if isinstance(item, Endpoint):
        given = _as_given(item)
    elif isinstance(item, Mapping):
        given = dict(item)
    else:
        problems.append(f"endpoints[{index}]: must be a mapping, not {checks.kind(item)}")
        return None
    where = endpoints_.place(given, index)
    if checks.is_list(given.get("denied_networks")):
        given["denied_networks"] = [*given["denied_networks"], *settings.denied_networks]
    before = len(problems)
    values = endpoints_.inspect(_defaults(settings, given) | given, where, problems)
    if len(problems) > before:
        return None
    filled = {key: getattr(settings, key) for key in DELIVERY_CHECKS} | values
    try:
        return Endpoint(**({"name": f"endpoint-{index}"} | filled))
    except ConfigError:
        return None  # by a setting of the handler's, which is among the problems already


def _defaults(settings: Settings, given: Mapping[Any, object]) -> dict[str, Any]:
    """What the handler says for an endpoint that does not."""
    backoff = {"backoff_initial", "backoff_max"}
    # The handler's backoff is judged once, with the handler, not with each endpoint.
    judged = set() if backoff & given.keys() else backoff
    keys = (key for key in (*DELIVERY_CHECKS, *ADDRESS_CHECKS) if key not in judged)
    return {key: getattr(settings, key) for key in keys}


def _as_given(endpoint: Endpoint) -> dict[str, Any]:
    given = {item.name: getattr(endpoint, item.name) for item in fields(endpoint)}
    given["secret"] = [secret.source for secret in endpoint.secrets]  # to be read once more
    return {key: value for key, value in given.items() if value not in ("", (), [], None)}


def _duplicates(items: list[Any]) -> list[str]:
    names = [
        (item.name if isinstance(item, Endpoint) else item.get("name")) or f"endpoint-{index}"
        for index, item in enumerate(items)
        if isinstance(item, Endpoint | dict)
    ]
    counted = Counter(name for name in names if isinstance(name, str))
    return [
        f"{endpoints_.place({'name': name}) or 'endpoints: '}name: is given {count} times"
        for name, count in counted.items()
        if count > 1
    ]
