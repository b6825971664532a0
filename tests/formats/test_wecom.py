"""Format wecom, byte by byte, and each code that WeCom answers with."""

from __future__ import annotations

import logging

import pytest
from format_samples import answer, body, formatter, record

from cubehook.outcome import Failure

LONG = " [1592021214_50_551f], from ip: 1.2.3.4, more info at https://open.work.weixin.qq.com/"


def test_a_message() -> None:
    text = formatter("wecom").format(
        record(event="sandbox.created", sandbox_id="sb-1", template_id="t_1")
    )
    assert text == (
        '{"msgtype":"markdown","markdown":{"content":"**Sandbox created: sb-1**\\n'
        '> template_id: t_1\\n> 2026-07-01 08:00:00 UTC"}}'
    )


def test_warnings_and_errors_have_a_colour() -> None:
    for level in (logging.WARNING, logging.ERROR):
        content = body("wecom", record(level))["markdown"]["content"]
        assert content.startswith('<font color="warning">**')
        assert content.split("\n")[0].endswith("**</font>")


def test_bytes_are_what_counts() -> None:
    content = body("wecom", record(**{f"n{one}": "\u6f22" * 200 for one in range(20)}))
    lines = content["markdown"]["content"].split("\n")
    assert len(lines[1].removeprefix("> n0: ").encode()) <= 300
    assert lines[1].endswith("\u6f22…")
    assert lines[-2].startswith("> … and ")
    assert 3500 < len("\n".join(lines).encode()) <= 4096


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (-1, "system busy", Failure("wecom: code -1")),
        (45009, "api freq out of limit", Failure("wecom: code 45009", wait=60.0)),
        (45033, "api concurrent out of limit", Failure("wecom: code 45033", wait=60.0)),
        (93000, "invalid webhook url, hint:" + LONG, Failure("wecom: code 93000", final=True)),
        (93004, "robot disabled", Failure("wecom: code 93004", final=True)),
        (93008, "robot not in the group", Failure("wecom: code 93008", final=True)),
        (40001, "invalid credential", Failure("wecom: code 40001", final=True)),
        (40008, "invalid message type", Failure("wecom: code 40008", final=True)),
        (40014, "invalid access_token", Failure("wecom: code 40014", final=True)),
        (
            40058,
            "markdown.content exceed max length 4096. invalid Request Parameter, hint:" + LONG,
            Failure("wecom: code 40058", final=True),
        ),
        (44004, "empty content", Failure("wecom: code 44004", final=True)),
        (45002, "content size out of limit", Failure("wecom: code 45002", final=True)),
        (47001, "data format error", Failure("wecom: code 47001", final=True)),
        (60020, "not allow to access from your ip", Failure("wecom: code 60020", final=True)),
        (12345, "what is this", Failure("wecom: code 12345")),
    ],
)
def test_codes(code: int, text: str, expected: Failure) -> None:
    assert formatter("wecom").judge(answer({"errcode": code, "errmsg": text})) == expected
    assert formatter("wecom").judge(answer({"errcode": str(code), "errmsg": text})) == expected


def test_success_and_what_cannot_be_read() -> None:
    for value in (0, "0"):
        success = answer({"errcode": value, "errmsg": "ok"})
        assert formatter("wecom").judge(success) is success
    for raw in (b"", b"ok", b"<html>", b"[0]", b"{}", b'{"errcode": null}', b'{"errcode": true}'):
        judged = formatter("wecom").judge(answer(raw))
        assert judged == Failure("wecom: the answer cannot be read")


def test_a_limit_may_come_with_status_400() -> None:
    judged = formatter("wecom").judge(answer({"errcode": 45009}, 400))
    assert judged == Failure("wecom: code 45009", wait=60.0)
    other = answer({"errcode": 93000}, 400)
    assert formatter("wecom").judge(other) is other
