"""A full run with every kind of failure, and a search for what must never be told.

URLs, secrets, signatures, header values and payload stay out of log records, of what is printed,
of warnings, of errors and of every ``repr``.
"""

from __future__ import annotations

import logging
import re
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import cubehook
from cubehook import (
    ConfigError,
    Endpoint,
    Event,
    VerificationError,
    WebhookFormatter,
    WebhookHandler,
    attempt,
    config,
    pipeline,
    verify,
)
from cubehook.lane import Delivery, LaneSettings
from cubehook.outcome import Reply
from cubehook.retry import WebhookRetry
from cubehook.secret import Secret
from cubehook.transport import WebhookAdapter

try:
    from cubehook import curl
except ImportError:  # an extra
    curl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from conftest import Receiver

PATIENCE = 10.0

SECRETS = ("planted-secret-1", "planted-secret-2")
HEADER = "planted-header"
FIELDS: dict[str, Any] = {
    "field": "planted-field",
    "nested": {"a": [{"b": "planted-nested"}]},
    "password": "planted-password",
    "sandbox_id": "planted-sandbox",
}
PLANTED = re.compile(r"planted-[a-z0-9-]+")

Make = Callable[..., WebhookHandler]


class Records(logging.Handler):
    """Keeps everything that a record holds, as text."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        formatted = logging.Formatter("%(name)s %(threadName)s %(message)s").format(record)
        parts = (formatted, str(record.args), str(record.exc_text), repr(vars(record)))
        self.texts.append("\n".join(parts))


@pytest.fixture
def records() -> Iterator[Records]:
    """All records that reach the root logger, at DEBUG, urllib3's and requests' included."""
    made = Records()
    names = ("", "urllib3", "requests", "cubehook", "asyncio", "concurrent")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger().addHandler(made)
    yield made
    logging.getLogger().removeHandler(made)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def secret_receiver(receiver: Receiver) -> Receiver:
    receiver.secret = SECRETS[0]
    return receiver


def endpoint(receiver: Receiver, name: str, **keys: Any) -> dict[str, Any]:
    """An endpoint whose URL, secrets and headers must not be told."""
    return {
        "name": name,
        "url": receiver.url(f"/planted-path-{name}?key=planted-query"),
        "events": ["*"],
        "secret": list(SECRETS),
        "headers": {"X-Env": HEADER},
        "allow_private_urls": True,
        "backoff_initial": 0.01,
        **keys,
    }


class Fails(WebhookFormatter):
    """An application's format that fails with payload in its error."""

    def payload(self, event: Event) -> Any:
        raise ValueError(f"planted-error {event.fields}")


@pytest.fixture(autouse=True)
def resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names under ``.invalid`` are unknown at once, whatever the machine's resolver does."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kw: Any) -> Any:
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, f"unknown: {host}")
        return resolve(host, *args, **kw)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def path(name: str) -> str:
    return f"/planted-path-{name}?key=planted-query"


def every_failure(receiver: Receiver, dead_url: str) -> list[dict[str, Any]]:
    """One endpoint for each way to fail, named by it."""
    receiver.script(500, path=path("flaky"))
    receiver.script(default=503, path=path("down"))
    receiver.script(404, path=path("refused-for-good"))
    receiver.script(410, path=path("gone"))
    receiver.script((302, {"Location": "http://planted-location/"}), path=path("redirect"))
    receiver.script((429, {"Retry-After": "planted-after"}), path=path("throttled"))
    receiver.script((200, {"Bad Header Planted": "planted-answer"}), path=path("malformed"))
    receiver.script("hang", path=path("hangs"))
    receiver.script("close", path=path("closes"))
    refuses = f"{dead_url}/planted-path?key=planted-query"
    proxy = "http://planted-user:planted-password"
    return [
        endpoint(receiver, "good"),
        endpoint(receiver, "flaky"),
        endpoint(receiver, "down", max_retries=6),
        endpoint(receiver, "refused-for-good"),
        endpoint(receiver, "gone"),
        endpoint(receiver, "redirect"),
        endpoint(receiver, "throttled"),
        endpoint(receiver, "malformed"),
        endpoint(receiver, "hangs", timeout=0.2),
        endpoint(receiver, "closes"),
        endpoint(receiver, "refuses", url=refuses, max_retries=1),
        endpoint(receiver, "unresolvable", url="https://planted-host.invalid/planted-path"),
        endpoint(receiver, "no-tls", url=f"https://127.0.0.1:{receiver.port}/planted-path"),
        endpoint(receiver, "guarded", url="https://localhost/planted-path")
        | {"allow_private_urls": False},
        endpoint(receiver, "proxied", proxy=f"{proxy}@127.0.0.1:{receiver.port}"),
        endpoint(receiver, "no-proxy", proxy=f"{proxy}@{dead_url[7:-5]}", max_retries=1),
        endpoint(
            receiver,
            "no-tunnel",
            url="https://planted-host.invalid/planted-path",
            proxy=f"{proxy}@127.0.0.1:{receiver.port}",
        ),
        endpoint(receiver, "broken-format", format=f"{__name__}.Fails"),
    ]


