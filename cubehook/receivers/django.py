"""A decorator for Django views that receive webhooks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from cubehook.receivers._core import (
    MAX_BYTES,
    Incoming,
    ReceivedEvent,
    RequestError,
    SecretSource,
    Settings,
    too_large,
)

P = ParamSpec("P")


def verified(
    *,
    secret: SecretSource,
    scheme: str | None = None,
    tolerance: float = 300,
    max_bytes: int = MAX_BYTES,
) -> Callable[
    [Callable[Concatenate[HttpRequest, ReceivedEvent, P], Any]],
    Callable[Concatenate[HttpRequest, P], Any],
]:
    """Call the view with the request and the genuine event, before the arguments of the route.

    The view may be async. It is exempt from the check of CSRF tokens. A body over
    ``DATA_UPLOAD_MAX_MEMORY_SIZE`` is refused as one over ``max_bytes`` is. The options: see
    `cubehook.receivers`.
    """
    settings = Settings(secret=secret, scheme=scheme, tolerance=tolerance, max_bytes=max_bytes)

    def decorate(
        view: Callable[Concatenate[HttpRequest, ReceivedEvent, P], Any],
    ) -> Callable[Concatenate[HttpRequest, P], Any]:
        def answer(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> Any:
            try:
                event = _receive(settings, request)
            except RequestError as refusal:
                return HttpResponse(
                    refusal.phrase,
                    status=refusal.status,
                    headers=refusal.headers,
                    content_type="text/plain; charset=utf-8",
                )
            return view(request, event, *args, **kwargs)

        async def answer_later(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> Any:
            result = answer(request, *args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        # The exemption is an attribute, and `wraps` copies those: a plain csrf_exempt around an
        # async view is no async view in Django 4.
        wrap = functools.wraps(csrf_exempt(view))
        return wrap(answer_later if iscoroutinefunction(view) else answer)

    return decorate


def _receive(settings: Settings, request: HttpRequest) -> ReceivedEvent:
    incoming = Incoming(settings, request.method or "", request.headers.items())
    if incoming.length is None:
        incoming.fill(request.read)
    else:
        # Not read(): somebody may have asked for the body before, and then it is here.
        try:
            incoming.add(request.body)
        except RequestDataTooBig:
            raise too_large() from None
    return incoming.event()
