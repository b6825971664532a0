"""Where an endpoint's requests may go, and by which way: URL, addresses, proxy, TLS files.

Checks only (see `checks`): each takes a configured value and returns it normalised.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from cubehook import checks, tls
from cubehook.addresses import AddressPolicy, Network, literal_address, parse_networks
from cubehook.secret import Secret

_AUTHORITY_END = re.compile(r"[/?#]")  # RFC 3986 §3.2
_UNSAFE_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")


def url(value: object) -> str:
    """An ``http`` or ``https`` URL that can be requested as it is."""
    text, _ = _parsed(value, ("https", "http"))
    if "@" in _AUTHORITY_END.split(text.partition("//")[2], maxsplit=1)[0]:
        raise ValueError("must not hold a user name or password")
    return text


def proxy(value: object) -> str:
    """The URL of an HTTP proxy, which may hold a user name and a password: a secret.

    As for a secret, ``env:NAME`` and ``file:PATH`` name where it stands.
    """
    text, parts = _parsed(Secret.read(checks.string(value)).value, ("http",))
    if parts.path not in (None, "", "/") or parts.query is not None:
        raise ValueError("must end after the host and the port")
    return text


def networks(value: object) -> tuple[Network, ...]:
    """IP networks in CIDR notation."""
    if not checks.is_list(value):
        raise ValueError(f"must be a list of networks, not {checks.kind(value)}")
    items: tuple[object, ...] = tuple(value)  # type: ignore[arg-type]
    # str() of what has been through here before: it comes back as a handler's default.
    parsed = (ipaddress.IPv4Network, ipaddress.IPv6Network)
    return parse_networks(str(item) if isinstance(item, parsed) else item for item in items)  # type: ignore[misc]


def ca_bundle(value: object) -> str:
    """The path of a PEM file, or of a folder of them, that can be loaded now."""
    path = checks.string(value)
    _load("certificates", path, ())
    return path


def client_cert(value: object) -> tuple[str, ...]:
    """The path of a PEM file with certificate and key, or a list of two that have one each."""
    paths = (value,) if isinstance(value, str) else checks.strings(value)
    if not 1 <= len(paths) <= 2:
        raise ValueError("must be a path, or a list of two: the certificate's and the key's")
    _load("a certificate and its key", None, paths)
    return paths


def problems(values: Mapping[str, Any]) -> Iterator[str]:
    """What does not go together, of values that are each right by itself."""
    location = parse_url(values["url"])
    policy = address_policy(values)
    secure = location.scheme == "https"
    if not (secure or policy.allow_insecure_http or _reaches_private(policy)):
        yield "url: plain http needs allow_private_urls or allow_insecure_http"
    elif literal := literal_address(location.host or ""):
        refusal = policy.refusal(literal, secure=secure)
        if refusal:
            yield f"url: {refusal}"
    if values.get("client_cert") and not secure:
        yield "client_cert: needs an https URL"


def address_policy(values: Mapping[str, Any]) -> AddressPolicy:
    """Which addresses an endpoint of these values may connect to."""
    return AddressPolicy(
        allow_private=values.get("allow_private_urls", False),
        allow_insecure_http=values.get("allow_insecure_http", False),
        allowed_networks=values.get("allowed_networks", ()),
        denied_networks=values.get("denied_networks", ()),
    )


def proxy_policy(policy: AddressPolicy) -> AddressPolicy:
    """Which addresses the proxy may be at: naming it is consent to a private one and to plain http;
    what is always refused, or denied, stays so."""
    return AddressPolicy(
        allow_private=True, allow_insecure_http=True, denied_networks=policy.denied_networks
    )


def _reaches_private(policy: AddressPolicy) -> bool:
    """Whether there may be an address for plain http, a private one, as far as can be told now."""
    firsts = (str(network[0]) for network in policy.allowed_networks)
    return policy.allow_private or any(
        policy.refusal(first, secure=False) is None for first in firsts
    )


def _parsed(value: object, schemes: tuple[str, ...]) -> tuple[str, Url]:
    text = checks.string(value)
    if _UNSAFE_IN_URL.search(text):
        raise ValueError("must not hold spaces, control characters or backslashes")
    try:
        parts = parse_url(text)
    except LocationParseError:
        raise ValueError("is not a valid URL") from None
    if parts.scheme not in schemes:
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not parts.host:
        raise ValueError("has no host")
    if parts.fragment is not None:
        raise ValueError("must not hold a fragment (#…)")
    if parts.port == 0:
        raise ValueError("has port 0")
    return text, parts


def _load(what: str, bundle: str | None, certificate: tuple[str, ...]) -> None:
    try:
        tls.load(bundle, certificate)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = type(error).__name__
        raise ValueError(f"names a file that does not hold {what} ({why})") from None


ADDRESS_CHECKS: dict[str, checks.Check] = {
    "allow_private_urls": checks.flag,
    "allow_insecure_http": checks.flag,
    "allowed_networks": networks,
    "denied_networks": networks,
}
"""Which addresses may be connected to: the handler's are the defaults of every endpoint."""

WAY_CHECKS: dict[str, checks.Check] = {
    "url": url,
    "proxy": proxy,
    "ca_bundle": ca_bundle,
    "client_cert": client_cert,
}
"""Where an endpoint's requests go, and by which way."""
