"""The commands on one stream, for one consumer of one group; replies as values, errors as ours.

No error has an address, a password or a name of an entry in its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, parse_url
from redis.retry import Retry

from cubehook.errors import ConfigError, CubehookError

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 5.0
"""How long an answer may take, beside what `read_new` was told to wait."""

SCHEMES = ("redis://", "rediss://", "unix://")

_PAGE = 100
_NOWHERE = "18446744073709551615-18446744073709551614"  # no entry comes after it
_OURS = {
    "protocol": 2,
    "decode_responses": False,
    # Who reads twice does not see what was read first.
    "retry": Retry(NoBackoff(), 0),
    "retry_on_timeout": False,
    "health_check_interval": 0,
    "socket_keepalive": True,
    "socket_connect_timeout": CONNECT_SECONDS,
    "socket_timeout": ANSWER_SECONDS,
}
_UNIX_HAS_NOT = {"socket_keepalive", "socket_connect_timeout"}

_Fields: TypeAlias = "dict[str, str]"

# Each is one step for the server, so nobody comes in between. `idle` is the time since a consumer
# asked for anything.
_TAKE_TURN = f"""
for _, one in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local about = {{}}
  for at = 1, #one, 2 do about[one[at]] = one[at + 1] end
  local silence = tonumber(about.name == ARGV[2] and ARGV[4] or ARGV[3])
  if about.idle < silence then return 0 end
end
redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], '{_NOWHERE}')
return 1
"""
_REMOVE = """
local removed = 0
for _, one in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local about = {}
  for at = 1, #one, 2 do about[one[at]] = one[at + 1] end
  local asked = (about.name == ARGV[2]) == (ARGV[3] == 'own')
  if asked and about.pending == 0 and about.idle >= tonumber(ARGV[4]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], about.name)
    removed = removed + 1
  end
end
return removed
"""


class UnreachableError(CubehookError):
    """Redis cannot be reached, or cannot serve now."""


class GroupGoneError(CubehookError):
    """The stream or its group is not there, or no longer."""


class RefusedError(ConfigError):
    """Redis will not do it, now or later: the configuration has to change."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a stream. fields: None for one that is no longer there."""

    id: str
    fields: _Fields | None = field(repr=False)


class Group:
    """See the module. Threads may share it. Every method raises `UnreachableError`,
    `GroupGoneError` (unless it creates the group) and `RefusedError`."""

    def __init__(self, url: str, stream: str, group: str, consumer: str) -> None:
        """Raises `ConfigError` for a URL that cannot be used."""
        self.consumer = consumer
        self._redis = redis.Redis(connection_pool=_pool(url))
        for command in ("XREADGROUP", "XAUTOCLAIM", "XCLAIM"):
            # What the library makes of these differs from version to version.
            self._redis.set_response_callback(command, lambda reply, **_: reply)
        self._of_stream = stream
        self._of_group = (stream, group)
        self._own = (stream, group, consumer)

    def create(self, start: str) -> bool:
        """Make the group, and the stream, where they are missing: whether they were.

        start: entries after this id are for the group; ``$``: only those that are still to come.
        """
        try:
            self._do("XGROUP CREATE", *self._of_group, start, "MKSTREAM")
        except exceptions.ResponseError:
            return False
        return True

    def last_id(self) -> str:
        """The highest id that the stream has had; 0-0 if there is no stream."""
        try:
            found = self._do("XINFO STREAM", self._of_stream)
        except GroupGoneError:
            return "0-0"
        return _id(found["last-generated-id"])

    def position(self) -> str:
        """The last entry that the group has given to anybody."""
        found = self._do("XINFO GROUPS", self._of_stream)
        for one in found:
            if one["name"] == self._of_group[1].encode():
                return _id(one["last-delivered-id"])
        raise GroupGoneError("the group is gone")

    def take_turn(self, others_silent: float, self_silent: float) -> bool:
        """Touch, unless another consumer was heard of within so many seconds, or one of the same
        name: whether it did."""
        silences = (_ms(others_silent), _ms(self_silent))
        return bool(self._script(_TAKE_TURN, self.consumer, *silences))

    def touch(self, ids: Sequence[str] = ()) -> None:
        """Let it be seen that this consumer lives, and still has these entries."""
        self._do("XREADGROUP", *self._reading(1), "STREAMS", self._of_stream, _NOWHERE)
        if ids:
            self._do("XCLAIM", *self._own, 0, *ids, "JUSTID")

    def read_pending(self, count: int) -> list[Entry]:
        """The first entries that this consumer was given and has not acknowledged."""
        reply = self._do("XREADGROUP", *self._reading(count), "STREAMS", self._of_stream, "0")
        return _entries(reply)

    def read_new(self, count: int, wait: float = 0.0) -> list[Entry]:
        """Entries that nobody was given; if there is none, wait for one so many seconds."""
        block = ("BLOCK", _ms(wait)) if wait else ()
        reply = self._do(
            "XREADGROUP", *self._reading(count), *block, "STREAMS", self._of_stream, ">"
        )
        return _entries(reply)

    def claim(self, idle: float) -> tuple[int, int]:
        """Take over what any consumer has had for so many seconds: how many entries, and how many
        are gone: no longer in the stream, and so off the list."""
        cursor, claimed, gone = "0-0", 0, 0
        while True:
            # Redis 6.2 has no third part; it claims what is gone like everything else.
            next_cursor, ids, *lost = self._do(
                "XAUTOCLAIM", *self._own, _ms(idle), cursor, "COUNT", _PAGE, "JUSTID"
            )
            claimed += len(ids)
            gone += sum(map(len, lost))
            cursor = _id(next_cursor)
            if cursor == "0-0":
                return claimed, gone

    def acknowledge(self, ids: Sequence[str]) -> None:
        """These need not be given to anybody again."""
        for start in range(0, len(ids), _PAGE):
            self._do("XACK", *self._of_group, *ids[start : start + _PAGE])

    def leave(self) -> bool:
        """Remove this consumer if it has nothing pending: whether it did."""
        return bool(self._script(_REMOVE, self.consumer, "own", 0))

    def bury(self, silent: float) -> int:
        """Remove other consumers that have nothing pending, and were silent so many seconds."""
        return int(self._script(_REMOVE, self.consumer, "others", _ms(silent)))

    def close(self) -> None:
        """Disconnect."""
        self._redis.close()

    def _reading(self, count: int) -> tuple[object, ...]:
        return ("GROUP", self._of_group[1], self.consumer, "COUNT", count)

    def _script(self, script: str, *arguments: object) -> Any:
        return self._do("EVAL", script, 1, *self._of_group, *arguments)

    def _do(self, *command: Any) -> Any:
        try:
            return self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except exceptions.RedisError as error:
            ours = _translated(error, str(command[0]).lower())
            if ours is None:
                raise
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
            ours = UnreachableError(f"Redis cannot be reached ({type(error).__name__})")
        raise ours


