"""The applications that docs/verification.md shows do what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django_setup import site
from senders import BODY, ID, Request, over_asgi, over_wsgi, signed

PAGE = Path(__file__).parents[2] / "docs" / "verification.md"
FRAMEWORKS = ("Flask", "FastAPI", "Django", "WSGI", "ASGI")


def application(framework: str) -> dict[str, Any]:
    """The names that the block under this heading defines."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n### {framework}\n")[1]
    block = re.search(r"^```python\n(.*?)^```$", section, re.M | re.S)
    assert block is not None
    names: dict[str, Any] = {"__name__": "app"}
    exec(block[1], names)
    return names


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_shown_works(
    framework: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "new-secret,test-secret")
    names = application(framework)
    send = over_asgi if framework in {"FastAPI", "ASGI"} else over_wsgi
    with site(names.get("webhook", print)):
        app = names.get("app") or WSGIHandler()  # Django's is in no block
        assert send(app, Request(BODY, signed(secret="test-secret"))).status == 204
        assert send(app, Request(BODY, signed(secret="another"))).status == 401
    assert capsys.readouterr().out == f"{ID} sandbox.created\n"
