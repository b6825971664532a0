"""A small sandbox API in Flask: gunicorn loads it once and forks it into workers."""

from __future__ import annotations

import logging
import logging.config
import os
from pathlib import Path

import yaml
from flask import Flask
from flask.typing import ResponseReturnValue

# Before Flask makes a logger of its own, and, with preload_app, before gunicorn forks.
logging.config.dictConfig(yaml.safe_load(Path(__file__).with_name("logging.yaml").read_text()))

logger = logging.getLogger("cube.api")
app = Flask(__name__)


@app.post("/sandboxes/<sandbox_id>")
def create(sandbox_id: str) -> ResponseReturnValue:
    """Here a sandbox would be started."""
    logger.info(
        "%s was created",
        sandbox_id,
        extra={
            "event": "sandbox.created",
            "sandbox_id": sandbox_id,
            "template_id": "template-456",
            "worker": os.getpid(),
        },
    )
    return {"sandbox_id": sandbox_id}, 201


@app.post("/sandboxes/<sandbox_id>/restart")
def restart(sandbox_id: str) -> ResponseReturnValue:
    """Two events of one request: they arrive in this order."""
    fields = {"sandbox_id": sandbox_id, "worker": os.getpid()}
    logger.info("%s was paused", sandbox_id, extra={"event": "sandbox.paused", **fields})
    logger.info("%s was resumed", sandbox_id, extra={"event": "sandbox.resumed", **fields})
    return {"sandbox_id": sandbox_id}


@app.delete("/sandboxes/<sandbox_id>")
def delete(sandbox_id: str) -> ResponseReturnValue:
    fields = {"sandbox_id": sandbox_id, "worker": os.getpid()}
    logger.info("%s was deleted", sandbox_id, extra={"event": "sandbox.deleted", **fields})
    return {"sandbox_id": sandbox_id}
