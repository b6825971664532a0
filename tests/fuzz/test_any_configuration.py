"""The configuration under any values: nothing but `ConfigError`, and no value in it."""

from __future__ import annotations

import logging.config
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anything import RELAXED
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cubehook import ConfigError, WebhookHandler
from cubehook.config import ENDPOINTS_VARIABLE, SETTING_CHECKS, Config, load
from cubehook.endpoint import CHECKS

PLANTED = "pl4nted-V4lue"
URL = "https://a.example/hook"
# These are shown by design: a name names its endpoint, a key its place.
NAMES = ["ops", "", "x" * 65, 5, None]


@pytest.fixture(autouse=True, scope="module")
def no_variable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(ENDPOINTS_VARIABLE, raising=False)
        yield


# Texts that nearly are what some key takes, each with a value in it that must not be told.
FORMS = (
    *("{}", "{}" * 40, "{}\n", "\0{}", "{}\ud800", " {}", "env:{}", "file:/{}", "file:{}\0"),
    *("https://{}@a.example/", "https://u:{}@a.example/", "https://a.example:{}/", "https://[{}]/"),
    *("http://a.example/{}", "https://10.0.0.1/{}", "https://a.example/{}#{}", "ftp://{}/{}"),
    *("https://a.example\\{}", "https://a.example/{}?{}", "//{}", "http://127.0.0.1:0/{}", "{}://"),
    *("whsec_{}", "whsk_{}", "{}.{}", "json.{}", "{}.*", "*{}", "10.0.0.0/{}", "{}/8", "1.{}"),
    *("true {}", "1{}", "cube,{}", "[{}]", '{"{}": 1}', "ext:/{}", "'{}'", "${{}}"),
)
texts = st.sampled_from(FORMS).map(lambda form: form.replace("{}", PLANTED))
scalars = (
    texts
    | st.none()
    | st.booleans()
    | st.integers(-2, 2000)
    | st.integers()
    | st.just(5000).map(lambda digits: 10**digits)  # Hypothesis could not print it
    | st.floats()
    | st.dates()
    | st.just(PLANTED.encode())
    | st.sampled_from(["", "*", "cube", "a.b", "sandbox.*", URL, "https://10.0.0.1/", "::1"])
)


def near(key: str) -> st.SearchStrategy[str]:
    """What somebody may have written for the key."""
    slips: tuple[Callable[[str], str], ...] = (
        *(str.upper, str.title, lambda key: key + "s", lambda key: key[:-1]),
        *(lambda key: key.replace("_", "-"), lambda key: key.replace("_", "")),
        *(lambda key: f" {key}", lambda key: key[1:2] + key[:1] + key[2:]),
    )
    return st.sampled_from(slips).map(lambda slip: slip(key))


def mappings(keys: list[str], inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[Any, Any]]:
    """With keys that are right, nearly right, wrong, or a value in the wrong place."""
    right = st.sampled_from(keys)
    key = right | right.flatmap(near) | texts | st.integers(0, 3) | st.none() | st.booleans()
    return st.dictionaries(key, inner, max_size=5).map(without_a_name)


def without_a_name(found: dict[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in found.items() if key != "name"}


values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["X-A", "Host", "a", f"{PLANTED} x"]) | texts, inner)
    ),
    max_leaves=4,
)
endpoints = st.builds(
    lambda found, name, url: found | name | url,
    mappings([*CHECKS], values),
    st.just({}) | st.sampled_from(NAMES).map(lambda name: {"name": name}),
    st.just({}) | st.just({"url": URL}),
)
given_endpoints = st.lists(endpoints | scalars, max_size=3) | values
options = mappings([*SETTING_CHECKS], values)


@given(given_endpoints, options)
@example([{"url": URL, "headers": {f"{PLANTED} x": "a"}}], {})
@example([{"url": URL, f"{PLANTED} x": 1}], {f"{PLANTED} x": 1})
@settings(RELAXED, max_examples=250)
def test_any_configuration_is_used_or_refused_in_silence(
    found: Any, settings: dict[Any, Any]
) -> None:
    config, error = attempt(lambda: load(found, settings))
    if error is None:
        assert isinstance(config, Config)
        assert PLANTED not in repr(config)
        return
    assert isinstance(error, ConfigError)
    assert error.problems
    assert PLANTED not in printed(error)
    assert error.__cause__ is error.__context__ is None


@given(given_endpoints, options)
@settings(RELAXED, max_examples=120)
def test_a_handler_takes_what_load_takes(found: Any, settings: dict[Any, Any]) -> None:
    named = {key: value for key, value in settings.items() if isinstance(key, str)}
    config, refused = attempt(lambda: load(found, named))
    handler, error = attempt(lambda: WebhookHandler(found, **named))
    if handler is not None:
        handler.close()
        assert handler._endpoints == config.endpoints
        assert PLANTED not in repr(handler)
        return
    assert isinstance(error, ConfigError)
    assert isinstance(refused, ConfigError)
    assert set(error.problems) == set(refused.problems)
    assert PLANTED not in printed(error)


@given(given_endpoints, options)
@settings(RELAXED, max_examples=120)
def test_dict_config_says_no_more(found: Any, settings: dict[Any, Any]) -> None:
    # Not a key that is no name of an argument: logging's own refusal quotes those.
    named = {
        key: value for key, value in settings.items() if isinstance(key, str) and key.isidentifier()
    }
    handler = {"class": "cubehook.WebhookHandler", "endpoints": found, **named}
    config = {"version": 1, "disable_existing_loggers": False, "handlers": {"webhooks": handler}}
    _, error = attempt(lambda: logging.config.dictConfig(config))
    if error is not None:
        assert isinstance(error.__cause__, ConfigError)
        assert "webhooks" in str(error)
        assert PLANTED not in printed(error)


def attempt(make: Callable[[], Any]) -> tuple[Any, ValueError | None]:
    try:
        return make(), None
    except ValueError as error:
        return None, error


def printed(error: BaseException) -> str:
    """All that could be shown of an error, of its causes and its contexts."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop()
        if one is not None and one not in seen:
            seen.append(one)
            queue += [one.__cause__, one.__context__]
    return "\n".join(
        text
        for one in seen
        for text in (
            *(str(one), repr(one), repr(one.args), repr(getattr(one, "problems", ""))),
            *traceback.format_exception(one),
        )
    )