def _pool(url: str) -> ConnectionPool:
    if not url.startswith(SCHEMES):
        raise ConfigError(f"the URL must begin with {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}")
    try:
        options: dict[str, Any] = {**parse_url(url), **_OURS}  # type: ignore[no-untyped-call]
        if "path" in options:
            options = {key: one for key, one in options.items() if key not in _UNIX_HAS_NOT}
        pool = ConnectionPool(**options)
        pool.make_connection()  # it does not connect; it finds options that are none
    except (ValueError, TypeError, exceptions.RedisError):  # their text may have parts of the URL
        raise ConfigError("the URL is no URL of a Redis server, or has unknown options") from None
    return pool


def _translated(error: exceptions.RedisError, command: str) -> CubehookError | None:
    """None for an answer that the caller knows what to do with."""
    text = str(error)
    kind = type(error).__name__
    ours: CubehookError | None = None
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        ours = RefusedError(_NO_ENTRANCE)
    elif isinstance(error, exceptions.NoPermissionError):
        ours = RefusedError(f"Redis does not permit the user {command} on this stream")
    elif not isinstance(error, exceptions.ResponseError):
        ours = UnreachableError(f"Redis cannot be reached ({_cause(error)})")
    elif text.startswith("BUSYGROUP"):
        ours = None
    elif any(sign in text for sign in ("NOGROUP", "UNBLOCKED", "no such key")):
        ours = GroupGoneError("the stream or its group is gone")
    else:
        refusal = next((why for sign, why in _REFUSALS if sign in text), None)
        ours = RefusedError(refusal) if refusal else UnreachableError(f"Redis fails ({kind})")
    return ours


_NO_ENTRANCE = "Redis refuses the user or the password, or wants one"
_NOT_PERMITTED = "Redis does not permit the user every command that it takes"
_REFUSALS = (
    ("AUTH", _NO_ENTRANCE),
    ("NOPERM", _NOT_PERMITTED),
    ("can't run", _NOT_PERMITTED),  # in a script
    ("ACL failure", _NOT_PERMITTED),  # the same, of Redis 7.2
    ("WRONGTYPE", "the key is not a stream"),
    ("unknown command", "Redis 6.2 or later is needed"),
    ("MOVED", "Redis is a cluster: the URL must be that of the node which has the stream"),
    ("DB index", "Redis has no database of that number"),
)


def _cause(error: BaseException) -> str:
    """The class of what the library has wrapped."""
    inner = error.__cause__ or error.__context__
    return type(inner if isinstance(inner, OSError) else error).__name__


def _entries(reply: Any) -> list[Entry]:
    return [Entry(_id(one), _fields(flat)) for _, found in reply or () for one, flat in found]


def _fields(flat: Sequence[bytes] | None) -> _Fields | None:
    if flat is None:
        return None
    texts = [one.decode(errors="replace") for one in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _id(reply: bytes) -> str:
    return reply.decode("ascii")


def _ms(seconds: float) -> int:
    return max(int(seconds * 1000), 1)
