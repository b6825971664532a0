"""One endpoint: what each key takes and refuses, and that nothing of it is shown or changes."""

from __future__ import annotations

import dataclasses
import math
import os
import traceback
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubehook import ConfigError, CubehookError, Endpoint, formats, signing
from cubehook.endpoint import CHECKS
from cubehook.event import LIFECYCLE_EVENTS
from cubehook.secret import Secret

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

URL = "https://a.example/hook"
PLANTED = "pl4nted-V4lue"

SECONDS_KEYS = ["timeout", "connect_timeout", "backoff_initial", "backoff_max"]
FLAG_KEYS = ["enabled", "allow_private_urls", "allow_insecure_http", "ordered"]


def endpoint(**options: Any) -> Endpoint:
    return Endpoint(**({"url": URL} | options))


def problems(**options: Any) -> tuple[str, ...]:
    """What is wrong with an endpoint that has these beside a good URL."""
    with pytest.raises(ConfigError) as caught:
        endpoint(**options)
    return caught.value.problems


def attempt(**options: Any) -> tuple[Endpoint | None, ConfigError | None]:
    try:
        return endpoint(**options), None
    except ConfigError as error:
        return None, error


def printed(error: BaseException | None) -> str:
    """All that could be shown of an error, of its causes and its contexts."""
    seen: list[BaseException] = []
    queue = [error]
    while queue:
        one = queue.pop()
        if one is not None and one not in seen:
            seen.append(one)
            queue += [one.__cause__, one.__context__]
    return "\n".join(
        text
        for one in seen
        for text in (str(one), repr(one), repr(one.args), *traceback.format_exception(one))
    )


