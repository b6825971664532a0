"""The ASGI application: functions of both kinds, disconnects, and the other protocols."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest
from senders import BODY, EVENT, SECRET, genuine, http_scope, over_asgi

from cubehook.receivers import ReceivedEvent, asgi


def test_an_async_function_is_awaited() -> None:
    events: list[ReceivedEvent] = []

    async def on_event(event: ReceivedEvent) -> None:
        await asyncio.sleep(0)
        events.append(event)

    class Called:
        async def __call__(self, event: ReceivedEvent) -> None:
            await on_event(event)

    for one in (on_event, Called(), lambda event: on_event(ReceivedEvent(event))):
        assert over_asgi(asgi.receiver(one, secret=SECRET), genuine()).status == 204
    assert events == [EVENT] * 3


def test_an_ordinary_function_does_not_hold_up_the_loop() -> None:
    request_id = contextvars.ContextVar[str]("request_id")
    seen: list[tuple[int, str]] = []
    application = asgi.receiver(
        lambda event: seen.append((threading.get_ident(), request_id.get())), secret=SECRET
    )

    async def outer(*arguments: Any) -> None:
        request_id.set("r-1")
        await application(*arguments)

    assert over_asgi(outer, genuine()).status == 204
    ((thread, context),) = seen
    assert thread != threading.get_ident()
    assert context == "r-1"


@pytest.mark.parametrize("raised", [StopIteration, OSError, KeyError("x")])
def test_whatever_an_ordinary_function_raises_is_a_500(raised: Any) -> None:
    def on_event(event: ReceivedEvent) -> None:
        raise raised

    assert over_asgi(asgi.receiver(on_event, secret=SECRET), genuine()).status == 500


def test_an_async_function_that_raises_is_a_500() -> None:
    async def on_event(event: ReceivedEvent) -> None:
        raise OSError

    assert over_asgi(asgi.receiver(on_event, secret=SECRET), genuine()).status == 500


def exchange(scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """What the application sends when it gets these messages, and no more."""
    waiting = list(messages)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(asgi.receiver(pytest.fail, secret=SECRET)(scope, receive, send))
    assert not waiting
    return sent


def test_a_sender_that_goes_in_the_middle_gets_no_answer() -> None:
    part = {"type": "http.request", "body": BODY[:9], "more_body": True}
    assert exchange(http_scope(genuine()), part, {"type": "http.disconnect"}) == []


def test_it_starts_and_stops_with_the_server() -> None:
    sent = exchange(
        {"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
    )
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


def test_a_websocket_is_not_accepted() -> None:
    assert exchange({"type": "websocket"}) == [{"type": "websocket.close"}]
