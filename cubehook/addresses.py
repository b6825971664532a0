"""Which addresses a delivery may connect to: one explicit table, and the decision made from it.
Pure: nothing here resolves a name or opens a socket; who connects asks for every address.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import stringprep
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

UNSPECIFIED: Final = "unspecified address"
MULTICAST: Final = "multicast address"
BROADCAST: Final = "broadcast address"
LINK_LOCAL: Final = "link-local address"
METADATA: Final = "cloud metadata address"
PRIVATE: Final = "private address"
LOOPBACK: Final = "loopback address"
RESERVED: Final = "reserved address"
PLAIN_HTTP: Final = "plain http to a public address"
DENIED_NETWORK: Final = "denied network"
NOT_ALLOWED: Final = "not in allowed networks"
UNPARSABLE: Final = "unparsable address"

# The classes, best first: the worst of an address and of all it carries decides.
_CARRIER, _PUBLIC, _PRIVATE, _ALWAYS = range(4)

# (network, class, reason); the first row that holds the address decides, so narrow rows come first.
# "v4" and "v6" name the IANA IPv4/IPv6 Special-Purpose Address Registries. Their entries that are
# globally reachable need no row. `ipaddress.is_global` is not asked: it lets multicast and fec0::1
# pass, and it differs between Python versions.
_TABLE: Final[tuple[tuple[str, int, str], ...]] = (
    # Metadata services outside the link-local ranges. They hand out credentials, so no option may
    # open them, although most lie in a private range.
    ("100.100.100.200/32", _ALWAYS, METADATA),  # Alibaba Cloud; in 100.64/10
    ("192.0.0.192/32", _ALWAYS, METADATA),  # Oracle Cloud Classic; in 192.0.0/24
    # Azure WireServer: looks public, but it is the VM's own host on every Azure network, serves
    # goal state and certificates, and can be nobody's receiver.
    ("168.63.129.16/32", _ALWAYS, METADATA),
    ("fd00:ec2::254/128", _ALWAYS, METADATA),  # AWS EC2 instance metadata
    ("fd00:ec2::23/128", _ALWAYS, METADATA),  # AWS EKS Pod Identity: credentials
    ("fd20:ce::254/128", _ALWAYS, METADATA),  # Google Cloud, IPv6-only instances
    ("fd00:c1::a9fe:a9fe/128", _ALWAYS, METADATA),  # Oracle Cloud Infrastructure
    ("fd00:42::42/128", _ALWAYS, METADATA),  # Scaleway
    ("fd00:a9fe:a9fe::1/128", _ALWAYS, METADATA),  # Akamai (Linode)
    ("fd00:100::100:200/128", _ALWAYS, METADATA),  # Alibaba Cloud
    # Never a receiver.
    ("0.0.0.0/8", _ALWAYS, UNSPECIFIED),  # v4; RFC 791, RFC 1122: connects to this host
    ("169.254.0.0/16", _ALWAYS, LINK_LOCAL),  # v4; RFC 3927; 169.254.169.254 and its kin
    ("224.0.0.0/4", _ALWAYS, MULTICAST),  # RFC 5771
    ("255.255.255.255/32", _ALWAYS, BROADCAST),  # v4; RFC 8190, RFC 919
    ("::/128", _ALWAYS, UNSPECIFIED),  # v6; RFC 4291
    ("fe80::/10", _ALWAYS, LINK_LOCAL),  # v6; RFC 4291
    ("ff00::/8", _ALWAYS, MULTICAST),  # RFC 4291
    # An operator may mean these.
    ("10.0.0.0/8", _PRIVATE, PRIVATE),  # v4; RFC 1918
    ("100.64.0.0/10", _PRIVATE, PRIVATE),  # v4; RFC 6598, carrier-grade NAT
    ("127.0.0.0/8", _PRIVATE, LOOPBACK),  # v4; RFC 1122
    ("172.16.0.0/12", _PRIVATE, PRIVATE),  # v4; RFC 1918
    ("192.0.0.0/24", _PRIVATE, RESERVED),  # v4; RFC 6890, IETF protocol assignments
    ("192.0.2.0/24", _PRIVATE, RESERVED),  # v4; RFC 5737, documentation
    ("192.88.99.0/24", _PRIVATE, RESERVED),  # v4; RFC 7526, deprecated 6to4 relay
    ("192.168.0.0/16", _PRIVATE, PRIVATE),  # v4; RFC 1918
    ("198.18.0.0/15", _PRIVATE, RESERVED),  # v4; RFC 2544, benchmarking
    ("198.51.100.0/24", _PRIVATE, RESERVED),  # v4; RFC 5737, documentation
    ("203.0.113.0/24", _PRIVATE, RESERVED),  # v4; RFC 5737, documentation
    ("240.0.0.0/4", _PRIVATE, RESERVED),  # v4; RFC 1112, future use
    ("::1/128", _PRIVATE, LOOPBACK),  # v6; RFC 4291
    ("64:ff9b:1::/48", _PRIVATE, PRIVATE),  # v6; RFC 8215, local-use NAT64; also carries v4
    ("100::/64", _PRIVATE, RESERVED),  # v6; RFC 6666, discard-only
    ("100:0:0:1::/64", _PRIVATE, RESERVED),  # v6; RFC 9780, dummy prefix
    ("2001:db8::/32", _PRIVATE, RESERVED),  # v6; RFC 3849, documentation
    ("3fff::/20", _PRIVATE, RESERVED),  # v6; RFC 9637, documentation
    ("5f00::/16", _PRIVATE, RESERVED),  # v6; RFC 9602, SRv6 segment identifiers
    ("fc00::/7", _PRIVATE, PRIVATE),  # v6; RFC 4193, unique local
    ("fec0::/10", _PRIVATE, PRIVATE),  # RFC 3879, deprecated site-local
    # Another address in v6 clothing: judged by what it carries (see _CARRIED).
    ("::ffff:0:0/96", _CARRIER, ""),  # v6; RFC 4291, v4-mapped
    ("::/96", _CARRIER, ""),  # RFC 4291, deprecated v4-compatible
    ("::ffff:0:0:0/96", _CARRIER, ""),  # RFC 2765, v4-translated
    ("64:ff9b::/96", _CARRIER, ""),  # v6; RFC 6052, NAT64
    ("2001::/32", _CARRIER, ""),  # v6; RFC 4380, Teredo
    ("2002::/16", _CARRIER, ""),  # v6; RFC 3056, 6to4
    # v6; RFC 2928, IETF protocol assignments: benchmarking, AMT, AS112, both ORCHIDs, drone ids.
    # Some are globally reachable, but none of them holds a receiver.
    ("2001::/23", _PRIVATE, RESERVED),
    # The rest.
    ("0.0.0.0/0", _PUBLIC, ""),
    ("2000::/3", _PUBLIC, ""),  # RFC 4291: the only global unicast that IANA hands out
    ("::/0", _PRIVATE, RESERVED),
)


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Which addresses a delivery may connect to.

    ``denied_networks`` win over all but the always-refused class; they match an address and every
    address it carries. When ``allowed_networks`` is not empty it is the whole list of what may be
    reached, and being listed is consent to a private address. A v4 network in it also admits the
    v4-mapped and the NAT64 (``64:ff9b::/96``) form, whose packets go to that very v4 host. The
    tunnel forms (6to4, Teredo, ISATAP, …) go where their outer address says: that one must be
    listed, and a private address inside needs its own consent.
    """

    allow_private: bool = False
    allow_insecure_http: bool = False
    allowed_networks: tuple[Network, ...] = ()
    denied_networks: tuple[Network, ...] = ()

    def refusal(self, address: str, *, secure: bool) -> str | None:
        """Why a connection to this numeric address may not be made; None when it may.

        ``address`` is what getaddrinfo returns, with or without a ``%scope``. The reason is one of
        this module's constants and never contains the address.
        """
        readings = _readings(address)
        if not readings:
            return UNPARSABLE
        worst = max(readings, key=lambda reading: reading.reach)
        if worst.reach == _ALWAYS:
            return worst.reason
        if any(_is_in(reading.address, self.denied_networks) for reading in readings):
            return DENIED_NETWORK
        if self.allowed_networks and not _admitted(readings, self.allowed_networks):
            return NOT_ALLOWED
        return self._private(readings) or self._plain(readings, secure)

    def _private(self, readings: tuple[_Reading, ...]) -> str | None:
        if self.allow_private:
            return None
        for address, reach, reason in readings:
            if reach == _PRIVATE and not _is_in(address, self.allowed_networks):
                return reason
        return None

    def _plain(self, readings: tuple[_Reading, ...], secure: bool) -> str | None:
        if secure or self.allow_insecure_http:
            return None
        # One public reading is enough: a tunnel to a private address crosses the public network.
        return PLAIN_HTTP if any(reading.reach == _PUBLIC for reading in readings) else None


