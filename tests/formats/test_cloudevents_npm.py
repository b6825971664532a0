"""Format cloudevents as the SDK for JavaScript reads it.

The SDK is looked for in CUBEHOOK_TEST_NODE_MODULES; where that is not set, npm installs it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from format_samples import ID, INJECTIONS, UGLY, formatter, record

NPM = Path(__file__).parent / "npm"


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the SDK in it."""
    if given := os.environ.get("CUBEHOOK_TEST_NODE_MODULES"):
        return Path(given)
    if not (shutil.which("node") and (npm := shutil.which("npm"))):
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("npm")
    shutil.copy(NPM / "package.json", folder)
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install cloudevents in time")
    if done.returncode:
        pytest.skip("npm cannot install cloudevents")
    return folder / "node_modules"


def read(node_modules: Path, requests: list[tuple[str, bytes]]) -> list[list[dict[str, Any]]]:
    """The events that the SDK finds in each request (content type and body)."""
    messages = [
        {"headers": {"content-type": content_type}, "body": body.decode("utf-8")}
        for content_type, body in requests
    ]
    done = subprocess.run(
        ["node", str(NPM / "read.cjs")],
        input=json.dumps(messages),
        env={**os.environ, "NODE_PATH": str(node_modules)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def test_one_event_and_a_batch(node_modules: Path) -> None:
    made = formatter("cloudevents")
    bodies = [
        made.format(record(level, sandbox_id=f"sb-{level}", names=["a", {"b": None}])).encode()
        for level in (logging.INFO, logging.ERROR)
    ]
    one, batch = read(
        node_modules,
        [
            (made.content_type, bodies[0]),
            (made.batch_content_type, made.join("a-batch", bodies)),
        ],
    )
    assert one == [
        {
            "specversion": "1.0",
            "id": ID,
            "source": "cubehook",
            "type": "sandbox.created",
            "time": "2026-07-01T08:00:00.123Z",  # the SDK knows milliseconds
            "subject": "sb-20",
            "severitytext": "INFO",
            "severitynumber": 9,
            "datacontenttype": "application/json",
            "data": {"sandbox_id": "sb-20", "names": ["a", {"b": None}]},
        }
    ]
    assert [event["subject"] for event in batch] == ["sb-20", "sb-40"]
    assert [event["severitynumber"] for event in batch] == [9, 17]


def test_whatever_the_fields_hold(node_modules: Path) -> None:
    made = formatter("cloudevents")
    bodies = [
        made.format(record(**{"sandbox_id": text, text[:50]: text})).encode()
        for text in INJECTIONS + UGLY
    ]
    events = read(node_modules, [(made.content_type, body) for body in bodies])
    assert [event[0]["data"] for event in events] == [json.loads(body)["data"] for body in bodies]
