"""``python -m cubehook``: the same as the command ``cubehook``."""

from cubehook.cli import main

main()
