"""The command line. What it needs beyond the library comes with the extra ``cli``."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command ``cubehook``."""
    try:
        from cubehook.cli.commands import cli
    except ModuleNotFoundError as missing:
        sys.exit(f"cubehook: {missing}; the commands need: pip install 'cubehook[cli]'")
    if isinstance(sys.stdout, io.TextIOWrapper):  # what is shown may have any character
        sys.stdout.reconfigure(errors="backslashreplace")
    cli(prog_name="cubehook")
