"""Format dingtalk, byte by byte, each code that DingTalk answers with, and the way there."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from format_samples import Service, answer, body, formatter, record

from cubehook.outcome import Failure

SECRET = "SEC000000000000000000000"


def test_a_message() -> None:
    text = formatter("dingtalk").format(
        record(event="sandbox.created", sandbox_id="sb-1", template_id="t_1", n=1)
    )
    assert text == (
        '{"msgtype":"markdown","markdown":{"title":"Sandbox created: sb-1",'
        '"text":"#### Sandbox created: sb-1\\n\\n- template_id: t_1\\n- n: 1\\n\\n'
        '2026-07-01 08:00:00 UTC"},"at":{"isAtAll":false}}'
    )


def test_without_fields() -> None:
    text = body("dingtalk", record(event="a.b"))["markdown"]["text"]
    assert text == "#### a.b\n\n2026-07-01 08:00:00 UTC"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"errcode": -1, "errmsg": "system busy"}, Failure("dingtalk: code -1")),
        (
            # As it was seen: https://blog.csdn.net/jialiuyang/article/details/118615052
            {
                "status": 1111,
                "wait": 5,
                "source": "x5",
                "punish": "deny",
                "uuid": "9ff0e7e2346aabb5a8bcbb7c93c71636",
                "errcode": 130101,
                "errmsg": "send too fast, exceed 20 times per minute",
            },
            Failure("dingtalk: code 130101", wait=600.0),
        ),
        ({"errcode": 302033}, Failure("dingtalk: code 302033", wait=600.0)),
        ({"errcode": 410100}, Failure("dingtalk: code 410100", wait=600.0)),
        (
            {"errcode": 310000, "errmsg": "keywords not in content"},
            Failure("dingtalk: code 310000", True),
        ),
        ({"errcode": 310000, "errmsg": "sign not match"}, Failure("dingtalk: code 310000", True)),
        (
            {"errcode": 300001, "errmsg": "token is not exist"},
            Failure("dingtalk: code 300001", True),
        ),
        ({"errcode": 300005}, Failure("dingtalk: code 300005", True)),
        ({"errcode": 40035}, Failure("dingtalk: code 40035", True)),
        ({"errcode": 43004}, Failure("dingtalk: code 43004", True)),
        ({"errcode": 400013}, Failure("dingtalk: code 400013", True)),
        ({"errcode": 400101}, Failure("dingtalk: code 400101", True)),
        ({"errcode": 400102}, Failure("dingtalk: code 400102", True)),
        ({"errcode": 400105}, Failure("dingtalk: code 400105", True)),
        ({"errcode": 400106}, Failure("dingtalk: code 400106", True)),
        ({"errcode": 430101}, Failure("dingtalk: code 430101", True)),
        ({"errcode": 430104}, Failure("dingtalk: code 430104", True)),
        ({"errcode": 777777}, Failure("dingtalk: code 777777")),
        ({"code": 0}, Failure("dingtalk: the answer cannot be read")),
        (b"", Failure("dingtalk: the answer cannot be read")),
    ],
)
def test_codes(value: object, expected: Failure) -> None:
    assert formatter("dingtalk").judge(answer(value)) == expected


def test_success() -> None:
    reply = answer({"errcode": 0, "errmsg": "ok"})
    assert formatter("dingtalk").judge(reply) is reply


def documented(timestamp: str, secret: str) -> str:
    """The signature, but for its quoting."""
    string_to_sign = f"{timestamp}\n{secret}"
    hmac_code = hmac.new(
        secret.encode("utf-8"), string_to_sign.encode("utf-8"), digestmod=hashlib.sha256
    ).digest()
    return base64.b64encode(hmac_code).decode()


def robot(path: str, content: bytes) -> object:
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query, strict_parsing=True))
    late = abs(time.time() * 1000 - int(query["timestamp"])) > 3_600_000
    if late or query["sign"] != documented(query["timestamp"], SECRET):
        return {"errcode": 310000, "errmsg": "sign not match"}
    return {"errcode": 0, "errmsg": "ok"} if query["access_token"] == "t" else {"errcode": 300005}


def test_a_robot_that_checks_signatures(
    service: Callable[..., Service], handler: Any, logger: logging.Logger
) -> None:
    chat = service(robot)
    endpoint = chat.endpoint("/robot/send?access_token=t", format="dingtalk", secret=SECRET)
    attached = handler([endpoint], flush_timeout=5.0)
    for number in range(5):  # a signature holds + or / more often than not
        logger.info("x", extra={"event": "sandbox.created", "sandbox_id": f"sb-{number}"})
    assert attached.flush()
    assert attached.stats().delivered == 5


def test_a_robot_with_another_secret(
    service: Callable[..., Service], handler: Any, logger: logging.Logger
) -> None:
    chat = service(robot)
    endpoint = chat.endpoint("/robot/send?access_token=t", format="dingtalk", secret="other")
    attached = handler([endpoint])
    logger.info("x", extra={"event": "sandbox.created"})
    attached.flush(5.0)
    assert (attached.stats().delivered, attached.stats().dead) == (0, 1)
