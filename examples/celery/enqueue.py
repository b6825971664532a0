"""Puts a task into the queue for each sandbox named on the command line."""

from __future__ import annotations

import sys

from celery_app import live

if __name__ == "__main__":
    for sandbox_id in sys.argv[1:]:
        live.delay(sandbox_id)
