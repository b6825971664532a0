"""A worker that logs with structlog: it takes sandbox ids from its standard input, a line each."""

from __future__ import annotations

import logging.config
import signal
import sys

import structlog
from structlog.stdlib import ProcessorFormatter

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": ProcessorFormatter,
            "processors": [
                ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        },
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "json"},
        # Without structlog's formatter. No endpoints: they are in CUBE_API_WEBHOOK_ENDPOINTS.
        "webhooks": {"class": "cubehook.WebhookHandler"},
    },
    "loggers": {
        # What the application logs, and what becomes of the deliveries.
        "cube": {"level": "INFO", "handlers": ["webhooks", "console"], "propagate": False},
        "cubehook": {"level": "INFO", "handlers": ["console"], "propagate": False},
    },
}

logger: structlog.stdlib.BoundLogger = structlog.get_logger("cube.worker")


def configure() -> None:
    """The standard library's handlers, and structlog in front of them."""
    logging.config.dictConfig(LOGGING)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            # Last: the record's message stays a dict, and each handler makes its own of it.
            ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def live(sandbox_id: str) -> None:
    """Bind the sandbox once: every event below has it, whatever function logs it."""
    with structlog.contextvars.bound_contextvars(sandbox_id=sandbox_id):
        logger.info("sandbox.created", template_id="template-456")
        use()
        logger.info("sandbox.deleted", reason="request")


def use() -> None:
    logger.info("a snapshot was asked for")  # no event's name: a log line and no more
    logger.warning("sandbox.paused", source="auto_pause")
    logger.info("sandbox.resumed", source="auto_resume")


def main() -> None:
    configure()
    # Otherwise SIGTERM ends Python at once, and with it what is still to be delivered.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    for line in sys.stdin:
        live(line.strip())


if __name__ == "__main__":
    main()
