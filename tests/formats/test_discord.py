"""Format discord, byte by byte, and what Discord answers."""

from __future__ import annotations

import logging

import pytest
from format_samples import answer, body, formatter, record

from cubehook.outcome import Reply


def test_a_message() -> None:
    text = formatter("discord").format(
        record(logging.WARNING, event="sandbox.paused", sandbox_id="sb_1", template_id="t_1")
    )
    assert text == (
        '{"embeds":[{"title":"WARNING: Sandbox paused: sb\\\\_1","color":15844367,'
        '"timestamp":"2026-07-01T08:00:00.123456Z",'
        '"fields":[{"name":"template\\\\_id","value":"`t_1`","inline":true}]}],'
        '"allowed_mentions":{"parse":[]}}'
    )


def test_long_values_have_a_row_of_their_own() -> None:
    (embed,) = body("discord", record(short="x" * 38, long="x" * 39))["embeds"]
    assert [field["inline"] for field in embed["fields"]] == [True, False]


def test_a_value_cannot_leave_its_code() -> None:
    (embed,) = body("discord", record(note="a` [x](https://evil.example) `b"))["embeds"]
    assert embed["fields"][0]["value"] == "`a' [x](https://evil.example) 'b`"


def test_an_escape_is_never_cut_in_two() -> None:
    (embed,) = body("discord", record(sandbox_id="_" * 1000))["embeds"]
    assert embed["title"].endswith("\\_…")
    assert len(embed["title"].replace("\\_", "")) == len("Sandbox created: …")


@pytest.mark.parametrize(
    "reply",
    [
        answer(b"", 204),
        answer({"id": "1", "type": 0}),
        answer({"message": "Cannot send an empty message", "code": 50006}, 400),
        answer({"message": "Invalid Webhook Token", "code": 50027}, 401),
        answer({"message": "Unknown Webhook", "code": 10015}, 404),
        Reply(429, retry_after="65", body=b'{"retry_after": 64.57, "global": false}'),
    ],
)
def test_the_status_tells(reply: Reply) -> None:
    assert formatter("discord").judge(reply) is reply
