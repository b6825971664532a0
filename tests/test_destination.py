"""Where requests may go and by which way: each check by itself, and what does not go together."""

from __future__ import annotations

import ipaddress
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cubehook import ConfigError, Endpoint, destination
from cubehook.addresses import AddressPolicy

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

URL = "https://a.example/hook"
HTTP = "http://a.example/hook"
PLANTED = "pl4nted-V4lue"
PROXY = "http://proxy.example:3128"
TEN = ipaddress.ip_network("10.0.0.0/8")
LOCAL = ipaddress.ip_network("127.0.0.0/8")


def problems(**options: Any) -> tuple[str, ...]:
    """What is wrong with an endpoint of these; none of its values is told."""
    with pytest.raises(ConfigError) as caught:
        Endpoint(**({"url": URL} | options))
    error = caught.value
    assert PLANTED not in f"{error!r}{error}{''.join(traceback.format_exception(error))}"
    return error.problems


class TestProxy:
    @pytest.mark.parametrize(
        "url",
        [
            PROXY,
            "http://proxy.example",
            "http://proxy.example/",
            "HTTP://PROXY.example:3128",
            "http://10.0.0.1:3128",
            "http://127.0.0.1:3128",
            "http://[fd12::1]:3128/",
            "http://anna:s3cret@proxy.example:3128",
            "http://anna@proxy.example",
            "http://an%40na:p%2Fw%3A@proxy.example",
            "http://\xe4nna:\u6c99@proxy.example",
            "http://@proxy.example",
        ],
    )
    def test_good(self, url: str) -> None:
        made = Endpoint(url=URL, proxy=url)
        assert made.proxy == url
        assert destination.proxy(made.proxy) == url
        assert Endpoint(url=HTTP, proxy=url, allow_insecure_http=True).proxy == url

    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("", "must not be empty"),
            ("proxy.example:3128", "must begin with http://"),
            ("//proxy.example:3128", "must begin with http://"),
            ("https://proxy.example:3128", "must begin with http://"),
            (f"socks5://{PLANTED}@proxy.example:1080", "must begin with http://"),
            ("http://", "has no host"),
            ("http://:3128", "has no host"),
            (f"http://u:{PLANTED}@", "has no host"),
            (f"http://u:{PLANTED}@:3128", "has no host"),
            (f"http://u:{PLANTED}@proxy.example:0", "has port 0"),
            (f"http://u:{PLANTED}@proxy.example:99999", "is not a valid URL"),
            (f"http://u:{PLANTED}@proxy.example:x", "is not a valid URL"),
            (f"http://u:{PLANTED}@[::1", "is not a valid URL"),
            (f"http://proxy.example/{PLANTED}", "must end after the host and the port"),
            (f"http://proxy.example?{PLANTED}", "must end after the host and the port"),
            ("http://proxy.example/?", "must end after the host and the port"),
            (f"http://proxy.example/#{PLANTED}", "must not hold a fragment (#…)"),
            (f"http://u:{PLANTED}#@proxy.example/", "is not a valid URL"),
            # A slash in a password ends the host: what follows is a path.
            (f"http://u:1/{PLANTED}@proxy.example/", "must end after the host and the port"),
            *(
                (
                    f"http://u:{PLANTED}{odd}@x/",
                    "must not hold spaces, control characters or backslashes",
                )
                for odd in (" ", "\n", "\r\nX-Evil: 1", "\t", "\0", "\\", "\x7f")
            ),
            (f"{PLANTED}\ud800", "is not valid Unicode"),
            ("env:CUBEHOOK_TEST_UNSET", "names an environment variable that is not set"),
            (f"env:{PLANTED}", "names an environment variable that is not set"),
            (f"file:/{PLANTED}", "names a file that cannot be read (FileNotFoundError)"),
            ("env:CUBEHOOK_TEST_EMPTY", "is empty"),
            ("env:CUBEHOOK_TEST_PLANTED", "must begin with http://"),
        ],
    )
    def test_bad(self, url: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUBEHOOK_TEST_EMPTY", "")
        monkeypatch.setenv("CUBEHOOK_TEST_PLANTED", PLANTED)
        assert problems(proxy=url) == (f"proxy: {problem}",)

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (5, "a whole number"),
            (True, "true or false"),
            ([PROXY], "a list"),
            ({"https": PROXY}, "a mapping"),  # as requests takes them
            (PROXY.encode(), "bytes"),
        ],
    )
    def test_of_a_wrong_type(self, value: object, kind: str) -> None:
        assert problems(proxy=value) == (f"proxy: must be a string, not {kind}",)

    def test_from_a_variable_or_a_file(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        url = f"http://anna:{PLANTED}@proxy.example:3128"
        monkeypatch.setenv("CUBEHOOK_TEST_PROXY", url)
        (tmp_path / "proxy").write_text(f"{url}\n")
        for source in ("env:CUBEHOOK_TEST_PROXY", f"file:{tmp_path}/proxy"):
            made = Endpoint(url=URL, proxy=source)
            assert made.proxy == url
            assert PLANTED not in f"{made!r}{made}"
            assert "proxy" not in repr(made)

    def test_none_is_none(self) -> None:
        assert Endpoint(url=URL, proxy=None) == Endpoint(url=URL)
        assert Endpoint(url=URL).proxy is None

    @given(st.text() | st.text().map(lambda text: f"http://{text}@proxy.example:3128"))
    @example("http://u:\ud800@proxy.example")
    @example("http://%:%@proxy.example")
    @settings(RELAXED, max_examples=100)
    def test_whatever_is_given(self, text: str) -> None:
        try:
            taken = destination.proxy(text)
        except ValueError:
            return
        assert destination.proxy(taken) == taken
        Endpoint(url=URL, proxy=taken)


class TestNetworks:
    @pytest.mark.parametrize("key", ["allowed_networks", "denied_networks"])
    @pytest.mark.parametrize(
        ("value", "networks"),
        [
            ([], ()),
            ((), ()),
            (["10.0.0.0/8"], (TEN,)),
            (("10.0.0.0/8", " 127.0.0.0/8 "), (TEN, LOCAL)),
            (["10.1.2.3"], (ipaddress.ip_network("10.1.2.3/32"),)),
            (["fd12::/16"], (ipaddress.ip_network("fd12::/16"),)),
            (["::ffff:10.0.0.0/104"], (TEN,)),
            ([TEN], (TEN,)),
            ([TEN, "127.0.0.0/8"], (TEN, LOCAL)),
        ],
    )
    def test_good(self, key: str, value: Any, networks: tuple[Any, ...]) -> None:
        made = Endpoint(url=URL, **{key: value})
        assert getattr(made, key) == networks
        assert getattr(made.addresses, key) == networks
        assert hash(made) == hash(Endpoint(url=URL, **{key: networks}))

    @pytest.mark.parametrize("key", ["allowed_networks", "denied_networks"])
    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            ("10.0.0.0/8", "must be a list of networks, not a string"),
            (10, "must be a list of networks, not a whole number"),
            ({"10.0.0.0/8": True}, "must be a list of networks, not a mapping"),
            ({"10.0.0.0/8"}, "must be a list of networks, not set"),
            (TEN, "must be a list of networks, not IPv4Network"),
            ([PLANTED], "item 1 is not an IP network such as 10.1.0.0/16"),
            (["10.0.0.0/8", PLANTED], "item 2 is not an IP network such as 10.1.0.0/16"),
            (["10.0.0.1/8"], "item 1 is not an IP network such as 10.1.0.0/16"),
            (["10.0.0.0/33"], "item 1 is not an IP network such as 10.1.0.0/16"),
            (["localhost"], "item 1 is not an IP network such as 10.1.0.0/16"),
            ([""], "item 1 is not an IP network such as 10.1.0.0/16"),
            ([167772160], "item 1 is not an IP network such as 10.1.0.0/16"),
            ([None], "item 1 is not an IP network such as 10.1.0.0/16"),
            ([["10.0.0.0/8"]], "item 1 is not an IP network such as 10.1.0.0/16"),
            (["fe80::1%eth0"], "item 1 is not an IP network such as 10.1.0.0/16"),
        ],
        ids=str,
    )
    def test_bad(self, key: str, value: object, problem: str) -> None:
        assert problems(**{key: value}) == (f"{key}: {problem}",)


