"""``cubehook demo``: real log records, a real receiver, real signatures, on loopback."""

from __future__ import annotations

import importlib.util
import logging
import logging.config
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

import cubehook
from cubehook.handler import WebhookHandler
from cubehook.stats import Stats

SANDBOXES = ("sandbox-1", "sandbox-2")
STEPS = ("created", "paused", "resumed", "deleted")

_VARIABLE = "WEBHOOK_SECRET"


@dataclass(frozen=True)
class Logged:
    """What the demo logged, and when (monotonic seconds)."""

    event: str
    sandbox: str
    at: float


class Arrivals:
    """What the receiver accepted, after it had checked signature, freshness and id."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.accepted: list[tuple[dict[str, Any], float]] = []

    def add(self, event: dict[str, Any]) -> None:
        """Called by the receiver."""
        with self._changed:
            self.accepted.append((event, time.monotonic()))
            self._changed.notify_all()

    def wait_for_more(self, seen: int, timeout: float) -> bool:
        """Wait until there are more than ``seen``."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.accepted) > seen, timeout)


def run_demo(timeout: float) -> bool:
    """Run it; True if all is as it should be."""
    console = Console()
    arrivals = Arrivals()
    with _receiver(arrivals) as url:
        handler = _configured(url)
        console.print("A receiver listens on loopback; [bold]logging.yaml[/] points to it.\n")
        logged = list(_log_events())
        with Live(console=console, auto_refresh=False) as live:
            _watch(live, logged, arrivals, timeout)
        logging.shutdown()
        stats = handler.stats()
    console.print()
    console.print(_stats_table(stats))
    problems = list(_problems(logged, arrivals, stats))
    for problem in problems:
        console.print(f"[bold red]✗[/] {problem}")
    if not problems:
        console.print(
            f"[bold green]✓[/] {len(logged)} events, each received exactly once, in order for "
            "each sandbox, with a valid signature."
        )
    return not problems


def examples() -> Path:
    """The folder of the examples: in the installed package, or beside it in a checkout."""
    package = Path(cubehook.__file__).parent
    installed = package / "examples"
    return installed if installed.is_dir() else package.parent / "examples"


@contextmanager
def _receiver(arrivals: Arrivals) -> Iterator[str]:
    """The example receiver on a free port; the block gets its URL."""
    secret = secrets.token_urlsafe(24)
    os.environ[_VARIABLE] = secret  # where logging.yaml has it read from
    server = _load_receiver().make_server(
        "127.0.0.1", 0, secrets=[secret.encode()], on_event=arrivals.add
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/webhook"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _load_receiver() -> ModuleType:
    path = examples() / "webhook-receiver" / "receiver.py"
    spec = importlib.util.spec_from_file_location("cubehook_example_receiver", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _configured(url: str) -> WebhookHandler:
    """Load the quickstart's configuration, with the port that was free."""
    path = examples() / "quickstart" / "logging.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["handlers"]["webhooks"]["endpoints"][0]["url"] = url
    config["loggers"]["cube"]["handlers"] = ["webhooks"]  # the table tells it already
    logging.config.dictConfig(config)
    (handler,) = logging.getLogger("cube").handlers
    assert isinstance(handler, WebhookHandler)
    return handler


def _log_events() -> Iterator[Logged]:
    logger = logging.getLogger("cube.demo")
    for step in STEPS:
        for sandbox in SANDBOXES:
            event = f"sandbox.{step}"
            at = time.monotonic()
            logger.info(
                "%s was %s",
                sandbox,
                step,
                extra={"event": event, "sandbox_id": sandbox, "template_id": "template-456"},
            )
            yield Logged(event, sandbox, at)


def _watch(live: Live, logged: list[Logged], arrivals: Arrivals, timeout: float) -> None:
    """Show each delivery as it arrives, until all have or the time is over."""
    ends = time.monotonic() + timeout
    seen = 0
    while seen < len(logged) and arrivals.wait_for_more(seen, ends - time.monotonic()):
        seen += 1
        live.update(_deliveries_table(logged, arrivals.accepted[:seen]), refresh=True)


def _deliveries_table(logged: list[Logged], accepted: list[tuple[dict[str, Any], float]]) -> Table:
    table = Table(title="Deliveries, as the receiver verified them", title_justify="left")
    for heading in ("#", "event", "sandbox", "delivery id", "signature"):
        table.add_column(heading)
    table.add_column("after", justify="right")
    sent = {(one.event, one.sandbox): one.at for one in logged}
    for number, (event, at) in enumerate(accepted, 1):
        logged_at = sent.get((event["event"], event["sandbox_id"]), at)
        table.add_row(
            str(number),
            event["event"],
            event["sandbox_id"],
            event["id"][:8] + "…",
            "[green]valid[/]",  # the receiver hands on nothing else
            f"{(at - logged_at) * 1000:.1f} ms",
        )
    return table


def _stats_table(stats: Stats) -> Table:
    table = Table(title="handler.stats()", title_justify="left")
    columns = ("received", "delivered", "retried", "dead", "dropped", "pending")
    table.add_column("endpoint")
    for heading in columns:
        table.add_column(heading, justify="right")
    for name, one in stats.endpoints.items():
        counts = (getattr(one, column) for column in columns[:4])
        table.add_row(name, *map(str, counts), str(sum(one.dropped.values())), str(one.pending))
    return table


def _problems(logged: list[Logged], arrivals: Arrivals, stats: Stats) -> Iterator[str]:
    received = [(event["event"], event["sandbox_id"]) for event, _ in arrivals.accepted]
    for sandbox in SANDBOXES:
        expected = [one.event for one in logged if one.sandbox == sandbox]
        arrived = [event for event, of in received if of == sandbox]
        if sorted(arrived) != sorted(expected):
            yield f"{sandbox}: {len(expected)} events logged, {len(arrived)} received"
        elif arrived != expected:
            yield f"{sandbox}: events arrived out of order"
    if stats.delivered != len(logged) or stats.pending:
        yield f"{stats.delivered} of {len(logged)} events counted as delivered"
