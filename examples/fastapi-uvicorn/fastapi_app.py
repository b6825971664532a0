"""A small sandbox API in FastAPI; uvicorn configures logging and spawns the workers."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

logger = logging.getLogger("cube.api")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    # uvicorn ends itself with the signal that stopped it, and then no exit hook of Python runs.
    logging.shutdown()


app = FastAPI(lifespan=lifespan)


@app.post("/sandboxes/{sandbox_id}", status_code=201)
async def create(sandbox_id: str) -> dict[str, str]:
    """Here a sandbox would be started. A log call never waits, so it may stand in a coroutine."""
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
    return {"sandbox_id": sandbox_id}


@app.post("/sandboxes/{sandbox_id}/restart")
async def restart(sandbox_id: str) -> dict[str, str]:
    """Two events of one request: they arrive in this order."""
    fields = {"sandbox_id": sandbox_id, "worker": os.getpid()}
    logger.info("%s was paused", sandbox_id, extra={"event": "sandbox.paused", **fields})
    logger.info("%s was resumed", sandbox_id, extra={"event": "sandbox.resumed", **fields})
    return {"sandbox_id": sandbox_id}


@app.delete("/sandboxes/{sandbox_id}")
async def delete(sandbox_id: str) -> dict[str, str]:
    fields = {"sandbox_id": sandbox_id, "worker": os.getpid()}
    logger.info("%s was deleted", sandbox_id, extra={"event": "sandbox.deleted", **fields})
    return {"sandbox_id": sandbox_id}
