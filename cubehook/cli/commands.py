"""The commands, each a few lines that call the module which does the work."""

from __future__ import annotations

import sys

import click

from cubehook._version import __version__
from cubehook.cli.check import check
from cubehook.cli.completion import completion
from cubehook.cli.consume import consume
from cubehook.cli.deliveries import deliveries
from cubehook.cli.demo import run_demo
from cubehook.cli.endpoints import endpoints
from cubehook.cli.follow import follow
from cubehook.cli.listen import listen
from cubehook.cli.send import send
from cubehook.cli.verify import verify
from cubehook.cli.worker import worker


@click.group()
@click.version_option(__version__, prog_name="cubehook")
def cli() -> None:
    """Webhooks from log records."""


@cli.command()
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait for deliveries.")
def demo(timeout: float) -> None:
    """Log events of two sandboxes and watch them arrive.

    Starts the example receiver on a free port of 127.0.0.1, loads the quickstart's logging.yaml,
    and logs created, paused, resumed and deleted for two sandboxes. The exit status is 0 only if
    every event arrived exactly once, in order for each sandbox, with a valid signature.
    """
    sys.exit(0 if run_demo(timeout) else 1)


cli.add_command(worker)
cli.add_command(follow)
cli.add_command(consume)
cli.add_command(deliveries)
cli.add_command(endpoints)
cli.add_command(check)
cli.add_command(send)
cli.add_command(listen)
cli.add_command(verify)
cli.add_command(completion)
