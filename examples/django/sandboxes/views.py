"""The views. They log, and ``LOGGING`` makes webhooks of it."""

from __future__ import annotations

import logging

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_http_methods, require_POST

logger = logging.getLogger("cube.api")


@require_http_methods(["POST", "DELETE"])
def sandbox(request: HttpRequest, sandbox_id: str) -> JsonResponse:
    """Here a sandbox would be started or stopped."""
    if request.method == "DELETE":
        fields = {"sandbox_id": sandbox_id, "reason": "request"}
        logger.info("%s was deleted", sandbox_id, extra={"event": "sandbox.deleted", **fields})
        return JsonResponse({"sandbox_id": sandbox_id})
    fields = {"sandbox_id": sandbox_id, "template_id": "template-456"}
    logger.info("%s was created", sandbox_id, extra={"event": "sandbox.created", **fields})
    return JsonResponse({"sandbox_id": sandbox_id}, status=201)


@require_POST
def restart(_: HttpRequest, sandbox_id: str) -> JsonResponse:
    """Two events of one request: they arrive in this order."""
    for step in ("paused", "resumed"):
        fields = {"event": f"sandbox.{step}", "sandbox_id": sandbox_id}
        logger.info("%s was %s", sandbox_id, step, extra=fields)
    return JsonResponse({"sandbox_id": sandbox_id})
