"""Which view answers what."""

from __future__ import annotations

from django.urls import path

from sandboxes import views

urlpatterns = [
    path("sandboxes/<sandbox_id>", views.sandbox),
    path("sandboxes/<sandbox_id>/restart", views.restart),
]
