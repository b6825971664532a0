"""Tasks that log events; each process of Celery's pool sends its own."""

from __future__ import annotations

import logging
import logging.config
import os
from pathlib import Path

import yaml
from celery import Celery
from celery.signals import setup_logging, worker_process_shutdown
from celery.utils.log import get_task_logger

# Folders in the place of a broker, so that the example needs no server.
FOLDER = Path(os.environ.get("BROKER_FOLDER", "broker")).resolve()
QUEUE, CONTROL = FOLDER / "queue", FOLDER / "control"
for _folder in (QUEUE, CONTROL):
    _folder.mkdir(parents=True, exist_ok=True)

app = Celery("sandboxes", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": str(QUEUE),
    "data_folder_out": str(QUEUE),
    "control_folder": str(CONTROL),
}
app.conf.task_ignore_result = True

logger = get_task_logger(__name__)  # a child of celery.task, and so of the root logger


@setup_logging.connect
def configure_logging(**_: object) -> None:
    """Once somebody is connected here, Celery leaves the root logger and stdout as they are."""
    config = Path(__file__).with_name("logging.yaml").read_text(encoding="utf-8")
    logging.config.dictConfig(yaml.safe_load(config))


@worker_process_shutdown.connect
def deliver_what_is_left(**_: object) -> None:
    """A process of the pool ends by ``os._exit``, and no exit hook of Python runs."""
    logging.shutdown()


@app.task
def live(sandbox_id: str) -> None:
    """Here a sandbox would be started, used and stopped."""
    for step in ("created", "paused", "resumed", "deleted"):
        logger.info(
            "%s was %s",
            sandbox_id,
            step,
            extra={
                "event": f"sandbox.{step}",
                "sandbox_id": sandbox_id,
                "template_id": "template-456",
                "worker": os.getpid(),
            },
        )
    print(f"{sandbox_id} has lived")