class TestDefaults:
    def test_are_those_of_the_contract(self) -> None:
        made = endpoint()
        assert made.events == LIFECYCLE_EVENTS
        assert LIFECYCLE_EVENTS == (
            "sandbox.created",
            "sandbox.deleted",
            "sandbox.paused",
            "sandbox.resumed",
        )
        assert (made.name, made.secrets, made.schemes, made.format) == ("", (), ("cube",), "cube")
        assert (made.enabled, made.ordered) == (True, True)
        assert (made.allow_private_urls, made.allow_insecure_http) == (False, False)
        assert (made.allowed_networks, made.denied_networks) == ((), ())
        assert (made.proxy, made.ca_bundle, made.client_cert) == (None, None, None)
        assert dict(made.headers) == {}
        limits = (*SECONDS_KEYS, "max_retries", "max_concurrency")
        assert [getattr(made, key) for key in limits] == [None] * 6

    def test_keys_are_the_fields(self) -> None:
        assert set(CHECKS) == {field.name for field in dataclasses.fields(Endpoint)}

    def test_only_the_url_has_none(self) -> None:
        with pytest.raises(TypeError):
            Endpoint()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            Endpoint(URL)  # type: ignore[call-arg]

    @pytest.mark.parametrize(
        "key", [key for key in CHECKS if key != "url" and getattr(endpoint(), key) is not None]
    )
    def test_none_is_refused_or_the_default(self, key: str) -> None:
        # Only the limits say None for "the handler's"; a lane cannot work with another one.
        made, error = attempt(**{key: None})
        if made is None:
            assert error is not None
            assert error.problems[0].startswith(f"{key}: ")
        else:
            value, default = getattr(made, key), getattr(endpoint(), key)
            assert (type(value), value) == (type(default), default)


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "host", "port", "target"),
        [
            ("https://a.example", "a.example", None, "/"),
            ("https://a.example/", "a.example", None, "/"),
            ("https://a.example/hook?x=1&y", "a.example", None, "/hook?x=1&y"),
            ("https://a.example?x=1", "a.example", None, "/?x=1"),
            ("HTTPS://A.Example/Hook", "a.example", None, "/Hook"),
            ("https://a.example:8443/", "a.example", 8443, "/"),
            ("https://a.example:65535/", "a.example", 65535, "/"),
            ("https://a.example:1/", "a.example", 1, "/"),
            ("https://a.example:/", "a.example", None, "/"),
            ("https://localhost/", "localhost", None, "/"),
            ("https://8.8.8.8/", "8.8.8.8", None, "/"),
            ("https://[2606:4700:4700::1111]:8443/", "[2606:4700:4700::1111]", 8443, "/"),
            ("https://b\xfccher.example/", "xn--bcher-kva.example", None, "/"),
            ("https://\u6c99\u76d2.example/\u6c99", "xn--xuw01t.example", None, "/%E6%B2%99"),
            ("https://a.example/a@b:c", "a.example", None, "/a@b:c"),
        ],
    )
    def test_good(self, url: str, host: str, port: int | None, target: str) -> None:
        location = endpoint(url=url).location
        assert (location.host, location.port, location.request_uri) == (host, port, target)
        assert endpoint(url=url).secure

    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("", "must not be empty"),
            ("a.example/hook", "must begin with https:// or http://"),
            ("//a.example/hook", "must begin with https:// or http://"),
            ("/hook", "must begin with https:// or http://"),
            ("ftp://a.example/", "must begin with https:// or http://"),
            ("file:///etc/passwd", "must begin with https:// or http://"),
            ("httpss://a.example/", "must begin with https:// or http://"),
            ("ws://a.example/", "must begin with https:// or http://"),
            ("javascript:alert(1)", "must begin with https:// or http://"),
            ("https://", "has no host"),
            ("https:///hook", "has no host"),
            ("https:a.example", "has no host"),
            ("https://:443/", "has no host"),
            ("https://?x=1", "has no host"),
            ("https://user@a.example/", "must not hold a user name or password"),
            ("https://user:pw@a.example/", "must not hold a user name or password"),
            ("https://:pw@a.example/", "must not hold a user name or password"),
            ("https://:@a.example/", "must not hold a user name or password"),
            ("https://@a.example/", "must not hold a user name or password"),
            ("https://a@b@a.example/", "must not hold a user name or password"),
            ("https://a.example%40@b.example/", "must not hold a user name or password"),
            ("https://a.example/#part", "must not hold a fragment (#…)"),
            ("https://a.example/#", "must not hold a fragment (#…)"),
            ("https://a.example:0/", "has port 0"),
            ("https://a.example:000/", "has port 0"),
            ("https://a.example:99999/", "is not a valid URL"),
            ("https://a.example:65536/", "is not a valid URL"),
            ("https://a.example:-1/", "is not a valid URL"),
            ("https://a.example:http/", "is not a valid URL"),
            ("https://a.example:80:80/", "is not a valid URL"),
            ("https://a.example:\uff18\uff10/", "is not a valid URL"),
            ("https://[::1/", "is not a valid URL"),
            ("https://[zz]/", "is not a valid URL"),
            ("https://[::1]x/", "is not a valid URL"),
            ("https://::1/", "is not a valid URL"),
            ("https://a]b/", "is not a valid URL"),
            ("https://a%/", "is not a valid URL"),
            ("https://a%00b/", "is not a valid URL"),
            ("https://\uff11\uff12\uff17.0.0.1/", "is not a valid URL"),
            ("https://a\u3002example/", "is not a valid URL"),
            ("https://a\ud800.example/", "is not a valid URL"),
        ],
    )
    def test_bad(self, url: str, problem: str) -> None:
        assert problems(url=url, allow_private_urls=True, allow_insecure_http=True) == (
            f"url: {problem}",
        )

    @pytest.mark.parametrize(
        "url",
        [
            "https://a.example/a b",
            " https://a.example/",
            "https://a.example/ ",
            "https://a .example/",
            "https://a.example/\t",
            "https://a.example/\n",
            "https://a.example/\r\nX-Evil: 1",
            "https://a.example/\0",
            "https://a.example/\x7f",
            "https://a.example/a\\b",
            "https://a.example\\@evil.example/",
            "https:\\\\a.example/",
        ],
    )
    def test_with_spaces_control_characters_or_backslashes(self, url: str) -> None:
        expected = ("url: must not hold spaces, control characters or backslashes",)
        assert problems(url=url) == expected

    @pytest.mark.parametrize(
        ("url", "kind"),
        [
            (5, "a whole number"),
            (True, "true or false"),
            (1.5, "a number"),
            ([URL], "a list"),
            ({"url": URL}, "a mapping"),
            (URL.encode(), "bytes"),
            (Path("/x"), type(Path("/x")).__name__),
        ],
    )
    def test_of_a_wrong_type(self, url: object, kind: str) -> None:
        assert problems(url=url) == (f"url: must be a string, not {kind}",)

    def test_missing(self) -> None:
        assert problems(url=None)[0].startswith("url: ")


