"""``manage.py expire_sandboxes ID …``: what a cron job would run."""

from __future__ import annotations

import logging
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

logger = logging.getLogger("cube.jobs")


class Command(BaseCommand):
    """Pauses and deletes sandboxes whose time is over."""

    help = "Delete sandboxes whose time is over."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("sandbox_ids", nargs="+", metavar="ID")

    def handle(self, *_: Any, sandbox_ids: list[str], **options: Any) -> None:
        for sandbox_id in sandbox_ids:
            for step in ("paused", "deleted"):
                fields = {"sandbox_id": sandbox_id, "reason": "timeout"}
                logger.info(
                    "%s was %s", sandbox_id, step, extra={"event": f"sandbox.{step}", **fields}
                )
        # No flush, no close: when the command ends, what was logged is still delivered.
