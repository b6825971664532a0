"""Django's command line."""

from __future__ import annotations

import os
import signal
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_settings")
    # Otherwise SIGTERM ends Python at once, and with it what is still to be delivered.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    execute_from_command_line(sys.argv)
