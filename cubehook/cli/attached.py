"""The webhook handlers of a configuration of logging, made as logging makes them, alone."""

from __future__ import annotations

import logging.config
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cubehook.cli import given
from cubehook.errors import ConfigError
from cubehook.handler import WebhookHandler

LOGGER = "cube.source"
"""The name that the records of a source carry."""

_LEFT_OUT = {"root", "incremental"}


@contextmanager
def handlers(
    path: str, instead: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[list[WebhookHandler]]:
    """The handlers of class cubehook.WebhookHandler in the file (YAML, JSON or INI), until the end
    of the block, which closes them. Their formatters and filters are theirs; loggers and other
    handlers of the file are left out.

    instead: the names of the only handlers to make, in the file's order, each with options that
    take the place of its own in the file; None: all of them, as they are.

    Raises `ConfigError` listing every problem, or if there is none of them.
    """
    changes = {name: {} for name in given.configured(path)} if instead is None else instead
    file = Path(path)
    made = _of_ini(file, changes) if given.is_ini(file) else _of_mapping(file, changes)
    try:
        yield made
    finally:
        for handler in made:
            handler.close()


def _of_ini(file: Path, changes: Mapping[str, Mapping[str, Any]]) -> list[WebhookHandler]:
    return [
        WebhookHandler(**{**options, **changes[name]})
        for name, options in given.handler_options(file)
        if name in changes
    ]


def _of_mapping(file: Path, changes: Mapping[str, Mapping[str, Any]]) -> list[WebhookHandler]:
    whole = {key: value for key, value in given.parsed(file).items() if key not in _LEFT_OUT}
    # The rest of the file stays: cfg:// may refer to it.
    whole["handlers"] = {
        key: _changed(one, changes[str(key)])
        for key, one in whole["handlers"].items()
        if str(key) in changes
    }
    whole["loggers"] = {LOGGER: {"handlers": list(whole["handlers"])}}
    try:
        logging.config.dictConfig(whole | {"disable_existing_loggers": False})
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise ConfigError(f"the file cannot be used ({type(error).__name__})") from None
    attached = logging.getLogger(LOGGER).handlers
    return [one for one in attached if isinstance(one, WebhookHandler)]


def _changed(options: Any, change: Mapping[str, Any]) -> Any:
    # A reference to another place of the file stays one, as long as nothing is to be changed.
    if change and not isinstance(options, Mapping):
        raise ConfigError("a handler that is a cfg:// cannot be used for this")
    return {**options, **change} if change else options
