"""The URL guard under every spelling of an address, against an oracle of its own.

The oracle is written from WIRE.md and the registries it names: it knows where an address lies and
what it carries by its bits, and nothing of how it was spelled.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from anything import RELAXED
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cubehook import ConfigError, Endpoint
from cubehook.addresses import AddressPolicy, literal_address

# --- The oracle -----------------------------------------------------------------------------

ALWAYS = """
    0.0.0.0/8 255.255.255.255 224.0.0.0/4 169.254.0.0/16 100.100.100.200 192.0.0.192 168.63.129.16
    :: ff00::/8 fe80::/10 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42
    fd00:a9fe:a9fe::1 fd00:100::100:200
"""
PRIVATE = """
    127.0.0.0/8 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 192.0.0.0/24 198.18.0.0/15
    192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 192.88.99.0/24 240.0.0.0/4
    ::1 fc00::/7 fec0::/10 100::/64 100:0:0:1::/64 2001:db8::/32 3fff::/20 5f00::/16
"""
IETF = ip_network("2001::/23")  # protocol assignments, Teredo among them
GLOBAL = ip_network("2000::/3")
# May carry a v4 address in any of four layouts: tests/test_addresses.py has them one by one.
LOCAL_NAT64 = 0x64FF9B0001


def networks(text: str) -> list[Any]:
    return [ip_network(network) for network in text.split()]


TABLE = (("always", networks(ALWAYS)), ("private", networks(PRIVATE)))


def oracle(address: IPv4Address | IPv6Address) -> set[str]:
    """Where a connection to it may end: public, private (to be allowed), always (refused)."""
    own = next((kind for kind, table in TABLE if any(address in row for row in table)), None)
    if isinstance(address, IPv4Address):
        return {own or "public"}
    tunnel = wrapped(int(address))
    if own is None and not tunnel:
        own = "public" if address in GLOBAL and address not in IETF else "private"
    kinds = {own} if own else set()
    return kinds.union(*map(oracle, tunnel + isatap(int(address))))


def wrapped(value: int) -> list[IPv4Address]:
    """The v4 addresses that a connection goes to instead."""
    low = value & 0xFFFFFFFF
    mapped_translated_nat64 = (0xFFFF, 0xFFFF0000, 0x64FF9B << 64)
    if value >> 32 in mapped_translated_nat64 or (value >> 32 == 0 and value > 1):
        return [IPv4Address(low)]
    if value >> 112 == 0x2002:  # 6to4
        return [IPv4Address(value >> 80 & 0xFFFFFFFF)]
    if value >> 96 == 0x20010000:  # Teredo: the server, and the client upside down
        return [IPv4Address(value >> 64 & 0xFFFFFFFF), IPv4Address(low ^ 0xFFFFFFFF)]
    return []


def isatap(value: int) -> list[IPv4Address]:
    """The v4 address that a connection may go to as well, behind any prefix."""
    return [IPv4Address(value & 0xFFFFFFFF)] if value >> 32 & 0xFDFFFFFF == 0x5EFE else []


# --- Addresses ------------------------------------------------------------------------------

edges = [
    int(end) + step
    for _, table in TABLE
    for network in table
    for end in (network[0], network[-1])
    for step in (-1, 0, 1)
    if network.version == 4 and 0 <= int(end) + step < 2**32
]
v4 = st.sampled_from(edges) | st.integers(0, 2**32 - 1)
rows = [network for _, table in TABLE for network in table if network.version == 6]
rows += [IETF, ip_network("2001::/32"), GLOBAL]
v6 = (
    st.integers(0, 2**128 - 1)
    | st.sampled_from(rows).flatmap(lambda row: st.integers(int(row[0]), int(row[-1])))
    | st.builds(lambda row, step: (int(row[0]) + step) % 2**128, st.sampled_from(rows), v4)
    # Every wrapping, of every v4 address.
    | st.builds(
        lambda wrap, inner: wrap(inner),
        st.sampled_from(
            [
                lambda inner: inner,
                lambda inner: 0xFFFF << 32 | inner,
                lambda inner: 0xFFFF << 48 | inner,
                lambda inner: 0x64FF9B << 96 | inner,
                lambda inner: 0x2002 << 112 | inner << 80 | 1,
                lambda inner: 0x20010000 << 96 | inner << 64 | (0x08080808 ^ 0xFFFFFFFF),
                lambda inner: 0x20010000 << 96 | 0x08080808 << 64 | (inner ^ 0xFFFFFFFF),
                lambda inner: 0x26064700 << 96 | 0x5EFE << 32 | inner,
                lambda inner: 0x26064700 << 96 | 0x02005EFE << 32 | inner,
            ]
        ),
        v4,
    )
).filter(lambda value: value >> 80 != LOCAL_NAT64)


# --- Spellings ------------------------------------------------------------------------------


def number(value: int, base: str) -> str:
    return base.format(value)


def in_parts(value: int, bases: tuple[str, ...]) -> str:
    """As ``inet_aton`` reads it: one to four numbers, the last one takes what is left."""
    count = len(bases)
    firsts = [value >> 8 * (3 - index) & 0xFF for index in range(count - 1)]
    last = value & (1 << 8 * (5 - count)) - 1
    return ".".join(map(number, [*firsts, last], bases))


bases = st.sampled_from(["{}", "0x{:x}", "0X{:X}", "0{:o}", "000{:o}", "0x0000{:x}"])
spelled_v4 = st.builds(in_parts, v4, st.lists(bases, min_size=1, max_size=4).map(tuple)) | v4.map(
    lambda value: str(IPv4Address(value))
)


def with_dots(value: int) -> str:
    """The last four bytes of it as a v4 address."""
    groups = IPv6Address(value).exploded.split(":")[:6]
    return ":".join([*groups, str(IPv4Address(value & 0xFFFFFFFF))])


spelled_v6 = st.builds(
    lambda value, spell, case: case(spell(value)),
    v6,
    st.sampled_from(
        [
            lambda value: str(IPv6Address(value)),
            lambda value: IPv6Address(value).exploded,
            lambda value: ":".join(f"{value >> shift & 0xFFFF:x}" for shift in range(112, -1, -16)),
            with_dots,
        ]
    ),
    st.sampled_from([str.lower, str.upper, str.title]),
)
FULL_WIDTH = {ord(char): ord(char) + 0xFEE0 for char in "0123456789abcdefxABCDEFX"}
disguises = st.sampled_from(
    [
        str,
        lambda text: text + ".",
        lambda text: text.translate(FULL_WIDTH),
        lambda text: text.replace(".", "\u3002"),
        lambda text: text.replace(".", "\uff0e"),
        lambda text: text.replace("1", "\u2460"),  # a circled one
        lambda text: text[:1] + "\u00ad" + text[1:],  # a soft hyphen, which is nothing to IDNA
    ]
)
scopes = st.sampled_from(["", "%eth0", "%25eth0", "%1"])


def value_of(text: str) -> IPv4Address | IPv6Address:
    """The address, by reading the numbers; `literal_address` is not asked."""
    if ":" in text:
        return ip_address(text)
    *firsts, last = [
        int(part, 16)
        if part.lower().startswith("0x")
        else int(part, 8 if part.startswith("0") else 10)
        for part in text.split(".")
    ]
    high = sum(part << 8 * (3 - index) for index, part in enumerate(firsts))
    return IPv4Address(high | last)


# --- The guard ------------------------------------------------------------------------------

OPTIONS: tuple[dict[str, bool], ...] = (
    {},
    {"allow_private_urls": True},
    {"allow_insecure_http": True},
    {"allow_private_urls": True, "allow_insecure_http": True},
)


def permitted(kinds: set[str], secure: bool, options: dict[str, bool]) -> bool:
    """The rules of WIRE.md."""
    private, insecure = options.get("allow_private_urls"), options.get("allow_insecure_http")
    if "always" in kinds or not (secure or private or insecure):
        return False
    if "private" in kinds and not private:
        return False
    return bool(secure or insecure or "public" not in kinds)


def permits(url: str, options: dict[str, bool]) -> bool:
    try:
        Endpoint(url=url, **options)  # type: ignore[arg-type]
    except ConfigError:
        return False
    return True


@given(v4.map(IPv4Address) | v6.map(IPv6Address))
@settings(RELAXED, max_examples=400)
def test_the_table_agrees_with_the_oracle(address: IPv4Address | IPv6Address) -> None:
    kinds = oracle(address)
    closed = AddressPolicy().refusal(str(address), secure=True) is None
    assert closed is (kinds == {"public"})
    opened = AddressPolicy(allow_private=True).refusal(str(address), secure=True) is None
    assert opened is ("always" not in kinds)


@given(spelled_v4, disguises)
@example("0177.1", str)
@settings(RELAXED, max_examples=400)
def test_every_spelling_of_a_v4_address_is_seen_through(text: str, disguise: Any) -> None:
    found = literal_address(disguise(text))
    assert found == str(value_of(text))


@given(spelled_v6, scopes, st.booleans())
@settings(RELAXED, max_examples=200)
def test_every_spelling_of_a_v6_address_is_seen_through(
    text: str, scope: str, brackets: bool
) -> None:
    host = f"[{text}{scope}]" if brackets else text + scope
    found = literal_address(host)
    assert found is not None
    assert ip_address(found) == value_of(text)
    assert AddressPolicy().refusal(text + scope, secure=True) == (
        AddressPolicy().refusal(text, secure=True)
    )


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "none")
@given(st.data(), st.booleans())
@settings(RELAXED, max_examples=120)
def test_an_endpoint_takes_what_the_oracle_permits(
    options: dict[str, bool], data: st.DataObject, secure: bool
) -> None:
    scheme = data.draw(st.sampled_from(["https", "HTTPS"] if secure else ["http", "HtTp"]))
    text = data.draw(spelled_v4 | spelled_v6)
    port = data.draw(st.sampled_from(["", ":8443", ":1"]))
    host = f"[{text}{data.draw(scopes)}]" if ":" in text else text
    expected = permitted(oracle(value_of(text)), secure, options)
    assert permits(f"{scheme}://{host}{port}/hook", options) is expected


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "none")
@given(spelled_v4, disguises)
@settings(RELAXED, max_examples=80)
def test_no_disguise_opens_what_the_oracle_refuses(
    options: dict[str, bool], text: str, disguise: Any
) -> None:
    if not permitted(oracle(value_of(text)), True, options):
        assert not permits(f"https://{disguise(text)}/hook", options)
