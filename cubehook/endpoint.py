"""One receiver of webhooks: `Endpoint`, validated when made, immutable, silent on its secrets."""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from urllib3.util import Url, parse_url

from cubehook import batch, checks, destination, formats, rate, signing
from cubehook.addresses import AddressPolicy, Network
from cubehook.batch import Batch
from cubehook.errors import ConfigError
from cubehook.event import LIFECYCLE_EVENTS, is_event_name
from cubehook.rate import Rate
from cubehook.secret import Secret

MAX_NAME_LENGTH = 64
DEFAULT_FORMAT = DEFAULT_SCHEME = "cube"
TRANSPORTS = ("requests", "curl")

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # token, RFC 9110 §5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # field-value, RFC 9110 §5.5
# Written by cubehook for each request; a configured value would break or forge them.
_OWN_HEADERS = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"),
        *("content-encoding", "content-length", "content-type", "transfer-encoding"),
        *("expect", "host", "proxy-authorization"),
    }
)
_OWN_HEADER_PREFIXES = ("x-cube-webhook-", "webhook-", "x-hub-", "x-github-", "e2b-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where events go, which of them, and how they are signed and written.

    url: ``https`` URL; plain ``http`` needs ``allow_private_urls`` or ``allow_insecure_http``.
    name: names the endpoint in logs and stats; the handler gives ``endpoint-<index>`` otherwise.
    events: exact names, ``prefix.*``, or ``*`` alone.
    secret: a literal, ``env:NAME``, ``file:PATH``, or a list of them: the first signs first.
    format: a format's name or a dotted path. scheme: one or more names of signature schemes; None:
    the format's, which is ``cube`` for most.
    allowed_networks, denied_networks: CIDR texts of the only addresses that may be connected to,
    which is consent to private ones, and of addresses that never may.
    proxy: URL of an HTTP proxy, the only way through one; it then vets the addresses.
    ca_bundle: path of the authorities to trust. client_cert: one or two paths, for mutual TLS.
    ordered: events with the same key arrive in the order they were logged.
    rate_limit: at most so many requests in any such time, ``"20/60s"``; ``"none"``: any number;
    None: what the format's service takes.
    batch: ``{"max_events": …, "linger": seconds}``: several events in one request; None: one each.
    headers: sent with every request, beside cubehook's own.
    timeout, connect_timeout, backoff_initial, backoff_max: seconds; None: the handler's.
    max_retries, max_concurrency: None: the handler's.
    transport: ``requests`` or ``curl``; None: the handler's.

    Raises `ConfigError` listing every problem at once.
    """

    url: str = field(repr=False)
    name: str = ""
    events: Sequence[str] = LIFECYCLE_EVENTS
    secret: str | Sequence[str] | Sequence[Secret] = field(default=(), repr=False)
    scheme: str | Sequence[str] | None = None
    format: str = DEFAULT_FORMAT
    enabled: bool = True
    allow_private_urls: bool = False
    allow_insecure_http: bool = False
    allowed_networks: Sequence[str] | Sequence[Network] = ()
    denied_networks: Sequence[str] | Sequence[Network] = ()
    proxy: str | None = field(default=None, repr=False)
    ca_bundle: str | None = None
    client_cert: str | Sequence[str] | None = None
    ordered: bool = True
    rate_limit: str | Rate | None = None
    batch: Mapping[str, Any] | Batch | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    timeout: float | None = None
    connect_timeout: float | None = None
    max_retries: int | None = None
    backoff_initial: float | None = None
    backoff_max: float | None = None
    max_concurrency: int | None = None
    transport: str | None = None

    def __post_init__(self) -> None:
        given = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None and item.name != "url":
                default = MappingProxyType({}) if item.name == "headers" else item.default
                object.__setattr__(self, item.name, default)
            elif value is not item.default:  # what stands at its default needs no check
                given[item.name] = value
        problems: list[str] = []
        for key, value in inspect(given, place(given), problems).items():
            object.__setattr__(self, key, value)
        if problems:
            raise ConfigError(problems)
        for key, default in format_defaults(self.format).items():
            if getattr(self, key) is None:
                object.__setattr__(self, key, default)

    def __deepcopy__(self, memo: object) -> Endpoint:
        return self  # immutable, and configurations are copied

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The secrets, the one that signs first before those being rotated out."""
        return self.secret  # type: ignore[return-value]  # normalised in __post_init__

    @property
    def schemes(self) -> tuple[str, ...]:
        """The names of the signature schemes."""
        return self.scheme  # type: ignore[return-value]  # normalised in __post_init__

    @property
    def batching(self) -> Batch | None:
        """How events are put together; None: each has a request of its own."""
        return self.batch  # type: ignore[return-value]  # normalised in __post_init__

    @property
    def rate(self) -> Rate | None:
        """How often a request may begin; None: whenever there is something to send."""
        return self.rate_limit if isinstance(self.rate_limit, Rate) else None

    @property
    def location(self) -> Url:
        """The URL in its parts: the one parser's reading that is checked and connected to."""
        return parse_url(self.url)

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.location.scheme == "https"

    @property
    def addresses(self) -> AddressPolicy:
        """Which addresses a delivery may connect to."""
        values = {key: getattr(self, key) for key in destination.ADDRESS_CHECKS}
        policy = destination.address_policy(values)
        return destination.proxy_policy(policy) if self.proxy else policy

    def subscribes(self, event: str) -> bool:
        """Whether events of this name are sent here."""
        return self.enabled and any(matches(pattern, event) for pattern in self.events)


def place(given: Mapping[Any, object], index: int | None = None) -> str:
    """What to put before a problem: the endpoint's name, or its place in the list, or nothing."""
    name = given.get("name")
    if isinstance(name, str) and 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable():
        return f"endpoint {name!r}: "
    return "" if index is None else f"endpoints[{index}]: "


def inspect(given: Mapping[Any, object], where: str, problems: list[str]) -> dict[str, Any]:
    """The normalised values of an endpoint's keys; ``problems`` gets what is wrong with them."""
    values = checks.run(CHECKS, given, where, problems)
    if "url" not in given:
        problems.append(f"{where}url: is missing")
    problems += (where + problem for problem in _across(values))
    return values


def matches(pattern: str, event: str) -> bool:
    """Whether events of this name are among those of the pattern."""
    if pattern.endswith("*"):
        return event.startswith(pattern[:-1])
    return event == pattern


def _name(value: object) -> str:
    text = checks.string(value)
    if len(text) > MAX_NAME_LENGTH or not text.isprintable():
        raise ValueError(f"must be printable and at most {MAX_NAME_LENGTH} characters")
    return text


def _events(value: object) -> tuple[str, ...]:
    patterns = checks.strings(value)
    if not patterns:
        raise ValueError("must name at least one event (enabled: false switches an endpoint off)")
    for pattern in patterns:
        stem = pattern[:-2] if pattern.endswith(".*") else pattern
        if pattern != "*" and not is_event_name(stem):
            raise ValueError("must hold dotted event names, 'prefix.*' or '*'")
    if "*" in patterns and len(patterns) > 1:
        raise ValueError("'*' takes every event and cannot stand beside other names")
    return patterns


def _secret(value: object) -> tuple[Secret, ...]:
    sources = [value] if isinstance(value, str) else value
    if not checks.is_list(sources):
        raise ValueError(f"must be a string or a list of strings, not {checks.kind(value)}")
    secrets = tuple(_one_secret(source) for source in sources)  # type: ignore[attr-defined]
    if not secrets:
        raise ValueError("is empty")
    return secrets


def _one_secret(source: object) -> Secret:
    if isinstance(source, Secret):
        return source
    if not isinstance(source, str):
        raise ValueError("must hold strings only")
    return Secret.read(source)


def _scheme(value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else checks.strings(value)
    if not names:
        raise ValueError("must name at least one scheme")
    if not set(names) <= set(signing.known()):
        raise ValueError(f"must be one or more of: {', '.join(signing.known())}")
    return names


def _format(value: object) -> str:
    text = checks.string(value)
    try:
        formats.make(text, (), ())
    except LookupError as error:
        known = ", ".join(formats.known())
        raise ValueError(f"{error.args[0]}; known are {known}, or a dotted path") from None
    try:
        format_defaults(text)
    except ValueError as error:
        raise ValueError(f"has defaults of its own that are wrong: {error}") from None
    return text


def format_defaults(name: str) -> dict[str, Any]:
    """What a format says where the endpoint does not."""
    found = formats.find(name)
    limit = getattr(found, "rate_limit", None)
    return {
        "scheme": _scheme(getattr(found, "scheme", DEFAULT_SCHEME)),
        "rate_limit": rate.UNLIMITED if limit is None else rate.check(limit),
    }


def _headers(value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a mapping of names to values, not {checks.kind(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ValueError("holds a name that is not a header name")
        if not isinstance(text, str) or not _HEADER_VALUE.fullmatch(text):
            raise ValueError(f"the value of {name!r} must be a string of one line, in latin-1")
        lowered = _canonical(name)
        if lowered in _OWN_HEADERS or lowered.startswith(_OWN_HEADER_PREFIXES):
            raise ValueError(f"{name!r} is written by cubehook itself")
    if len({_canonical(name) for name in value}) < len(value):
        raise ValueError("holds a name twice, in upper and lower case")
    # White space around a value is none of it (RFC 9110 §5.5).
    return MappingProxyType({name: text.strip(" \t") for name, text in value.items()})


def _canonical(name: str) -> str:
    # CGI and WSGI know no difference between - and _ (RFC 3875 §4.1.18).
    return name.lower().replace("_", "-")


def _across(values: Mapping[str, Any]) -> Iterator[str]:
    """The problems that lie between keys, each of which is right by itself."""
    if values.get("backoff_initial", 0.0) > values.get("backoff_max", math.inf):
        yield "backoff_initial: must not be greater than backoff_max"
    if "url" in values:
        yield from destination.problems(values)
    name = values.get("format", DEFAULT_FORMAT)
    if values.get("batch") and not formats.has_batches(formats.find(name)):
        yield "batch: the format has none"
    yield from (f"secret: {problem}" for problem in _refused(values))


def _refused(values: Mapping[str, Any]) -> tuple[str, ...]:
    secrets = [secret.value for secret in values.get("secret", ())]
    try:
        name = values.get("format", DEFAULT_FORMAT)
        signing.signing_keys(values.get("scheme") or format_defaults(name)["scheme"], secrets)
    except ConfigError as error:
        return error.problems
    return ()


def _transport(value: object) -> str:
    name = checks.string(value)
    if name not in TRANSPORTS:
        raise ValueError(f"must be one of: {', '.join(TRANSPORTS)}")
    if name == "curl":
        if not _has_pycurl():
            raise ValueError("'curl' needs: pip install 'cubehook[curl]'")
        if os.environ.get("SSLKEYLOGFILE"):
            raise ValueError("'curl' would write the keys of TLS to where SSLKEYLOGFILE says")
    return name


def _has_pycurl() -> bool:
    try:
        pycurl = importlib.import_module("pycurl")
    except ImportError:  # also of one whose libcurl is missing
        return False
    return hasattr(pycurl, "SSLKEY_BLOB")  # from 7.45.4 on, if it is built for such a libcurl


DELIVERY_CHECKS: dict[str, checks.Check] = {
    "timeout": checks.seconds,
    "connect_timeout": checks.seconds,
    "max_retries": checks.whole(0, 1000),
    "backoff_initial": checks.seconds,
    "backoff_max": checks.seconds,
    "max_concurrency": checks.whole(1, 1024),
    "transport": _transport,
}
"""The delivery settings: the handler's are the defaults of every endpoint."""

CHECKS: dict[str, checks.Check] = {
    **destination.WAY_CHECKS,
    **destination.ADDRESS_CHECKS,
    "name": _name,
    "events": _events,
    "secret": _secret,
    "scheme": _scheme,
    "format": _format,
    "enabled": checks.flag,
    "ordered": checks.flag,
    "rate_limit": rate.check,
    "batch": batch.check,
    "headers": _headers,
    **DELIVERY_CHECKS,
}
"""What each key of an endpoint takes."""
