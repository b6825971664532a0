"""``cubehook verify``: is a request that was captured genuine, and if not, why not."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from cubehook import signing
from cubehook.cli import keys, moments, problems, tables
from cubehook.cli.captured import SCHEMES, Captured, Verdict

NONE = "none"

_MOST_BYTES = 16 * 1_048_576
_SENT = ">"
"""What ``curl -v`` puts before the lines that it sent."""


@dataclass(frozen=True, slots=True)
class Clock:
    """What a signed time is compared to. now: None: the time of day. tolerance: None: nothing.

    signed: whether the scheme signs a time.
    """

    now: float | None
    tolerance: float | None
    signed: bool = True


def _tolerance(_: click.Context, __: click.Parameter, value: str) -> float | None:
    if value == NONE:
        return None
    try:
        return moments.seconds_of(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}, or {NONE}") from None


def _now(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return float(value) if value.isdecimal() else moments.moment_of(value, time.time())
    except ValueError:
        raise click.BadParameter("must be Unix seconds, or as in 2026-01-31T18:00:00Z") from None


def _pairs(
    _: click.Context, __: click.Parameter, value: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    found = tuple(parsed("\n".join(value)))
    if len(found) != len(value):
        raise click.BadParameter("must be 'Name: value'")
    return found


@click.command()
@keys.option("What the request may be signed with:")
@click.option("--scheme", type=click.Choice(SCHEMES), help="Default: any that has a time.")
@click.option(
    "--headers",
    "source",
    metavar="FILE",
    help="With the headers; - is stdin, and the body must be in a file then.",
)
@click.option(
    "-H",
    "--header",
    "given",
    multiple=True,
    callback=_pairs,
    metavar="'NAME: VALUE'",
    help="A header; may be repeated.",
)
@click.option(
    "--body",
    default="-",
    metavar="FILE",
    help="With the body, byte for byte; default: stdin.",
)
@click.option(
    "--tolerance",
    callback=_tolerance,
    default="300",
    show_default=True,
    metavar="AGE",
    help=f"How far the signed time may be off; '{NONE}': the time is not looked at.",
)
@click.option(
    "--now",
    callback=_now,
    metavar="TIME",
    help="Compare with this time: Unix seconds, ISO 8601, or so long ago, as in 2h.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(
    secrets: tuple[str, ...],
    scheme: str | None,
    source: str | None,
    given: tuple[tuple[str, str], ...],
    body: str,
    tolerance: float | None,
    now: float | None,
    as_json: bool,
) -> None:
    """Check a request that was captured: its headers, and its body on stdin.

    Headers are lines 'Name: value', the output of curl -v (its lines that begin with >), or a JSON
    object. What was captured a while ago is no longer fresh: tell when it was (--now), or that the
    time does not count (--tolerance none).

    \b
    With --json it is an object: genuine, reason (or null), fresh (null: not checked), event_id,
    event, signed_at, batch (how many events, or null).

    \b
    Exit status:
      0  genuine, and fresh where that was checked
      1  not genuine, or not fresh
      2  the options, the headers or the body cannot be used
    """
    if not secrets:
        raise click.UsageError("give at least one --secret")
    if source is None and not given:
        raise click.UsageError("give --headers, or -H for each of them")
    if source == body == "-":
        raise click.UsageError("--headers and the body cannot both be stdin")
    pairs = [*(parsed(_text(source)) if source else ()), *given]
    if not pairs:
        problems.fail("the headers hold no line 'Name: value', nor a JSON object", problems.USAGE)
    captured = Captured.of(pairs, _read(body))
    clock = Clock(now, tolerance, scheme is None or signing.find(scheme).dated)
    verdict = judged(captured, keys.read(secrets), scheme, clock)
    if as_json:
        tables.print_json(_json(captured, verdict, clock))
    else:
        _print(captured, verdict, clock)
    sys.exit(0 if verdict.genuine else problems.NOTHING)


def parsed(text: str) -> Iterator[tuple[str, str]]:
    """Names and values of headers: of lines, of what curl -v shows, or of a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        yield from _of_lines(text.splitlines())
        return
    for name, each in value.items() if isinstance(value, dict) else ():
        for one in each if isinstance(each, list) else [each]:
            yield str(name), str(one)


def judged(captured: Captured, secrets: tuple[str, ...], scheme: str | None, by: Clock) -> Verdict:
    """Whether it is genuine and, by that clock, fresh."""
    if by.tolerance is None:
        return captured.verdict(secrets, scheme, math.inf)
    if by.now is None:
        return captured.verdict(secrets, scheme, by.tolerance)
    verdict = captured.verdict(secrets, scheme, math.inf)
    if not verdict.genuine:
        return verdict
    if not by.signed or captured.timestamp is None:
        return Verdict(False, "there is no signed time to compare --now with")
    if abs(by.now - captured.timestamp) > by.tolerance:
        return Verdict(False, "timestamp is too old or in the future")
    return verdict


def _of_lines(lines: list[str]) -> Iterator[tuple[str, str]]:
    sent = [line[1:] for line in lines if line.startswith(_SENT)]
    for line in sent or lines:
        name, colon, value = line.strip().partition(":")
        # Not the request line, nor what a tool says beside the headers.
        if colon and name and not any(char.isspace() for char in name):
            yield name, value


def _text(path: str) -> str:
    return _read(path).decode("utf-8-sig", "replace")


def _read(path: str) -> bytes:
    try:
        with click.open_file(path, "rb") as file:
            found: bytes = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        problems.fail(f"a file cannot be read ({type(error).__name__})", problems.USAGE)
    if len(found) > _MOST_BYTES:
        problems.fail(f"a file is over {_MOST_BYTES} bytes", problems.USAGE)
    return found


def _json(captured: Captured, verdict: Verdict, by: Clock) -> dict[str, Any]:
    signed = captured.timestamp if by.signed else None
    return {
        "genuine": verdict.genuine,
        "reason": verdict.reason or None,
        "fresh": True if verdict.genuine and signed and by.tolerance is not None else None,
        "event_id": captured.id,
        "event": captured.event,
        "signed_at": moments.iso(signed) if signed is not None else None,
        "batch": len(captured.events) if captured.events is not None else None,
    }


def _print(captured: Captured, verdict: Verdict, by: Clock) -> None:
    if not verdict.genuine:
        click.echo(f"not ok: {verdict.reason}")
        return
    said = [f"event id {captured.id}"] if captured.id else []
    said += [f"event {captured.event}"] if captured.event else []
    said += [f"batch of {len(captured.events)}"] if captured.events is not None else []
    if by.signed and captured.timestamp is not None:
        said.append(f"signed at {moments.shown(captured.timestamp)}")
    click.echo(tables.visible(f"ok: {', '.join(said) or 'the signature matches'}"))
    if not by.signed:
        click.echo("freshness was not checked: the scheme signs no time", err=True)
    elif by.tolerance is None:
        click.echo("freshness was not checked (--tolerance none)", err=True)
