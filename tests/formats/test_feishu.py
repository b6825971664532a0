"""Format feishu, byte by byte, each code that Feishu answers with, and the way there and back."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from format_samples import Service, answer, body, formatter, joined, record

from cubehook.outcome import Failure

SECRET = "the-secret-of-the-bot"


def test_a_message() -> None:
    text = formatter("lark").format(
        record(event="sandbox.created", sandbox_id="sb-1", template_id="t_1")
    )
    assert text == (
        '{"msg_type":"interactive","card":{"header":{"title":{"tag":"plain_text",'
        '"content":"Sandbox created: sb-1"},"template":"blue"},"elements":[{"tag":"div",'
        '"text":{"tag":"plain_text","content":"template_id: t_1\\n2026-07-01 08:00:00 UTC"}}]}}'
    )


@pytest.mark.parametrize(
    ("level", "colour"), [(10, "grey"), (20, "blue"), (30, "orange"), (40, "red")]
)
def test_colours(level: int, colour: str) -> None:
    assert body("feishu", record(level))["card"]["header"]["template"] == colour


def test_a_batch_has_the_colour_of_the_worst() -> None:
    message = joined("feishu", [record(), record(logging.ERROR), record(logging.WARNING)])
    assert message["card"]["header"] == {
        "title": {"tag": "plain_text", "content": "3 events"},
        "template": "red",
    }


# As documented: https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot
DOCUMENTED_SUCCESS = {
    "StatusCode": 0,
    "StatusMessage": "success",
    "code": 0,
    "data": {},
    "msg": "success",
}


@pytest.mark.parametrize(
    "value", [DOCUMENTED_SUCCESS, {"code": 0}, {"StatusCode": 0, "StatusMessage": "success"}]
)
def test_success(value: object) -> None:
    reply = answer(value)
    assert formatter("feishu").judge(reply) is reply


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"code": 9499, "msg": "Bad Request", "data": {}}, Failure("feishu: code 9499", True)),
        ({"code": 9499, "msg": "too many request"}, Failure("feishu: code 9499", wait=60.0)),
        (
            {"code": 19001, "msg": "param invalid: incoming webhook access token invalid"},
            Failure("feishu: code 19001", True),
        ),
        (
            {
                "code": 19021,
                "msg": "sign match fail or timestamp is not within one hour from current time",
            },
            Failure("feishu: code 19021", True),
        ),
        ({"code": 19022, "msg": "Ip Not Allowed"}, Failure("feishu: code 19022", True)),
        ({"code": 19024, "msg": "Key Words Not Found"}, Failure("feishu: code 19024", True)),
        (
            {
                "code": 11232,
                "data": {},
                "msg": "frequency limited psm[lark.oapi.app_platform_runtime]appID[1500]",
            },
            Failure("feishu: code 11232", wait=60.0),
        ),
        ({"code": 11233}, Failure("feishu: code 11233", wait=60.0)),
        ({"code": 99991400}, Failure("feishu: code 99991400", wait=60.0)),
        ({"StatusCode": 19024}, Failure("feishu: code 19024", True)),
        ({"code": 0, "StatusCode": 19021}, Failure("feishu: code 19021", True)),
        ({"code": 4242}, Failure("feishu: code 4242")),
        ({}, Failure("feishu: the answer cannot be read")),
        (b"", Failure("feishu: the answer cannot be read")),
        (b"success", Failure("feishu: the answer cannot be read")),
        ({"code": 10**12}, Failure("feishu: the answer cannot be read")),
    ],
)
def test_codes(value: object, expected: Failure) -> None:
    assert formatter("feishu").judge(answer(value)) == expected


def test_a_limit_of_the_gateway_has_status_400() -> None:
    reply = answer({"code": 99991400, "msg": "request trigger frequency limit"}, 400)
    assert formatter("feishu").judge(reply) == Failure("feishu: code 99991400", wait=60.0)


# --- On the wire ---


def gen_sign(timestamp: int, secret: str) -> str:
    """As documented."""
    string_to_sign = f"{timestamp}\n{secret}"
    hmac_code = hmac.new(string_to_sign.encode("utf-8"), digestmod=hashlib.sha256).digest()
    return base64.b64encode(hmac_code).decode("utf-8")


def bot(path: str, content: bytes) -> object:
    message = json.loads(content)
    timestamp = int(message["timestamp"])
    if abs(time.time() - timestamp) > 3600 or message["sign"] != gen_sign(timestamp, SECRET):
        return {"code": 19021, "msg": "sign match fail"}
    return DOCUMENTED_SUCCESS


@pytest.mark.parametrize("name", ["feishu", "lark"])
def test_a_bot_that_checks_signatures(
    service: Callable[..., Service], handler: Any, logger: logging.Logger, name: str
) -> None:
    chat = service(bot)
    attached = handler([chat.endpoint("/hook/x", format=name, secret=SECRET)], flush_timeout=5.0)
    logger.info("x", extra={"event": "sandbox.created", "sandbox_id": "sb-1"})
    assert attached.flush()
    assert attached.stats().delivered == 1
    ((path, content),) = chat.received
    assert path == "/hook/x"
    assert list(json.loads(content)) == ["timestamp", "sign", "msg_type", "card"]


def test_a_bot_with_another_secret(
    service: Callable[..., Service], handler: Any, logger: logging.Logger
) -> None:
    chat = service(bot)
    attached = handler([chat.endpoint("/hook/x", format="feishu", secret="other")])
    logger.info("x", extra={"event": "sandbox.created"})
    attached.flush(5.0)
    assert (attached.stats().delivered, attached.stats().dead) == (0, 1)
    assert len(chat.received) == 1  # it would not help to try again
