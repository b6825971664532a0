"""The address guard: its table row by row, every wrapping, the options, literals' spellings."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cubehook import addresses
from cubehook.addresses import (
    BROADCAST,
    DENIED_NETWORK,
    LINK_LOCAL,
    LOOPBACK,
    METADATA,
    MULTICAST,
    NOT_ALLOWED,
    PLAIN_HTTP,
    PRIVATE,
    RESERVED,
    UNPARSABLE,
    UNSPECIFIED,
    AddressPolicy,
    literal_address,
    parse_networks,
)

CLOSED = AddressPolicy()
OPEN_PRIVATE = AddressPolicy(allow_private=True)
OPEN = AddressPolicy(allow_private=True, allow_insecure_http=True)

# Written from WIRE.md and the registries, not from the module: a second opinion.
ALWAYS = {
    "0.0.0.0/8": UNSPECIFIED,
    "169.254.0.0/16": LINK_LOCAL,
    "224.0.0.0/4": MULTICAST,
    "255.255.255.255/32": BROADCAST,
    "100.100.100.200/32": METADATA,
    "168.63.129.16/32": METADATA,
    "192.0.0.192/32": METADATA,
    "::/128": UNSPECIFIED,
    "fe80::/10": LINK_LOCAL,
    "ff00::/8": MULTICAST,
    "fd00:ec2::254/128": METADATA,
    "fd00:ec2::23/128": METADATA,
    "fd20:ce::254/128": METADATA,
    "fd00:c1::a9fe:a9fe/128": METADATA,
    "fd00:42::42/128": METADATA,
    "fd00:a9fe:a9fe::1/128": METADATA,
    "fd00:100::100:200/128": METADATA,
}
PRIVATE_ONLY = {
    "127.0.0.0/8": LOOPBACK,
    "10.0.0.0/8": PRIVATE,
    "172.16.0.0/12": PRIVATE,
    "192.168.0.0/16": PRIVATE,
    "100.64.0.0/10": PRIVATE,
    "192.0.0.0/24": RESERVED,
    "192.0.2.0/24": RESERVED,
    "198.51.100.0/24": RESERVED,
    "203.0.113.0/24": RESERVED,
    "198.18.0.0/15": RESERVED,
    "192.88.99.0/24": RESERVED,
    "240.0.0.0/4": RESERVED,
    "::1/128": LOOPBACK,
    "fc00::/7": PRIVATE,
    "fec0::/10": PRIVATE,
    "64:ff9b:1::/48": PRIVATE,
    "100::/64": RESERVED,
    "100:0:0:1::/64": RESERVED,
    # 2001::/23 without Teredo, cut where the registry has its ORCHIDs and drone ids.
    "2001:1::/32": RESERVED,
    "2001:2::/31": RESERVED,
    "2001:4::/30": RESERVED,
    "2001:8::/29": RESERVED,
    "2001:10::/28": RESERVED,
    "2001:20::/28": RESERVED,
    "2001:30::/28": RESERVED,
    "2001:40::/26": RESERVED,
    "2001:80::/25": RESERVED,
    "2001:100::/24": RESERVED,
    "2001:db8::/32": RESERVED,
    "3fff::/20": RESERVED,
    "5f00::/16": RESERVED,
    # Unassigned: outside 2000::/3 and in no registry.
    "::1:0:0/128": RESERVED,
    "64:ff9b::1:0:0/128": RESERVED,
    "64:ff9b:2::/48": RESERVED,
    "200::/7": RESERVED,
    "1000::/4": RESERVED,
    "4000::/4": RESERVED,
    "5eff::/16": RESERVED,
    "5f01::/16": RESERVED,
    "6000::/3": RESERVED,
    "8000::/2": RESERVED,
    "c000::/3": RESERVED,
    "e000::/4": RESERVED,
    "f000::/6": RESERVED,
    "f800::/7": RESERVED,
    "fe00::/9": RESERVED,
}
PUBLIC_V4 = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.31.196.1",  # AS112: globally reachable by the registry
    "192.52.193.1",  # AMT
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "168.63.129.15",
    "168.63.129.17",
]
PUBLIC_V6 = [
    "2000::",
    "2001:200::",
    "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:db9::",
    "2003::",
    "2606:4700:4700::1111",
    "2620:4f:8000::1",  # AS112
    "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "3fff:1000::",
]
# Next to an always-refused single address, yet only private.
NEIGHBOURS = ["100.100.100.199", "100.100.100.201", "192.0.0.191", "192.0.0.193"]
NEIGHBOURS += ["255.255.255.254", "fd00:ec2::253", "fd00:ec2::255", "fd20:ce::253", "fd20:ce::255"]

_GROUPS = {
    version: [
        (ip_network(cidr), kind, reason)
        for kind, table in (("always", ALWAYS), ("private", PRIVATE_ONLY))
        for cidr, reason in table.items()
        if ip_network(cidr).version == version
    ]
    for version in (4, 6)
}


def second_opinion(text: str) -> str:
    """public, private or always, by brute force; knows the wrapped forms by their bit positions."""
    address = ip_address(text)
    kinds = [kind for network, kind, _ in _GROUPS[address.version] if address in network]
    if address.version == 6:
        carried = [*_by_prefix(int(address)), *_by_interface(int(address))]
        kinds += [second_opinion(str(IPv4Address(v4))) for v4 in carried]
        if int(address) >> 125 != 0b001 and not _by_prefix(int(address)):
            kinds.append("private")
    return next((kind for kind in ("always", "private") if kind in kinds), "public")


def _by_prefix(value: int) -> list[int]:
    low = value & 0xFFFFFFFF
    if value >> 32 in (0xFFFF, 0xFFFF0000, 0x64FF9B << 64) or (value >> 32 == 0 and value > 1):
        return [low]
    if value >> 112 == 0x2002:
        return [value >> 80 & 0xFFFFFFFF]
    if value >> 96 == 0x20010000:
        return [value >> 64 & 0xFFFFFFFF, low ^ 0xFFFFFFFF]
    if value >> 80 == 0x64FF9B0001:
        return _by_local_nat64(value)
    return []


def _by_local_nat64(value: int) -> list[int]:
    readings = [
        (value >> 48 & 0xFFFF0000) | (value >> 40 & 0xFFFF),
        (value >> 40 & 0xFF000000) | (value >> 32 & 0xFFFFFF),
        value >> 24 & 0xFFFFFFFF,
        value & 0xFFFFFFFF,
    ]
    if value & (2**40 - 1) == 0:
        return readings[:1]
    return [v4 for v4 in readings if v4 >> 24] or readings


def _by_interface(value: int) -> list[int]:
    return [value & 0xFFFFFFFF] if value >> 32 & 0xFFFFFFFF in (0x5EFE, 0x02005EFE) else []


def kind_of(text: str) -> str:
    """public, private or always, by asking the module with one option after the other."""
    if CLOSED.refusal(text, secure=True) is None:
        return "public"
    return "private" if OPEN.refusal(text, secure=False) is None else "always"


def _v6(value: int) -> str:
    return str(IPv6Address(value))


def _nat64_48(v4: int) -> str:
    return _v6(0x64FF9B0001 << 80 | (v4 >> 16) << 64 | (v4 & 0xFFFF) << 40)


PUBLIC_SERVER = int(IPv4Address("65.54.227.120"))
WRAPPERS: dict[str, Callable[[int], str]] = {
    "mapped": lambda v4: _v6(0xFFFF << 32 | v4),
    "mapped dotted": lambda v4: f"::ffff:{IPv4Address(v4)}",
    "translated": lambda v4: _v6(0xFFFF << 48 | v4),
    "nat64": lambda v4: _v6(0x64FF9B << 96 | v4),
    "6to4": lambda v4: _v6(0x2002 << 112 | v4 << 80 | 1),
    "teredo server": lambda v4: _v6(0x20010000 << 96 | v4 << 64 | PUBLIC_SERVER ^ 0xFFFFFFFF),
    "teredo client": lambda v4: _v6(0x20010000 << 96 | PUBLIC_SERVER << 64 | v4 ^ 0xFFFFFFFF),
    "isatap": lambda v4: _v6(0x26064700 << 96 | 0x5EFE << 32 | v4),
    "isatap global": lambda v4: _v6(0x26064700 << 96 | 0x02005EFE << 32 | v4),
    "isatap in 6to4": lambda v4: _v6(0x2002_0808_0808 << 80 | 0x5EFE << 32 | v4),
}
# v4-compatible cannot carry 0.0.0.0 and 0.0.0.1: those are :: and ::1.
COMPATIBLE = {"compatible": _v6}
# At least private, whatever it carries.
LOCAL_NAT64: dict[str, Callable[[int], str]] = {
    "nat64 local /48": _nat64_48,
    "nat64 local /96": lambda v4: _v6(0x64FF9B0001FFFE << 64 | v4),
}

ALL_FORMS = WRAPPERS | COMPATIBLE | LOCAL_NAT64


def _edges(table: dict[str, str], version: int | None = None) -> list[tuple[str, str]]:
    return [
        (str(end), reason)
        for cidr, reason in table.items()
        for end in dict.fromkeys((ip_network(cidr)[0], ip_network(cidr)[-1]))
        if version in (None, end.version)
    ]


ALWAYS_EDGES = [
    # An end that a narrower row takes (255.255.255.255 in 240/4) belongs to that row.
    *_edges(ALWAYS),
    ("169.254.169.254", LINK_LOCAL),
    ("169.254.170.2", LINK_LOCAL),
]
PRIVATE_EDGES = [
    (text, reason)
    for text, reason in _edges(PRIVATE_ONLY)
    if not any(ip_address(text) in network for network, kind, _ in _GROUPS[4] if kind == "always")
    and not text.startswith("64:ff9b:1:")  # carry 0.0.0.0 and 255.255.255.255
]


class TestTable:
    @pytest.mark.parametrize(("text", "reason"), ALWAYS_EDGES)
    def test_always_refused(self, text: str, reason: str) -> None:
        everything = parse_networks(["0.0.0.0/0", "::/0"])
        generous = AddressPolicy(True, True, allowed_networks=everything)
        for policy, secure in itertools.product((CLOSED, OPEN, generous), (True, False)):
            assert policy.refusal(text, secure=secure) == reason

    @pytest.mark.parametrize(("text", "reason"), PRIVATE_EDGES)
    def test_refused_unless_private_is_allowed(self, text: str, reason: str) -> None:
        assert CLOSED.refusal(text, secure=True) == reason
        assert OPEN_PRIVATE.refusal(text, secure=True) is None

    @pytest.mark.parametrize("text", PUBLIC_V4 + PUBLIC_V6)
    def test_public(self, text: str) -> None:
        assert CLOSED.refusal(text, secure=True) is None

    @pytest.mark.parametrize("text", NEIGHBOURS)
    def test_beside_a_single_address_is_private(self, text: str) -> None:
        assert kind_of(text) == "private"

    @pytest.mark.parametrize("cidr", [row[0] for row in addresses._TABLE])
    def test_both_sides_of_every_edge(self, cidr: str) -> None:
        network = ip_network(cidr)
        first, last = int(network[0]), int(network[-1])
        make = type(network[0])
        for value in (first - 1, first, first + 1, last - 1, last, last + 1):
            if 0 <= value < 2**network.max_prefixlen:
                assert kind_of(str(make(value))) == second_opinion(str(make(value)))

    def test_no_row_is_hidden_by_an_earlier_one(self) -> None:
        networks = [ip_network(row[0]) for row in addresses._TABLE]
        for later, earlier in itertools.combinations(reversed(networks), 2):
            overlap = later.version == earlier.version and later.overlaps(earlier)
            assert not overlap or later.prefixlen < earlier.prefixlen

    @pytest.mark.parametrize("scope", ["eth0", "1", "25eth0"])
    def test_a_scope_changes_nothing(self, scope: str) -> None:
        assert OPEN.refusal(f"fe80::1%{scope}", secure=True) == LINK_LOCAL
        assert CLOSED.refusal(f"fec0::1%{scope}", secure=True) == PRIVATE
        assert CLOSED.refusal(f"2606:4700::1111%{scope}", secure=True) is None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "localhost",
            "8.8.8",
            "134744072",
            "010.1.1.1",
            "8.8.8.8 ",
            "8.8.8.8%eth0",
            "[::1]",
            "::1%",
            "::1%a%b",
            "::1%a b",
            "8.8.8.8/32",
            "2606:4700::1\n",
            "\ud800",
            "\uff18.8.8.8",
            "1::2::3",
            "12345::",
            "%eth0",
            "1" * 10_000,
        ],
    )
    def test_what_is_no_numeric_text_is_refused(self, text: str) -> None:
        assert OPEN.refusal(text, secure=True) == UNPARSABLE


class TestWrapped:
    @pytest.mark.parametrize("form", [*WRAPPERS, *LOCAL_NAT64])
    def test_always_refused_inside(self, form: str) -> None:
        for text, reason in _edges(ALWAYS, 4):
            if form == "nat64 local /96" and reason == UNSPECIFIED:
                continue  # read as padding, see _local_nat64
            assert OPEN.refusal(ALL_FORMS[form](int(IPv4Address(text))), secure=False) == reason

    @pytest.mark.parametrize("form", ALL_FORMS)
    def test_private_inside(self, form: str) -> None:
        for text, reason in PRIVATE_EDGES:
            if ":" in text:
                continue
            wrapped = ALL_FORMS[form](int(IPv4Address(text)))
            expected = PRIVATE if form in LOCAL_NAT64 else reason
            assert CLOSED.refusal(wrapped, secure=True) == expected
            assert OPEN_PRIVATE.refusal(wrapped, secure=True) is None

    @pytest.mark.parametrize("form", [*WRAPPERS, *COMPATIBLE])
    def test_public_inside(self, form: str) -> None:
        for text in PUBLIC_V4:
            wrapped = ALL_FORMS[form](int(IPv4Address(text)))
            assert CLOSED.refusal(wrapped, secure=True) is None
            assert OPEN_PRIVATE.refusal(wrapped, secure=False) == PLAIN_HTTP

    @pytest.mark.parametrize("form", LOCAL_NAT64)
    def test_local_nat64_is_at_least_private(self, form: str) -> None:
        for text in PUBLIC_V4:
            wrapped = LOCAL_NAT64[form](int(IPv4Address(text)))
            assert CLOSED.refusal(wrapped, secure=True) == PRIVATE
            assert OPEN_PRIVATE.refusal(wrapped, secure=True) is None
            assert OPEN_PRIVATE.refusal(wrapped, secure=False) == PLAIN_HTTP

    @pytest.mark.parametrize(
        "text",
        [
            "64:ff9b:1:a9fe:a9:fe00::",  # /48
            "64:ff9b:1:a9fe:a9:fe00::1",  # /48, its reserved suffix not zero
            "64:ff9b:1:a9fe:a9:fe00:808:808",  # … and dressed as a /96
            "64:ff9b:1:a9fe:ffa9:fe00::",  # /48, its octet 8 not zero
            "64:ff9b:1:11a9:fe:a9fe::",  # /56
            "64:ff9b:1:1122:a9:fea9:fe00:0",  # /64
            "64:ff9b:1:1122::a9fe:a9fe",  # /96
        ],
    )
    def test_local_nat64_in_every_layout(self, text: str) -> None:
        assert OPEN.refusal(text, secure=True) == LINK_LOCAL

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("::", "always"),
            ("::1", "private"),
            ("::2", "always"),  # 0.0.0.2
            ("::7f00:1", "private"),
            ("::ffff:0.0.0.1", "always"),
            ("64:ff9b:1::", "always"),  # 0.0.0.0
            ("64:ff9b:1::1", "always"),  # 0.0.0.0 or 0.0.0.1
            ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "always"),
            ("64:ff9b:1:7fff:ff:ff00::", "private"),
            ("2001::", "always"),  # Teredo server 0.0.0.0
            ("fe80::5efe:808:808", "always"),
            ("fd12::5efe:a9fe:a9fe", "always"),
            ("fd12::5efe:808:808", "private"),
            ("2002:808:808::5efe:a00:1", "private"),
            ("2606:4700::100:5efe:a00:1", "public"),  # no ISATAP mark
            ("64:ff9b::1:a00:1", "private"),  # beside the /96: unassigned
        ],
    )
    def test_exact_forms(self, text: str, kind: str) -> None:
        assert kind_of(text) == kind == second_opinion(text)


class TestOptions:
    @pytest.mark.parametrize("secure", [True, False])
    @pytest.mark.parametrize("insecure", [True, False])
    @pytest.mark.parametrize("private", [True, False])
    def test_matrix(self, private: bool, insecure: bool, secure: bool) -> None:
        policy = AddressPolicy(private, insecure)
        public = None if secure or insecure else PLAIN_HTTP
        inside = None if private else PRIVATE
        assert policy.refusal("8.8.8.8", secure=secure) == public
        assert policy.refusal("2606:4700:4700::1111", secure=secure) == public
        assert policy.refusal("10.0.0.1", secure=secure) == inside
        assert policy.refusal("fd12::1", secure=secure) == inside
        assert policy.refusal("169.254.169.254", secure=secure) == LINK_LOCAL

    def test_plain_http_through_a_tunnel_is_public(self) -> None:
        isatap = WRAPPERS["isatap"](int(IPv4Address("10.0.0.1")))
        assert OPEN_PRIVATE.refusal(isatap, secure=True) is None
        assert OPEN_PRIVATE.refusal(isatap, secure=False) == PLAIN_HTTP
        assert OPEN.refusal(isatap, secure=False) is None

    @pytest.mark.parametrize("form", ALL_FORMS)
    def test_denied_network_matches_what_is_carried(self, form: str) -> None:
        wrapped = ALL_FORMS[form](int(IPv4Address("8.8.8.8")))
        for denied in ("8.8.8.0/24", f"{wrapped}/127"):
            policy = AddressPolicy(True, True, (), (ip_network(denied, strict=False),))
            if denied[0] == "8" or "mapped" not in form:
                assert policy.refusal(wrapped, secure=True) == DENIED_NETWORK

    def test_denied_wins_over_allowed(self) -> None:
        nets = parse_networks(["10.1.0.0/16"])
        policy = AddressPolicy(True, True, nets, nets)
        assert policy.refusal("10.1.2.3", secure=True) == DENIED_NETWORK

    def test_denied_mapped_spelling_covers_the_v4_address(self) -> None:
        policy = AddressPolicy(denied_networks=parse_networks(["::ffff:8.8.8.0/120"]))
        assert policy.refusal("8.8.8.8", secure=True) == DENIED_NETWORK
        assert policy.refusal("::ffff:8.8.8.8", secure=True) == DENIED_NETWORK
        assert policy.refusal("8.8.9.8", secure=True) is None

    def test_allowed_networks_are_the_whole_list(self) -> None:
        policy = AddressPolicy(True, allowed_networks=parse_networks(["10.1.0.0/16", "9.9.9.9"]))
        assert policy.refusal("10.1.2.3", secure=True) is None
        assert policy.refusal("9.9.9.9", secure=True) is None
        assert policy.refusal("10.2.0.0", secure=True) == NOT_ALLOWED
        assert policy.refusal("8.8.8.8", secure=True) == NOT_ALLOWED
        assert policy.refusal("fd12::1", secure=True) == NOT_ALLOWED

    def test_being_listed_is_consent_to_a_private_address(self) -> None:
        policy = AddressPolicy(
            allowed_networks=parse_networks(["10.1.0.0/16", "8.8.8.8", "fd12::/64"])
        )
        for text in ("10.1.2.3", "fd12::1", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3"):
            assert policy.refusal(text, secure=True) is None
            assert policy.refusal(text, secure=False) is None
        assert policy.refusal("8.8.8.8", secure=False) == PLAIN_HTTP

    @pytest.mark.parametrize(
        "form", ["translated", "6to4", "teredo client", "isatap", "compatible"]
    )
    def test_a_listed_v4_network_does_not_admit_tunnels(self, form: str) -> None:
        # The packets go to the outer address, and that one is not listed.
        policy = AddressPolicy(True, True, parse_networks(["0.0.0.0/0"]))
        wrapped = ALL_FORMS[form](int(IPv4Address("10.1.2.3")))
        assert policy.refusal(wrapped, secure=True) == NOT_ALLOWED

    @pytest.mark.parametrize("form", WRAPPERS)
    def test_a_listed_outer_network_is_no_consent_to_a_private_inner_address(
        self, form: str
    ) -> None:
        policy = AddressPolicy(allowed_networks=(ip_network("::/0"),))
        wrapped = WRAPPERS[form](int(IPv4Address("10.1.2.3")))
        assert policy.refusal(wrapped, secure=True) == PRIVATE
        both = AddressPolicy(allowed_networks=parse_networks(["::/0", "10.1.0.0/16"]))
        assert both.refusal(wrapped, secure=True) is None

    def test_the_default_lets_nothing_but_public_https_through(self) -> None:
        assert AddressPolicy() == AddressPolicy(False, False, (), ())
        assert hash(AddressPolicy()) == hash(AddressPolicy())
        with pytest.raises(AttributeError):
            AddressPolicy().allow_private = True  # type: ignore[misc]


class TestParseNetworks:
    def test_networks_and_single_addresses(self) -> None:
        assert parse_networks(iter([" 10.0.0.0/8", "1.2.3.4", "fd00::/8", "::1"])) == (
            ip_network("10.0.0.0/8"),
            ip_network("1.2.3.4/32"),
            ip_network("fd00::/8"),
            ip_network("::1/128"),
        )
        assert parse_networks([]) == ()

    def test_mapped_spelling_becomes_v4(self) -> None:
        assert parse_networks(["::ffff:10.0.0.0/104", "::ffff:0:0/96", "::/0"]) == (
            ip_network("10.0.0.0/8"),
            ip_network("0.0.0.0/0"),
            ip_network("::/0"),
        )

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "nonsense",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0/8",
            "fe80::1%eth0/64",
            "fe80::1%eth0",
            "010.0.0.0/8",
            "10.0.0.0/8/8",
            167772160,
            b"\x0a\0\0\0",
            None,
        ],
    )
    def test_garbage_is_named_by_position_only(self, value: str) -> None:
        with pytest.raises(ValueError, match=r"^item 2 is not an IP network") as caught:
            parse_networks(["9.9.9.9", value])
        assert caught.value.__context__ is None
        assert not value or str(value) not in str(caught.value)

    def test_one_text_is_no_list(self) -> None:
        # An empty text would otherwise mean "no restriction".
        for value in ("", "10.0.0.0/8"):
            with pytest.raises(ValueError, match="expected a list"):
                parse_networks(value)


class TestLiteralAddress:
    @pytest.mark.parametrize(
        ("host", "canonical"),
        [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("[127.0.0.1]", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("2130706433.", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("0X7F000001", "127.0.0.1"),
            ("0177.0.0.1", "127.0.0.1"),
            ("017700000001", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("127.0.1", "127.0.0.1"),
            ("00000177.0x0.0.1", "127.0.0.1"),
            ("0", "0.0.0.0"),
            ("4294967295", "255.255.255.255"),
            ("0xa9fea9fe", "169.254.169.254"),
            ("169.254.43518", "169.254.169.254"),
            ("010.0.0.1", "8.0.0.1"),
            ("\uff11\uff12\uff17.0.0.1", "127.0.0.1"),
            ("127。0\uff0e0｡1", "127.0.0.1"),
            ("①②⑦.0.0.1", "127.0.0.1"),
            ("127.0.0.1。", "127.0.0.1"),
            ("12\u00ad7.0\u200b.0.1", "127.0.0.1"),
            ("0\uff587\uff46.1", "127.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[0:0:0:0:0:0:0:1]", "::1"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
            ("[::FFFF:102:304]", "::ffff:1.2.3.4"),
            ("::1.2.3.4", "::102:304"),
            ("[fe80::1%25eth0]", "fe80::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("\uff1a\uff1a1", "::1"),
        ],
    )
    def test_every_spelling(self, host: str, canonical: str) -> None:
        assert literal_address(host) == canonical
        assert CLOSED.refusal(canonical, secure=True) != UNPARSABLE

    @pytest.mark.parametrize(
        "host",
        [
            "",
            ".",
            "..",
            "example.com",
            "localhost",
            "cafe",
            "face.b00c",
            "1.2.3.4.example.com",
            "1.2.3.4.5",
            "256.1.1.1",
            "1.2.3.256",
            "4294967296",
            "08",
            "0x",
            "0xg",
            "-1",
            "+1",
            "1..2",
            ".1.2.3.4",
            "1.2.3.4..",
            "1.2.3.4 ",
            " 1.2.3.4",
            "1.2.3.4 x",
            "1.2.3.4\t",
            "1\n",
            "1.2.3.4\x00",
            "1.2.3.4%eth0",
            "::1%",
            "::1%a b",
            "[[::1]]",
            "[::1",
            "::1]",
            "[]",
            "[v1.x]",
            "::1::",
            "::1.",
            "1.2.3.4/32",
            "user@1.2.3.4",
            "1.2.3.4:80",
            "\ud800",
            "%31.2.3.4",
        ],
    )
    def test_no_literal(self, host: str) -> None:
        assert literal_address(host) is None


V4 = st.integers(0, 2**32 - 1)
EDGES_V4 = [int(ip_address(text)) for text, _ in _edges(ALWAYS | PRIVATE_ONLY, 4)]
ANY_V4 = V4 | st.sampled_from(EDGES_V4)
PREFIXES = [ip_network(row[0]) for row in addresses._TABLE if ":" in row[0]]
IN_A_ROW = st.sampled_from(PREFIXES).flatmap(
    lambda network: st.integers(int(network[0]), int(network[-1]))
)
WRAPPED = st.builds(
    lambda form, v4: ALL_FORMS[form](v4),
    st.sampled_from([*ALL_FORMS]),
    ANY_V4,
)
ANY_V6 = (st.integers(0, 2**128 - 1) | IN_A_ROW).map(_v6) | WRAPPED
ANY_ADDRESS = ANY_V4.map(lambda v4: str(IPv4Address(v4))) | ANY_V6
NETWORKS = st.lists(
    st.builds(
        lambda text, cut: ip_network(f"{text.split('%')[0]}/{cut}", strict=False),
        ANY_ADDRESS,
        st.integers(0, 32),
    ),
    max_size=3,
).map(tuple)
POLICIES = st.builds(AddressPolicy, st.booleans(), st.booleans(), NETWORKS, NETWORKS)
REASONS = {
    value for name, value in vars(addresses).items() if name.isupper() and isinstance(value, str)
}


class TestProperties:
    @given(ANY_ADDRESS)
    def test_agrees_with_the_second_opinion(self, text: str) -> None:
        assert kind_of(text) == second_opinion(text)

    @given(st.sampled_from([*ALL_FORMS]), ANY_V4, POLICIES, st.booleans())
    @example("compatible", 0, OPEN, True)
    def test_wrapping_never_opens_what_was_refused(
        self, form: str, v4: int, policy: AddressPolicy, secure: bool
    ) -> None:
        if v4 == 1 and form == "compatible":
            return  # ::1 is loopback, not 0.0.0.1
        if v4 >> 24 == 0 and form == "nat64 local /96":
            return  # read as padding
        plain = policy.refusal(str(IPv4Address(v4)), secure=secure)
        wrapped = ALL_FORMS[form](v4)
        # An outer network may itself be listed: only the list's verdict can turn.
        if plain not in (None, NOT_ALLOWED):
            assert policy.refusal(wrapped, secure=secure) is not None

    @given(POLICIES, ANY_ADDRESS, st.booleans())
    def test_options_never_open_the_always_refused(
        self, policy: AddressPolicy, text: str, secure: bool
    ) -> None:
        if second_opinion(text) == "always":
            assert policy.refusal(text, secure=secure) == CLOSED.refusal(text, secure=True)

    @given(POLICIES, ANY_ADDRESS, st.booleans())
    def test_a_reason_is_a_constant_without_the_address(
        self, policy: AddressPolicy, text: str, secure: bool
    ) -> None:
        reason = policy.refusal(text, secure=secure)
        assert reason is None or (reason in REASONS and text not in reason)

    @given(ANY_ADDRESS)
    def test_spelling_of_the_same_address_makes_no_difference(self, text: str) -> None:
        exploded = ip_address(text).exploded.upper()
        assert OPEN.refusal(exploded, secure=True) == OPEN.refusal(text, secure=True)
        assert CLOSED.refusal(exploded, secure=True) == CLOSED.refusal(text, secure=True)

    @given(st.text() | st.text("0123456789abcdefx.:%[]/ \n\0", max_size=20))
    def test_never_raises(self, text: str) -> None:
        assert CLOSED.refusal(text, secure=True) in {None, *REASONS}
        canonical = literal_address(text)
        assert canonical is None or CLOSED.refusal(canonical, secure=True) != UNPARSABLE

    @given(st.text("0123456789abcdefxX.:\uff11\uff12。 \u00ad", max_size=18) | ANY_ADDRESS)
    def test_literal_is_what_getaddrinfo_takes_without_dns(self, host: str) -> None:
        try:
            answers = socket.getaddrinfo(host, 80, flags=socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            return
        numeric = answers[0][4][0] if host else None
        canonical = literal_address(host)
        if numeric is not None:
            assert canonical is not None
            assert ip_address(canonical) == ip_address(numeric)

    @given(V4, st.sampled_from(["{}", "0x{:x}", "0{:o}"]))
    def test_one_number_spells_a_v4_address(self, v4: int, spelling: str) -> None:
        assert literal_address(spelling.format(v4)) == str(IPv4Address(v4))
