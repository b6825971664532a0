"""Django, configured once for all tests, with nothing in it but the check of CSRF tokens."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings
from django.test.utils import override_settings
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    LOGGING_CONFIG=None,  # the tests look at what is logged
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
    SECRET_KEY="of-django-itself",
)
django.setup()


@contextmanager
def site(view: Any, **changes: Any) -> Iterator[None]:
    """Django with this view, and with other settings."""
    urls = types.ModuleType("urls")
    urls.urlpatterns = [path("webhook", view)]  # type: ignore[attr-defined]
    with override_settings(ROOT_URLCONF=urls, **changes):
        yield
