"""The adapters as they are tried: each in an application, which a sender speaks to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import django_setup
import fastapi
import flask
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from senders import Answer, Request, over_asgi, over_wsgi

from cubehook.receivers import ReceivedEvent, asgi, wsgi
from cubehook.receivers import django as for_django
from cubehook.receivers import fastapi as for_fastapi
from cubehook.receivers import flask as for_flask

OnEvent = Callable[[ReceivedEvent], object]
Send = Callable[[Request], Answer]


@dataclass(frozen=True)
class Adapter:
    """make: a function that sends to a receiver with this ``on_event`` and these options.

    chunked: whether a body may come without its length.
    streams: whether the framework leaves the reading of the body to the adapter.
    """

    make: Callable[..., Send]
    chunked: bool = True
    streams: bool = True


def _wsgi(on_event: OnEvent, **options: Any) -> Send:
    application = wsgi.receiver(on_event, **options)
    return lambda request: over_wsgi(application, request)


def _asgi(on_event: OnEvent, **options: Any) -> Send:
    application = asgi.receiver(on_event, **options)
    return lambda request: over_asgi(application, request)


def _flask(on_event: OnEvent, **options: Any) -> Send:
    app = flask.Flask("app")

    @app.route("/webhook", methods=["GET", "HEAD", "POST", "PUT"])
    @for_flask.verified(**options)
    def webhook(event: ReceivedEvent) -> tuple[str, int]:
        on_event(event)
        return "", 204

    return lambda request: over_wsgi(app, request)


def _fastapi(on_event: OnEvent, **options: Any) -> Send:
    app = fastapi.FastAPI()
    event_of = fastapi.Depends(for_fastapi.verified(**options))

    @app.api_route("/webhook", methods=["GET", "HEAD", "POST", "PUT"], status_code=204)
    def webhook(event: ReceivedEvent = event_of) -> None:
        on_event(event)

    return lambda request: over_asgi(app, request)


def _django_view(on_event: OnEvent, options: dict[str, Any]) -> Any:
    @for_django.verified(**options)
    def webhook(request: HttpRequest, event: ReceivedEvent) -> HttpResponse:
        on_event(event)
        return HttpResponse(status=204)

    return webhook


def _django_wsgi(on_event: OnEvent, **options: Any) -> Send:
    view = _django_view(on_event, options)

    def send(request: Request) -> Answer:
        with django_setup.site(view):
            return over_wsgi(WSGIHandler(), request)

    return send


def _django_asgi(on_event: OnEvent, **options: Any) -> Send:
    view = _django_view(on_event, options)

    def send(request: Request) -> Answer:
        with django_setup.site(view):
            return over_asgi(ASGIHandler(), request)

    return send


ADAPTERS = {
    "wsgi": Adapter(_wsgi),
    "asgi": Adapter(_asgi),
    "flask": Adapter(_flask),
    "fastapi": Adapter(_fastapi),
    "django-wsgi": Adapter(_django_wsgi, chunked=False),
    "django-asgi": Adapter(_django_asgi, streams=False),
}


@dataclass(frozen=True)
class Receiving:
    """A receiver, and the events it handled."""

    send: Send
    events: list[ReceivedEvent]
