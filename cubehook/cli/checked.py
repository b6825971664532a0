"""What a configuration says, and what in it is legal and yet hardly meant.

Everything is told by names of handlers, loggers and endpoints; no value of a secret kind is.
"""

from __future__ import annotations

import configparser
import logging
import logging.config
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cubehook import config, formats
from cubehook.cli import given
from cubehook.config import ENDPOINTS_VARIABLE
from cubehook.endpoint import DEFAULT_SCHEME, Endpoint, matches
from cubehook.errors import ConfigError
from cubehook.event import KNOWN_EVENTS
from cubehook.formats._chat import ChatFormatter

ROOT = "root"
_DEFAULT_LEVEL = logging.WARNING  # of the root logger


@dataclass(frozen=True, slots=True)
class Logger:
    """One of a configuration. level: as it is in force, of its own or of one above it."""

    name: str
    level: int
    handlers: tuple[str, ...]
    propagates: bool


@dataclass(frozen=True, slots=True)
class Handler:
    """One of ours. name: None for one that is in no file. loggers: that have it.

    level: its own. lowest: of the levels of loggers whose records come to it; None: not known.
    """

    name: str | None
    config: config.Config
    loggers: tuple[Logger, ...] = ()
    level: int = logging.NOTSET
    lowest: int | None = None
    held: bool = False
    """By another handler, such as a QueueHandler or a MemoryHandler."""

    @property
    def place(self) -> str:
        """To be put before what is said of it."""
        return f"{ENDPOINTS_VARIABLE}: " if self.name is None else f"handler {self.name!r}: "

    def warnings(self) -> Iterator[str]:
        """What is legal and hardly meant."""
        if self.name is not None:
            yield from (self.place + text for text in self._of_logging())
        if not self.config.endpoints and not self.config.stored:
            yield f"{self.place}has no endpoints, and does nothing"
        for endpoint in self.config.endpoints:
            for text in of_endpoint(endpoint):
                yield f"{self.place}endpoint {endpoint.name!r}: {text}"

    def _of_logging(self) -> Iterator[str]:
        if not self.loggers and not self.held:
            yield "no logger has it: it gets no records"
        if self.level > logging.INFO:
            yield f"its level is {_named(self.level)}: events are logged at INFO"
        if self.lowest is not None and self.lowest > logging.INFO:
            names = ", ".join(repr(one.name) for one in self.loggers)
            plural = "loggers" if len(self.loggers) > 1 else "logger"
            level = _named(self.lowest)
            yield f"{plural} {names}: the level in force is {level}: events are logged at INFO"


def handlers(path: str | None) -> list[Handler]:
    """Those in a configuration of logging; without one, what the environment variable says.

    Raises `ConfigError` listing every problem.
    """
    if path is None:
        return [Handler(None, config.load())]
    loaded = given.configured(path)
    file = Path(path)
    try:
        read = _of_ini(file) if given.is_ini(file) else _of_mapping(file)
    except (configparser.Error, ValueError, LookupError, TypeError, AttributeError) as error:
        why = type(error).__name__
        raise ConfigError(f"the loggers of the file cannot be read ({why})") from None
    if problems := [*read.refused, *_unknown(read, loaded)]:
        raise ConfigError(problems)
    loggers = _loggers(read.facts)
    return [
        Handler(
            name,
            one,
            tuple(each for each in loggers if name in each.handlers),
            _level(read.levels[name]) or logging.NOTSET,
            _lowest(name, loggers),
            name in read.held,
        )
        for name, one in loaded.items()
    ]


def of_endpoint(endpoint: Endpoint) -> Iterator[str]:
    """What is legal and hardly meant of one."""
    if not endpoint.secrets and not _needs_none(endpoint.format):
        yield "has no secret: its requests are not signed"
    if not endpoint.secure:
        yield "plain http: whoever is on the way reads and changes what is sent"
    patterns = endpoint.events
    if not any(matches(pattern, event) for pattern in patterns for event in KNOWN_EVENTS):
        yield "subscribes to none of the known events"


def _needs_none(name: str) -> bool:
    """Whether the format is for a chat that looks at no signature: there the URL is the secret."""
    found = formats.find(name)
    return issubclass(found, ChatFormatter) and found.scheme == DEFAULT_SCHEME


def _lowest(name: str, loggers: list[Logger]) -> int | None:
    """Of the loggers that have it, and of those below them, which hand their records up."""
    by_name = {one.name: one for one in loggers}
    levels = [one.level for one in loggers if name in _reached(one, by_name)]
    return min(levels, default=None)


