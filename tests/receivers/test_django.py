"""The decorator in Django, beside what an application may do there."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncRequestFactory, RequestFactory
from django.utils.decorators import method_decorator
from django.views import View
from django_setup import site
from senders import BODY, ID, SECRET, genuine, over_asgi, over_wsgi, signed

from cubehook.receivers import ReceivedEvent
from cubehook.receivers.django import verified


@verified(secret=SECRET)
def view(request: HttpRequest, event: ReceivedEvent, tenant: str = "") -> HttpResponse:
    assert request.body == event.body
    return JsonResponse({"id": event["id"], "tenant": tenant})


@verified(secret=SECRET)
async def async_view(request: HttpRequest, event: ReceivedEvent) -> HttpResponse:
    await asyncio.sleep(0)
    return JsonResponse({"id": event["id"]})


@method_decorator(verified(secret=SECRET), name="dispatch")
class ClassView(View):
    def post(self, request: HttpRequest, event: ReceivedEvent) -> HttpResponse:
        return JsonResponse({"id": event["id"]})


def posted(headers: dict[str, str], factory: Any = RequestFactory) -> Any:
    return factory().post("/webhook", BODY, content_type="application/json", headers=headers)


def test_the_view_answers_and_has_the_request() -> None:
    answer = view(posted(signed()), tenant="acme")
    assert answer.content == b'{"id": "%b", "tenant": "acme"}' % ID.encode()


def test_a_refusal_is_plain_text() -> None:
    answer = view(posted(signed(secret="another")))
    assert (answer.status_code, answer.content) == (401, b"not verified")
    assert answer["Content-Type"] == "text/plain; charset=utf-8"


def test_an_async_view_stays_one() -> None:
    assert inspect.iscoroutinefunction(async_view)
    answer = asyncio.run(async_view(posted(signed(), AsyncRequestFactory)))
    assert answer.status_code == 200
    answer = asyncio.run(async_view(posted(signed(secret="another"), AsyncRequestFactory)))
    assert answer.status_code == 401


@pytest.mark.parametrize("one", [view, async_view, ClassView.as_view()])
def test_it_is_exempt_from_the_check_of_csrf_tokens(one: Any) -> None:
    with site(one):
        assert over_wsgi(WSGIHandler(), genuine()).status == 200
        assert over_asgi(ASGIHandler(), genuine()).status == 200
    with site(lambda request: HttpResponse()):  # or else the check was not made at all
        assert over_wsgi(WSGIHandler(), genuine()).status == 403


def test_the_bound_of_the_project_holds_too() -> None:
    with site(view, DATA_UPLOAD_MAX_MEMORY_SIZE=10):
        for answer in (over_wsgi(WSGIHandler(), genuine()), over_asgi(ASGIHandler(), genuine())):
            assert answer.status == 413


@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_may_have_been_read_before(chunked: bool) -> None:
    def reading(request: HttpRequest) -> HttpResponse:
        assert request.body == BODY
        return view(request)

    reading.csrf_exempt = True  # type: ignore[attr-defined]
    with site(reading):
        assert over_asgi(ASGIHandler(), genuine(chunked=chunked)).status == 200