class TestFiles:
    """More of them in ``test_tls``."""

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            ("", "must not be empty"),
            (5, "must be a string, not a whole number"),
            (False, "must be a string, not true or false"),
            (True, "must be a string, not true or false"),
            ([PLANTED], "must be a string, not a list"),
            (Path(PLANTED), f"must be a string, not {type(Path()).__name__}"),
            (PLANTED, "names a file that does not hold certificates (FileNotFoundError)"),
            (f"/{PLANTED}\0", "names a file that does not hold certificates (ValueError)"),
            (
                f"{PLANTED}\ud800",
                "names a file that does not hold certificates (UnicodeEncodeError)",
            ),
        ],
        ids=repr,
    )
    def test_ca_bundle(self, value: object, problem: str) -> None:
        assert problems(ca_bundle=value) == (f"ca_bundle: {problem}",)

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            ([], "must be a path, or a list of two: the certificate's and the key's"),
            (
                ["a", "b", PLANTED],
                "must be a path, or a list of two: the certificate's and the key's",
            ),
            ([PLANTED, ""], "must hold strings only, none of them empty"),
            ([PLANTED, None], "must hold strings only, none of them empty"),
            ([PLANTED, 5], "must hold strings only, none of them empty"),
            (5, "must be a list of strings, not a whole number"),
            (True, "must be a list of strings, not true or false"),
            ({"cert": PLANTED}, "must be a list of strings, not a mapping"),
            ("", "names a file that does not hold a certificate and its key (FileNotFoundError)"),
            (
                PLANTED,
                "names a file that does not hold a certificate and its key (FileNotFoundError)",
            ),
            (
                [PLANTED, PLANTED],
                "names a file that does not hold a certificate and its key (FileNotFoundError)",
            ),
        ],
        ids=repr,
    )
    def test_client_cert(self, value: object, problem: str) -> None:
        assert problems(client_cert=value) == (f"client_cert: {problem}",)