class TestAddress:
    @pytest.mark.parametrize(
        ("options", "fine"),
        [
            ({}, False),
            ({"allow_private_urls": True}, True),
            ({"allow_insecure_http": True}, True),
            ({"allow_private_urls": True, "allow_insecure_http": True}, True),
        ],
    )
    def test_plain_http_needs_an_opt_in(self, options: dict[str, Any], fine: bool) -> None:
        for url in ("http://a.example/", "HTTP://a.example:8080/", "http://localhost/"):
            if fine:
                assert not endpoint(url=url, **options).secure
            else:
                assert problems(url=url, **options) == (
                    "url: plain http needs allow_private_urls or allow_insecure_http",
                )

    @pytest.mark.parametrize(
        ("host", "refusal"),
        [
            ("127.0.0.1", "loopback address"),
            ("127.1", "loopback address"),
            ("127.0.0.1.", "loopback address"),
            ("2130706433", "loopback address"),
            ("0x7f000001", "loopback address"),
            ("0x7f.1", "loopback address"),
            ("0177.0.0.1", "loopback address"),
            ("%31%32%37.0.0.1", "loopback address"),
            ("[::1]", "loopback address"),
            ("[::ffff:127.0.0.1]", "loopback address"),
            ("10.1.2.3", "private address"),
            ("167837955", "private address"),
            ("192.168.1.1", "private address"),
            ("100.64.0.1", "private address"),
            ("[fd12::1]", "private address"),
            ("[fec0::1]", "private address"),
            ("[64:ff9b::a01:203]", "private address"),
            ("192.0.2.1", "reserved address"),
            ("198.18.0.1", "reserved address"),
            ("[2001:db8::1]", "reserved address"),
        ],
    )
    def test_private_literal_needs_an_opt_in(self, host: str, refusal: str) -> None:
        assert problems(url=f"https://{host}/hook") == (f"url: {refusal}",)
        insecure = {"url": f"http://{host}/hook", "allow_insecure_http": True}
        assert problems(**insecure) == (f"url: {refusal}",)
        assert endpoint(url=f"https://{host}/hook", allow_private_urls=True).secure
        assert not endpoint(url=f"http://{host}:8080/hook", allow_private_urls=True).secure

    @pytest.mark.parametrize(
        ("host", "refusal"),
        [
            ("169.254.169.254", "link-local address"),
            ("2852039166", "link-local address"),
            ("[::ffff:169.254.169.254]", "link-local address"),
            ("[::ffff:a9fe:a9fe]", "link-local address"),
            ("[64:ff9b::a9fe:a9fe]", "link-local address"),
            ("[2002:a9fe:a9fe::1]", "link-local address"),
            ("[fe80::1]", "link-local address"),
            ("[fe80::1%25eth0]", "link-local address"),
            ("0.0.0.0", "unspecified address"),
            ("0", "unspecified address"),
            ("[::]", "unspecified address"),
            ("255.255.255.255", "broadcast address"),
            ("224.0.0.1", "multicast address"),
            ("[ff02::1]", "multicast address"),
            ("100.100.100.200", "cloud metadata address"),
            ("[fd00:ec2::254]", "cloud metadata address"),
        ],
    )
    def test_some_literals_are_refused_whatever_is_allowed(self, host: str, refusal: str) -> None:
        for scheme in ("https", "http"):
            for private in (True, False):
                options = {"allow_insecure_http": True, "allow_private_urls": private}
                assert problems(url=f"{scheme}://{host}/", **options) == (f"url: {refusal}",)

    @pytest.mark.parametrize("host", ["8.8.8.8", "134744072", "[2606:4700:4700::1111]"])
    def test_plain_http_to_a_public_literal(self, host: str) -> None:
        assert endpoint(url=f"https://{host}/").secure
        assert problems(url=f"http://{host}/", allow_private_urls=True) == (
            "url: plain http to a public address",
        )
        assert not endpoint(url=f"http://{host}/", allow_insecure_http=True).secure

    @pytest.mark.parametrize("private", [True, False])
    @pytest.mark.parametrize("insecure", [True, False])
    def test_policy_is_what_was_configured(self, private: bool, insecure: bool) -> None:
        policy = endpoint(allow_private_urls=private, allow_insecure_http=insecure).addresses
        assert (policy.allow_private, policy.allow_insecure_http) == (private, insecure)


class TestName:
    @pytest.mark.parametrize("name", ["ops", "a b", "\u6c99\u76d2", "x" * 64, "'quoted'"])
    def test_good(self, name: str) -> None:
        assert endpoint(name=name).name == name

    @pytest.mark.parametrize(
        "name", ["x" * 65, "a\nb", "a\r\n", "\0", "\x1b[31m", "\u202e", "\ud800", "a\tb"]
    )
    def test_bad(self, name: str) -> None:
        # Such a name is not shown before the problem either.
        expected = ("name: must be printable and at most 64 characters",)
        assert problems(name=name) == expected

    @pytest.mark.parametrize("name", [5, True, ["ops"], {"a": 1}, b"ops"])
    def test_of_a_wrong_type(self, name: object) -> None:
        (problem,) = problems(name=name)
        assert problem.startswith("name: must be a string, not ")

    def test_stands_before_every_problem(self) -> None:
        assert problems(name="ops", timeout=0, format="") == (
            "endpoint 'ops': format: must not be empty",
            "endpoint 'ops': timeout: must be greater than 0 and finite",
        )


