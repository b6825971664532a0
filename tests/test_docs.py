"""The documentation's code is run, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cubehook import signing

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]

_BLOCK = re.compile(
    r"^<!-- test(?::(?P<env>[^\n]*))? -->\n```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
_YAML = re.compile(r"^```yaml\n(.*?)^```$", re.M | re.S)
_FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")

# The known answer of the scheme: what every example of a check is tried with.
SECRET = "test-secret"
DELIVERY = "550e8400-e29b-41d4-a716-446655440000"
BODY = '{"id":"delivery-1","event":"sandbox.created"}'
KNOWN = {"secret": SECRET, "timestamp": "1710000000", "delivery": DELIVERY, "body": BODY}
ANSWER = "32d6a0eded03b109ed9fb0b0d57ac414e13f4bc2caa5eb1fb6c0db0b23845f85"


@dataclass(frozen=True)
class Block:
    """A code block that is to be run."""

    page: Path
    line: int
    language: str
    code: str
    environment: dict[str, str]


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            pairs = (match["env"] or "").split()
            yield Block(
                page=page,
                line=text.count("\n", 0, match.start()) + 2,
                language=match["language"],
                code=match["code"],
                environment=dict(pair.split("=", 1) for pair in pairs),
            )


BLOCKS = list(_blocks())


def _named(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def _of(language: str) -> pytest.MarkDecorator:
    blocks = [block for block in BLOCKS if block.language == language]
    return pytest.mark.parametrize("block", blocks, ids=_named)


def _run(command: list[str], block: Block, cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | KNOWN | block.environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _put_configuration(page: Path, folder: Path) -> None:
    """logging.yaml as the page shows it, but quick to give up: nobody listens there."""
    for source in _YAML.findall(page.read_text(encoding="utf-8")):
        config = yaml.safe_load(source)
        if isinstance(config, dict) and "handlers" in config:
            for handler in config["handlers"].values():
                if handler.get("class") == "cubehook.WebhookHandler":
                    handler["flush_timeout"] = 0.1
            (folder / "logging.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
            return


@_of("python")
def test_python_blocks_run(block: Block, tmp_path: Path) -> None:
    _put_configuration(block.page, tmp_path)
    script = tmp_path / "block.py"
    script.write_text(block.code, encoding="utf-8")
    _run([sys.executable, "block.py"], block, tmp_path)


@_of("js")
def test_javascript_blocks_tell_right_from_wrong(block: Block, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    now = int(time.time())
    scheme = signing.find("cube")
    keys = [scheme.key("old"), scheme.key("new")]
    headers = scheme.sign(
        message_id=DELIVERY, event="x", timestamp=now, body=BODY.encode(), keys=keys
    )
    script = tmp_path / "block.js"
    script.write_text(
        block.code
        + f"""
        const assert = require("node:assert");
        const headers = Object.fromEntries(Object.entries({headers!r})
          .map(([name, value]) => [name.toLowerCase(), value]));
        const body = Buffer.from({BODY!r});
        assert(verify(headers, body, "new") === true);
        assert(verify(headers, body, "other") === false);
        assert(verify(headers, Buffer.from("{{}}"), "new") === false);
        const stale = {{ ...headers, "x-cube-webhook-timestamp": "{now - 301}" }};
        assert(verify(stale, body, "new") === false);
        assert(verify({{}}, body, "new") === false);
        """,
        encoding="utf-8",
    )
    _run([node, "block.js"], block, tmp_path)


@_of("bash")
def test_shell_blocks_give_the_known_answer(block: Block, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    assert ANSWER in _run(["bash", "-euc", block.code], block, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = _FENCED.sub("", page.read_text(encoding="utf-8"))
    missing = [link for link in _LINK.findall(prose) if not (page.parent / link).exists()]
    assert not missing


def test_there_are_blocks_to_run() -> None:
    assert {block.language for block in BLOCKS} >= {"python", "js", "bash"}
