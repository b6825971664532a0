"""The webhook handlers of a configuration of logging, made as logging makes them, alone."""

from __future__ import annotations

import logging.config
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cubehook.cli import given
from cubehook.errors import ConfigError
from cubehook.handler import WebhookHandler

LOGGER = "cube.source"
"""The name that the records of a source carry."""

_LEFT_OUT = {"root", "incremental"}


@contextmanager
def handlers(path: str) -> Iterator[list[WebhookHandler]]:
    """The handlers of class cubehook.WebhookHandler in the file (YAML, JSON or INI), until the end
    of the block, which closes them. Their formatters and filters are theirs; loggers and other
    handlers of the file are left out.

    Raises `ConfigError` listing every problem, or if there is none of them.
    """
    names = set(given.configured(path))
    file = Path(path)
    made = _of_ini(file) if given.is_ini(file) else _of_mapping(file, names)
    try:
        yield made
    finally:
        for handler in made:
            handler.close()


def _of_ini(file: Path) -> list[WebhookHandler]:
    return [WebhookHandler(**options) for _, options in given.handler_options(file)]


def _of_mapping(file: Path, names: set[str]) -> list[WebhookHandler]:
    whole = {key: value for key, value in given.parsed(file).items() if key not in _LEFT_OUT}
    # The rest of the file stays: cfg:// may refer to it.
    whole["handlers"] = {key: one for key, one in whole["handlers"].items() if str(key) in names}
    whole["loggers"] = {LOGGER: {"handlers": list(whole["handlers"])}}
    try:
        logging.config.dictConfig(whole | {"disable_existing_loggers": False})
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise ConfigError(f"the file cannot be used ({type(error).__name__})") from None
    attached = logging.getLogger(LOGGER).handlers
    return [one for one in attached if isinstance(one, WebhookHandler)]
