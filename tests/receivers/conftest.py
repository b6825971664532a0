"""Each adapter in turn, and receivers made with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from adapters import ADAPTERS, Adapter, Receiving
from senders import BOUND, SECRET

from cubehook.receivers import ReceivedEvent


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    """Each adapter in turn."""
    return ADAPTERS[request.param]


@pytest.fixture
def receiving(adapter: Adapter) -> Callable[..., Receiving]:
    """Makes a receiver that keeps its events; its options can be changed."""

    def make(**options: Any) -> Receiving:
        events: list[ReceivedEvent] = []
        given = {"secret": SECRET, "max_bytes": BOUND, **options}
        return Receiving(adapter.make(events.append, **given), events)

    return make
