"""What a cron job runs: it deletes sandboxes, and its exit status tells whether the events got out.

Use it: python cleanup.py SANDBOX …
"""

from __future__ import annotations

import logging
import signal
import sys

from cubehook import WebhookHandler

logger = logging.getLogger("cube.cleanup")


def main(sandboxes: list[str]) -> int:
    """0: all is delivered. 1: something is not."""
    # No endpoints here: they are in CUBE_API_WEBHOOK_ENDPOINTS. A short program has no later to
    # deliver in, so it gets more time at its end.
    webhooks = WebhookHandler(flush_timeout=30.0)
    logging.basicConfig(level=logging.INFO, handlers=[webhooks, logging.StreamHandler()])
    # Otherwise SIGTERM ends Python at once, and with it what is still to be delivered.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    for sandbox_id in sandboxes:
        for step in ("paused", "deleted"):
            fields = {"sandbox_id": sandbox_id, "reason": "orphaned"}
            logger.info("%s was %s", sandbox_id, step, extra={"event": f"sandbox.{step}", **fields})

    webhooks.flush()
    stats = webhooks.stats()
    logger.info("%d of %d events delivered", stats.delivered, stats.received)
    return 0 if stats.delivered == stats.received else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