def parse_networks(values: Iterable[str]) -> tuple[Network, ...]:
    """Networks from their CIDR texts; a single address is a network of one.

    Raises ``ValueError`` that names the position, never the value. Host bits must be zero: a slip
    in a prefix length would otherwise open or close another network than the one meant.
    """
    if isinstance(values, str):
        raise ValueError("expected a list of networks, not one text")
    networks = []
    for position, value in enumerate(values, start=1):
        network = _network(value)
        if network is None:
            raise ValueError(f"item {position} is not an IP network such as 10.1.0.0/16")
        networks.append(network)
    return tuple(networks)


def literal_address(host: str) -> str | None:
    """The canonical numeric text when a URL's host is an address in any spelling, else None.

    Any spelling: all that getaddrinfo takes without asking DNS (``2130706433``, ``0x7f.1``,
    ``0177.0.0.1``, ``127.1``, fullwidth digits), a trailing dot, brackets. A scope is left out: it
    names an interface, not an address.
    """
    # What Python's and requests' IDNA steps do before anyone looks the name up.
    text = unicodedata.normalize("NFKC", host).replace("\u3002", ".")
    text = "".join(char for char in text if not stringprep.in_table_b1(char))
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    address = _parse(text) or _parse_v4_as_inet_aton(text.removesuffix("."))
    if address is None:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    # str() writes a v4-mapped address in another way since Python 3.13.
    return f"::ffff:{mapped}" if mapped is not None else str(address)


