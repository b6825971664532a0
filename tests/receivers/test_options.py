"""The options of the adapters, and what importing them takes."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import pytest
from senders import SECRET

from cubehook import ConfigError
from cubehook.receivers import asgi, django, fastapi, flask, wsgi
from cubehook.receivers._core import Settings

MAKERS = {
    "wsgi": lambda **options: wsgi.receiver(print, **options),
    "asgi": lambda **options: asgi.receiver(print, **options),
    "flask": flask.verified,
    "fastapi": fastapi.verified,
    "django": django.verified,
}
FRAMEWORKS = ("flask", "fastapi", "django")

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no secret": ({"secret": None}, "secret: must be a string or a list of strings, not nothing"),
    "an empty secret": ({"secret": ""}, "secret: must hold strings only, none of them empty"),
    "an empty secret among others": (
        {"secret": [SECRET, ""]},
        "secret: must hold strings only, none of them empty",
    ),
    "an empty list": ({"secret": []}, "secret: is empty"),
    "a mapping": (
        {"secret": {SECRET: SECRET}},
        "secret: must be a string or a list of strings, not a mapping",
    ),
    "an unknown scheme": ({"scheme": "sha1"}, "scheme: must be one of: cube, "),
    "a scheme that is no name": ({"scheme": ["cube"]}, "scheme: must be one of: cube, "),
    "no tolerance": ({"tolerance": 0}, "tolerance: must be greater than 0 and finite"),
    "any tolerance": ({"tolerance": float("nan")}, "tolerance: must be greater than 0 and finite"),
    "no bytes": ({"max_bytes": 0}, "max_bytes: must be at least 1"),
    "a bound that is no number": ({"max_bytes": "1M"}, "max_bytes: must be a whole number"),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_refused_at_once(maker: str, case: str) -> None:
    options, problem = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        MAKERS[maker](**{"secret": SECRET, **options})
    (told,) = caught.value.problems
    assert told.startswith(problem)
    assert SECRET not in told


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(secret="", scheme="sha1", tolerance=-1, max_bytes=-1)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        *("secret", "scheme", "tolerance", "max_bytes")
    ]


def test_settings_do_not_show_the_secret() -> None:
    assert SECRET not in repr(Settings(secret=SECRET))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_framework_that_is_not_there_is_what_python_says_it_is(
    framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever of it is loaded already must not be found either.
    for name in list(sys.modules):
        if name.split(".")[0] == framework:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, framework, None)
    monkeypatch.delitem(sys.modules, f"cubehook.receivers.{framework}")
    with pytest.raises(ModuleNotFoundError, match=framework):
        importlib.import_module(f"cubehook.receivers.{framework}")


def test_only_their_own_adapters_load_the_frameworks() -> None:
    code = f"""
import sys, cubehook.receivers.asgi, cubehook.receivers.wsgi
loaded = {{name.split(".")[0] for name in sys.modules}}
assert not loaded & {{"asgiref", "starlette", *{FRAMEWORKS}}}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
