"""Format slack, byte by byte, and what Slack answers."""

from __future__ import annotations

import logging

import pytest
from format_samples import answer, body, formatter, record

from cubehook.outcome import Failure, Reply


def test_a_message() -> None:
    text = formatter("slack").format(
        record(logging.ERROR, event="sandbox.deleted", sandbox_id="sb-1", reason="a < b & c")
    )
    assert text == (
        '{"text":"ERROR: Sandbox deleted: sb-1","blocks":[{"type":"section","text":'
        '{"type":"mrkdwn","text":"*ERROR: Sandbox deleted: sb-1*\\nreason: a &lt; b &amp; c\\n'
        '2026-07-01 08:00:00 UTC","verbatim":true}}],"unfurl_links":false,"unfurl_media":false}'
    )


def test_an_escape_is_never_cut_in_two() -> None:
    message = body("slack", record(**{f"n{number}": "&" * 1000 for number in range(12)}))
    text = message["blocks"][0]["text"]["text"]
    assert text.replace("&amp;", "").count("&") == 0
    assert "&amp;…" in text
    assert len(text) <= 3000


@pytest.mark.parametrize(
    "reply",
    [
        answer(b"ok"),
        answer(b""),
        answer(b"<html>"),
        answer({"ok": True}),
        answer({"success": True}),  # Mattermost, Rocket.Chat
        # As documented for incoming webhooks: the status tells.
        answer(b"invalid_payload", 400),
        answer(b"action_prohibited", 403),
        answer(b"no_service", 404),
        answer(b"channel_is_archived", 410),
        answer(b"rollup_error", 500),
        Reply(429, retry_after="30", body=b"rate_limited"),
    ],
)
def test_the_status_tells(reply: Reply) -> None:
    assert formatter("slack").judge(reply) is reply


def test_not_ok() -> None:
    judged = formatter("slack").judge(answer({"ok": False, "error": "planted"}))
    assert judged == Failure("slack: not ok")