class TestEvents:
    @pytest.mark.parametrize(
        ("events", "taken", "left"),
        [
            (["sandbox.created"], ["sandbox.created"], ["sandbox.deleted", "sandbox", "created"]),
            (
                ["sandbox.*"],
                ["sandbox.created", "sandbox.timeout.updated"],
                ["sandbox", "sandboxes.x", "Sandbox.created", "a.sandbox.created"],
            ),
            (["sandbox.timeout.*"], ["sandbox.timeout.updated"], ["sandbox.timeout"]),
            (["*"], ["sandbox.created", "x", "api.request"], []),
            (["a.b", "c.*"], ["a.b", "c.d"], ["a.b.c", "a.c", "c"]),
            (LIFECYCLE_EVENTS, LIFECYCLE_EVENTS, ["api.request", "snapshot.created"]),
            (("a",), ["a"], ["a.b", "aa"]),
        ],
    )
    def test_subscription(self, events: Any, taken: list[str], left: list[str]) -> None:
        made = endpoint(events=events)
        assert all(made.subscribes(name) for name in taken)
        assert not any(made.subscribes(name) for name in left)
        assert made.events == tuple(events)

    def test_a_disabled_endpoint_takes_nothing(self) -> None:
        assert not endpoint(events=["*"], enabled=False).subscribes("sandbox.created")

    @pytest.mark.parametrize(
        "pattern",
        [
            *("sandbox*", "*.created", "a.*.b", ".*", "**", "*.*", "a.**", "a..b", ".a", "a."),
            *("a b", "a\n", "caf\xe9", "a/b", "x" * 129, "a.*\n", "sandbox.?"),
        ],
    )
    def test_no_pattern(self, pattern: str) -> None:
        expected = ("events: must hold dotted event names, 'prefix.*' or '*'",)
        assert problems(events=[pattern]) == expected
        assert problems(events=["sandbox.created", pattern]) == expected

    @pytest.mark.parametrize("events", [["*", "a.b"], ["a.*", "*"], ["*", "*"], ["a", "*", "b"]])
    def test_star_beside_names(self, events: list[str]) -> None:
        assert problems(events=events) == (
            "events: '*' takes every event and cannot stand beside other names",
        )

    @pytest.mark.parametrize("events", [[], ()])
    def test_none_at_all(self, events: Any) -> None:
        (problem,) = problems(events=events)
        assert problem.startswith("events: must name at least one event")

    @pytest.mark.parametrize(
        ("events", "kind"),
        [
            ("sandbox.*", "a string"),
            (5, "a whole number"),
            (True, "true or false"),
            ({"a": 1}, "a mapping"),
            ({"a.b"}, "set"),
            (b"a.b", "bytes"),
        ],
    )
    def test_of_a_wrong_type(self, events: object, kind: str) -> None:
        assert problems(events=events) == (f"events: must be a list of strings, not {kind}",)

    @pytest.mark.parametrize("events", [[5], ["a", None], [["a"]], [""], ["a", ""], [b"a"]])
    def test_of_wrong_items(self, events: list[Any]) -> None:
        assert problems(events=events) == ("events: must hold strings only, none of them empty",)


