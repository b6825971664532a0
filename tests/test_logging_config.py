"""Configured as any other handler: dictConfig from YAML and JSON, fileConfig, the environment."""

from __future__ import annotations

import copy
import json
import logging
import logging.config
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import cubehook.threads
from cubehook import ConfigError, WebhookFormatter, WebhookHandler

if TYPE_CHECKING:
    from conftest import Receiver

PATIENCE = 10.0
VARIABLE = "CUBE_API_WEBHOOK_ENDPOINTS"

SETTINGS: dict[str, Any] = {"answer": 42}  # what ext:// finds


class Mine(WebhookFormatter):
    """A format for the ``formatters`` section."""

    def payload(self, event: Any) -> Any:
        return {"mine": event.name}


@pytest.fixture(autouse=True)
def logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logging's global state, put back; the handlers that a test configured are closed."""
    monkeypatch.delenv(VARIABLE, raising=False)
    root = logging.getLogger()
    loggers = [one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    states = [
        (one, one.level, one.propagate, one.disabled, list(one.handlers))
        for one in [root, *loggers]
    ]
    handlers, references = dict(logging._handlers), list(logging._handlerList)  # type: ignore[attr-defined]
    yield
    added = {reference() for reference in logging._handlerList} - {  # type: ignore[attr-defined]
        reference() for reference in references
    }
    for one in root.manager.loggerDict.values():
        if isinstance(one, logging.Logger):
            one.handlers.clear()
            one.disabled = False
    for logger, level, propagate, disabled, kept in states:
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled
        logger.handlers[:] = kept
    for handler in added:
        if isinstance(handler, WebhookHandler):
            handler.close()
    logging._handlers.clear()  # type: ignore[attr-defined]
    logging._handlers.update(handlers)  # type: ignore[attr-defined]
    logging._handlerList[:] = references  # type: ignore[attr-defined]


def configuration(receiver: Receiver, **handler: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "webhooks": {
                "class": "cubehook.WebhookHandler",
                "endpoints": [receiver.endpoint()],
                "flush_timeout": 0.5,
                **handler,
            }
        },
        "loggers": {"cube": {"level": "INFO", "handlers": ["webhooks"], "propagate": False}},
    }


def configured() -> WebhookHandler:
    """The handler that the configuration has given to the logger ``cube``."""
    (handler,) = logging.getLogger("cube").handlers
    assert isinstance(handler, WebhookHandler)
    return handler


def log(number: int = 0) -> None:
    extra = {"event": "sandbox.created", "sandbox_id": "sb-1", "number": number}
    logging.getLogger("cube.api").info("created", extra=extra)


def arrives(receiver: Receiver) -> dict[str, Any]:
    """Log an event and see it arrive."""
    before = len(receiver.received())
    log()
    return receiver.wait_for(before + 1)[-1].json


# --- From files ---

YAML = """
version: 1
disable_existing_loggers: false
handlers:
  webhooks:
    class: cubehook.WebhookHandler
    level: INFO
    endpoints:
      - name: ops
        url: {url}
        events: [sandbox.*]
        secret: [env:OPS_WEBHOOK_SECRET, old-secret]
        scheme: cube
        format: cube
        enabled: true
        allow_private_urls: true
        ordered: true
        headers: {{X-Env: prod}}
        timeout: 3
    queue_capacity: 10
    max_concurrency: 2
    max_payload_bytes: 262144
    timeout: 10.0
    connect_timeout: 5.0
    max_retries: 10
    backoff_initial: 1.0
    backoff_max: 3600.0
    flush_timeout: 0.5
    redact: [customer_email]
    keep: [session]
loggers:
  cube: {{level: INFO, handlers: [webhooks], propagate: false}}
"""


