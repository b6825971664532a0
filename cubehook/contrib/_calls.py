"""Which calls of the sandbox SDKs are events, and what is told of them: a table, and its reader.

The SDKs share their names: `cubesandbox` is made after `e2b`. What an SDK does not have is passed
over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

CREATED, DELETED = "sandbox.created", "sandbox.deleted"
PAUSED, RESUMED = "sandbox.paused", "sandbox.resumed"

SDKS = ("cubesandbox", "e2b", "e2b_code_interpreter")
CLASSES = ("Sandbox", "AsyncSandbox")

_REQUESTED: Mapping[str, Any] = MappingProxyType({"source": "api", "reason": "request"})


class Made(NamedTuple):
    """A call that has returned.

    instance: what it was called on; None: on the class. arguments, named: as given, without the
    instance or class.
    """

    instance: object
    arguments: tuple[object, ...]
    named: Mapping[str, object]
    result: object


class Argument(NamedTuple):
    """A value that is an argument of the call, by this name or in this place."""

    name: str
    position: int

    def read(self, made: Made) -> object:
        if self.name in made.named:
            return made.named[self.name]
        return made.arguments[self.position] if self.position < len(made.arguments) else None


class Answer(NamedTuple):
    """A value that what was returned has, as an attribute or a key, by one of these names.

    unless: the value is another one where this argument was given.
    """

    names: tuple[str, ...]
    unless: str = ""

    def read(self, made: Made) -> object:
        if made.named.get(self.unless) is not None:
            return None
        return _first(_get(made.result, name) for name in self.names)


@dataclass(frozen=True, slots=True)
class Call:
    """A method and its event.

    of: where the sandbox is: what the method is called on (``subject``; with a method of the class
    the first argument, or ``sandbox_id``), what it returns (``result``), or nowhere (``nothing``).
    fields: of the event, beside those of the sandbox, each from the first source that has it.
    constant: fields that are always the same. covers: further events that calls made by this one
    do not tell of. only_paused: it is an event only if the sandbox is known to be paused.
    """

    method: str
    event: str
    of: Literal["subject", "result", "nothing"] = "subject"
    fields: Mapping[str, tuple[Argument | Answer, ...]] = field(default_factory=dict)
    constant: Mapping[str, Any] = field(default_factory=dict)
    covers: tuple[str, ...] = ()
    only_paused: bool = False


_TEMPLATE = (Argument("template", 0), Answer(("default_template",), unless="mcp"))
_SNAPSHOT = (Argument("snapshot_id", 0),)

CALLS = (
    # One that fails after all (its MCP gateway does not start) kills what it has created.
    Call("create", CREATED, "result", {"template_id": _TEMPLATE}, covers=(DELETED,)),
    Call("beta_create", CREATED, "result", {"template_id": _TEMPLATE}, covers=(DELETED,)),
    Call("fork", CREATED, "result"),
    Call("kill", DELETED, constant=_REQUESTED),
    Call("pause", PAUSED, constant=_REQUESTED),
    Call("beta_pause", PAUSED, constant=_REQUESTED),
    Call("resume", RESUMED, constant=_REQUESTED),
    Call("connect", RESUMED, "result", constant=_REQUESTED, only_paused=True),
    Call("set_timeout", "sandbox.timeout.updated", fields={"timeout": (Argument("timeout", 0),)}),
    Call(
        "create_snapshot",
        "snapshot.created",
        fields={"snapshot_id": (Answer(("snapshot_id",)),), "names": (Answer(("names",)),)},
    ),
    Call("delete_snapshot", "snapshot.deleted", "nothing", {"snapshot_id": _SNAPSHOT}),
    Call(
        "rollback",
        "sandbox.rolled_back",
        fields={
            "snapshot_id": _SNAPSHOT,
            "operation_id": (Answer(("operation_id", "operationID", "operationId")),),
            "status": (Answer(("status",)),),
        },
    ),
)


def fields_of(call: Call, made: Made) -> Iterator[dict[str, object]]:
    """The fields of each event that this call was: none or one, or several where it made several.

    Only what the table names is read: what else was given to an SDK may be secret.
    """
    if call.of == "subject" and made.instance is None:
        made = _of_class(made)
    if call.of == "nothing":
        yield _fields(call, made, None)
        return
    found = made.result if call.of == "result" else made.instance
    for sandbox in found if isinstance(found, list | tuple) else (found,):
        fields = _fields(call, made, sandbox)
        if "sandbox_id" in fields:  # else it is none: an exception, of a fork that failed
            yield fields


def _of_class(made: Made) -> Made:
    """``Sandbox.kill(sandbox_id)`` as if it were called on that sandbox."""
    if "sandbox_id" in made.named or not made.arguments:
        return made._replace(instance=made.named.get("sandbox_id"))
    return made._replace(instance=made.arguments[0], arguments=made.arguments[1:])


def _fields(call: Call, made: Made, sandbox: object) -> dict[str, object]:
    known = {"sandbox_id": sandbox if isinstance(sandbox, str) else _text(sandbox, "sandbox_id")}
    known["template_id"] = _text(sandbox, "template_id")
    known |= {
        name: _first(source.read(made) for source in sources)
        for name, sources in call.fields.items()
        if known.get(name) is None
    }
    known |= call.constant
    return {name: value for name, value in known.items() if value is not None}


def _first(values: Iterator[object]) -> object:
    return next((value for value in values if value is not None and value != ""), None)


def _text(thing: object, name: str) -> object:
    value = _get(thing, name)
    return value if isinstance(value, str) else None


def _get(thing: object, name: str) -> object:
    if isinstance(thing, Mapping):
        return thing.get(name)
    try:
        return getattr(thing, name, None)
    except Exception:  # a property for which the SDK has no value
        return None