class TestSecret:
    def values(self, secret: Any) -> list[str]:
        return [one.value for one in endpoint(secret=secret).secrets]

    @pytest.mark.parametrize("secret", ["s3cret", "envy", "env", "file", "a:b", " ", "\u6c99"])
    def test_literal(self, secret: str) -> None:
        assert self.values(secret) == [secret]

    def test_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPS_SECRET", "from-env\n")
        assert self.values("env:OPS_SECRET") == ["from-env\n"]

    @pytest.mark.parametrize(
        ("content", "value"),
        [
            (b"s3cret", "s3cret"),
            (b"s3cret\n", "s3cret"),
            (b"s3cret\r\n", "s3cret"),
            (b"s3cret\n\n", "s3cret"),
            (b"  s3cret \n", "  s3cret "),
            (b"two\nlines\n", "two\nlines"),
            ("\u6c99\u76d2\n".encode(), "\u6c99\u76d2"),
            (b"x" * 65_536, "x" * 65_536),
        ],
        ids=range(8),
    )
    def test_file(self, tmp_path: Path, content: bytes, value: str) -> None:
        path = tmp_path / "the secret"
        path.write_bytes(content)
        assert self.values(f"file:{path}") == [value]

    def test_list_in_its_order(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("OPS_SECRET", "second")
        (tmp_path / "secret").write_text("third\n")
        sources = ["first", "env:OPS_SECRET", f"file:{tmp_path / 'secret'}"]
        assert self.values(sources) == ["first", "second", "third"]
        assert self.values(tuple(reversed(sources))) == ["third", "second", "first"]

    def test_one_that_was_read_already(self) -> None:
        made = endpoint(secret=["a", "b"])
        assert endpoint(secret=made.secrets).secrets == made.secrets

    def test_is_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPS_SECRET", "before")
        made = endpoint(secret="env:OPS_SECRET")
        monkeypatch.delenv("OPS_SECRET")
        assert dataclasses.replace(made, name="ops").secrets[0].value == "before"

    @pytest.mark.parametrize("secret", ["", [], [""], ["good", ""], ["", "good"], "env:EMPTY"])
    def test_empty(self, monkeypatch: pytest.MonkeyPatch, secret: Any) -> None:
        monkeypatch.setenv("EMPTY", "")
        assert problems(secret=secret) == ("secret: is empty",)

    @pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"\n\n"])
    def test_empty_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "secret").write_bytes(content)
        assert problems(secret=f"file:{tmp_path / 'secret'}") == ("secret: is empty",)

    @pytest.mark.parametrize("name", ["OPS_UNSET_VARIABLE", "", "a=b", " ", "a\0b"])
    def test_variable_that_is_not_set(self, name: str) -> None:
        expected = ("secret: names an environment variable that is not set",)
        assert problems(secret=f"env:{name}") == expected
        assert problems(secret=["good", f"env:{name}"]) == expected

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("missing", "FileNotFoundError"),
            ("directory", "IsADirectoryError"),
            ("file/below", "NotADirectoryError"),
            ("latin-1", "UnicodeDecodeError"),
            ("\0", "ValueError"),
            ("x" * 5_000, "OSError"),
        ],
        ids=["missing", "directory", "below a file", "latin-1", "NUL", "long"],
    )
    def test_file_that_cannot_be_read(self, tmp_path: Path, name: str, why: str) -> None:
        (tmp_path / "directory").mkdir()
        (tmp_path / "file").touch()
        (tmp_path / "latin-1").write_bytes(b"s\xe9cret")
        expected = (f"secret: names a file that cannot be read ({why})",)
        assert problems(secret=f"file:{tmp_path}/{name}") == expected

    def test_file_without_permission(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text("s3cret")
        path.chmod(0)
        if os.access(path, os.R_OK):  # root reads everything

            def refuse(*args: Any, **kwargs: Any) -> Any:
                raise PermissionError(13, "Permission denied", str(path))

            monkeypatch.setattr("cubehook.secret.open", refuse, raising=False)
        expected = ("secret: names a file that cannot be read (PermissionError)",)
        assert problems(secret=f"file:{path}") == expected

    def test_file_without_a_name(self) -> None:
        (problem,) = problems(secret="file:")
        assert problem.startswith("secret: names a file that cannot be read")

    def test_file_that_is_too_long(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("x" * 65_537)
        expected = ("secret: names a file of over 65536 characters",)
        assert problems(secret=f"file:{tmp_path / 'secret'}") == expected

    @pytest.mark.parametrize(
        ("secret", "kind"),
        [
            (5, "a whole number"),
            (True, "true or false"),
            (1.5, "a number"),
            (b"s3cret", "bytes"),
            ({"env": "X"}, "a mapping"),
            ({"s3cret"}, "set"),
        ],
    )
    def test_of_a_wrong_type(self, secret: object, kind: str) -> None:
        expected = (f"secret: must be a string or a list of strings, not {kind}",)
        assert problems(secret=secret) == expected

    @pytest.mark.parametrize("secret", [[5], ["good", None], [["good"]], [b"good"], [{}]])
    def test_of_wrong_items(self, secret: list[Any]) -> None:
        assert problems(secret=secret) == ("secret: must hold strings only",)

    @pytest.mark.parametrize(
        "secret", [f"{PLANTED}\ud8a5", f"env:{PLANTED}\ud8a5", f"file:/{PLANTED}\ud8a5"]
    )
    def test_with_a_lone_surrogate_tells_nothing_of_itself(self, secret: str) -> None:
        (problem,) = problems(secret=secret)
        assert problem.startswith("secret: ")
        assert "d8a5" not in problem
        assert "position" not in problem


class TestHeaders:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"X-Env": "prod"},
            {"X-Env": ""},
            {"Authorization": "Bearer x"},
            {"User-Agent": "mine"},
            {"Accept": "*/*"},
            {"x_y!#$%&'*+.^`|~9": "tab\there \xe9"},
            MappingProxyType({"X-Env": "prod"}),
        ],
    )
    def test_good(self, headers: Mapping[str, str]) -> None:
        assert dict(endpoint(headers=headers).headers) == dict(headers)

    @pytest.mark.parametrize(
        "name",
        [
            *("", " ", "X Env", "X-Env ", "X-Env:", "X-Env\n", "X\r\nY", "X\0", "caf\xe9", "(x)"),
            *("a/b", '"x"', "\u6c99", "a=b"),
        ],
    )
    def test_no_name(self, name: str) -> None:
        expected = ("headers: holds a name that is not a header name",)
        assert problems(headers={name: "x"}) == expected
        assert problems(headers={"X-Env": "prod", name: "x"}) == expected

    @pytest.mark.parametrize("name", [5, None, True, b"X-Env", ("X",)])
    def test_name_of_a_wrong_type(self, name: object) -> None:
        expected = ("headers: holds a name that is not a header name",)
        assert problems(headers={name: "x"}) == expected

    @pytest.mark.parametrize(
        "value",
        [
            *("a\r\nX-Evil: 1", "a\n", "\r", "a\nb", "\0", "\x7f", "\x1f", "\u6c99", "\u20ac"),
            *(5, None, True, 1.5, b"x", ["x"], {"a": "b"}),
        ],
    )
    def test_no_value(self, value: object) -> None:
        assert problems(headers={"X-Env": value}) == (
            "headers: the value of 'X-Env' must be a string of one line, in latin-1",
        )

    @pytest.mark.parametrize(
        "name",
        [
            *("Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding"),
            *("Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Upgrade"),
            *("Expect", "Proxy-Authorization", "X-Cube-Webhook-Signature", "X-Cube-Webhook-Event"),
            *("X-Cube-Webhook-Delivery", "X-Cube-Webhook-Timestamp", "X-Cube-Webhook-Else"),
            *("webhook-id", "webhook-timestamp", "webhook-signature", "X-Hub-Signature-256"),
            *("X-GitHub-Event", "X-GitHub-Delivery", "e2b-signature", "E2B-Delivery-Id"),
        ],
    )
    def test_cubehooks_own(self, name: str) -> None:
        for spelt in (name, name.lower(), name.upper()):
            expected = (f"headers: {spelt!r} is written by cubehook itself",)
            assert problems(headers={spelt: "x"}) == expected

    @pytest.mark.parametrize(
        ("headers", "kind"),
        [("X-Env: prod", "a string"), ([("X-Env", "prod")], "a list"), (5, "a whole number")],
    )
    def test_of_a_wrong_type(self, headers: object, kind: str) -> None:
        assert problems(headers=headers) == (
            f"headers: must be a mapping of names to values, not {kind}",
        )


