"""A decorator for Flask views that receive webhooks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from flask import Response, current_app, request

from cubehook.receivers._core import (
    MAX_BYTES,
    Incoming,
    ReceivedEvent,
    RequestError,
    SecretSource,
    Settings,
)

P = ParamSpec("P")


def verified(
    *,
    secret: SecretSource,
    scheme: str | None = None,
    tolerance: float = 300,
    max_bytes: int = MAX_BYTES,
) -> Callable[[Callable[Concatenate[ReceivedEvent, P], Any]], Callable[P, Any]]:
    """Call the view with each genuine event as its first argument, before those of the route.

    It stands below ``@app.route`` or ``@app.post``. The options: see `cubehook.receivers`.
    """
    settings = Settings(secret=secret, scheme=scheme, tolerance=tolerance, max_bytes=max_bytes)

    def decorate(view: Callable[Concatenate[ReceivedEvent, P], Any]) -> Callable[P, Any]:
        @functools.wraps(view)
        def answer(*args: P.args, **kwargs: P.kwargs) -> Any:
            try:
                event = _receive(settings)
            except RequestError as refusal:
                return Response(
                    refusal.phrase, refusal.status, refusal.headers, mimetype="text/plain"
                )
            return current_app.ensure_sync(view)(event, *args, **kwargs)

        return answer

    return decorate


def _receive(settings: Settings) -> ReceivedEvent:
    incoming = Incoming(settings, request.method, request.headers)
    if incoming.length is None:
        incoming.fill(request.stream.read)
    else:
        # Not the stream: somebody may have called this before, and then the stream is empty.
        incoming.add(request.get_data())
    return incoming.event()