def log_everything(made: WebhookHandler, logger: logging.Logger) -> None:
    """Events that arrive, and events that are dropped for every reason there is."""
    for number in range(3):
        extra = {"event": "sandbox.created", "number": number, **FIELDS}
        logger.info("planted-message %s", "planted-argument", extra=extra)
    logger.info("planted-message", extra={"event": "planted name", **FIELDS})
    logger.info("planted-message", extra={"event": "a.b", "text": "planted-large" * 1000})
    try:
        raise ValueError("planted-exception")
    except ValueError:
        logger.exception("planted-message", extra={"event": "a.b", **FIELDS}, stack_info=True)
    made.handleError(logging.makeLogRecord({"msg": "planted-message", **FIELDS}))


def test_a_run_with_every_failure_tells_no_secret(
    transport: str,
    handler: Make,
    logger: logging.Logger,
    secret_receiver: Receiver,
    dead_url: str,
    records: Records,
    capfd: pytest.CaptureFixture[str],
) -> None:
    endpoints = every_failure(secret_receiver, dead_url)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        made = handler(endpoints, max_payload_bytes=5000, max_retries=2, transport=transport)
        log_everything(made, logger)
        made.flush(1.0)
        with pytest.raises(ConfigError):
            made.update_endpoints([{"url": "planted-url", "secret": "", "planted-key": 1}])
        made.update_endpoints([one for one in endpoints if one["name"] not in ("down", "hangs")])
        made.flush(0.5)
        made.close()
        logger.info("planted-message", extra={"event": "a.b", **FIELDS})
    told = "\n".join(records.texts)
    for name in ("flaky", "down", "refused-for-good", "gone", "redirect", "throttled", "hangs"):
        assert f"'{name}'" in told, "the failure is logged by the endpoint's name"
    for name in ("closes", "refuses", "unresolvable", "no-tls", "guarded", "no-proxy", "no-tunnel"):
        assert f"'{name}'" in told
    assert "too_large" in told
    assert "Fails" in told
    assert leaks(told, secret_receiver) == []
    assert leaks("".join(capfd.readouterr()), secret_receiver) == []
    assert leaks("".join(str(one.message) for one in warned), secret_receiver) == []
    for shown in (made, made.stats(), made._pipeline, made._endpoints, made._settings):
        assert leaks(texts(shown), secret_receiver) == []


def leaks(text: str, receiver: Receiver) -> list[str]:
    """What of the planted values, of the signatures and of the URLs is in the text."""
    signatures = {
        part.removeprefix("v1=")
        for request in receiver.received()
        for part in request.headers["x-cube-webhook-signature"].split(",")
    }
    assert len(signatures) >= 2
    found = [signature for signature in signatures if signature in text]
    return found + PLANTED.findall(text) + re.findall(r"https?://|127\.0\.0\.1", text)


def texts(shown: object) -> str:
    return f"{shown!r} {shown} {shown:}"


