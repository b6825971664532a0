"""kill -9 of an application with an outbox, a short version of ``python -m benchmarks.kill``."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.kill import trial


@pytest.mark.parametrize("durable", ["async", "sync"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_is_committed_survives_kill_9(tmp_path: Path, durable: str, seed: int) -> None:
    found = trial(f"sqlite:///{tmp_path}/outbox.db", 200, durable, random.Random(seed))
    assert found.problems == ()
    assert found.returned > 0
    assert found.twice <= 256  # what a lane leases ahead