class TestTogether:
    @pytest.mark.parametrize(
        ("options", "fine"),
        [
            ({}, False),
            ({"allow_private_urls": True}, True),
            ({"allow_insecure_http": True}, True),
            # Being listed is consent to a private address, and there plain http may go.
            ({"allowed_networks": ["10.0.0.0/8"]}, True),
            ({"allowed_networks": ["8.8.8.0/24", "fd12::/16"]}, True),
            ({"allowed_networks": ["8.8.8.0/24"]}, False),
            ({"allowed_networks": ["169.254.0.0/16"]}, False),
            ({"allowed_networks": ["10.0.0.0/8"], "denied_networks": ["10.0.0.0/7"]}, False),
            ({"denied_networks": ["10.0.0.0/8"]}, False),
            ({"proxy": PROXY}, False),
        ],
    )
    def test_plain_http_needs_a_consent(self, options: dict[str, Any], fine: bool) -> None:
        if fine:
            assert not Endpoint(url=HTTP, **options).secure
        else:
            assert problems(url=HTTP, **options) == (
                "url: plain http needs allow_private_urls or allow_insecure_http",
            )

    @pytest.mark.parametrize("proxy", [None, PROXY])
    @pytest.mark.parametrize(
        ("host", "options", "refusal"),
        [
            ("10.1.2.3", {}, "private address"),
            ("10.1.2.3", {"allow_private_urls": True}, None),
            ("10.1.2.3", {"allowed_networks": ["10.0.0.0/8"]}, None),
            ("10.1.2.3", {"allowed_networks": ["10.1.2.3"]}, None),
            ("10.1.2.3", {"allowed_networks": ["10.1.2.4"]}, "not in allowed networks"),
            (
                "10.1.2.3",
                {"allowed_networks": ["10.1.2.4"], "allow_private_urls": True},
                "not in allowed networks",
            ),
            ("8.8.8.8", {"allowed_networks": ["10.0.0.0/8"]}, "not in allowed networks"),
            ("8.8.8.8", {"allowed_networks": ["8.8.8.0/24"]}, None),
            ("8.8.8.8", {"denied_networks": ["8.8.8.0/24"]}, "denied network"),
            (
                "10.1.2.3",
                {"denied_networks": ["10.0.0.0/8"], "allow_private_urls": True},
                "denied network",
            ),
            (
                "10.1.2.3",
                {"denied_networks": ["10.0.0.0/8"], "allowed_networks": ["10.0.0.0/8"]},
                "denied network",
            ),
            (
                "167838211",
                {"denied_networks": ["10.1.2.3"], "allow_private_urls": True},
                "denied network",
            ),
            (
                "[::ffff:10.1.2.3]",
                {"denied_networks": ["10.1.2.3"], "allow_private_urls": True},
                "denied network",
            ),
            ("169.254.169.254", {"allowed_networks": ["169.254.0.0/16"]}, "link-local address"),
            ("127.0.0.1", {}, "loopback address"),
        ],
    )
    def test_a_literal_is_checked_whatever_the_way(
        self, host: str, options: dict[str, Any], refusal: str | None, proxy: str | None
    ) -> None:
        given_options = {"url": f"https://{host}/", "proxy": proxy, **options}
        if refusal is None:
            assert Endpoint(**given_options).secure
        else:
            assert problems(**given_options) == (f"url: {refusal}",)

    def test_everything_at_once(self) -> None:
        assert problems(
            url=f"http://10.0.0.1/{PLANTED}",
            allow_private_urls="yes",
            allow_insecure_http=1,
            allowed_networks=PLANTED,
            denied_networks=[PLANTED],
            proxy=f"socks5://u:{PLANTED}@proxy.example/",
            ca_bundle=f"/{PLANTED}",
            client_cert=[PLANTED] * 3,
        ) == (
            "allow_private_urls: must be true or false, not a string",
            "allow_insecure_http: must be true or false, not a whole number",
            "allowed_networks: must be a list of networks, not a string",
            "denied_networks: item 1 is not an IP network such as 10.1.0.0/16",
            "proxy: must begin with http://",
            "ca_bundle: names a file that does not hold certificates (FileNotFoundError)",
            "client_cert: must be a path, or a list of two: the certificate's and the key's",
            "url: plain http needs allow_private_urls or allow_insecure_http",
        )


class TestPolicies:
    def test_of_an_endpoint(self) -> None:
        options: dict[str, Any] = {"allowed_networks": ["10.0.0.0/8"], "denied_networks": [LOCAL]}
        for private in (True, False):
            for insecure in (True, False):
                made = Endpoint(
                    url=URL, allow_private_urls=private, allow_insecure_http=insecure, **options
                )
                assert made.addresses == AddressPolicy(private, insecure, (TEN,), (LOCAL,))

    def test_of_its_proxy(self) -> None:
        made = Endpoint(
            url=URL, proxy=PROXY, allowed_networks=["10.0.0.0/8"], denied_networks=[LOCAL]
        )
        # Naming it is consent; what is denied stays denied.
        assert made.addresses == AddressPolicy(True, True, (), (LOCAL,))
        refusal: Callable[..., str | None] = made.addresses.refusal
        assert refusal("192.168.1.1", secure=False) is None
        assert refusal("8.8.8.8", secure=False) is None
        assert refusal("127.0.0.1", secure=False) == "denied network"
        assert refusal("169.254.169.254", secure=False) == "link-local address"
