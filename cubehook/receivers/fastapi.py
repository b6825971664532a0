"""A dependency for FastAPI path operations that receive webhooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from cubehook.receivers._core import (
    MAX_BYTES,
    Incoming,
    ReceivedEvent,
    RequestError,
    SecretSource,
    Settings,
)


def verified(
    *,
    secret: SecretSource,
    scheme: str | None = None,
    tolerance: float = 300,
    max_bytes: int = MAX_BYTES,
) -> Callable[[Request], Awaitable[ReceivedEvent]]:
    """What to give to ``Depends``: its value is the genuine event.

    It reads the body, whose bytes are then in ``event.body`` and not in the request. The options:
    see `cubehook.receivers`.
    """
    settings = Settings(secret=secret, scheme=scheme, tolerance=tolerance, max_bytes=max_bytes)

    async def dependency(request: Request) -> ReceivedEvent:
        try:
            return await _receive(settings, request)
        except RequestError as refusal:
            raise HTTPException(refusal.status, refusal.phrase, refusal.headers) from None
        except ClientDisconnect:
            raise HTTPException(400) from None  # nobody is left to read it

    return dependency


async def _receive(settings: Settings, request: Request) -> ReceivedEvent:
    incoming = Incoming(settings, request.method, request.headers.items())
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            incoming.add(piece)
    return incoming.event()