class _Row(NamedTuple):
    first: int
    last: int
    network: str
    reach: int
    reason: str


class _Reading(NamedTuple):
    """One address that a connection may end at, with its class and the reason to refuse it."""

    address: Address
    reach: int
    reason: str


_SCOPE: Final = re.compile(r"[^\s%]+")
# Digits, hex digits, "0x" and dots: keeps from inet_aton the white space after which glibc
# ignores the rest, and what it cannot encode.
_INET_ATON: Final = re.compile(r"[0-9A-Fa-fXx.]+")
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_SAME_HOST: Final = (_MAPPED, ipaddress.IPv6Network("64:ff9b::/96"))
_ISATAP: Final = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")  # RFC 5214: before the v4 address


def _rows(version: int) -> tuple[_Row, ...]:
    parsed = ((ipaddress.ip_network(row[0]), row) for row in _TABLE)
    return tuple(
        _Row(int(network[0]), int(network[-1]), *row)
        for network, row in parsed
        if network.version == version
    )


_ROWS: Final = {4: _rows(4), 6: _rows(6)}


def _local_nat64(octets: bytes) -> list[bytes]:
    """The v4 addresses that a translator inside 64:ff9b:1::/48 may read out (RFC 6052, 2.2).

    Its prefix may be 48, 56, 64 or 96 bits long and the address does not tell. Zeros after the
    /48 layout mean that one; otherwise each layout is taken, apart from those that find 0.0.0.0/8,
    which no translator forwards: they have read padding. Octet 8 is skipped, as the RFC says.
    """
    short = octets[6:8] + octets[9:11]
    if not any(octets[11:]):
        return [short]
    layouts = [short, octets[7:8] + octets[9:12], octets[9:13], octets[12:]]
    return [layout for layout in layouts if layout[0]] or layouts


def _low(octets: bytes) -> list[bytes]:
    return [octets[12:]]


_CARRIED: Final[dict[str, Callable[[bytes], list[bytes]]]] = {
    "::ffff:0:0/96": _low,
    "::/96": _low,
    "::ffff:0:0:0/96": _low,
    "64:ff9b::/96": _low,
    "64:ff9b:1::/48": _local_nat64,
    "2002::/16": lambda octets: [octets[2:6]],
    # The server, and the client with its bits inverted.
    "2001::/32": lambda octets: [octets[4:8], bytes(octet ^ 0xFF for octet in octets[12:])],
}


@lru_cache(maxsize=1024)
def _readings(text: str) -> tuple[_Reading, ...]:
    """The address itself, then every v4 address it carries; empty when it is no address."""
    address = _parse(text)
    if address is None:
        return ()
    row = _row(address)
    carried: list[bytes] = []
    if row.network in _CARRIED:
        carried += _CARRIED[row.network](address.packed)
    # Beside the prefix's own, since an ISATAP interface id may follow any prefix, 6to4 too. Deeper
    # nesting there is not: all forms carry v4, and v4 carries nothing.
    if address.packed[8:12] in _ISATAP:
        carried += _low(address.packed)
    inner = [ipaddress.IPv4Address(octets) for octets in carried]
    rows = [(address, row), *((v4, _row(v4)) for v4 in inner)]
    return tuple(_Reading(item, row.reach, row.reason) for item, row in rows)


def _row(address: Address) -> _Row:
    value = int(address)
    return next(row for row in _ROWS[address.version] if row.first <= value <= row.last)


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


def _admitted(readings: tuple[_Reading, ...], allowed: tuple[Network, ...]) -> bool:
    outer, *inner = readings
    if _is_in(outer.address, allowed):
        return True
    return _is_in(outer.address, _SAME_HOST) and _is_in(inner[0].address, allowed)


def _parse(text: str) -> Address | None:
    # The scope is cut off here: how ipaddress keeps and compares it depends on its version.
    digits, percent, scope = text.partition("%")
    try:
        address = ipaddress.ip_address(digits)
    except ValueError:
        return None
    scopable = isinstance(address, ipaddress.IPv6Address) and _SCOPE.fullmatch(scope)
    if percent and not scopable:
        return None
    return address


def _parse_v4_as_inet_aton(text: str) -> ipaddress.IPv4Address | None:
    if not _INET_ATON.fullmatch(text):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except OSError:
        return None


def _network(value: str) -> Network | None:
    # ip_network would read an int or bytes as one packed address.
    if not isinstance(value, str) or "%" in value:
        return None
    try:
        network = ipaddress.ip_network(value.strip())
    except ValueError:
        return None
    # A v4 network in mapped spelling is meant for the v4 addresses themselves.
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        low = network.network_address.packed[12:]
        return ipaddress.IPv4Network((low, network.prefixlen - 96))
    return network
