"""A WSGI application that receives webhooks, for any WSGI server and with nothing but it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING

from cubehook.receivers._core import (
    MAX_BYTES,
    Incoming,
    ReceivedEvent,
    RequestError,
    SecretSource,
    Settings,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def receiver(
    on_event: Callable[[ReceivedEvent], object],
    *,
    secret: SecretSource,
    scheme: str | None = None,
    tolerance: float = 300,
    max_bytes: int = MAX_BYTES,
) -> WSGIApplication:
    """An application that calls ``on_event`` with each genuine event, and then answers 204.

    What ``on_event`` raises goes to the server. The options: see `cubehook.receivers`.
    """
    settings = Settings(secret=secret, scheme=scheme, tolerance=tolerance, max_bytes=max_bytes)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        try:
            event = _receive(settings, environ)
        except RequestError as refusal:
            return _refuse(refusal, environ, start_response)
        on_event(event)
        start_response(_line(204), [])
        return []

    return application


def _receive(settings: Settings, environ: WSGIEnvironment) -> ReceivedEvent:
    incoming = Incoming(settings, environ["REQUEST_METHOD"], _headers(environ))
    # A body that nobody ends would be waited for until the sender hangs up.
    if incoming.length is not None or environ.get("wsgi.input_terminated"):
        incoming.fill(environ["wsgi.input"].read)
    return incoming.event()


def _headers(environ: WSGIEnvironment) -> Iterator[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key[5:].replace("_", "-"), value
    yield "Content-Length", environ.get("CONTENT_LENGTH", "")
    yield "Content-Type", environ.get("CONTENT_TYPE", "")


def _refuse(
    refusal: RequestError, environ: WSGIEnvironment, start_response: StartResponse
) -> list[bytes]:
    text = refusal.phrase.encode("ascii")
    start_response(
        _line(refusal.status),
        [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(text))),
            *refusal.headers.items(),
        ],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [text]


def _line(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"
