"""In the place of a method, one that does the same and lets an observer know of each call.

Signature, docstring, kind (of the class, of the instance, coroutine) and everything that is
returned or raised stay what they are.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from cubehook.contrib._calls import Made

Split: TypeAlias = Callable[[tuple[Any, ...]], tuple[object, tuple[Any, ...]]]
"""Parts the arguments of a function into the instance and what was given."""


class Observer(Protocol):
    """Whom the calls are told."""

    def watching(self) -> AbstractContextManager[bool]:
        """Stands around a call; whether it is to be told of."""

    def tell(self, made: Made) -> None:
        """A call has returned. It must not raise."""


def can_be_wrapped(attribute: object) -> bool:
    """Whether it is a method, of whatever kind."""
    return hasattr(attribute, "__get__") and not isinstance(attribute, property)


def wrapped(attribute: Any, observer: Observer) -> Any:
    """What to put in the place of this attribute of a class, as its ``__dict__`` has it."""
    if isinstance(attribute, classmethod):
        return classmethod(_function(attribute.__func__, observer, _without_class))
    if isinstance(attribute, staticmethod):
        return staticmethod(_function(attribute.__func__, observer, _without_instance))
    if inspect.isfunction(attribute):
        return _function(attribute, observer, _with_instance)
    return _Wrapped(attribute, observer)


class _Wrapped:
    """In the place of any other descriptor: e2b has methods that are of the class and of the
    instance, with other parameters."""

    def __init__(self, attribute: Any, observer: Observer) -> None:
        self.__wrapped__ = attribute
        self._observer = observer

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        bound = self.__wrapped__.__get__(instance, owner)
        return _function(bound, self._observer, lambda args: (instance, args))


def _function(function: Callable[..., Any], observer: Observer, split: Split) -> Any:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def await_and_tell(*args: Any, **kwargs: Any) -> Any:
            return await _awaited(function(*args, **kwargs), observer, split, args, kwargs)

        return await_and_tell

    @functools.wraps(function)
    def call_and_tell(*args: Any, **kwargs: Any) -> Any:
        with observer.watching() as told:
            result = function(*args, **kwargs)
        if inspect.iscoroutine(result):  # a function that returns what a coroutine function does
            return _awaited(result, observer, split, args, kwargs)
        if told:
            observer.tell(Made(*split(args), kwargs, result))
        return result

    return call_and_tell


async def _awaited(
    coroutine: Coroutine[Any, Any, Any],
    observer: Observer,
    split: Split,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    with observer.watching() as told:
        result = await coroutine
    if told:
        observer.tell(Made(*split(args), kwargs, result))
    return result


def _with_instance(args: tuple[Any, ...]) -> tuple[object, tuple[Any, ...]]:
    return (args[0] if args else None), args[1:]


def _without_class(args: tuple[Any, ...]) -> tuple[object, tuple[Any, ...]]:
    return None, args[1:]


def _without_instance(args: tuple[Any, ...]) -> tuple[object, tuple[Any, ...]]:
    return None, args