def _reached(logger: Logger, by_name: Mapping[str, Logger]) -> set[str]:
    """The handlers that get its records."""
    found = set(logger.handlers)
    at: Logger | None = logger
    while at is not None and at.propagates and at.name != ROOT:
        at = _above(at.name, by_name)
        found.update(at.handlers if at else ())
    return found


def _above(name: str, by_name: Mapping[str, Any]) -> Any:
    while "." in name:
        name = name.rpartition(".")[0]
        if name in by_name:
            return by_name[name]
    return by_name.get(ROOT)


class _Read(NamedTuple):
    """Of a file. levels: of each handler. facts: level, handlers, propagate of each logger.

    held: handlers that other handlers have. refused: what logging does not take.
    """

    levels: dict[str, Any]
    facts: dict[str, tuple[Any, Any, Any]]
    held: set[str]
    refused: tuple[str, ...] = ()


def _unknown(read: _Read, ours: Iterable[str]) -> Iterator[str]:
    """What logging would not find: levels, and handlers of loggers."""
    for name in ours:
        if read.levels[name] and _level(read.levels[name]) is None:
            yield f"handler {name!r}: level: is not known"
    for name, (level, attached, _) in read.facts.items():
        if level and _level(level) is None:
            yield f"logger {name!r}: level: is not known"
        if not isinstance(attached, list | tuple):
            yield f"logger {name!r}: handlers: must be a list"
        elif not {*map(str, attached)} <= read.levels.keys():
            yield f"logger {name!r}: handlers: has one that is not in the file"


def _of_mapping(file: Path) -> _Read:
    whole: Any = logging.config.DictConfigurator(given.parsed(file)).config
    declared = {str(key): _mapping(whole["handlers"], key) for key in whole["handlers"]}
    sections = {str(key): _mapping(whole["loggers"], key) for key in whole.get("loggers") or ()}
    if "" in sections:  # another name of the root logger
        sections[ROOT] = sections.pop("")
    if whole.get(ROOT):
        sections[ROOT] = _mapping(whole, ROOT)
    facts = {
        name: (one.get("level"), one.get("handlers") or (), one.get("propagate", True))
        for name, one in sections.items()
    }
    held = {
        str(each)
        for one in declared.values()
        for key in ("handlers", "target")
        for each in (one[key] if isinstance(one.get(key), list) else [one.get(key)])
    }
    levels = {name: one.get("level") for name, one in declared.items()}
    return _Read(levels, facts, held, () if whole.get("version") == 1 else ("version: must be 1",))


def _mapping(parent: Any, key: Any) -> dict[str, Any]:
    found = parent[key]
    return {each: found[each] for each in found} if isinstance(found, dict) else {}


def _of_ini(file: Path) -> _Read:
    parser = configparser.RawConfigParser()
    parser.read_string(file.read_text(encoding="utf-8-sig"))
    facts = {}
    for key in _listed(parser.get("loggers", "keys", fallback="")):
        section = f"logger_{key}"
        name = ROOT if key == ROOT else parser.get(section, "qualname", fallback=key)
        facts[name] = (
            parser.get(section, "level", fallback=None),
            _listed(parser.get(section, "handlers", fallback="")),
            parser.get(section, "propagate", fallback="1") != "0",
        )
    names = _listed(parser.get("handlers", "keys", fallback=""))
    own = {name: parser.get(f"handler_{name}", "level", fallback=None) for name in names}
    targets = {parser.get(f"handler_{name}", "target", fallback="") for name in names}
    return _Read(own, facts, targets)


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _loggers(facts: Mapping[str, tuple[Any, Any, Any]]) -> list[Logger]:
    """The loggers; each without a level of its own has that of the next one above it."""
    own = {name: _level(level) for name, (level, _, _) in facts.items()}
    made = []
    for name, (_, attached, propagates) in facts.items():
        at, level = name, own[name]
        while not level and at != ROOT:
            at = at.rpartition(".")[0] or ROOT
            level = own.get(at)
        handlers_ = tuple(map(str, attached))
        made.append(Logger(name, level or _DEFAULT_LEVEL, handlers_, bool(propagates)))
    return made


def _level(value: Any) -> int | None:
    """The number of a level; None where there is none, or none that is known."""
    if isinstance(value, str):
        number = logging.getLevelName(value.strip())
        return number if isinstance(number, int) else None
    return value if isinstance(value, int) else None


def _named(level: int) -> str:
    return str(logging.getLevelName(level))
