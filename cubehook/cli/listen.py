"""``cubehook listen``: a receiver on this machine that shows what comes, and fails when told to."""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

from cubehook.cli import keys, moments, problems, signals, tables
from cubehook.cli.captured import SCHEMES, Verdict
from cubehook.cli.catcher import RESET, TIMEOUT, Catcher, Caught, Failing, Rules
from cubehook.cli.typed import REFERENCES

_LONGEST_SHOWN = 16_384
"""Characters of a body; the rest is only counted."""


def _failing(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[Failing, ...]:
    found = []
    for each in value:
        kind, _colon, count = each.partition(":")
        status = kind.isascii() and kind.isdecimal() and 200 <= int(kind[:4]) <= 599
        if not (status or kind in (TIMEOUT, RESET)) or not _is_count(count):
            raise click.BadParameter(f"must be STATUS:COUNT, {TIMEOUT}:COUNT or {RESET}:COUNT")
        found.append(Failing(int(kind) if status else kind, int(count)))
    return tuple(found)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


@click.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@keys.option("What requests are signed with:")
@click.option("--scheme", type=click.Choice(SCHEMES), help="Default: any that has a time.")
@click.option(
    "--status", type=click.IntRange(200, 599), default=204, show_default=True, help="The answer."
)
@click.option(
    "--fail",
    "failing",
    multiple=True,
    callback=_failing,
    metavar="KIND:COUNT",
    help="Answer the first COUNT requests with the same id by a status, as in 500:3, not at all "
    "(timeout:2), or by ending the connection (reset:1). May be repeated: one after the other.",
)
@click.option("--retry-after", type=click.IntRange(0), metavar="SECONDS", help="With each --fail.")
@click.option(
    "--delay", type=click.FloatRange(0, 3600), default=0.0, help="Seconds before each answer."
)
@click.option("--count", type=click.IntRange(1), help="End after so many requests.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each, on one line.")
def listen(
    port: int,
    host: str,
    secrets: tuple[str, ...],
    count: int | None,
    as_json: bool,
    **rules: Any,
) -> None:
    """Receive webhooks here, check and show them, until Ctrl-C.

    Prints an endpoint to paste into a configuration first; port 0 takes a free one. Without
    --secret nothing is verified, and that is said of each request. A wrong signature is answered
    with 401. A request whose id came before is marked as a duplicate. What is shown of the head is
    no more than its type, sender, event, id and time.

    \b
    With --json each line is an object. "type": "request": at, event, event_id, batch (how many
    events, or null), genuine (null: not checked), reason, duplicate, answer, headers, bytes, body
    (null if it is not JSON). The last one is "type": "summary": received, unique, duplicates,
    wrong (signatures).

    \b
    Exit status:
      0  ended by a signal, or by --count
      1  as 0, and a signature was wrong
      2  the options cannot be used, or the port is taken
    """
    if rules["scheme"] and not secrets:
        raise click.UsageError("--scheme goes with --secret")
    told = Rules(secrets=keys.read(secrets), **rules)
    news: queue.SimpleQueue[Caught | None] = queue.SimpleQueue()
    try:
        catcher = Catcher(host, port, told, news.put)
    except OSError as error:
        problems.fail(f"cannot listen there ({error.strerror or 'no such host'})", problems.USAGE)
    show: _Lines | _Pages = _Lines() if as_json else _Pages()
    tally = _Tally()
    with signals.first_and_second(lambda: news.put(None)):
        catcher.start()
        try:
            show.begin(_snippet(host, catcher.port, secrets, told.scheme))
            for caught in _until_enough(news, count):
                tally.add(caught)
                show.request(caught)
            show.end(tally)
        finally:
            catcher.stop()
    sys.exit(problems.NOTHING if tally.wrong else 0)


def _until_enough(news: queue.SimpleQueue[Caught | None], count: int | None) -> Iterator[Caught]:
    taken = 0
    while (caught := news.get()) is not None:
        yield caught
        taken += 1
        if taken == count:
            return


@dataclass
class _Tally:
    """What came."""

    received: int = 0
    duplicates: int = 0
    wrong: int = 0

    def add(self, caught: Caught) -> None:
        """One more."""
        self.received += 1
        self.duplicates += _is_duplicate(caught)
        self.wrong += caught.verdict.genuine is False

    def counts(self) -> dict[str, int]:
        """By what they were; unique: different ones whose signature was not wrong."""
        unique = self.received - self.duplicates - self.wrong
        return {
            "received": self.received,
            "unique": unique,
            "duplicates": self.duplicates,
            "wrong": self.wrong,
        }


class _Lines:
    """For programs: a line of JSON for each, on stdout."""

    def begin(self, snippet: str) -> None:
        """Where programs do not read it."""
        click.echo(snippet, err=True)

    def request(self, caught: Caught) -> None:
        """One that came."""
        request = caught.request
        _print_line(
            {
                "type": "request",
                "at": moments.iso(caught.at),
                "event": request.event,
                "event_id": request.id,
                "batch": len(request.events) if request.events is not None else None,
                "genuine": caught.verdict.genuine,
                "reason": caught.verdict.reason or None,
                "duplicate": _is_duplicate(caught),
                "answer": caught.answer,
                "headers": request.shown,
                "bytes": len(request.body),
                "body": request.payload,
            }
        )

    def end(self, tally: _Tally) -> None:
        """What came in all."""
        _print_line({"type": "summary", **tally.counts()})


class _Pages:
    """For people."""

    def __init__(self) -> None:
        self._console: Console = tables.console()

    def begin(self, snippet: str) -> None:
        """The endpoint, to be pasted."""
        self._console.print(Text("Listening; an endpoint for it:\n", "bold"))
        self._console.print(Text(snippet), soft_wrap=True)
        self._console.print(Text("Ctrl-C ends it.\n", "dim"))

    def request(self, caught: Caught) -> None:
        """One that came."""
        request = caught.request
        line = Text.assemble(
            (moments.shown(caught.at), "dim"),
            "  ",
            (tables.visible(request.event or "no event"), "bold"),
            "  ",
            tables.visible(request.id or "no id"),
            "  ",
        )
        if request.events is not None:
            line.append(f"batch of {len(request.events)}  ")
        line.append_text(_verdict(caught.verdict, bool(request.signatures)))
        if _is_duplicate(caught):
            line.append(f"  duplicate ({caught.times} before)", "magenta")
        style = "" if isinstance(caught.answer, int) and caught.answer < 300 else "yellow"
        line.append(f"  → {_ANSWERS.get(caught.answer) or caught.answer}", style)
        self._console.print(line, soft_wrap=True)
        for name, value in request.shown.items():
            self._console.print(Text(f"  {name}: {tables.visible(value)}", "dim"), soft_wrap=True)
        self._console.print(_body(caught), soft_wrap=True)

    def end(self, tally: _Tally) -> None:
        """What came in all."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        counts = tally.counts()
        for heading in counts:
            table.add_column(_HEADINGS.get(heading, heading), justify="right")
        table.add_row(*map(str, counts.values()))
        self._console.print(table)


_ANSWERS: dict[int | str, str] = {TIMEOUT: "no answer", RESET: "connection reset"}
_HEADINGS = {"wrong": "bad signatures"}


def _verdict(verdict: Verdict, signed: bool) -> Text:
    if verdict.genuine is None:
        said = "not verified: no --secret" if signed else "not verified: not signed"
        return Text(said, "yellow")
    if verdict.genuine:
        return Text("signature ok", "green")
    return Text(f"signature WRONG: {verdict.reason}", "bold red")


def _body(caught: Caught) -> Text:
    """Indented; what would steer a terminal is spelled out."""
    payload = caught.request.payload
    if payload is None:
        raw = caught.request.body
        text = f"({len(raw)} bytes that are not JSON)" if raw else "(no body)"
        return Text(f"  {text}\n", "dim")
    written = json.dumps(payload, indent=2, ensure_ascii=False)
    if len(written) > _LONGEST_SHOWN:
        left = len(written) - _LONGEST_SHOWN
        written = f"{written[:_LONGEST_SHOWN]}\n… {left} more characters"
    lines = (f"  {line}" for line in tables.visible(written).split("\n"))
    shown = Text("\n".join(lines) + "\n")
    JSONHighlighter().highlight(shown)
    return shown


def _snippet(host: str, port: int, secrets: tuple[str, ...], scheme: str | None) -> str:
    """An endpoint of a configuration. What was typed in is not in it."""
    name = f"[{host}]" if ":" in host else host
    lines = [
        "endpoints:",
        "  - name: listen",
        f"    url: http://{name}:{port}/",
        '    events: ["*"]',
        "    allow_private_urls: true",
    ]
    named = [one for one in secrets if one.startswith(REFERENCES)]
    if named:
        lines.append(f"    secret: {json.dumps(named)}")
    if secrets and len(named) < len(secrets):
        lines.append("    # and the secret that was typed in")
    if scheme:
        lines.append(f"    scheme: {scheme}")
    return "\n".join([*lines, ""])


def _is_duplicate(caught: Caught) -> bool:
    return caught.times > 0 and caught.request.id is not None


def _print_line(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)  # noqa: T201
