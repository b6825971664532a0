"""What all adapters promise, tried with each of them: one table of what is taken and refused."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from adapters import Adapter, Receiving
from senders import BODY, BOUND, EVENT, ID, PIECE, PLANTED, SECRET, Request, genuine, signed

Make = Callable[..., Receiving]

ARABIC_ONE = "\u0661".encode().decode("latin-1")  # a digit for str.isdigit() and int()
LARGEST = json.dumps({"id": ID, "padding": ""}).encode()
LARGEST = LARGEST.replace(b'""', b'"%b"' % (b"x" * (BOUND - len(LARGEST))))


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in signed().items() if key != name}


# Made when they are sent: a genuine request is so for a while only.
TAKEN: dict[str, Callable[[], Request]] = {
    "genuine": genuine,
    "as long as can be": lambda: genuine(LARGEST),
    "headers in upper case": lambda: Request(
        BODY, {name.upper(): value for name, value in signed().items()}
    ),
    "of a content type that frameworks parse": lambda: Request(
        BODY, signed() | {"Content-Type": "application/x-www-form-urlencoded"}
    ),
    "almost stale": lambda: Request(BODY, signed(age=290)),
}

CHUNKED: dict[str, Callable[[], Request]] = {
    "genuine": lambda: genuine(chunked=True),
    "as long as can be": lambda: genuine(LARGEST, chunked=True),
}

REFUSED: dict[str, tuple[int, Callable[[], Request]]] = {
    "tampered": (401, lambda: Request(BODY.replace(b"created", b"deleted"), signed())),
    "stale": (401, lambda: Request(BODY, signed(age=310))),
    "future": (401, lambda: Request(BODY, signed(age=-310))),
    "unsigned": (401, lambda: Request(BODY, without("X-Cube-Webhook-Signature"))),
    "without a time": (401, lambda: Request(BODY, without("X-Cube-Webhook-Timestamp"))),
    "wrong secret": (401, lambda: Request(BODY, signed(secret="another"))),
    "no object": (401, lambda: genuine(b"[]")),
    "no JSON": (401, lambda: genuine(b"\xff")),
    "GET": (405, lambda: genuine(method="GET")),
    "PUT": (405, lambda: genuine(method="PUT")),
    "too large": (413, lambda: genuine(b" " * (BOUND + 1))),
    "said to be too large": (413, lambda: genuine(length=str(BOUND + 1))),
    "said to be of a length beyond numbers": (413, lambda: genuine(length="9" * 5000)),
    "shorter than it says": (400, lambda: genuine(length=str(len(BODY) + 1))),
    "length is no number": (400, lambda: genuine(length="many")),
    "length is below zero": (400, lambda: genuine(length="-1")),
    "length has a sign": (400, lambda: genuine(length=f"+{len(BODY)}")),
    "length has an underscore": (400, lambda: genuine(length="1_0")),
    "length in other digits": (400, lambda: genuine(length=ARABIC_ONE)),
    "length said twice": (400, lambda: genuine(length=f"{len(BODY)}, {len(BODY)}")),
    "nothing at all": (400, lambda: genuine(b"", length="")),
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_genuine_event_is_handled_once(receiving: Make, case: str) -> None:
    receiver, request = receiving(), TAKEN[case]()
    answer = receiver.send(request)
    assert (answer.status, answer.text) == (204, "")
    assert receiver.events == [json.loads(request.body)]


@pytest.mark.parametrize("case", CHUNKED)
def test_a_length_is_needed_only_where_nothing_else_ends_the_body(
    receiving: Make, adapter: Adapter, case: str
) -> None:
    receiver, request = receiving(), CHUNKED[case]()
    answer = receiver.send(request)
    if adapter.chunked:
        assert answer.status == 204
        assert receiver.events == [json.loads(request.body)]
    else:
        assert (answer.status, answer.text) == (400, "a Content-Length is needed")
        assert receiver.events == []


def test_the_request_is_at_hand(receiving: Make) -> None:
    receiver = receiving()
    receiver.send(genuine())
    (event,) = receiver.events
    assert event == EVENT
    assert event.body == BODY
    assert event.headers["x-cube-webhook-delivery"] == ID
    assert event.headers["content-type"] == "application/json"


@pytest.mark.parametrize("case", REFUSED)
def test_all_else_is_refused(receiving: Make, case: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    status, made = REFUSED[case]
    receiver, request = receiving(), made()
    answer = receiver.send(request)
    assert answer.status == status
    assert receiver.events == []
    assert answer.headers.get("allow") == ("POST" if status == 405 else None)
    assert len(answer.text) < 200
    # Neither the sender nor the log is told what was received or what was expected.
    told = answer.text + caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    signature = request.headers.get("X-Cube-Webhook-Signature", "v1=none")
    assert not [one for one in (SECRET, PLANTED, signature[3:]) if one in told]


def test_a_head_request_is_answered_without_a_body(receiving: Make) -> None:
    answer = receiving().send(genuine(method="HEAD"))
    assert answer.status == 405


def test_what_is_refused_is_logged(receiving: Make, caplog: pytest.LogCaptureFixture) -> None:
    receiver = receiving()
    receiver.send(Request(BODY, signed(age=400)))
    receiver.send(genuine(method="GET"))
    assert [one.getMessage() for one in caplog.records if one.name == "cubehook.receivers"] == [
        "refused with 401: timestamp is too old or in the future",
        "refused with 405: only POST is taken here",
    ]


def test_a_body_that_says_it_is_too_large_is_not_read(receiving: Make, adapter: Adapter) -> None:
    answer = receiving().send(genuine(b" " * (20 * BOUND)))
    assert answer.status == 413
    assert answer.read == 0 or not adapter.streams


def test_a_body_that_turns_out_too_large_is_not_read_to_its_end(
    receiving: Make, adapter: Adapter
) -> None:
    answer = receiving().send(genuine(b" " * (20 * BOUND), chunked=True))
    assert answer.status == (413 if adapter.chunked else 400)
    assert answer.read <= BOUND + PIECE or not adapter.streams


def test_a_length_beside_a_transfer_coding_is_not_believed(
    receiving: Make, adapter: Adapter
) -> None:
    long = genuine(b" " * (20 * BOUND), chunked=True)
    answer = receiving().send(
        dataclasses.replace(long, headers={**long.headers, "Content-Length": "5"})
    )
    assert answer.status in {400, 401, 413}
    assert answer.read <= BOUND + PIECE or not adapter.streams


def test_several_secrets(receiving: Make) -> None:
    receiver = receiving(secret=["new", SECRET])
    assert receiver.send(genuine()).status == 204
    assert receiver.send(Request(BODY, signed(secret="new"))).status == 204
    assert receiver.send(Request(BODY, signed(secret="another"))).status == 401


def test_secrets_that_can_be_gone_through_once(receiving: Make) -> None:
    receiver = receiving(secret=(one for one in [SECRET]))
    assert [receiver.send(genuine()).status for _ in range(2)] == [204, 204]


def test_a_secret_that_is_asked_for(receiving: Make) -> None:
    current: list[Any] = [SECRET]
    receiver = receiving(secret=lambda: current[0])
    assert receiver.send(genuine()).status == 204
    current[0] = ["another", b"still another"]
    assert receiver.send(genuine()).status == 401
    current[0] = SECRET.encode()
    assert receiver.send(genuine()).status == 204


@pytest.mark.parametrize("nothing", [None, "", [], [""], {"secret": SECRET}, 1])
def test_no_secret_at_hand_is_no_fault_of_the_sender(receiving: Make, nothing: object) -> None:
    receiver = receiving(secret=lambda: nothing)
    assert receiver.send(genuine()).status == 500
    assert receiver.events == []


def test_the_scheme_can_be_named(receiving: Make) -> None:
    receiver = receiving(scheme="github")
    mac = hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()
    by_github = Request(BODY, {"X-Hub-Signature-256": f"sha256={mac}"})
    assert receiver.send(by_github).status == 204
    assert receiver.send(genuine()).status == 401
    assert receiving().send(by_github).status == 401


def test_the_tolerance_can_be_set(receiving: Make) -> None:
    receiver = receiving(tolerance=1000)
    assert receiver.send(Request(BODY, signed(age=900))).status == 204
    assert receiver.send(Request(BODY, signed(age=1100))).status == 401


def test_what_the_application_raises_is_not_swallowed(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    def on_event(event: object) -> None:
        raise OSError("the database is away")

    answer = adapter.make(on_event, secret=SECRET)(genuine())
    assert answer.status == 500
    assert "the database is away" in caplog.text


def test_a_repetition_is_handed_on(receiving: Make) -> None:
    receiver, request = receiving(), genuine()
    assert [receiver.send(request).status for _ in range(2)] == [204, 204]
    assert [event["id"] for event in receiver.events] == [ID, ID]