def test_yaml(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPS_WEBHOOK_SECRET", receiver.secret)
    logging.config.dictConfig(yaml.safe_load(YAML.format(url=receiver.url())))
    logging.getLogger("cube").info(
        "created",
        extra={"event": "sandbox.created", "customer_email": "planted", "session": "kept"},
    )
    (request,) = receiver.wait_for(1)
    assert request.headers["x-env"] == "prod"
    assert request.headers["x-cube-webhook-signature"].count("v1=") == 2
    assert "customer_email" not in request.json
    assert request.json["session"] == "kept"
    assert configured().level == logging.INFO


def test_json(receiver: Receiver, tmp_path: Path) -> None:
    path = tmp_path / "logging.json"
    path.write_text(json.dumps(configuration(receiver)))
    logging.config.dictConfig(json.loads(path.read_text()))
    assert arrives(receiver)["sandbox_id"] == "sb-1"


INI = """
[loggers]
keys=root,cube

[handlers]
keys=webhooks

[formatters]
keys=mine

[logger_root]
level=WARNING
handlers=

[logger_cube]
level=INFO
handlers=webhooks
qualname=cube
propagate=0

[handler_webhooks]
class=cubehook.WebhookHandler
level=INFO
args=({endpoints!r},)
kwargs={{'queue_capacity': 10, 'flush_timeout': 0.5}}
{formatter}

[formatter_mine]
class=test_logging_config.Mine
"""


@pytest.mark.parametrize("formatter", ["", "formatter=mine"])
def test_ini(receiver: Receiver, tmp_path: Path, formatter: str) -> None:
    path = tmp_path / "logging.ini"
    path.write_text(INI.format(endpoints=[receiver.endpoint()], formatter=formatter))
    logging.config.fileConfig(path, disable_existing_loggers=False)
    body = arrives(receiver)
    assert body == {"mine": "sandbox.created"} if formatter else body["event"] == "sandbox.created"


def test_ini_with_the_endpoints_in_a_file(receiver: Receiver, tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.json"
    endpoints.write_text(json.dumps([receiver.endpoint()]))
    path = tmp_path / "logging.ini"
    path.write_text(INI.format(endpoints=f"file:{endpoints}", formatter=""))
    logging.config.fileConfig(path, disable_existing_loggers=False)
    assert arrives(receiver)["event"] == "sandbox.created"


def test_basic_config(receiver: Receiver) -> None:
    handler = WebhookHandler([receiver.endpoint()], flush_timeout=0.5)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.info("created", extra={"event": "sandbox.created"})
    receiver.wait_for(1)
    assert handler.flush(PATIENCE)
    assert isinstance(handler.formatter, logging.Formatter)


# --- The environment ---


def test_endpoints_from_the_environment(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps([receiver.endpoint(name="from-env")]))
    config = configuration(receiver)
    del config["handlers"]["webhooks"]["endpoints"]
    logging.config.dictConfig(config)
    assert "'from-env'" in repr(configured())
    assert arrives(receiver)["event"] == "sandbox.created"


@pytest.mark.parametrize("value", [None, "", "  ", "[]"])
def test_without_endpoints_it_is_inert(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    started: list[str] = []
    monkeypatch.setattr(cubehook.threads, "start", lambda name, target: started.append(name))
    config = configuration(receiver)
    del config["handlers"]["webhooks"]["endpoints"]
    logging.config.dictConfig(config)
    log()
    assert configured().stats().received == 0
    assert started == []


@pytest.mark.parametrize("value", ["{", "{}", '"text"', "[5]", '[{"url": 5}]', "\x00"])
def test_a_variable_that_is_wrong_is_an_error(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    if "\x00" in value:
        value = "[\x01]"
    monkeypatch.setenv(VARIABLE, value)
    config = configuration(receiver)
    del config["handlers"]["webhooks"]["endpoints"]
    with pytest.raises(ValueError, match="webhooks") as raised:
        logging.config.dictConfig(config)
    assert isinstance(raised.value.__cause__, ConfigError)


# --- What dictConfig does with values ---


def test_cfg_names_the_endpoints_elsewhere(receiver: Receiver) -> None:
    config = configuration(receiver, endpoints="cfg://hooks")
    config["hooks"] = [receiver.endpoint()]
    logging.config.dictConfig(config)
    assert arrives(receiver)["event"] == "sandbox.created"


def test_cfg_and_ext_within_an_endpoint(receiver: Receiver) -> None:
    endpoint = receiver.endpoint() | {
        "url": "cfg://shared.url",
        "secret": ["cfg://shared.secrets[0]"],
        "events": "cfg://shared.events",
        "max_retries": f"ext://{__name__}.SETTINGS",
    }
    config = configuration(receiver, endpoints=[endpoint])
    config["shared"] = {
        "url": receiver.url(),
        "secrets": [receiver.secret],
        "events": ["sandbox.*"],
    }
    endpoint["max_retries"] = "ext://cubehook.retry.GONE"
    logging.config.dictConfig(config)
    assert arrives(receiver)["event"] == "sandbox.created"


def test_cfg_names_one_endpoint_of_a_list(receiver: Receiver) -> None:
    config = configuration(receiver, endpoints=["cfg://hooks.ops"])
    config["hooks"] = {"ops": receiver.endpoint()}
    logging.config.dictConfig(config)
    assert arrives(receiver)["event"] == "sandbox.created"


def test_cfg_and_ext_for_the_handlers_own_settings(receiver: Receiver) -> None:
    config = configuration(receiver, queue_capacity="cfg://limits.queue", redact="cfg://names")
    config["limits"] = {"queue": 5}
    config["names"] = ["sandbox_id"]
    logging.config.dictConfig(config)
    assert "sandbox_id" not in arrives(receiver)


def test_a_formatter_of_the_configuration(receiver: Receiver) -> None:
    config = configuration(receiver, formatter="mine")
    config["formatters"] = {"mine": {"()": f"{__name__}.Mine"}}
    logging.config.dictConfig(config)
    assert arrives(receiver) == {"mine": "sandbox.created"}


def test_a_filter_of_the_configuration(receiver: Receiver) -> None:
    config = configuration(receiver, filters=["api"])
    config["filters"] = {"api": {"name": "cube.api"}}
    logging.config.dictConfig(config)
    logging.getLogger("cube").info("created", extra={"event": "sandbox.created"})
    log(7)
    assert configured().flush(PATIENCE)
    assert [one.json["number"] for one in receiver.received()] == [7]


def test_an_incremental_configuration_changes_the_level(receiver: Receiver) -> None:
    logging.config.dictConfig(configuration(receiver))
    logging.config.dictConfig(
        {"version": 1, "incremental": True, "handlers": {"webhooks": {"level": "ERROR"}}}
    )
    log()
    assert configured().level == logging.ERROR
    assert configured().stats().received == 0


# --- Errors ---


def test_a_config_error_names_the_handler_and_every_problem(receiver: Receiver) -> None:
    config = configuration(receiver, queue_capcity=5, timeout=0, flush_timeout="5")
    config["handlers"]["webhooks"]["endpoints"] = [
        {"name": "ops", "url": "https://planted:planted@example.com", "secret": ""},
        {"name": "ops", "url": "https://example.com", "events": ["*", "a.b"]},
    ]
    with pytest.raises(ValueError, match="'webhooks'") as raised:
        logging.config.dictConfig(config)
    error = raised.value.__cause__
    assert isinstance(error, ConfigError)
    text = str(error)
    for part in (
        "queue_capcity",
        "'queue_capacity'",
        "timeout: must be greater than 0",
        "flush_timeout: must be a number",
        "endpoint 'ops': url",
        "endpoint 'ops': secret",
        "endpoint 'ops': events",
        "name: is given 2 times",
    ):
        assert part in text
    assert len(error.problems) >= 7
    assert "planted" not in text


# --- Twice ---


def test_twice_while_delivering_returns_at_once_and_loses_nothing(receiver: Receiver) -> None:
    """Trap 1: dictConfig holds logging's lock while it flushes the old handler, and urllib3's
    debug lines, which the workers write, need that lock."""
    config = configuration(receiver, flush_timeout=5.0)
    config["loggers"]["urllib3"] = {"level": "DEBUG", "handlers": [], "propagate": True}
    config["loggers"]["requests"] = {"level": "DEBUG", "handlers": [], "propagate": True}
    logging.config.dictConfig(copy.deepcopy(config))
    receiver.hold()
    for number in range(10):
        log(number)
    receiver.wait_for(1)
    started = time.monotonic()
    logging.config.dictConfig(copy.deepcopy(config))
    logging.config.dictConfig(copy.deepcopy(config))
    took = time.monotonic() - started
    for number in range(10, 20):
        log(number)
    receiver.release()
    numbers = [one.json["number"] for one in receiver.wait_for(20)]
    assert sorted(numbers) == list(range(20))
    assert took < 1.0


def test_twice_a_retry_that_waits_is_made_by_the_old_threads(receiver: Receiver) -> None:
    config = configuration(receiver)
    config["handlers"]["webhooks"]["endpoints"][0]["backoff_initial"] = 0.2
    receiver.script(503)
    logging.config.dictConfig(copy.deepcopy(config))
    log()
    old = configured()
    assert old.flush(0.01) is False
    logging.config.dictConfig(copy.deepcopy(config))
    receiver.wait_for(2)
    assert configured() is not old


def test_twice_the_old_handler_takes_no_more(receiver: Receiver) -> None:
    logging.config.dictConfig(configuration(receiver))
    old = configured()
    log()
    logging.config.dictConfig(configuration(receiver))
    old.handle(logging.makeLogRecord({"name": "late", "event": "sandbox.created"}))
    assert old.stats().dropped == {"closed": 1}
    receiver.wait_for(1)


def test_twice_the_old_threads_and_connections_end(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    start = cubehook.threads.start

    def kept(name: str, target: Any) -> threading.Thread:
        threads.append(start(name, target))
        return threads[-1]

    monkeypatch.setattr(cubehook.threads, "start", kept)
    logging.config.dictConfig(configuration(receiver))
    for number in range(20):
        log(number)
    logging.config.dictConfig(configuration(receiver))
    receiver.wait_for(20)
    assert len(threads) >= 2
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert receiver.wait_for_disconnects(5.0)


def test_many_times_while_other_threads_log(receiver: Receiver) -> None:
    """What a thread logs between two configurations is delivered or counted: none vanishes."""
    config = configuration(receiver, queue_capacity=10_000)
    logging.config.dictConfig(copy.deepcopy(config))
    handlers = [configured()]
    over = threading.Event()
    logged = [0, 0]

    def work(worker: int) -> None:
        while not over.is_set():
            log()
            logged[worker] += 1
            over.wait(0.0005)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            logging.config.dictConfig(copy.deepcopy(config))
            handlers.append(configured())
    finally:
        over.set()
        for thread in threads:
            thread.join()
    for handler in handlers:
        assert handler.flush(PATIENCE)
    stats = [handler.stats() for handler in handlers]
    closed = sum(one.dropped.get("closed", 0) for one in stats)
    assert sum(one.received for one in stats) <= sum(logged)
    assert len(receiver.received()) == sum(one.received for one in stats) - closed
    assert {reason for one in stats for reason in one.dropped} <= {"closed"}


# --- shutdown ---


def test_shutdown_delivers_everything(receiver: Receiver) -> None:
    logging.config.dictConfig(configuration(receiver, flush_timeout=PATIENCE))
    for number in range(100):
        log(number)
    logging.shutdown()
    assert len(receiver.received()) == 100
    log(100)
    assert configured().stats().dropped == {"closed": 1}


def test_shutdown_is_bounded_by_one_flush_timeout(receiver: Receiver) -> None:
    """``logging.shutdown`` calls ``flush`` and then ``close``."""
    logging.config.dictConfig(configuration(receiver, flush_timeout=0.5))
    receiver.hold()
    log()
    receiver.wait_for(1)
    started = time.monotonic()
    logging.shutdown()
    took = time.monotonic() - started
    receiver.release()
    assert 0.5 <= took < 0.9


def test_shutdown_holds_up_no_thread_that_logs(receiver: Receiver) -> None:
    """It holds a handler's lock while it flushes; this handler has none."""
    logging.config.dictConfig(configuration(receiver, flush_timeout=1.0))
    receiver.hold()
    log()
    receiver.wait_for(1)
    stopping = threading.Thread(target=logging.shutdown)
    stopping.start()
    started = time.monotonic()
    for number in range(50):
        log(number)
    took = time.monotonic() - started
    assert stopping.is_alive()
    receiver.release()
    stopping.join(PATIENCE)
    assert took < 0.5
