"""The webhook handlers of a configuration of logging, made as logging makes them, alone; and a
feed for them."""

from __future__ import annotations

import configparser
import logging.config
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from cubehook.cli import given
from cubehook.config import Config
from cubehook.errors import ConfigError
from cubehook.handler import WebhookHandler
from cubehook.sources import Feed
from cubehook.sources._feed import OutboxAwayError

LOGGER = "cube.source"
"""The name that the records of a source carry."""

LOOK_SECONDS = 0.5
"""So often it is asked whether handlers know their endpoints."""

_LEFT_OUT = {"root", "incremental"}
_PLACE = re.compile(r"Unable to configure ((?:formatter|filter|handler) '[^']*')")
_OF_FORMATTERS = ("format", "datefmt", "style", "class")


@contextmanager
def handlers(
    path: str, instead: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[list[WebhookHandler]]:
    """The handlers of class cubehook.WebhookHandler in the file (YAML, JSON or INI), until the end
    of the block, which closes them. Their levels, formatters and filters are theirs; loggers and
    other handlers of the file are left out.

    instead: the names of the only handlers to make, in the file's order, each with options that
    take the place of its own in the file; None: all of them, as they are.

    Raises `ConfigError` listing every problem, or if there is none of them.
    """
    changes = {name: {} for name in given.configured(path)} if instead is None else instead
    file = Path(path)
    made = _made(_of_ini(file) if given.is_ini(file) else given.parsed(file), changes)
    try:
        yield made
    finally:
        for handler in made:
            handler.close()


def for_a_source(path: str) -> dict[str, Config]:
    """What each of the handlers says, by name.

    Raises `ConfigError`, also where they have no endpoint to deliver to.
    """
    configured = given.configured(path)
    of_each = configured.values()
    if not any(one.stored or any(each.enabled for each in one.endpoints) for one in of_each):
        raise ConfigError("there is no endpoint to deliver to")
    return configured


def of_a_source(
    path: str, configured: Mapping[str, Config]
) -> AbstractContextManager[list[WebhookHandler]]:
    """The same of all handlers, for a feed. None is ``durable: sync``: the feed waits for the
    commit of many events, once, and each would wait for its own."""
    instead = {
        name: {"durable": "async"} if config.settings.durable == "sync" else {}
        for name, config in configured.items()
    }
    return handlers(path, instead)


def feed(
    made: Sequence[WebhookHandler],
    configured: Mapping[str, Config],
    stopping: threading.Event,
    *,
    once: bool,
) -> Feed:
    """What gives events to these handlers. once: where an outbox cannot be used, that is raised (as
    a `CubehookError`), and not waited for."""
    of_each = {handler: configured[str(handler.name)] for handler in made}
    stored = {one: config.settings.outbox or "" for one, config in of_each.items() if config.stored}
    storing = [one for one, config in of_each.items() if config.settings.outbox is not None]
    return Feed(
        made,
        stopping,
        LOGGER,
        ready=lambda: _know_endpoints(stored, stopping, once=once),
        storing=storing if once else (),
    )


def _know_endpoints(
    stored: Mapping[WebhookHandler, str], stopping: threading.Event, *, once: bool
) -> bool:
    """Wait until handlers know the endpoints that are stored in their outboxes: those that came up
    while the database was away know none, and turn every event away. False: it is to stop."""
    for handler, outbox in stored.items():
        while not _knows_endpoints(handler, outbox):
            if once:
                raise OutboxAwayError("the endpoints could not be read")
            if stopping.wait(LOOK_SECONDS):
                return False
    return True


def _knows_endpoints(handler: WebhookHandler, url: str) -> bool:
    from cubehook.outbox import Outbox, OutboxUnavailableError
    from cubehook.outbox.endpoints import EndpointStore

    known = handler.stats().endpoints.keys()  # first: they are in use when the outbox has answered
    with closing(Outbox(url)) as outbox:
        try:
            return {one.name for one in EndpointStore(outbox).list() if one.enabled} <= known
        except OutboxUnavailableError:  # the handler warns of it
            return False


def _made(
    whole: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]
) -> list[WebhookHandler]:
    if whole.get("version") != 1:
        raise ConfigError("version: must be 1")
    # The rest of the file stays: cfg:// may refer to it.
    whole = {key: value for key, value in whole.items() if key not in _LEFT_OUT}
    whole["handlers"] = {
        key: _changed(one, changes[str(key)])
        for key, one in whole["handlers"].items()
        if str(key) in changes
    }
    whole["loggers"] = {LOGGER: {"handlers": list(whole["handlers"])}}
    try:
        logging.config.dictConfig(whole | {"disable_existing_loggers": False})
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise ConfigError(_told(error)) from None
    attached = logging.getLogger(LOGGER).handlers
    return [one for one in attached if isinstance(one, WebhookHandler)]


def _of_ini(file: Path) -> dict[str, Any]:
    """As a mapping for `logging.config.dictConfig`: ``fileConfig`` would make all of the file."""
    read = dict(given.handler_options(file))
    parser = configparser.ConfigParser()
    parser.read(file, encoding="utf-8-sig")
    handlers_, formatters = {}, {}
    for name, options in read.items():
        section = parser[f"handler_{name}"]
        handlers_[name] = {"class": given.CLASSES[0], **options}
        if level := section.get("level", raw=True):
            handlers_[name]["level"] = level
        if formatter := section.get("formatter", raw=True):
            handlers_[name]["formatter"] = formatter
            formatters[formatter] = {
                key: value
                for key in _OF_FORMATTERS
                if (value := parser.get(f"formatter_{formatter}", key, raw=True, fallback=None))
            }
    return {"version": 1, "handlers": handlers_, "formatters": formatters}


def _changed(options: Any, change: Mapping[str, Any]) -> Any:
    # A reference to another place of the file stays one, as long as nothing is to be changed.
    if change and not isinstance(options, Mapping):
        raise ConfigError("a handler that is a cfg:// cannot be used for this")
    return {**options, **change} if change else options


def _told(error: Exception) -> str:
    """What logging could not make. Only its name: the rest of the text may be a value."""
    place = _PLACE.match(str(error))
    first: BaseException = error
    while first.__cause__ is not None:
        first = first.__cause__
    why = type(first).__name__
    return f"{place[1]} cannot be made ({why})" if place else f"the file cannot be used ({why})"
