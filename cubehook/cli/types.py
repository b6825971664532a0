"""The kinds of values that options take: pass one of these as ``type``."""

from __future__ import annotations

import time

import click

from cubehook.cli import moments


def age(text: str) -> float:
    """A length of time, in seconds."""
    try:
        return moments.seconds_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def moment(text: str) -> float:
    """ISO 8601, or so long ago, in seconds since the epoch."""
    try:
        return moments.moment_of(text, time.time())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
