"""An application that logs what happens to its sandboxes; logging.yaml makes webhooks of it."""

from __future__ import annotations

import logging
import logging.config
from pathlib import Path

import yaml

logger = logging.getLogger("cube.api")

LIFE = ("created", "paused", "resumed", "deleted")


def main() -> None:
    """Two sandboxes live and die."""
    config = Path(__file__).with_name("logging.yaml").read_text(encoding="utf-8")
    logging.config.dictConfig(yaml.safe_load(config))
    for step in LIFE:
        for sandbox in ("sandbox-1", "sandbox-2"):
            logger.info(
                "%s was %s",
                sandbox,
                step,
                extra={
                    "event": f"sandbox.{step}",
                    "sandbox_id": sandbox,
                    "template_id": "template-456",
                    "api_key": "never sent: the name says that it is a secret",
                },
            )
    # No flush, no close: when the program ends, what was logged is still delivered.


if __name__ == "__main__":
    main()
