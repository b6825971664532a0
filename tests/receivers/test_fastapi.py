"""The dependency in FastAPI, beside what an application may do there."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import fastapi
import httpx
import pytest
from senders import BODY, EVENT, ID, SECRET, genuine, http_scope, signed

from cubehook.receivers import ReceivedEvent
from cubehook.receivers.fastapi import verified

Event = Annotated[ReceivedEvent, fastapi.Depends(verified(secret=SECRET))]


@pytest.fixture
def app() -> fastapi.FastAPI:
    app = fastapi.FastAPI()

    @app.post("/webhook")
    async def webhook(event: Event) -> Any:
        return {"id": event["id"], "length": len(event.body)}

    @app.post("/parsed")
    def parsed(event: Event, payload: dict[str, Any]) -> Any:
        return {"same": event == payload}

    return app


def post(app: fastapi.FastAPI, path: str, headers: dict[str, str]) -> httpx.Response:
    async def posted() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, content=BODY, headers=headers)

    return asyncio.run(posted())


def test_the_operation_answers_and_has_the_event(app: fastapi.FastAPI) -> None:
    assert post(app, "/webhook", signed()).json() == {"id": ID, "length": len(BODY)}


def test_a_refusal_is_one_of_fastapi(app: fastapi.FastAPI) -> None:
    answer = post(app, "/webhook", signed(secret="another"))
    assert (answer.status_code, answer.json()) == (401, {"detail": "not verified"})


def test_the_body_may_be_parsed_beside_it(app: fastapi.FastAPI) -> None:
    assert post(app, "/parsed", signed()).json() == {"same": True}


def test_it_is_no_parameter_of_the_interface(app: fastapi.FastAPI) -> None:
    operation = app.openapi()["paths"]["/webhook"]["post"]
    assert not {"parameters", "requestBody"} & set(operation)
    assert SECRET not in str(app.openapi())


def test_a_sender_may_go_in_the_middle(app: fastapi.FastAPI) -> None:
    messages = [
        {"type": "http.request", "body": BODY[:9], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(http_scope(genuine()), receive, send))
    assert sent[0]["status"] == 400
    assert EVENT["id"] not in str(sent)
