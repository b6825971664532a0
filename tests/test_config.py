"""From what an operator wrote to endpoints and settings: or every mistake, in one error."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import logging.config
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubehook import ConfigError, Endpoint
from cubehook.config import (
    ENDPOINTS_VARIABLE,
    SETTING_CHECKS,
    Config,
    Settings,
    load,
    load_endpoints,
)
from cubehook.endpoint import CHECKS, DELIVERY_CHECKS

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

URL = "https://a.example/hook"
GOOD = {"url": URL}
PLANTED = "pl4nted-V4lue"

SECONDS_KEYS = ["timeout", "connect_timeout", "backoff_initial", "backoff_max", "flush_timeout"]
WHOLE_KEYS = {
    "queue_capacity": (1, 10_000_000),
    "max_concurrency": (1, 1024),
    "max_payload_bytes": (1, 1_048_576),
    "max_retries": (0, 1000),
}


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENDPOINTS_VARIABLE, raising=False)


def attempt(
    endpoints: object = None, options: dict[Any, Any] | None = None
) -> tuple[Config | None, ConfigError | None]:
    try:
        return load(endpoints, options), None
    except ConfigError as error:
        return None, error


def problems(endpoints: object = (), **options: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(endpoints, options)
    return caught.value.problems


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


class TestSettings:
    def test_defaults_are_those_of_the_contract(self) -> None:
        assert load([]) == Config(Settings(), ())
        assert dataclasses.asdict(Settings()) == {
            "queue_capacity": 1024,
            "max_concurrency": 32,
            "max_payload_bytes": 262_144,
            "timeout": 10.0,
            "connect_timeout": 5.0,
            "max_retries": 10,
            "backoff_initial": 1.0,
            "backoff_max": 3600.0,
            "flush_timeout": 5.0,
            "transport": "requests",
            "outbox": None,
            "durable": "async",
            "deliver": True,
            "redact": (),
            "keep": (),
            "allow_private_urls": False,
            "allow_insecure_http": False,
            "allowed_networks": (),
            "denied_networks": (),
        }

    def test_keys_are_the_fields(self) -> None:
        assert set(SETTING_CHECKS) == {field.name for field in dataclasses.fields(Settings)}
        assert set(DELIVERY_CHECKS) <= set(SETTING_CHECKS) & set(CHECKS)

    def test_are_taken(self, tmp_path: Path) -> None:
        given_settings: dict[str, Any] = {
            "queue_capacity": 1,
            "max_concurrency": 2,
            "max_payload_bytes": 1_048_576,
            "timeout": 3,
            "connect_timeout": 4.5,
            "max_retries": 0,
            "backoff_initial": 6,
            "backoff_max": 6,
            "flush_timeout": 8,
            "transport": "curl",
            "outbox": f"sqlite:///{tmp_path}/outbox.db",
            "durable": "sync",
            "deliver": False,
            "redact": ["customer_email"],
            "keep": ["token_value"],
            "allow_private_urls": True,
            "allow_insecure_http": True,
            "allowed_networks": ["10.1.0.0/16"],
            "denied_networks": ["10.1.2.3"],
        }
        assert dataclasses.asdict(load([], given_settings).settings) == given_settings | {
            "redact": ("customer_email",),
            "keep": ("token_value",),
            "allowed_networks": (ipaddress.ip_network("10.1.0.0/16"),),
            "denied_networks": (ipaddress.ip_network("10.1.2.3/32"),),
        }

    @pytest.mark.parametrize("key", SECONDS_KEYS)
    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            (0, "must be greater than 0 and finite"),
            (-1.5, "must be greater than 0 and finite"),
            (math.nan, "must be greater than 0 and finite"),
            (math.inf, "must be greater than 0 and finite"),
            (31_622_401, "must be at most 31622400 seconds"),
            (True, "must be a number of seconds, not true or false"),
            ("10", "must be a number of seconds, not a string"),
            (None, "must be a number of seconds, not nothing"),
            ([1], "must be a number of seconds, not a list"),
            ({}, "must be a number of seconds, not a mapping"),
        ],
        ids=str,
    )
    def test_no_seconds(self, key: str, value: object, problem: str) -> None:
        assert problems(**{key: value}) == (f"{key}: {problem}",)

    @pytest.mark.parametrize("key", WHOLE_KEYS)
    def test_whole_numbers(self, key: str) -> None:
        least, most = WHOLE_KEYS[key]
        for value in (least, most):
            assert getattr(load([], {key: value}).settings, key) == value
        for value in (least - 1, -1, -(10**400)):
            assert problems(**{key: value}) == (f"{key}: must be at least {least}",)
        for value in (most + 1, 10**400):
            assert problems(**{key: value}) == (f"{key}: must be at most {most}",)

    @pytest.mark.parametrize("key", WHOLE_KEYS)
    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (True, "true or false"),
            (1.0, "a number"),
            (math.inf, "a number"),
            ("1024", "a string"),
            (None, "nothing"),
            ([1], "a list"),
            ({}, "a mapping"),
            (b"1", "bytes"),
        ],
        ids=str,
    )
    def test_no_whole_numbers(self, key: str, value: object, kind: str) -> None:
        assert problems(**{key: value}) == (f"{key}: must be a whole number, not {kind}",)

    @pytest.mark.parametrize("key", ["redact", "keep"])
    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            ("customer_email", "must be a list of strings, not a string"),
            (None, "must be a list of strings, not nothing"),
            (5, "must be a list of strings, not a whole number"),
            ({"a": 1}, "must be a list of strings, not a mapping"),
            (b"ab", "must be a list of strings, not bytes"),
            ([5], "must hold strings only, none of them empty"),
            (["a", None], "must hold strings only, none of them empty"),
            (["a", ""], "must hold strings only, none of them empty"),
            ([["a"]], "must hold strings only, none of them empty"),
        ],
        ids=str,
    )
    def test_no_names(self, key: str, value: object, problem: str) -> None:
        assert problems(**{key: value}) == (f"{key}: {problem}",)

    @pytest.mark.parametrize(
        ("options", "fine"),
        [
            ({"backoff_initial": 5, "backoff_max": 5}, True),
            ({"backoff_initial": 5.001, "backoff_max": 5}, False),
            ({"backoff_initial": 3601}, False),
            ({"backoff_initial": 3600}, True),
            ({"backoff_max": 0.5}, False),
        ],
    )
    def test_backoff_initial_is_not_above_backoff_max(
        self, options: dict[str, Any], fine: bool
    ) -> None:
        if fine:
            assert load([], options).settings.backoff_max >= options["backoff_initial"]
        else:
            assert problems(**options) == ("backoff_initial: must not be greater than backoff_max",)

    def test_a_wrong_backoff_is_not_compared(self) -> None:
        assert problems(backoff_initial=5000, backoff_max="x") == (
            "backoff_max: must be a number of seconds, not a string",
        )


class TestOutbox:
    def test_from_the_environment_or_a_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"sqlite:///{tmp_path}/outbox.db"
        monkeypatch.setenv("OUTBOX_URL", url)
        (tmp_path / "url").write_text(f"{url}\n")
        for reference in (url, "env:OUTBOX_URL", f"file:{tmp_path}/url"):
            assert load([], {"outbox": reference}).settings.outbox == url
        assert list(tmp_path.iterdir()) == [tmp_path / "url"]  # nothing is made yet

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            (1, "must be a string, not a whole number"),
            ("", "must not be empty"),
            ("env:UNSET_OUTBOX_URL", "names an environment variable that is not set"),
            ("nonsense", "is not a database URL"),
            ("oracle://a/b", "its URL must begin with one of: "),
            ("sqlite://", "needs the path of a file"),
            ("sqlite:////no/such/directory/x.db", "the directory of the SQLite file does not"),
            (f"sqlite:///{__file__}", "the file is no SQLite database; it was left as it is"),
            (f"sqlite:///{Path(__file__).parent}", "is that of a directory"),
        ],
    )
    def test_what_it_cannot_be(self, value: Any, problem: str) -> None:
        (found,) = problems(outbox=value)
        assert found.startswith("outbox: ")
        assert problem in found

    def test_a_file_of_something_else_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "outbox.db"
        damaged = b"SQLite format 3\0" + b"\xff" * 5000
        path.write_bytes(damaged)
        (found,) = problems(outbox=f"sqlite:///{path}")
        assert found == "outbox: the file is no SQLite database; it was left as it is"
        assert path.read_bytes() == damaged
        assert list(tmp_path.iterdir()) == [path]

    def test_without_sqlalchemy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        assert problems(outbox="sqlite:///x.db") == (
            "outbox: needs: pip install 'cubehook[outbox]'",
        )

    @pytest.mark.parametrize(("key", "value"), [("durable", "sync"), ("deliver", False)])
    def test_keys_that_need_one(self, key: str, value: Any) -> None:
        assert problems(**{key: value}) == (f"{key}: needs an outbox",)

    def test_one_that_is_wrong_is_one_problem(self) -> None:
        assert len(problems(outbox="nonsense", durable="sync", deliver=False)) == 1

    @pytest.mark.parametrize(("key", "value"), [("durable", "often"), ("deliver", "yes")])
    def test_values_that_are_wrong(self, tmp_path: Path, key: str, value: Any) -> None:
        (found,) = problems(outbox=f"sqlite:///{tmp_path}/x.db", **{key: value})
        assert found.startswith(f"{key}: must be ")

    def test_batches_and_an_outbox_are_refused(self, tmp_path: Path) -> None:
        given = {
            "name": "ops",
            "url": "https://a.example/",
            "secret": "test-secret",
            "batch": {"max_events": 2},
        }
        url = f"sqlite:///{tmp_path}/x.db"
        problem = "endpoint 'ops': batch: cannot be used with an outbox"
        assert problems([given], outbox=url) == (problem,)
        settings_ = load([], {"outbox": url}).settings
        with pytest.raises(ConfigError) as caught:
            load_endpoints([given], settings_)
        assert caught.value.problems == (problem,)

    @pytest.mark.parametrize(
        "url",
        [
            f"postgresql://user:{PLANTED}@db.example/app",
            f"nonsense://user:{PLANTED}@db.example/app",
            f"postgresql://user:{PLANTED}@db.example/app?nonsense={PLANTED}",
            f"mysql://user:{PLANTED}@db.example:port/app",
            f"sqlite:////no/{PLANTED}/x.db",
        ],
    )
    def test_the_url_is_told_nowhere(self, url: str) -> None:
        loaded, error = attempt([], {"outbox": url})
        assert PLANTED not in printed(error) + repr(loaded)
        assert "db.example" not in printed(error) + repr(loaded)


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("key", "near"),
        [
            ("queue_capcity", "queue_capacity"),
            ("queuecapacity", "queue_capacity"),
            ("flush_timout", "flush_timeout"),
            ("max_payload", "max_payload_bytes"),
            ("max_retry", "max_retries"),
            ("redacted", "redact"),
            ("Timeout", "timeout"),
            ("endpoint", "endpoints"),
            ("end_points", "endpoints"),
        ],
    )
    def test_of_the_handler(self, key: str, near: str) -> None:
        assert problems(**{key: PLANTED}) == (f"unknown key {key!r} (did you mean {near!r}?)",)

    @pytest.mark.parametrize(
        ("key", "near"),
        [
            ("uri", "url"),
            ("event", "events"),
            ("secrets", "secret"),
            ("schema", "scheme"),
            ("header", "headers"),
            ("allow_private_url", "allow_private_urls"),
            ("max_retry", "max_retries"),
            ("order", "ordered"),
            ("backoff_intial", "backoff_initial"),
            ("connection_timeout", "connect_timeout"),
        ],
    )
    def test_of_an_endpoint(self, key: str, near: str) -> None:
        assert problems([GOOD | {key: PLANTED}]) == (
            f"endpoints[0]: unknown key {key!r} (did you mean {near!r}?)",
        )

    def test_without_a_near_one(self) -> None:
        assert problems([GOOD | {"qqqqq": 1}], zzzzz=1) == (
            "unknown key 'zzzzz'",
            "endpoints[0]: unknown key 'qqqqq'",
        )

    @pytest.mark.parametrize("key", ["x" * 41, "two words", "https://a.example/", "a-b", "a\n", ""])
    def test_that_may_be_a_value_is_not_shown(self, key: str) -> None:
        assert problems([GOOD | {key: 1}], **{key: 1}) == (
            "unknown key",
            "endpoints[0]: unknown key",
        )

    def test_that_may_be_a_value_still_has_its_nearest(self) -> None:
        assert problems([GOOD | {"time-out": 1}]) == (
            "endpoints[0]: unknown key (did you mean 'timeout'?)",
        )

    @pytest.mark.parametrize(
        ("key", "kind"), [(5, "a whole number"), (None, "nothing"), (True, "true or false")]
    )
    def test_that_is_no_string(self, key: object, kind: str) -> None:
        assert problems([GOOD | {key: 1}]) == (f"endpoints[0]: a key must be a string, not {kind}",)


def _converting(*endpoints: dict[str, Any]) -> Any:
    """The endpoints as `logging.config.dictConfig` hands them over."""
    written: dict[str, Any] = {"endpoints": [*endpoints], "elsewhere": URL}
    return logging.config.DictConfigurator(written).config["endpoints"]


class TestEndpoints:
    def test_of_mappings_and_objects(self) -> None:
        loaded = load(
            [
                {"url": URL, "name": "first", "timeout": 1},
                Endpoint(url=URL, name="second", max_retries=2, secret="s"),
                MappingProxyType({"url": URL, "name": "third"}),
                Endpoint(url=URL),
                {"url": URL},
            ],
            {"timeout": 7, "max_retries": 3, "max_concurrency": 4},
        ).endpoints
        assert [one.name for one in loaded] == [
            *("first", "second", "third", "endpoint-3", "endpoint-4")
        ]
        assert [one.timeout for one in loaded] == [1.0, 7.0, 7.0, 7.0, 7.0]
        assert [one.max_retries for one in loaded] == [3, 2, 3, 3, 3]
        assert [one.max_concurrency for one in loaded] == [4] * 5
        assert [len(one.secrets) for one in loaded] == [0, 1, 0, 0, 0]

    def test_get_every_setting_they_leave_to_the_handler(self) -> None:
        (loaded,) = load([GOOD]).endpoints
        defaults = Settings()
        for key in DELIVERY_CHECKS:
            assert getattr(loaded, key) == getattr(defaults, key)

    def test_of_objects_keep_all_that_they_say(self) -> None:
        made = Endpoint(
            url="http://127.0.0.1:8080/x",
            name="ops",
            events=["*"],
            secret=["a", "b"],
            scheme=["cube"],
            format="logging.Formatter",
            enabled=False,
            allow_private_urls=True,
            allow_insecure_http=True,
            ordered=False,
            headers={"X-Env": "prod"},
            timeout=1,
            connect_timeout=2,
            max_retries=0,
            backoff_initial=3,
            backoff_max=4,
            max_concurrency=5,
            transport="curl",
        )
        assert load([made]).endpoints == (made,)

    def test_leave_what_was_given_as_it_was(self) -> None:
        item: dict[str, Any] = {"url": URL, "events": ["a.b"], "headers": {"A": "b"}}
        given_list = [item]
        load(given_list)
        assert given_list == [{"url": URL, "events": ["a.b"], "headers": {"A": "b"}}]
        assert given_list[0] is item

    def test_of_logging_config(self) -> None:
        # Its lists and dicts convert what they hand out, and are no plain ones.
        converting = _converting(
            {"url": URL, "events": ["a.b"], "secret": ["s"], "headers": {"X-Env": "prod"}}
        )
        assert type(converting) is not list
        (loaded,) = load(converting).endpoints
        assert (loaded.events, len(loaded.secrets)) == (("a.b",), 1)
        assert dict(loaded.headers) == {"X-Env": "prod"}

    def test_of_logging_config_may_refer_to_other_places(self) -> None:
        (loaded,) = load(_converting({"url": "cfg://elsewhere", "secret": "s"})).endpoints
        assert loaded.url == URL

    @pytest.mark.parametrize("reference", [f"ext://{PLANTED}.x", f"cfg://{PLANTED}"])
    @pytest.mark.parametrize("place", ["url", "headers"])
    def test_of_logging_config_that_refer_to_nothing(self, place: str, reference: str) -> None:
        value = reference if place == "url" else {"X-Token": reference}
        _, error = attempt(_converting({}, {"url": URL} | {place: value}))
        assert error is not None
        assert len(error.problems) >= 2
        assert error.problems[-1].startswith("endpoints")
        assert PLANTED not in printed(error)

    @pytest.mark.parametrize("depth", [300, 500, 900, 5_000])
    @pytest.mark.parametrize(
        ("begin", "end"),
        [
            pytest.param("[", "]", id="lists"),
            pytest.param('[{"url":', "}]", id="mappings"),
            pytest.param(f'[{{"url":"{URL}","headers":', "}]", id="headers"),
        ],
    )
    def test_nested_without_end(
        self, monkeypatch: pytest.MonkeyPatch, begin: str, end: str, depth: int
    ) -> None:
        monkeypatch.setenv(ENDPOINTS_VARIABLE, begin * depth + "1" + end * depth)
        assert len(problems(None)) == 1

    @pytest.mark.parametrize("key", ["url", "headers", "secret", "events"])
    def test_that_hold_themselves(self, key: str) -> None:
        # A YAML anchor can do so.
        item: dict[str, Any] = {"url": URL}
        item[key] = [item]
        (problem,) = problems([item])
        assert problem.startswith(f"endpoints[0]: {key}: ")
        item[key] = item
        (problem,) = problems([item])
        assert problem.startswith(f"endpoints[0]: {key}: ")
        endless: list[Any] = []
        endless.append(endless)
        assert problems(endless) == ("endpoints[0]: must be a mapping, not a list",)

    @pytest.mark.parametrize("endpoints", [[], ()])
    def test_none_at_all(self, monkeypatch: pytest.MonkeyPatch, endpoints: object) -> None:
        monkeypatch.setenv(ENDPOINTS_VARIABLE, json.dumps([GOOD]))
        assert load(endpoints).endpoints == ()

    @pytest.mark.parametrize(
        ("endpoints", "kind"),
        [
            (5, "a whole number"),
            (True, "true or false"),
            ({"url": URL}, "a mapping"),
            (b"[]", "bytes"),
            ({URL}, "set"),
            (Endpoint(url=URL), "Endpoint"),
        ],
        ids=["number", "flag", "mapping", "bytes", "set", "Endpoint"],
    )
    def test_of_a_wrong_type(self, endpoints: object, kind: str) -> None:
        assert problems(endpoints) == (f"endpoints: must be a list, not {kind}",)

    @pytest.mark.parametrize("endpoints", ["", URL, json.dumps([GOOD]), "[]", "File:x", "env"])
    def test_of_a_text_that_refers_to_nothing(self, endpoints: str) -> None:
        (problem,) = problems(endpoints)
        assert problem.startswith("endpoints: ")
        assert URL not in problem

    @pytest.mark.parametrize(
        ("item", "kind"),
        [
            (URL, "a string"),
            (None, "nothing"),
            (5, "a whole number"),
            ([GOOD], "a list"),
            (True, "true or false"),
        ],
        ids=str,
    )
    def test_of_wrong_items(self, item: object, kind: str) -> None:
        assert problems([GOOD, item]) == (f"endpoints[1]: must be a mapping, not {kind}",)

    def test_without_a_url(self) -> None:
        assert problems([{}, {"name": "ops"}]) == (
            "endpoints[0]: url: is missing",
            "endpoint 'ops': url: is missing",
        )

    @pytest.mark.parametrize("key", list(CHECKS))
    def test_with_a_null(self, key: str) -> None:
        (problem,) = problems([GOOD | {key: None}])
        assert problem.startswith(f"endpoints[0]: {key}: must be ")
        assert problem.endswith("not nothing")

    def test_with_an_empty_name(self) -> None:
        assert problems([GOOD | {"name": ""}]) == ("endpoints[0]: name: must not be empty",)

    def test_a_problem_names_the_endpoint_or_its_place(self) -> None:
        bad = {"url": URL, "timeout": 0}
        assert problems([bad, bad | {"name": "ops"}, bad | {"name": "a\n"}]) == (
            "endpoints[0]: timeout: must be greater than 0 and finite",
            "endpoint 'ops': timeout: must be greater than 0 and finite",
            "endpoints[2]: timeout: must be greater than 0 and finite",
            "endpoints[2]: name: must be printable and at most 64 characters",
        )

    @pytest.mark.parametrize(
        ("endpoint", "options", "fine"),
        [
            ({"backoff_initial": 2}, {"backoff_max": 1.5}, False),
            ({"backoff_max": 0.5}, {}, False),
            ({"backoff_max": 0.5, "backoff_initial": 0.5}, {}, True),
            ({"backoff_initial": 3600}, {}, True),
            ({"backoff_initial": 3601}, {}, False),
            ({"backoff_initial": 3601, "backoff_max": 3602}, {}, True),
        ],
    )
    def test_backoff_of_endpoint_and_handler_together(
        self, endpoint: dict[str, Any], options: dict[str, Any], fine: bool
    ) -> None:
        for item in (GOOD | endpoint, Endpoint(**(GOOD | endpoint))):
            if fine:
                assert load([item], options)
            else:
                assert problems([item], **options) == (
                    "endpoints[0]: backoff_initial: must not be greater than backoff_max",
                )

    def test_a_wrong_backoff_of_the_handler_hides_nothing_else(self) -> None:
        found = problems([GOOD, {"url": "ftp://a.example/"}], backoff_initial=2, backoff_max=1)
        assert found == (
            "backoff_initial: must not be greater than backoff_max",
            "endpoints[1]: url: must begin with https:// or http://",
        )

    def test_load_endpoints_alone(self) -> None:
        (loaded,) = load_endpoints([GOOD], Settings(timeout=3.0))
        assert (loaded.name, loaded.timeout) == ("endpoint-0", 3.0)
        with pytest.raises(ConfigError):
            load_endpoints([{}], Settings())
        found: list[str] = []
        assert load_endpoints([{}, GOOD], Settings(), found) != ()
        assert found == ["endpoints[0]: url: is missing"]


TEN, TWELVE = ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("12.0.0.0/8")


class TestAddresses:
    """Which addresses may be connected to: the handler's keys are the endpoints' defaults."""

    @pytest.mark.parametrize("key", ["allow_private_urls", "allow_insecure_http"])
    def test_a_flag(self, key: str) -> None:
        for of_handler in (True, False):
            items: list[tuple[Any, bool]] = [
                (GOOD, of_handler),
                (GOOD | {key: True}, True),
                (GOOD | {key: False}, False),
                # An object says all that it is.
                (Endpoint(url=URL), False),
                (Endpoint(**(GOOD | {key: False})), False),
                (Endpoint(**(GOOD | {key: True})), True),
            ]
            for item, expected in items:
                (loaded,) = load([item], {key: of_handler}).endpoints
                assert getattr(loaded, key) is expected

    @pytest.mark.parametrize("kind", [dict, Endpoint])
    def test_allowed_networks(self, kind: Callable[..., Any]) -> None:
        options = {"allowed_networks": ["10.0.0.0/8"]}
        for own, expected in [({}, (TEN,)), ({"allowed_networks": ["12.0.0.0/8"]}, (TWELVE,))]:
            (loaded,) = load([kind(**(GOOD | own))], options).endpoints
            assert loaded.addresses.allowed_networks == expected

    def test_a_mapping_may_take_the_limit_away(self) -> None:
        item = GOOD | {"allowed_networks": []}
        (loaded,) = load([item], {"allowed_networks": ["10.0.0.0/8"]}).endpoints
        assert loaded.addresses.allowed_networks == ()

    @pytest.mark.parametrize("kind", [dict, Endpoint])
    def test_denied_networks_add_up(self, kind: Callable[..., Any]) -> None:
        for own, expected in [
            ({}, (TEN,)),
            ({"denied_networks": []}, (TEN,)),
            ({"denied_networks": ["12.0.0.0/8"]}, (TWELVE, TEN)),
        ]:
            config = load([kind(**(GOOD | own))], {"denied_networks": ["10.0.0.0/8"]})
            assert config.endpoints[0].addresses.denied_networks == expected
            # What an update may be given.
            (again,) = load_endpoints(config.endpoints, config.settings)
            assert set(again.addresses.denied_networks) == set(expected)

    def test_of_logging_config(self) -> None:
        written = {"denied_networks": ["10.0.0.0/8"], "allowed_networks": ("12.0.0.0/8",)}
        (loaded,) = load([GOOD], logging.config.DictConfigurator(written).config).endpoints
        assert loaded.addresses.denied_networks == (TEN,)
        (loaded,) = load(_converting(GOOD | written)).endpoints
        assert loaded.addresses.allowed_networks == (TWELVE,)

    def test_problems_of_the_handler(self) -> None:
        assert problems(
            allow_private_urls="yes",
            allow_insecure_http=None,
            allowed_networks=None,
            denied_networks=["10.0.0.0/8", PLANTED],
        ) == (
            "allow_private_urls: must be true or false, not a string",
            "allow_insecure_http: must be true or false, not nothing",
            "allowed_networks: must be a list of networks, not nothing",
            "denied_networks: item 2 is not an IP network such as 10.1.0.0/16",
        )

    def test_problems_of_an_endpoint_under_its_handler(self) -> None:
        literal = {"name": "ops", "url": "https://12.1.2.3/"}
        for item in (literal, Endpoint(**literal)):  # type: ignore[arg-type]
            assert problems([item], denied_networks=["12.0.0.0/8"]) == (
                "endpoint 'ops': url: denied network",
            )
            assert problems([item], allowed_networks=["10.0.0.0/8"]) == (
                "endpoint 'ops': url: not in allowed networks",
            )
        item = GOOD | {"name": "ops", "denied_networks": ["x"]}
        assert problems([item], denied_networks=["12.0.0.0/8"]) == (
            "endpoint 'ops': denied_networks: item 1 is not an IP network such as 10.1.0.0/16",
        )

    @pytest.mark.parametrize(
        ("key", "near"),
        [
            ("allow_private_url", "allow_private_urls"),
            ("allow_insecure", "allow_insecure_http"),
            ("allow_networks", "allowed_networks"),
            ("deny_networks", "denied_networks"),
        ],
    )
    def test_keys_that_were_meant(self, key: str, near: str) -> None:
        problem = f"unknown key {key!r} (did you mean {near!r}?)"
        assert problems(**{key: True}) == (problem,)
        assert problems([GOOD | {key: True}]) == (f"endpoints[0]: {problem}",)

    @pytest.mark.parametrize(
        ("key", "near"),
        [("proxies", "proxy"), ("ca_bundles", "ca_bundle"), ("client_certs", "client_cert")],
    )
    def test_keys_that_were_meant_for_an_endpoint(self, key: str, near: str) -> None:
        problem = f"endpoints[0]: unknown key {key!r} (did you mean {near!r}?)"
        assert problems([GOOD | {key: "x"}]) == (problem,)

    @pytest.mark.parametrize("key", ["proxy", "ca_bundle", "client_cert", "verify", "cert"])
    def test_keys_that_the_handler_does_not_have(self, key: str) -> None:
        (problem,) = problems(**{key: PLANTED})
        assert problem.startswith(f"unknown key {key!r}")
        assert PLANTED not in problem

    @pytest.mark.parametrize("key", ["verify", "insecure", "check_hostname", "trust_env"])
    def test_no_key_switches_a_check_off(self, key: str) -> None:
        (problem,) = problems([GOOD | {key: False}])
        assert problem.startswith(f"endpoints[0]: unknown key {key!r}")


class TestNames:
    @pytest.mark.parametrize(
        ("endpoints", "expected"),
        [
            pytest.param(
                [GOOD | {"name": "ops"}, GOOD | {"name": "ops"}],
                "endpoint 'ops': name: is given 2 times",
                id="twice",
            ),
            pytest.param(
                [GOOD | {"name": "ops"}] * 3,
                "endpoint 'ops': name: is given 3 times",
                id="three times",
            ),
            pytest.param(
                [GOOD, GOOD | {"name": "endpoint-0"}],
                "endpoint 'endpoint-0': name: is given 2 times",
                id="a default one, given after",
            ),
            pytest.param(
                [GOOD | {"name": "endpoint-1"}, GOOD],
                "endpoint 'endpoint-1': name: is given 2 times",
                id="a default one, given before",
            ),
            pytest.param(
                [GOOD | {"name": "ops"}, Endpoint(url=URL, name="ops")],
                "endpoint 'ops': name: is given 2 times",
                id="mapping and object",
            ),
            pytest.param(
                [Endpoint(url=URL), Endpoint(url=URL, name="endpoint-0")],
                "endpoint 'endpoint-0': name: is given 2 times",
                id="objects, a default one",
            ),
            pytest.param(
                [MappingProxyType(GOOD | {"name": "ops"}), GOOD | {"name": "ops"}],
                "endpoint 'ops': name: is given 2 times",
                id="another mapping",
            ),
            pytest.param(
                [GOOD | {"name": "ops", "enabled": False}, GOOD | {"name": "ops"}],
                "endpoint 'ops': name: is given 2 times",
                id="one of them disabled",
            ),
        ],
    )
    def test_given_more_than_once(self, endpoints: list[Any], expected: str) -> None:
        assert problems(endpoints) == (expected,)

    def test_several(self) -> None:
        names = ["a", "b", "a", "b", "c"]
        assert problems([GOOD | {"name": name} for name in names]) == (
            "endpoint 'a': name: is given 2 times",
            "endpoint 'b': name: is given 2 times",
        )

    def test_of_endpoints_with_other_mistakes(self) -> None:
        assert problems([{"name": "ops"}, {"name": "ops", "url": 5}]) == (
            "endpoint 'ops': url: is missing",
            "endpoint 'ops': url: must be a string, not a whole number",
            "endpoint 'ops': name: is given 2 times",
        )

    def test_that_cannot_be_shown(self) -> None:
        found = problems([GOOD | {"name": PLANTED * 9}] * 2)
        assert found[-1] == "endpoints: name: is given 2 times"
        assert PLANTED not in "".join(found)

    def test_defaults_differ(self) -> None:
        names = [one.name for one in load([GOOD] * 3).endpoints]
        assert names == ["endpoint-0", "endpoint-1", "endpoint-2"]

    def test_in_another_case_are_others(self) -> None:
        assert len(load([GOOD | {"name": "ops"}, GOOD | {"name": "OPS"}]).endpoints) == 2


JSON = json.dumps([{"url": URL, "name": "ops", "timeout": 3}])


class TestElsewhere:
    def check(self, loaded: Config) -> None:
        (one,) = loaded.endpoints
        assert (one.url, one.name, one.timeout) == (URL, "ops", 3.0)

    def test_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUBE_API_WEBHOOK_ENDPOINTS", JSON)
        self.check(load())

    def test_variable_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPS_ENDPOINTS", JSON)
        self.check(load("env:OPS_ENDPOINTS"))

    def test_file(self, tmp_path: Path) -> None:
        (tmp_path / "endpoints.json").write_text(JSON + "\n")
        self.check(load(f"file:{tmp_path / 'endpoints.json'}"))

    def test_variable_that_is_not_set(self) -> None:
        assert load().endpoints == ()
        assert problems("env:OPS_UNSET_VARIABLE") == (
            "endpoints: names an environment variable that is not set",
        )

    @pytest.mark.parametrize("text", ["", " ", "\n", "[]", " [ ] \n"])
    def test_empty(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
        monkeypatch.setenv(ENDPOINTS_VARIABLE, text)
        (tmp_path / "endpoints.json").write_text(text)
        assert load().endpoints == ()
        assert load(f"env:{ENDPOINTS_VARIABLE}").endpoints == ()
        assert load(f"file:{tmp_path / 'endpoints.json'}").endpoints == ()

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("no json", "is not JSON (line 1, column 1)"),
            ('[{"url":\n "x",]', "is not JSON (line 2, column 6)"),
            ("[{'url': 1}]", "is not JSON (line 1, column 3)"),
            ("[] []", "is not JSON (line 1, column 4)"),
            ("[", "is not JSON (line 1, column 2)"),
            ("- url: x", "is not JSON (line 1, column 1)"),
            (URL, "is not JSON (line 1, column 1)"),
            ("\ufeff[]", "is not JSON (line 1, column 1)"),
            ('{"url": "x"}', "must be a JSON array, not a mapping"),
            ('"x"', "must be a JSON array, not a string"),
            ("5", "must be a JSON array, not a whole number"),
            ("null", "must be a JSON array, not nothing"),
            ("true", "must be a JSON array, not true or false"),
            ("[" * 100_000, "is not JSON that can be read"),
            ("[" + "9" * 5_000 + "]", "is not JSON that can be read"),
        ],
        ids=range(15),
    )
    def test_wrong(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, problem: str
    ) -> None:
        monkeypatch.setenv("OPS_ENDPOINTS", text)
        monkeypatch.setenv(ENDPOINTS_VARIABLE, text)
        (tmp_path / "endpoints.json").write_text(text, encoding="utf-8")
        assert problems(None) == (f"CUBE_API_WEBHOOK_ENDPOINTS: {problem}",)
        assert problems("env:OPS_ENDPOINTS") == (f"endpoints: {problem}",)
        assert problems(f"file:{tmp_path / 'endpoints.json'}") == (f"endpoints: {problem}",)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ('[{"url": "ftp://x/"}]', "endpoints[0]: url: must begin with https:// or http://"),
            ("[5]", "endpoints[0]: must be a mapping, not a whole number"),
            ('[{"url": null}]', "endpoints[0]: url: must be a string, not nothing"),
            (
                f'[{{"url": "{URL}", "timeout": NaN}}]',
                "endpoints[0]: timeout: must be greater than 0 and finite",
            ),
            (
                f'[{{"url": "{URL}", "timeout": 1e999}}]',
                "endpoints[0]: timeout: must be greater than 0 and finite",
            ),
        ],
        ids=range(5),
    )
    def test_right_json_of_wrong_endpoints(
        self, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
    ) -> None:
        monkeypatch.setenv(ENDPOINTS_VARIABLE, text)
        assert problems(None) == (problem,)

    @pytest.mark.parametrize("key", ["timeout", "connect_timeout", "backoff_max"])
    def test_a_number_of_400_digits(self, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
        digits = "9" * 400
        monkeypatch.setenv(ENDPOINTS_VARIABLE, f'[{{"url": "{URL}", "{key}": {digits}}}]')
        (problem,) = problems(None)
        assert problem.startswith(f"endpoints[0]: {key}: must be ")
        (problem,) = problems(**{key: 10**400})
        assert problem.startswith(f"{key}: must be ")

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("missing", "FileNotFoundError"),
            ("", "IsADirectoryError"),
            ("latin-1", "UnicodeDecodeError"),
            ("\0", "ValueError"),
        ],
        ids=["missing", "directory", "latin-1", "NUL"],
    )
    def test_file_that_cannot_be_read(self, tmp_path: Path, name: str, why: str) -> None:
        (tmp_path / "latin-1").write_bytes(b'["\xe9"]')
        assert problems(f"file:{tmp_path}/{name}") == (
            f"endpoints: names a file that cannot be read ({why})",
        )

    def test_file_without_permission(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise PermissionError(13, "Permission denied", PLANTED)

        monkeypatch.setattr("cubehook.config.open", refuse, raising=False)
        _, error = attempt(f"file:/{PLANTED}")
        assert error is not None
        assert error.problems == ("endpoints: names a file that cannot be read (PermissionError)",)
        assert PLANTED not in printed(error)

    @pytest.mark.parametrize("name", ["\ud8a5", "a\0b", "", "a=b"])
    def test_variable_whose_name_is_none(self, name: str) -> None:
        assert problems(f"env:{name}") == (
            "endpoints: names an environment variable that is not set",
        )


class TestAllAtOnce:
    def test_every_mistake_of_the_issue(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("OPS_UNSET_VARIABLE", raising=False)
        found = problems(
            [
                GOOD | {"name": "key", "secrets": "x"},
                GOOD | {"name": "type", "timeout": "10", "enabled": 1, "events": "a.b"},
                GOOD | {"name": "empty", "secret": ""},
                GOOD | {"name": "env", "secret": "env:OPS_UNSET_VARIABLE"},
                GOOD | {"name": "file", "secret": f"file:{tmp_path}"},
                {"name": "url", "url": "ftp://a.example/"},
                {"name": "userinfo", "url": "https://user:pw@a.example/"},
                {"name": "http", "url": "http://a.example/"},
                {"name": "literal", "url": "https://[::ffff:169.254.169.254]/"},
                GOOD | {"name": "star", "events": ["*", "a.b"]},
                GOOD | {"name": "limits", "timeout": 0, "max_retries": -1, "max_concurrency": 0},
                GOOD | {"name": "backoff", "backoff_initial": 9, "backoff_max": 8},
                GOOD | {"name": "headers", "headers": {"X-Env": "a\r\nb"}},
                GOOD | {"name": "twice"},
                GOOD | {"name": "twice"},
                {"events": ["a.b"]},
                "not a mapping",
            ],
            queue_capcity=5,
            timeout=True,
            max_payload_bytes=0,
            flush_timeout=-1,
        )
        assert found == (
            "unknown key 'queue_capcity' (did you mean 'queue_capacity'?)",
            "timeout: must be a number of seconds, not true or false",
            "max_payload_bytes: must be at least 1",
            "flush_timeout: must be greater than 0 and finite",
            "endpoint 'key': unknown key 'secrets' (did you mean 'secret'?)",
            "endpoint 'type': timeout: must be a number of seconds, not a string",
            "endpoint 'type': enabled: must be true or false, not a whole number",
            "endpoint 'type': events: must be a list of strings, not a string",
            "endpoint 'empty': secret: is empty",
            "endpoint 'env': secret: names an environment variable that is not set",
            "endpoint 'file': secret: names a file that cannot be read (IsADirectoryError)",
            "endpoint 'url': url: must begin with https:// or http://",
            "endpoint 'userinfo': url: must not hold a user name or password",
            "endpoint 'http': url: plain http needs allow_private_urls or allow_insecure_http",
            "endpoint 'literal': url: link-local address",
            "endpoint 'star': events: '*' takes every event and cannot stand beside other names",
            "endpoint 'limits': timeout: must be greater than 0 and finite",
            "endpoint 'limits': max_retries: must be at least 0",
            "endpoint 'limits': max_concurrency: must be at least 1",
            "endpoint 'backoff': backoff_initial: must not be greater than backoff_max",
            "endpoint 'headers': headers: the value of 'X-Env' must be a string of one line,"
            " in latin-1",
            "endpoints[15]: url: is missing",
            "endpoints[16]: must be a mapping, not a string",
            "endpoint 'twice': name: is given 2 times",
        )

    def test_bad_json_beside_bad_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENDPOINTS_VARIABLE, "{")
        assert problems(None, timeout=0, backoff_initial=9, backoff_max=8) == (
            "timeout: must be greater than 0 and finite",
            "backoff_initial: must not be greater than backoff_max",
            "CUBE_API_WEBHOOK_ENDPOINTS: is not JSON (line 1, column 2)",
        )


# Any of these where a string stands, and none of them may be told of.
TELLING = st.sampled_from(
    [
        PLANTED,
        PLANTED * 50,
        f"{PLANTED}\r\n",
        f"{PLANTED}\ud800",
        f"\0{PLANTED}",
        f"https://{PLANTED}:{PLANTED}@{PLANTED}/",
        f"https://a.example:{PLANTED}/",
        f"https://a.example\\{PLANTED}/",
        f"http://a.example/{PLANTED}?{PLANTED}",
        f"https://10.0.0.1/{PLANTED}?{PLANTED}",
        f"https://a.example/{PLANTED}?{PLANTED}",
        f"https://[{PLANTED}]/",
        f"env:{PLANTED}",
        f"file:{PLANTED}",
        f"file:/{PLANTED}\0",
        f"{PLANTED}.{PLANTED}",
    ]
)
SCALAR = st.one_of(
    TELLING,
    st.none(),
    st.booleans(),
    st.integers(-2, 2000),
    st.just(10**400),
    st.floats(),
    st.just(PLANTED.encode()),
)
VALUE = st.one_of(
    SCALAR,
    st.lists(SCALAR, max_size=3),
    st.dictionaries(st.sampled_from(["X-A", "Host", f"{PLANTED} x", "a"]), SCALAR, max_size=2),
    st.lists(st.lists(SCALAR, max_size=2), max_size=2),
)
# A name, event patterns and names to redact are shown: those here are no secret.
SHOWN = {"name": "ops", "events": ["a.b"], "redact": ["a"], "keep": ["b"]}


def _values(keys: list[str]) -> st.SearchStrategy[dict[Any, Any]]:
    return st.fixed_dictionaries(
        {}, optional={key: st.just(SHOWN[key]) if key in SHOWN else VALUE for key in keys}
    )


ENDPOINT = st.one_of(
    _values([*CHECKS, "secrets", f"{PLANTED} {PLANTED}", f"https://{PLANTED}/", PLANTED * 4]),
    _values([*CHECKS]).map(lambda values: {"url": URL} | values),
    SCALAR,
    st.just(Endpoint(url=f"https://a.example/{PLANTED}", secret=PLANTED)),
)
OPTIONS = _values([*SETTING_CHECKS, "secret", f"{PLANTED} x"])


class TestNothingIsTold:
    @given(
        st.lists(ENDPOINT, max_size=4) | VALUE | st.just([{"url": URL, "name": PLANTED * 9}] * 2),
        OPTIONS,
    )
    @settings(RELAXED, max_examples=60)
    def test_whatever_is_given(self, endpoints: Any, options: dict[Any, Any]) -> None:
        loaded, error = attempt(endpoints, options)
        assert PLANTED not in printed(error)
        assert PLANTED not in repr(loaded)
        if error is not None:
            assert error.problems
            assert error.__cause__ is None
            assert error.__context__ is None

    @given(
        st.lists(ENDPOINT.filter(lambda item: not isinstance(item, Endpoint | bytes)), max_size=3)
    )
    @settings(RELAXED, max_examples=40)
    def test_whatever_the_variable_holds(self, endpoints: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            text = json.dumps(endpoints, default=str)
            patch.setenv(ENDPOINTS_VARIABLE, text)
            loaded, error = attempt()
            assert PLANTED not in printed(error)
            assert PLANTED not in repr(loaded)
            patch.setenv(ENDPOINTS_VARIABLE, text[:-1])
            loaded, error = attempt()
            assert loaded is None
            assert PLANTED not in printed(error)

    @pytest.mark.parametrize(
        "make",
        [
            pytest.param(lambda: load(f"env:{PLANTED}"), id="variable not set"),
            pytest.param(lambda: load(f"file:/{PLANTED}"), id="no file"),
            pytest.param(lambda: load(PLANTED), id="no reference"),
            pytest.param(lambda: load([PLANTED]), id="no mapping"),
            pytest.param(lambda: load([{"url": PLANTED}]), id="no url"),
            pytest.param(lambda: load([], {"timeout": PLANTED}), id="no number"),
            pytest.param(lambda: load([{PLANTED * 4: 1}]), id="no key"),
        ],
    )
    def test_in_an_error(self, make: Callable[[], Any]) -> None:
        with pytest.raises(ConfigError) as caught:
            make()
        assert PLANTED not in printed(caught.value)

    def test_in_a_repr(self) -> None:
        loaded = load(
            [
                {
                    "url": f"https://a.example/{PLANTED}?{PLANTED}",
                    "secret": PLANTED,
                    "headers": {"X-Token": PLANTED},
                    "proxy": f"http://{PLANTED}:{PLANTED}@a.example/",
                }
            ]
        )
        assert PLANTED not in repr(loaded)
        assert "a.example" not in repr(loaded)

    def test_json_with_a_mistake_is_not_quoted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = f'[{{"secret": "{PLANTED}" {PLANTED}'
        monkeypatch.setenv(ENDPOINTS_VARIABLE, text)
        _, error = attempt()
        assert error is not None
        assert PLANTED not in printed(error)
        # JSONDecodeError keeps the whole document.
        assert error.__context__ is None
        assert error.__cause__ is None