def test_without_the_guard_the_search_would_find_them(
    handler: Make,
    logger: logging.Logger,
    secret_receiver: Receiver,
    records: Records,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """urllib3's own debug lines name the host: they are held back, and the test above can fail."""
    monkeypatch.setattr("cubehook.threads._NamesNoUrl.filter", lambda self, record: True)
    made = handler([endpoint(secret_receiver, "good")])
    logger.info("planted-message", extra={"event": "a.b"})
    assert made.flush(PATIENCE)
    assert f"127.0.0.1:{secret_receiver.port}" in "\n".join(records.texts)


# --- Every public object ---


def shown_objects() -> dict[str, object]:
    url = "https://planted-host.example.com/planted-path?key=planted-query"
    one = Endpoint(
        name="ops",
        url=url,
        secret=SECRETS,
        headers={"X": HEADER},
        timeout=1.0,
        max_concurrency=1,
        proxy="http://planted-user:planted-password@planted-proxy:3128",
    )
    loaded = config.load([one], {"flush_timeout": 1.0})
    (filled,) = loaded.endpoints
    record = logging.makeLogRecord({"event": "a.b", "msg": "planted-message", **FIELDS})
    event = Event.from_record(record)
    message = attempt.Message("id-1", "a.b", "planted-sandbox", "text/plain", b"planted-body")
    sender = attempt.Sender(filled)
    lane = LaneSettings("ops", sender, WebhookRetry(), 1, 1)
    delivery = Delivery(message, WebhookRetry())
    adapter = WebhookAdapter(filled)
    shown = {} if curl is None else {"CurlTransport": curl.CurlTransport(filled)}
    return shown | {
        "Endpoint": one,
        "Endpoint, filled in": filled,
        "Config": loaded,
        "Settings": loaded.settings,
        "Secret": Secret.read(SECRETS[0]),
        "secrets": one.secrets,
        "Event": event,
        "Message": message,
        "Reply": Reply(200, None, b"planted-answer"),
        "Sender": sender,
        "LaneSettings": lane,
        "Delivery": delivery,
        "WebhookRetry": WebhookRetry().increment("POST", url, None, ValueError(url)),
        "WebhookAdapter": adapter,
        "a request": adapter._prepared({"X-Env": HEADER}, b"planted-body"),
        "WebhookFormatter": WebhookFormatter(redact=["x"]),
        "Pipeline": pipeline.Pipeline(loaded.settings, (filled,), WebhookFormatter()),
    }


@pytest.mark.parametrize("name", shown_objects())
def test_no_repr_tells_a_secret(name: str) -> None:
    shown = shown_objects()[name]
    assert PLANTED.findall(texts(shown)) == []


def bad_configurations() -> dict[str, Any]:
    good = {"url": "https://example.com"}
    return {
        "url": [{"url": "ftp://planted-user:planted-password@planted-host/planted-path"}],
        "url of no kind": [{"url": ["planted-url"]}],
        "userinfo": [{"url": "https://planted-user:planted-password@example.com"}],
        "fragment": [{"url": "https://example.com/planted-path#planted-fragment"}],
        "plain http": [{"url": "http://planted-host/planted-path"}],
        "private": [{"url": "https://10.0.0.1/planted-path"}],
        "secret of no kind": [{**good, "secret": {"planted-key": "planted-secret"}}],
        "secret from nowhere": [{**good, "secret": "env:planted-variable"}],
        "secret from no file": [{**good, "secret": "file:/planted-path/planted-file"}],
        "proxy": [{**good, "proxy": "socks5://planted-user:planted-password@planted-host"}],
        "proxy with a path": [{**good, "proxy": "http://u:planted-password@x/planted-path"}],
        "proxy from nowhere": [{**good, "proxy": "env:planted-variable"}],
        "networks": [{**good, "denied_networks": ["planted-network"]}],
        "authorities": [{**good, "ca_bundle": "/planted-path/planted-file"}],
        "client": [{**good, "client_cert": ["/planted-path", "/planted-file"]}],
        "header value": [{**good, "headers": {"X-Env": "planted-header\n"}}],
        "header of no kind": [{**good, "headers": ["planted-header"]}],
        "key": [{**good, "planted-key-sk-live-0123456789": "planted-value"}],
        "long key": [{**good, "planted" + "-key" * 50: "planted-value"}],
        "events": [{**good, "events": ["planted-event planted-event"]}],
        "format": [{**good, "format": "planted-module.planted-class"}],
        "scheme": [{**good, "scheme": "planted-scheme"}],
        "name": [{**good, "name": "planted-name\n"}],
        "timeout": [{**good, "timeout": "planted-timeout"}],
        "an endpoint": ["planted-endpoint"],
        "endpoints": "planted-endpoints",
        "json": "env:CUBE_API_WEBHOOK_ENDPOINTS",
    }


@pytest.mark.parametrize("name", bad_configurations())
def test_no_config_error_tells_a_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBE_API_WEBHOOK_ENDPOINTS", '[{"url": "planted-url", "planted-json]')
    with pytest.raises(ConfigError) as raised:
        WebhookHandler(bad_configurations()[name])
    error = raised.value
    assert PLANTED.findall(f"{error!r} {error} {error.problems} {error.args}") == []
    assert PLANTED.findall("".join(traceback.format_exception(error))) == []


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"planted-body"),
        ({"X-Cube-Webhook-Signature": "v1=planted-signature"}, b"planted-body"),
        ({"X-Cube-Webhook-Signature": "v1=" + "0" * 64}, b'{"planted-body": 1}'),
        ({"X-Cube-Webhook-Signature": b"\xffplanted"}, b"planted-body"),
        (5, b"planted-body"),
    ],
)
def test_no_verification_error_tells_a_value(headers: Any, body: bytes) -> None:
    if isinstance(headers, dict):
        headers |= {
            "X-Cube-Webhook-Timestamp": "planted-timestamp",
            "X-Cube-Webhook-Delivery": "planted-delivery",
        }
    with pytest.raises(VerificationError) as raised:
        verify(body, headers, SECRETS[0])
    assert PLANTED.findall(f"{raised.value!r} {raised.value.args}") == []


def test_every_public_name_was_looked_at() -> None:
    """A new public class is to be added to the tests above."""
    looked_at = {"ConfigError", "Endpoint", "EndpointStats", "Event", "Stats", "VerificationError"}
    looked_at |= {"WebhookFormatter", "WebhookHandler", "CubehookError"}
    classes = {name for name in cubehook.__all__ if isinstance(getattr(cubehook, name), type)}
    assert classes == looked_at
