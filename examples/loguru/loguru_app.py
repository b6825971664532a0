"""A worker that logs with loguru: it takes sandbox ids from its standard input, a line each."""

from __future__ import annotations

import signal
import sys

from loguru import logger

from cubehook import WebhookHandler


def configure() -> None:
    """Two sinks beside each other: the handler as it is, and the console."""
    logger.remove()
    # No endpoints here: they are in CUBE_API_WEBHOOK_ENDPOINTS. No enqueue=True: it has a queue.
    logger.add(WebhookHandler(), level="INFO")
    logger.add(sys.stderr, level="INFO")


def live(sandbox_id: str) -> None:
    """Name the sandbox once; every event below has it, whatever function logs it."""
    with logger.contextualize(sandbox_id=sandbox_id):
        logger.bind(event="sandbox.created", template_id="template-456").info("created")
        use()
        logger.info("deleted after {:.1f} s", 1.5, event="sandbox.deleted", reason="request")


def use() -> None:
    logger.info("a snapshot was asked for")  # no event bound: a log line and no more
    logger.bind(event="sandbox.paused", source="auto_pause").warning("paused")
    logger.bind(event="sandbox.resumed", source="auto_resume").success("resumed")


def main() -> None:
    configure()
    # Otherwise SIGTERM ends Python at once, and with it what is still to be delivered.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    for line in sys.stdin:
        live(line.strip())


if __name__ == "__main__":
    main()