class TestSchemeAndFormat:
    @pytest.mark.parametrize("scheme", ["cube", ["cube"], ("cube",)])
    def test_scheme(self, scheme: Any) -> None:
        assert endpoint(scheme=scheme).schemes == ("cube",)

    @pytest.mark.parametrize("scheme", ["", "none", "CUBE", ["cube", "none"], ["none"]])
    def test_no_scheme(self, scheme: Any) -> None:
        (problem,) = problems(scheme=scheme)
        assert problem.startswith("scheme: must be one or more of: cube")

    @pytest.mark.parametrize("scheme", [5, True, {"cube": 1}, b"cube", [], [5], [None], [""]])
    def test_scheme_of_a_wrong_type(self, scheme: Any) -> None:
        (problem,) = problems(scheme=scheme)
        assert problem.startswith("scheme: must ")

    @pytest.mark.parametrize(
        "format_", ["cube", "logging.Formatter", "cubehook.formats.WebhookFormatter"]
    )
    def test_format(self, format_: str) -> None:
        assert endpoint(format=format_).format == format_

    @pytest.mark.parametrize(
        ("format_", "problem"),
        [
            ("none", "unknown format"),
            ("CUBE", "unknown format"),
            ("no.such.Thing", "cannot be imported (ModuleNotFoundError)"),
            ("logging.NoSuchFormatter", "cannot be imported (AttributeError)"),
            (".x.Y", "cannot be imported (TypeError)"),
            ("logging.Handler", "is not a logging.Formatter class"),
            ("logging.getLogger", "is not a logging.Formatter class"),
        ],
    )
    def test_no_format(self, format_: str, problem: str) -> None:
        known = ", ".join(formats.known())
        expected = f"format: {problem}; known are {known}, or a dotted path"
        assert problems(format=format_) == (expected,)

    @pytest.mark.parametrize("format_", [5, True, ["cube"], {"a": 1}, b"cube", ""])
    def test_format_of_a_wrong_type(self, format_: object) -> None:
        (problem,) = problems(format=format_)
        assert problem.startswith("format: must ")


class TestNumbersAndFlags:
    @pytest.mark.parametrize("key", SECONDS_KEYS)
    @pytest.mark.parametrize("value", [0.001, 1, 1.5, 31_622_400])
    def test_seconds(self, key: str, value: float) -> None:
        taken = getattr(endpoint(**{key: value}), key)
        assert taken == value
        assert type(taken) is float

    @pytest.mark.parametrize("key", SECONDS_KEYS)
    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            (0, "must be greater than 0 and finite"),
            (0.0, "must be greater than 0 and finite"),
            (-0.001, "must be greater than 0 and finite"),
            (-1, "must be greater than 0 and finite"),
            (math.nan, "must be greater than 0 and finite"),
            (math.inf, "must be greater than 0 and finite"),
            (-math.inf, "must be greater than 0 and finite"),
            (31_622_401, "must be at most 31622400 seconds"),
            (1e300, "must be at most 31622400 seconds"),
            (True, "must be a number of seconds, not true or false"),
            (False, "must be a number of seconds, not true or false"),
            ("10", "must be a number of seconds, not a string"),
            ("10s", "must be a number of seconds, not a string"),
            ([10], "must be a number of seconds, not a list"),
            ({"s": 10}, "must be a number of seconds, not a mapping"),
            (Decimal(10), "must be a number of seconds, not Decimal"),
            (Fraction(10), "must be a number of seconds, not Fraction"),
            (1j, "must be a number of seconds, not complex"),
        ],
        ids=str,
    )
    def test_no_seconds(self, key: str, value: object, problem: str) -> None:
        assert problems(**{key: value}) == (f"{key}: {problem}",)

    @pytest.mark.parametrize("key", SECONDS_KEYS)
    @pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["huge", "negative"])
    def test_seconds_that_no_float_holds(self, key: str, value: int) -> None:
        (problem,) = problems(**{key: value})
        assert problem.startswith(f"{key}: must be ")

    @pytest.mark.parametrize(
        ("key", "least", "most"), [("max_retries", 0, 1000), ("max_concurrency", 1, 1024)]
    )
    def test_whole_numbers(self, key: str, least: int, most: int) -> None:
        for value in (least, least + 1, most):
            assert getattr(endpoint(**{key: value}), key) == value
        for value in (least - 1, -(10**400)):
            assert problems(**{key: value}) == (f"{key}: must be at least {least}",)
        for value in (most + 1, 10**400):
            assert problems(**{key: value}) == (f"{key}: must be at most {most}",)

    @pytest.mark.parametrize("key", ["max_retries", "max_concurrency"])
    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (True, "true or false"),
            (False, "true or false"),
            (1.0, "a number"),
            (math.nan, "a number"),
            ("1", "a string"),
            ([1], "a list"),
            ({}, "a mapping"),
        ],
        ids=str,
    )
    def test_no_whole_numbers(self, key: str, value: object, kind: str) -> None:
        assert problems(**{key: value}) == (f"{key}: must be a whole number, not {kind}",)

    @pytest.mark.parametrize("key", FLAG_KEYS)
    def test_flags(self, key: str) -> None:
        for value in (True, False):
            assert getattr(endpoint(**{key: value}), key) is value

    @pytest.mark.parametrize("key", FLAG_KEYS)
    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (1, "a whole number"),
            (0, "a whole number"),
            ("true", "a string"),
            ("false", "a string"),
            ("", "a string"),
            (1.0, "a number"),
            ([], "a list"),
        ],
        ids=repr,
    )
    def test_no_flags(self, key: str, value: object, kind: str) -> None:
        assert problems(**{key: value}) == (f"{key}: must be true or false, not {kind}",)

    @pytest.mark.parametrize(
        ("initial", "highest", "fine"),
        [(1, 1, True), (1, 2, True), (2, 1, False), (1.001, 1.0, False), (1, None, True)],
    )
    def test_backoff_initial_is_not_above_backoff_max(
        self, initial: float, highest: float | None, fine: bool
    ) -> None:
        options = {"backoff_initial": initial, "backoff_max": highest}
        if fine:
            assert endpoint(**options).backoff_initial == initial
        else:
            assert problems(**options) == ("backoff_initial: must not be greater than backoff_max",)


