"""An ASGI application that receives webhooks, for any ASGI server and with nothing but it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from cubehook.receivers._core import (
    MAX_BYTES,
    Incoming,
    ReceivedEvent,
    RequestError,
    SecretSource,
    Settings,
)

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


def receiver(
    on_event: Callable[[ReceivedEvent], object],
    *,
    secret: SecretSource,
    scheme: str | None = None,
    tolerance: float = 300,
    max_bytes: int = MAX_BYTES,
) -> Application:
    """An application that calls ``on_event`` with each genuine event, and then answers 204.

    ``on_event`` may be async; if it is not, it is called in a thread. What it raises goes to the
    server. The options: see `cubehook.receivers`.
    """
    settings = Settings(secret=secret, scheme=scheme, tolerance=tolerance, max_bytes=max_bytes)

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await _answer(settings, on_event, scope, receive, send)

    return application


class _DisconnectedError(Exception):
    """The sender has gone, in the middle of the body."""


async def _answer(
    settings: Settings,
    on_event: Callable[[ReceivedEvent], object],
    scope: Message,
    receive: Receive,
    send: Send,
) -> None:
    try:
        event = await _receive(settings, scope, receive)
    except _DisconnectedError:
        return  # to send now is an error with some servers
    except RequestError as refusal:
        await _refuse(refusal, send)
        return
    await _call(on_event, event)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def _receive(settings: Settings, scope: Message, receive: Receive) -> ReceivedEvent:
    incoming = Incoming(settings, scope["method"], scope["headers"])
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _DisconnectedError
        incoming.add(message.get("body", b""))
        more = message.get("more_body", False)
    return incoming.event()


async def _call(on_event: Callable[[ReceivedEvent], object], event: ReceivedEvent) -> None:
    def call() -> object:
        try:
            return on_event(event)
        except StopIteration as error:
            # A future takes none: before Python 3.12 it would be waited for without end.
            raise RuntimeError("on_event raised StopIteration") from error

    result = call() if inspect.iscoroutinefunction(on_event) else await asyncio.to_thread(call)
    if inspect.isawaitable(result):  # also from what only turns out to be async
        await result


async def _refuse(refusal: RequestError, send: Send) -> None:
    text = refusal.phrase.encode("ascii")
    headers = {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(text)),
        **refusal.headers,
    }
    await send(
        {
            "type": "http.response.start",
            "status": refusal.status,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": text})


async def _live(receive: Receive, send: Send) -> None:
    """Start and stop with the server: there is nothing to prepare."""
    message = {"type": ""}
    while message["type"] != "lifespan.shutdown":
        message = dict(await receive())
        await send({"type": f"{message['type']}.complete"})
