"""Docstrings for the site: a griffe extension that makes lists of what they say of each name.

In the code a parameter is one line, ``timeout, connect_timeout: seconds``, and needs no mark-up. In
Markdown such lines would run together.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

from cubehook.config import Settings

_TERM = re.compile(r"(?P<names>[a-z_]+(?:, [a-z_]+)*): ")
_NEXT = re.compile(r"(?<=[.;]) (?=(?P<names>[a-z_]+(?:, [a-z_]+)*): )")


class Names(griffe.Extension):
    """See the module."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Show the value of a default that is one of the settings."""
        for parameter in func.parameters:
            object_name, _dot, name = str(parameter.default).rpartition(".")
            if object_name == "_DEFAULTS":
                parameter.default = repr(getattr(Settings(), name))

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of ``obj``, if it has one."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, _known(obj))


def _known(obj: Any) -> frozenset[str]:
    """The names that may be explained in its docstring."""
    if obj.is_function:
        return frozenset(parameter.name for parameter in obj.parameters)
    if not obj.is_class:
        return frozenset()
    made = obj.members.get("__init__")
    parameters = _known(made) if made is not None and made.is_function else frozenset()
    return parameters | frozenset(obj.members)


def as_markdown(text: str, known: frozenset[str]) -> str:
    """The docstring with each name that is known as an item of a list."""
    return "\n\n".join(_paragraph(part, known) for part in text.split("\n\n") if part != "::")


def _paragraph(text: str, known: frozenset[str]) -> str:
    if text.startswith("    ") or not _explains(text, known):
        return text
    lines: list[str] = []
    for line in " ".join(text.split("\n")).split("\n"):
        lines += _split(line, known)
    return "\n".join(lines)


def _explains(text: str, known: frozenset[str]) -> bool:
    match = _TERM.match(text)
    return match is not None and set(match["names"].split(", ")) <= known


def _split(text: str, known: frozenset[str]) -> list[str]:
    items: list[str] = []
    start = 0
    for match in _NEXT.finditer(text):
        if set(match["names"].split(", ")) <= known:
            items.append(text[start : match.start()])
            start = match.end()
    items.append(text[start:])
    return [_item(item) for item in items]


def _item(text: str) -> str:
    names, _, rest = text.partition(": ")
    marked = ", ".join(f"`{name}`" for name in names.split(", "))
    return f"- {marked}: {' '.join(rest.split())}"
