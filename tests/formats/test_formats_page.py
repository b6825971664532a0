"""docs/formats.md shows the bodies that the formats write, and the defaults that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from format_samples import body, record

from cubehook import Endpoint, formats
from cubehook.rate import Rate, check

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```json\n(.*?)```", PAGE, re.S))
ROWS = re.findall(r"^\| \[(`.*?`)\]\(#[\w-]+\) \|.*\| (.*?) \| (.*?) \|$", PAGE, re.M)


def test_every_format_has_an_example() -> None:
    assert [*EXAMPLES, "lark"] == [*(name for name in formats.known() if name != "lark"), "lark"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_is_what_is_written(name: str) -> None:
    written = body(name, record(sandbox_id="sandbox-123", template_id="template-456"))
    assert json.loads(EXAMPLES[name]) == written


def test_the_table_has_the_defaults() -> None:
    told = {
        name: (scheme, limit)
        for names, scheme, limit in ROWS
        for name in re.findall(r"`(\w+)`", names)
    }
    assert set(told) == set(formats.known())
    for name, (scheme, limit) in told.items():
        found = formats.find(name)
        expected = "`cube`" if scheme == "none needed" else scheme
        assert f"`{found.scheme}`" == expected
        rate = found.rate_limit
        numbers = re.fullmatch(r"(\d+) in (\d+) s", limit)
        assert (rate is None) == (limit == "none")
        if numbers:
            assert check(rate) == Rate(int(numbers[1]), float(numbers[2]))


def test_the_endpoints_can_be_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDARD_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    for name in ("E2B_SIGNATURE_SECRET", "FEISHU_BOT_SECRET", "DINGTALK_ROBOT_SECRET"):
        monkeypatch.setenv(name, "a-secret")
    seen = []
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S):
        for endpoint in yaml.safe_load(block).get("endpoints", []):
            endpoint["url"] = endpoint["url"].replace("…", "x")
            seen.append(Endpoint(**endpoint).format)
    assert {*seen, "cube", "lark"} == set(formats.known())