class TestAllAtOnce:
    def test_every_problem_in_one_error(self) -> None:
        with pytest.raises(ConfigError) as caught:
            Endpoint(
                url="https://user:pw@a.example/",
                name="ops",
                events=["*", "a.b"],
                secret="",
                scheme="none",
                format="none",
                enabled="yes",  # type: ignore[arg-type]
                headers={"Host": "x"},
                timeout=0,
                max_retries=-1,
                backoff_initial=2,
                backoff_max=1,
            )
        assert caught.value.problems == (
            "endpoint 'ops': url: must not hold a user name or password",
            "endpoint 'ops': events: '*' takes every event and cannot stand beside other names",
            "endpoint 'ops': secret: is empty",
            f"endpoint 'ops': scheme: must be one or more of: {', '.join(signing.known())}",
            "endpoint 'ops': format: unknown format; "
            f"known are {', '.join(formats.known())}, or a dotted path",
            "endpoint 'ops': enabled: must be true or false, not a string",
            "endpoint 'ops': headers: 'Host' is written by cubehook itself",
            "endpoint 'ops': timeout: must be greater than 0 and finite",
            "endpoint 'ops': max_retries: must be at least 0",
            "endpoint 'ops': backoff_initial: must not be greater than backoff_max",
        )
        assert str(caught.value) == "; ".join(caught.value.problems)

    def test_the_error(self) -> None:
        assert issubclass(ConfigError, ValueError)  # logging.config names the handler then
        assert issubclass(ConfigError, CubehookError)
        assert ConfigError("one").problems == ("one",)
        assert ConfigError(iter(["one", "two"])).problems == ("one", "two")
        assert str(ConfigError(["one", "two"])) == "one; two"


class TestImmutable:
    @pytest.mark.parametrize("key", list(CHECKS))
    def test_no_field_can_be_set(self, key: str) -> None:
        made = endpoint()
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, key, getattr(made, key))
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(made, key)

    def test_headers_are_a_copy_that_cannot_change(self) -> None:
        headers = {"X-Env": "prod"}
        made = endpoint(headers=headers)
        headers["X-Env"] = "test"
        assert dict(made.headers) == {"X-Env": "prod"}
        with pytest.raises(TypeError):
            made.headers["X-Env"] = "test"  # type: ignore[index]

    def test_lists_are_copies(self) -> None:
        events, secret, scheme, networks = ["a.b"], ["one"], ["cube"], ["10.0.0.0/8"]
        made = endpoint(events=events, secret=secret, scheme=scheme, denied_networks=networks)
        for given_list in (events, secret, scheme, networks):
            given_list.append("later")
        assert (made.events, len(made.secrets), made.schemes) == (("a.b",), 1, ("cube",))
        assert len(made.denied_networks) == 1

    def test_secret_can_not_be_set(self) -> None:
        secret = Secret("literal", "value")
        with pytest.raises(dataclasses.FrozenInstanceError):
            secret.value = "other"  # type: ignore[misc]

    def test_equal_ones_have_equal_hashes(self) -> None:
        one, other = (endpoint(headers={"A": "b"}, secret="s") for _ in range(2))
        assert one == other
        assert hash(one) == hash(other)
        assert one != endpoint(headers={"A": "c"}, secret="s")

    def test_replace_checks_again(self) -> None:
        made = endpoint(headers={"A": "b"}, secret=["a", "b"], events=["x"], timeout=1)
        assert dataclasses.replace(made) == made
        assert dataclasses.replace(made, timeout=2).timeout == 2.0
        with pytest.raises(ConfigError):
            dataclasses.replace(made, timeout=0)


