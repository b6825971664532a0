"""The WSGI application: the protocol's rules, and a delivery over a real server."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from senders import BODY, EVENT, SECRET, Request, genuine, over_wsgi, signed

from cubehook import WebhookHandler
from cubehook.receivers import ReceivedEvent, wsgi


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD"])
def test_it_keeps_to_the_protocol(method: str) -> None:
    events: list[ReceivedEvent] = []
    application = validator(wsgi.receiver(events.append, secret=SECRET))
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "CONTENT_LENGTH": str(len(BODY)),
        "CONTENT_TYPE": "application/json",
        "wsgi.input": io.BytesIO(BODY),
        **{f"HTTP_{key.upper().replace('-', '_')}": value for key, value in signed().items()},
    }
    del environ["HTTP_CONTENT_TYPE"]
    setup_testing_defaults(environ)
    environ["QUERY_STRING"] = ""
    started: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        started.append(status)
        return io.BytesIO().write

    parts = application(environ, start_response)
    text = b"".join(parts)
    parts.close()  # type: ignore[attr-defined]
    if method == "POST":
        assert started == ["204 No Content"]
        assert events == [EVENT]
    else:
        assert started == ["405 Method Not Allowed"]
        assert text == (b"" if method == "HEAD" else b"only POST is taken here")


def test_a_body_that_comes_in_drops_is_read_to_its_end() -> None:
    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 7))

    events: list[ReceivedEvent] = []
    application = wsgi.receiver(events.append, secret=SECRET)

    def dripped(environ: dict[str, Any], start_response: Any) -> Any:
        return application({**environ, "wsgi.input": Dripping(BODY)}, start_response)

    assert over_wsgi(dripped, genuine()).status == 204
    assert events == [EVENT]


def test_a_lost_connection_is_left_to_the_server() -> None:
    class Lost(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionResetError

    application = wsgi.receiver(print, secret=SECRET)

    def cut_off(environ: dict[str, Any], start_response: Any) -> Any:
        return application({**environ, "wsgi.input": Lost()}, start_response)

    assert over_wsgi(cut_off, genuine()).status == 500


def test_without_a_length_nothing_is_read() -> None:
    read = Request(BODY, signed(), length="")
    answer = over_wsgi(wsgi.receiver(print, secret=SECRET), read)
    assert (answer.status, answer.read) == (400, 0)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def get_stderr(self) -> io.StringIO:  # type: ignore[override]
        return io.StringIO()  # for tracebacks, which are expected


@contextmanager
def served(application: Any) -> Iterator[str]:
    """The URL of a real server on loopback."""
    with make_server("127.0.0.1", 0, application, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/webhook"
        finally:
            server.shutdown()
            thread.join()


def test_what_cubehook_sends_is_received(
    handler: Callable[..., WebhookHandler], logger: logging.Logger
) -> None:
    events: list[ReceivedEvent] = []

    def on_event(event: ReceivedEvent) -> None:
        events.append(event)
        if len(events) == 1:
            raise RuntimeError("the database is away")  # so it is sent again

    application = wsgi.receiver(on_event, secret=lambda: ["new", SECRET])
    with served(application) as url:
        endpoint = {"url": url, "secret": SECRET, "allow_private_urls": True}
        webhooks = handler([{**endpoint, "backoff_initial": 0.02}])
        logger.info("created", extra={"event": "sandbox.created", "sandbox_id": "sandbox-123"})
        assert webhooks.flush(10)
    first, second = events
    assert first == second
    assert (second["event"], second["sandbox_id"]) == ("sandbox.created", "sandbox-123")
    assert second.headers["x-cube-webhook-delivery"] == second["id"]
    assert webhooks.stats().delivered == 1


def test_what_is_signed_with_another_secret_is_not(
    handler: Callable[..., WebhookHandler], logger: logging.Logger
) -> None:
    events: list[ReceivedEvent] = []
    with served(wsgi.receiver(events.append, secret="another")) as url:
        webhooks = handler([{"url": url, "secret": SECRET, "allow_private_urls": True}])
        logger.info("created", extra={"event": "sandbox.created"})
        assert webhooks.flush(10)
    assert events == []
    assert (webhooks.stats().delivered, webhooks.stats().dead) == (0, 1)
