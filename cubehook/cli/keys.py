"""Secrets as an option: where they are read from, or that they are asked for; never themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import click

from cubehook.cli.typed import PROMPT, REFERENCES
from cubehook.secret import Secret

_Option: TypeAlias = "Callable[[Callable[..., Any]], Callable[..., Any]]"

SOURCES = "env:NAME, file:PATH or prompt; may be repeated."


def option(text: str) -> _Option:
    """``--secret``, which a command gets as ``secrets``: sources, and what was typed in."""
    return click.option(
        "--secret",
        "secrets",
        multiple=True,
        callback=_sources,
        metavar="SOURCE",
        help=f"{text} {SOURCES}",
    )


def read(sources: Sequence[str]) -> tuple[str, ...]:
    """The secrets of these sources. Raises `click.BadParameter`, without any value."""
    try:
        return tuple(Secret.read(source).value for source in sources)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--secret") from None


def _sources(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    if all(one == PROMPT or one.startswith(REFERENCES) for one in given):
        return tuple(_asked() if one == PROMPT else one for one in given)
    raise click.BadParameter(
        "must be env:NAME, file:PATH or prompt: others can read the command line"
    )


def _asked() -> str:
    """One that exists already, so it is typed in once."""
    return str(click.prompt("Secret", hide_input=True, err=True))