class TestNothingIsShown:
    def test_repr(self) -> None:
        made = Endpoint(
            url=f"https://a.example/{PLANTED}?token={PLANTED}",
            name="ops",
            secret=[PLANTED, PLANTED + "2"],
            headers={"X-Token": PLANTED},
            proxy=f"http://{PLANTED}:{PLANTED}@a.example:3128",
        )
        for text in (repr(made), str(made), repr([made]), f"{made}", repr(made.secrets)):
            assert PLANTED not in text
            assert "a.example" not in text
        assert repr(made).startswith("Endpoint(name='ops', events=(")
        assert [repr(one) for one in made.secrets] == ["Secret(…)"] * 2
        assert [str(one) for one in made.secrets] == ["Secret(…)"] * 2

    @pytest.mark.parametrize(
        "options",
        [
            {"url": PLANTED},
            {"url": f"https://{PLANTED}:x/"},
            {"url": f"https://{PLANTED}@a.example/"},
            {"url": f"https://u:{PLANTED}@a.example/"},
            {"url": f"https://a.example:99999/{PLANTED}"},
            {"url": f"https://a.example/#{PLANTED}"},
            {"url": f"http://a.example/{PLANTED}?{PLANTED}"},
            {"url": f"https://10.0.0.1/{PLANTED}?{PLANTED}"},
            {"url": f"https://{PLANTED}\ud800/"},
            {"proxy": PLANTED},
            {"proxy": f"http://u:{PLANTED}@a.example/x"},
            {"proxy": f"socks5://u:{PLANTED}@a.example"},
            {"proxy": f"http://u:{PLANTED}@a.example:99999"},
            {"proxy": f"http://u:{PLANTED}\n@a.example"},
            {"proxy": f"env:{PLANTED}"},
            {"proxy": f"file:/{PLANTED}"},
            {"proxy": {"https": PLANTED}},
            {"allowed_networks": [PLANTED]},
            {"denied_networks": PLANTED},
            {"ca_bundle": f"/{PLANTED}"},
            {"ca_bundle": f"{PLANTED}\0"},
            {"client_cert": f"/{PLANTED}"},
            {"client_cert": [PLANTED, PLANTED]},
            {"secret": f"env:{PLANTED}"},
            {"secret": f"file:/{PLANTED}"},
            {"secret": [PLANTED, ""]},
            {"secret": [PLANTED, 5]},
            {"secret": {PLANTED: PLANTED}},
            {"secret": PLANTED.encode()},
            {"secret": f"{PLANTED}\ud800"},
            {"headers": {"X-Token": f"{PLANTED}\n"}},
            {"headers": {"X-Token": [PLANTED]}},
            {"headers": {"Host": PLANTED}},
            {"headers": {f"{PLANTED} x": PLANTED}},
            {"headers": PLANTED},
            {"events": [f"{PLANTED} x"]},
            {"events": PLANTED},
            {"scheme": PLANTED},
            {"format": PLANTED},
            {"format": f"{PLANTED}.{PLANTED}"},
            {"format": f"logging.{PLANTED}"},
            {"timeout": PLANTED},
            {"max_retries": [PLANTED]},
            {"enabled": {PLANTED: PLANTED}},
            {"name": f"{PLANTED}\n", "timeout": 0},
            {"name": PLANTED * 9, "timeout": 0},
            {"name": [PLANTED]},
        ],
        ids="-".join,
    )
    def test_in_an_error(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError) as caught:
            endpoint(**options)
        assert PLANTED not in printed(caught.value)

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                key: st.sampled_from([PLANTED, PLANTED * 9, f"env:{PLANTED}", f"file:{PLANTED}"])
                | st.sampled_from([f"https://{PLANTED}:{PLANTED}@x/", f"http://x/{PLANTED}"])
                | st.lists(st.just(PLANTED) | st.integers(), max_size=3)
                | st.dictionaries(st.just("X-A"), st.just(PLANTED + "\n") | st.none(), max_size=1)
                | st.none()
                | st.booleans()
                | st.integers()
                | st.floats()
                | st.binary().map(lambda raw: PLANTED.encode() + raw)
                for key in CHECKS
                if key != "name"
            },
        )
    )
    @settings(RELAXED, max_examples=60)
    def test_whatever_is_given(self, options: dict[str, Any]) -> None:
        made, error = attempt(**options)
        if error is not None:
            assert PLANTED not in printed(error)
            assert error.problems
        if made is not None:
            assert PLANTED not in repr(dataclasses.replace(made, events=["*"]))
