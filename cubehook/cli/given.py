"""What a command is to work on: an outbox and endpoints, from options or from a logging file.

Every problem is a `ConfigError` that names the file's handlers and keys, and no values.
"""

from __future__ import annotations

import ast
import configparser
import json
import logging.config
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cubehook import config
from cubehook.config import Settings
from cubehook.endpoint import Endpoint
from cubehook.errors import ConfigError

CLASSES = ("cubehook.WebhookHandler", "cubehook.handler.WebhookHandler")

_NOT_OURS = {"class", "()", "level", "formatter", "filters", "."}
"""Keys of a handler that are for logging alone."""


@dataclass(frozen=True, slots=True)
class Given:
    """An outbox's URL, and the endpoints and settings of who works from it.

    stored: the endpoints are those in the outbox; none of them is here.
    """

    outbox: str
    endpoints: tuple[Endpoint, ...]
    settings: Settings
    stored: bool = False


def from_options(outbox: str, endpoints: str | None) -> Given:
    """Of ``--outbox`` and ``--endpoints``: a JSON or YAML file with a list; ``outbox``: those
    stored there; None for the environment variable."""
    if endpoints == config.STORED:
        loaded = config.load(endpoints, {"outbox": outbox})
        return Given(_url(loaded.settings), (), loaded.settings, stored=True)
    listed = None if endpoints is None else parsed(Path(endpoints))
    if endpoints is not None and not isinstance(listed, list):
        raise ConfigError("endpoints: the file must hold a list")
    loaded = config.load(listed, {"outbox": outbox})
    return Given(_url(loaded.settings), loaded.endpoints, loaded.settings)


def outbox_alone(outbox: str) -> str:
    """The URL that ``--outbox`` names."""
    return _url(config.load([], {"outbox": outbox}).settings)


def from_file(path: str) -> Given:
    """What the handlers in a configuration of logging (YAML, JSON or INI) have in common.

    Raises `ConfigError` if none has an outbox, or they have different ones.
    """
    loaded = configured(path)
    stored = {name: one for name, one in loaded.items() if one.settings.outbox is not None}
    if not stored:
        raise ConfigError(f"{_names(loaded)}: without an outbox there is nothing to deliver from")
    if len({one.settings.outbox for one in stored.values()}) > 1:
        raise ConfigError(f"{_names(stored)}: have different outboxes; use --outbox")
    settings = next(iter(stored.values())).settings
    if len({one.stored for one in stored.values()}) > 1:
        raise ConfigError(f"{_names(stored)}: 'endpoints: outbox' must be in all of them or none")
    follows = next(iter(stored.values())).stored
    return Given(_url(settings), _united(stored), settings, stored=follows)


def configured(path: str) -> dict[str, config.Config]:
    """What each handler of ours in a configuration of logging says, by the handler's name.

    Raises `ConfigError` listing every problem, or if there is no such handler.
    """
    loaded: dict[str, config.Config] = {}
    problems: list[str] = []
    for name, options in handler_options(Path(path)):
        endpoints = options.pop("endpoints", None)
        try:
            loaded[name] = config.load(endpoints, options)
        except ConfigError as error:
            problems += [f"handler {name!r}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    if not loaded:
        raise ConfigError("the file has no handler of class cubehook.WebhookHandler")
    return loaded


def _names(handlers: Mapping[str, object]) -> str:
    return ("handlers " if len(handlers) > 1 else "handler ") + ", ".join(map(repr, handlers))


def _url(settings: Settings) -> str:
    return cast(str, settings.outbox)


def _united(stored: Mapping[str, config.Config]) -> tuple[Endpoint, ...]:
    """The endpoints of all handlers. In the outbox their names are all that tells them apart."""
    united: dict[str, Endpoint] = {}
    for each in stored.values():
        for endpoint in each.endpoints:
            if united.setdefault(endpoint.name, endpoint) != endpoint:
                raise ConfigError(f"endpoint {endpoint.name!r}: is another one in each handler")
    return tuple(united.values())


def handler_options(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and the options of each handler that is ours."""
    if is_ini(path):
        yield from _of_ini(path)
        return
    whole = parsed(path)
    if not isinstance(whole, dict) or not isinstance(whole.get("handlers"), dict):
        raise ConfigError("the file has no handlers: it is no configuration of logging")
    # Its mappings resolve cfg:// and ext:// when they are asked.
    handlers: Any = logging.config.DictConfigurator(whole).config["handlers"]
    for name in whole["handlers"]:
        try:
            each = handlers[name]
            if isinstance(each, dict) and (each.get("class") or each.get("()")) in CLASSES:
                yield str(name), {key: each[key] for key in each if key not in _NOT_OURS}
        except (ValueError, LookupError, AttributeError) as error:
            why = type(error).__name__
            raise ConfigError(f"handler {name!r}: holds what cannot be resolved ({why})") from None


def is_ini(path: Path) -> bool:
    """Whether the file is for `logging.config.fileConfig`."""
    return path.suffix in (".ini", ".cfg", ".conf")


def _of_ini(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `logging.config.fileConfig` reads it, but for expressions that are no literals."""
    parser = configparser.ConfigParser()
    try:
        parser.read_string(_text(path))
        names = parser.get("handlers", "keys").split(",")
    except configparser.Error as error:  # its text has lines of the file
        raise ConfigError(f"the file is not INI of logging ({type(error).__name__})") from None
    for name in filter(None, map(str.strip, names)):
        section = f"handler_{name}"
        if parser.get(section, "class", fallback=None) not in CLASSES:
            continue
        try:
            arguments = ast.literal_eval(parser.get(section, "args", fallback="()"))
            options = dict(ast.literal_eval(parser.get(section, "kwargs", fallback="{}")))
        except (configparser.Error, ValueError, SyntaxError, TypeError):
            raise ConfigError(f"handler {name!r}: args or kwargs are no Python literal") from None
        yield name, dict(zip(["endpoints"], arguments, strict=False)) | options


def parsed(path: Path) -> Any:
    """What a JSON or YAML file holds."""
    text = _text(path)
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            place = f"line {error.lineno}, column {error.colno}"
            raise ConfigError(f"the file is not JSON ({place})") from None
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError("the file's name must end with .yaml, .yml or .json (logging's: or .ini)")
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:  # its text has lines of the file
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ConfigError(f"the file is not YAML{place}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the file cannot be read ({type(error).__name__})") from None
