"""Values of options that are secret, or of any type. No message holds what was given."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

PROMPT = "prompt"
STDIN = "-"
REFERENCES = ("env:", "file:")


def reference(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """``env:NAME`` or ``file:PATH``."""
    if value is not None and not value.startswith(REFERENCES):
        raise click.BadParameter("must be env:NAME or file:PATH: others can read the command line")
    return value


def secret(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """A reference as it is; or what is read from stdin, or typed in."""
    if value == PROMPT:
        return asked()
    if value == STDIN:
        return _stdin()
    if value is not None and not value.startswith(REFERENCES):
        raise click.BadParameter(
            "must be env:NAME, file:PATH, - or prompt: others can read the command line"
        )
    return value


def text(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """A text that may be given, but need not, on the command line."""
    from cubehook.secret import Secret

    if value == STDIN:
        return _stdin()
    if value is None or not value.startswith(REFERENCES):
        return value
    try:
        return Secret.read(value).value
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def pairs(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> dict[str, Any]:
    """``KEY=VALUE``, the value as JSON where it is that, or else as text."""
    found: dict[str, Any] = {}
    for each in value:
        key, equals, given = each.partition("=")
        if not equals or not key:
            raise click.BadParameter("must be KEY=VALUE")
        if key in ("name", "url", "secret"):
            raise click.BadParameter(f"{key} has an option, or an argument, of its own")
        try:
            found[key] = json.loads(given)
        except (ValueError, RecursionError):
            found[key] = given
    return found


def asked() -> str:
    """A new secret, typed in twice and not shown."""
    return str(click.prompt("Secret", hide_input=True, confirmation_prompt=True, err=True))


def _stdin() -> str:
    found = sys.stdin.read().rstrip("\r\n")
    if not found:
        raise click.BadParameter("stdin is empty")
    return found
