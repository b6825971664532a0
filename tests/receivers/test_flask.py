"""The decorator in Flask, beside what an application may do there."""

from __future__ import annotations

from typing import Any

import flask
import pytest
from flask.testing import FlaskClient
from senders import BODY, BOUND, EVENT, ID, SECRET, genuine, over_wsgi, signed

from cubehook.receivers import ReceivedEvent
from cubehook.receivers.flask import verified


@pytest.fixture
def app() -> flask.Flask:
    app = flask.Flask("app")

    @app.post("/webhook")
    @verified(secret=SECRET)
    def webhook(event: ReceivedEvent) -> Any:
        return {"id": event["id"], "name": flask.request.get_json()["name"]}

    @app.post("/of/<tenant>")
    @verified(secret=SECRET)
    async def of_tenant(event: ReceivedEvent, tenant: str) -> Any:
        return {"id": event["id"], "tenant": tenant}

    return app


@pytest.fixture
def client(app: flask.Flask) -> FlaskClient:
    return app.test_client()


def test_the_view_answers_and_has_the_request(client: FlaskClient) -> None:
    answer = client.post("/webhook", data=BODY, headers=signed())
    assert answer.json == {"id": ID, "name": EVENT["name"]}


def test_a_refusal_is_plain_text(client: FlaskClient) -> None:
    answer = client.post("/webhook", data=BODY, headers=signed(secret="another"))
    assert (answer.status_code, answer.text) == (401, "not verified")
    assert answer.mimetype == "text/plain"


def test_an_async_view_with_arguments_of_the_route(client: FlaskClient) -> None:
    answer = client.post("/of/acme", data=BODY, headers=signed())
    assert answer.json == {"id": ID, "tenant": "acme"}


def test_views_keep_their_names(app: flask.Flask) -> None:
    assert {"webhook", "of_tenant"} <= set(app.view_functions)


def test_the_body_may_have_been_read_before(app: flask.Flask) -> None:
    app.before_request(lambda: flask.request.get_data() and None)
    assert over_wsgi(app, genuine()).status == 200


def test_the_bound_of_the_application_holds_too(app: flask.Flask) -> None:
    app.config["MAX_CONTENT_LENGTH"] = 10
    assert over_wsgi(app, genuine()).status == 413
    assert over_wsgi(app, genuine(b" " * BOUND, chunked=True)).status == 413
