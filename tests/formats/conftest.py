"""Chat services that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from format_samples import Service


@pytest.fixture
def service() -> Iterator[Callable[[Callable[[str, bytes], object]], Service]]:
    """Makes chat services."""
    made: list[Service] = []

    def make(reply: Callable[[str, bytes], object]) -> Service:
        made.append(Service(reply))
        return made[-1]

    yield make
    for one in made:
        one.close()
