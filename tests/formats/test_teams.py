"""Format teams, the card in full, and what workflows and connectors answer."""

from __future__ import annotations

import logging

import pytest
from format_samples import answer, body, formatter, record

from cubehook.outcome import Failure, Reply

CONNECTOR = "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP "
CONTEXT = " with ContextId tcid=0,server=msgapi-production-eus-azsc2-4-170,cv=deadbeef=2.."


def test_a_message() -> None:
    message = body("teams", record(logging.ERROR, event="api.error", sandbox_id="sb-1", path="/x"))
    assert message == {
        "type": "message",
        "attachments": [
            {
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": None,
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                    "type": "AdaptiveCard",
                    "version": "1.4",
                    "body": [
                        {
                            "type": "RichTextBlock",
                            "inlines": [
                                {
                                    "type": "TextRun",
                                    "text": "ERROR: api.error: sb-1",
                                    "size": "Medium",
                                    "weight": "Bolder",
                                    "color": "Attention",
                                }
                            ],
                            "separator": True,
                        },
                        {
                            "type": "RichTextBlock",
                            "inlines": [
                                {"type": "TextRun", "text": "path: ", "weight": "Bolder"},
                                {"type": "TextRun", "text": "/x"},
                            ],
                        },
                        {
                            "type": "RichTextBlock",
                            "inlines": [
                                {
                                    "type": "TextRun",
                                    "text": "2026-07-01 08:00:00 UTC",
                                    "isSubtle": True,
                                }
                            ],
                        },
                    ],
                    "msteams": {"width": "Full"},
                },
            }
        ],
    }


@pytest.mark.parametrize(
    "reply",
    [
        answer(b"", 202),  # a workflow
        answer(b"1"),  # a connector
        answer(b"anything else"),
        answer(b"Bad payload received by generic incoming webhook.", 400),
        answer((CONNECTOR + "error 429").encode(), 400),
        Reply(429, retry_after="5"),
    ],
)
def test_the_status_tells(reply: Reply) -> None:
    assert formatter("teams").judge(reply) is reply


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CONNECTOR + "error 429" + CONTEXT, Failure("teams: status 429", wait=30.0)),
        (CONNECTOR + "error 413" + CONTEXT, Failure("teams: status 413", final=True)),
        (CONNECTOR + "error 400" + CONTEXT, Failure("teams: status 400", final=True)),
        (CONNECTOR + "error 403", Failure("teams: status 403", final=True)),
        (CONNECTOR + "error 408", Failure("teams: status 408")),
        (CONNECTOR + "error 500" + CONTEXT, Failure("teams: status 500")),
        (CONNECTOR + "nothing", Failure("teams: status 0")),
        ("Webhook message delivery failed", Failure("teams: status 0")),
    ],
)
def test_a_connector_says_it_in_words(text: str, expected: Failure) -> None:
    assert formatter("teams").judge(answer(text.encode())) == expected
