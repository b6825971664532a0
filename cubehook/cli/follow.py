"""``cubehook follow``: a `LogFollower` for the command line, with its log and its signals."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import click

from cubehook.cli import attached, logs, problems, signals
from cubehook.sources._checkpoint import Checkpoint
from cubehook.sources.follow import POLL_SECONDS, LogFollower


@dataclass(frozen=True)
class Options:
    """What the command was told."""

    pattern: str
    config: str
    checkpoint: Path
    at_end: bool
    once: bool
    poll: float


@click.command()
@click.argument("pattern")
@click.option(
    "--config",
    required=True,
    metavar="FILE",
    help="A configuration of logging: .yaml, .json, .ini.",
)
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Where it is kept how far was read.",
)
@click.option(
    "--state-dir",
    metavar="FOLDER",
    help="Instead: the folder for a checkpoint that is named after PATTERN. Default: "
    "$STATE_DIRECTORY, else $XDG_STATE_HOME/cubehook, else ~/.local/state/cubehook.",
)
@click.option(
    "--from",
    "start",
    type=click.Choice(["start", "end"]),
    default="end",
    show_default=True,
    help="Without a checkpoint: deliver what the files hold already, or only what comes.",
)
@click.option("--once", is_flag=True, help="Deliver what is there now, and exit.")
@click.option(
    "--poll",
    type=click.FloatRange(0.01, 3600.0),
    default=POLL_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How often it is looked for more.",
)
def follow(
    pattern: str,
    config: str,
    checkpoint: str | None,
    state_dir: str | None,
    start: str,
    once: bool,
    poll: float,
) -> None:
    """Deliver the events in CubeAPI's log, as it is written, until SIGTERM or SIGINT.

    PATTERN is the path of the log, or a pattern for the paths of all its files. Put it in quotes:
    not the shell shall expand it, once, but the command, all the time. The handlers of class
    cubehook.WebhookHandler in the logging configuration (--config) deliver. A second signal ends
    the command at once.

    \b
    Exit status:
      0  stopped by a signal; with --once: all that was there is delivered, given up or stored
      1  with --once: a file could not be read, or a signal came first
      2  the options, the configuration or the checkpoint cannot be used
      3  with --once: an outbox cannot be used
    """
    if checkpoint is not None and state_dir is not None:
        raise click.UsageError("give either --checkpoint or --state-dir")
    with problems.told():
        path = Path(checkpoint) if checkpoint else _default_checkpoint(pattern, state_dir)
        sys.exit(_run(Options(pattern, config, path, start == "end", once, poll)))


def _default_checkpoint(pattern: str, state_dir: str | None) -> Path:
    folder = state_dir or os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if not folder:
        home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        if not os.path.isabs(home):
            problems.fail("there is no home directory: use --checkpoint", problems.USAGE)
        folder = os.path.join(home, "cubehook")
    name = hashlib.sha256(os.fsencode(os.path.abspath(pattern))).hexdigest()[:16]
    return Path(folder, f"follow-{name}.json")


def _run(options: Options) -> int:
    """The exit status."""
    loaded = attached.for_a_source(options.config)
    stopping = threading.Event()
    with (
        logs.to_stderr(),
        signals.first_and_second(stopping.set),
        Checkpoint(options.checkpoint) as checkpoint,
        attached.of_a_source(options.config, loaded) as handlers,
    ):
        follower = LogFollower(
            options.pattern,
            attached.feed(handlers, loaded, stopping, once=options.once),
            checkpoint,
            stopping,
            at_end=options.at_end,
            poll=options.poll,
        )
        if options.once:
            return 0 if follower.drain() else problems.NOTHING
        follower.run()
    return 0
