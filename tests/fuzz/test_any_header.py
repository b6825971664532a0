"""What an event, a format or a configuration holds never becomes a header of its own.

Real requests to a server on loopback that keeps them byte for byte.
"""

from __future__ import annotations

import logging
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from anything import RELAXED, anything, texts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cubehook import ConfigError, Endpoint, Event, verify
from cubehook.attempt import USER_AGENT, Sender
from cubehook.message import Message
from cubehook.outcome import Failure, Reply

SECRET = "test-secret-of-the-suite"
BODY = b'{"id":"1"}'
OURS = [
    *("host", "user-agent", "accept", "content-type", "content-length"),
    *("x-cube-webhook-event", "x-cube-webhook-delivery", "x-cube-webhook-timestamp"),
    "x-cube-webhook-signature",
]
OPEN = ["user-agent", "accept"]
"""Those that a configuration may set."""

Pairs = list[tuple[str, str]]


class Wire(socketserver.ThreadingTCPServer):
    """Answers 204 and keeps the headers of every request, in their order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.taken: list[Pairs] = []
        self.rest = b""  # what came behind a body


class _Connection(socketserver.StreamRequestHandler):
    server: Wire

    def handle(self) -> None:
        while (line := self.rfile.readline()).strip():
            assert line == b"POST /hook HTTP/1.1\r\n"
            pairs: Pairs = []
            while line := self.rfile.readline().removesuffix(b"\r\n"):
                name, _, value = line.decode("latin-1").partition(":")
                pairs.append((name, value.removeprefix(" ")))
            length = next(value for name, value in pairs if name.lower() == "content-length")
            assert self.rfile.read(int(length)) == BODY
            self.server.taken.append(pairs)
            self.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with Wire() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module", params=["requests", "curl"])
def transport(request: pytest.FixtureRequest) -> str:
    if request.param == "curl":
        pytest.importorskip("pycurl")
    return str(request.param)


def endpoint(wire: Wire, **settings: Any) -> Endpoint:
    return Endpoint(
        url=f"http://127.0.0.1:{wire.server_address[1]}/hook",
        secret=SECRET,
        allow_private_urls=True,
        timeout=10.0,
        connect_timeout=10.0,
        max_concurrency=1,
        **settings,
    )


def sent(wire: Wire, message: Message, **settings: Any) -> Pairs | None:
    """The headers of the one request that was made; None where none could be."""
    wire.taken.clear()
    sender = Sender(endpoint(wire, **settings))
    try:
        outcome = sender(message)
    finally:
        sender.close()
    if isinstance(outcome, Failure):
        assert wire.taken == []
        return None
    assert outcome == Reply(204)
    (pairs,) = wire.taken
    return pairs


def names(pairs: Pairs) -> list[str]:
    # One of the transports says that it takes no encoding, the other does not.
    lowered = sorted(name.lower() for name, _ in pairs)
    return [name for name in lowered if name != "accept-encoding"]


# Where a header could end, and what is no latin-1.
splitting = st.lists(
    st.sampled_from(
        ["\r\n", "\n", "\r", "\x00", "\x0b", "\x85", "\u2028", "X-Evil: 1", "a", ".", "é"]
    )
    | st.text(st.characters(exclude_categories=()), max_size=3),
    max_size=6,
).map("".join)


@given(splitting | st.just("a.b"), splitting | anything, splitting | anything)
@example("a.b\r\nX-Evil: 1", "id-1", "sandbox-1")
@example("a.b", "id-1\r\nX-Evil: 1", "sandbox-1\r\nX-Evil: 1")
@settings(RELAXED, max_examples=60)
def test_of_an_event(wire: Wire, transport: str, name: str, event_id: Any, sandbox_id: Any) -> None:
    found = {"event": name, "event_id": event_id, "sandbox_id": sandbox_id, "X-Evil": "1"}
    event = Event.from_record(logging.makeLogRecord(found))
    if event is None:
        return  # such a name is never sent
    pairs = sent(
        wire,
        Message(event.id, event.name, event.key, "application/json", BODY),
        transport=transport,
    )
    assert pairs is not None
    assert names(pairs) == sorted(OURS)
    headers = dict(pairs)
    assert headers["X-Cube-Webhook-Event"] == name
    assert headers["X-Cube-Webhook-Delivery"] == event.id
    assert verify(BODY, headers, SECRET) == {"id": "1"}


@given(splitting | texts)
@example("text/plain\r\nX-Evil: 1")
@settings(RELAXED, max_examples=40)
def test_of_a_format(wire: Wire, transport: str, content_type: str) -> None:
    pairs = sent(wire, Message("id-1", "a.b", None, content_type, BODY), transport=transport)
    if pairs is not None:
        assert names(pairs) == sorted(OURS)
        assert dict(pairs)["Content-Type"] == content_type
        assert verify(BODY, pairs, SECRET) == {"id": "1"}


spelled = st.builds(
    lambda name, spell, glue: spell(name).replace("-", glue),
    st.sampled_from([*OURS, "x-cube-webhook-other", "webhook-id", "x-hub-signature-256"]),
    st.sampled_from([str.lower, str.upper, str.title, str.capitalize]),
    st.sampled_from(["-", "-", "_", " "]),
)
tokens = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=12)
lines = st.text(st.characters(max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=8)
configured = st.dictionaries(tokens | st.sampled_from(OPEN), lines, max_size=3) | st.dictionaries(
    spelled | tokens | splitting, lines | splitting, max_size=3
)


@given(configured)
@example({"X-Env": "a\r\nX-Evil: 1"})
@example({"X-Env\r\nX-Evil": "1"})
@settings(RELAXED, max_examples=150)
def test_of_a_configuration(wire: Wire, transport: str, headers: dict[str, str]) -> None:
    try:
        pairs = sent(
            wire,
            Message("id-1", "a.b", None, "text/plain", BODY),
            headers=headers,
            transport=transport,
        )
    except ConfigError:
        return
    assert pairs is not None
    others = [name.lower() for name in headers if name.lower() not in OURS]
    assert names(pairs) == sorted([*OURS, *others])
    found = {name.lower(): value for name, value in pairs}
    for name, value in headers.items():
        assert found[name.lower()] == value.strip(" \t")
    assert found["content-type"] == "text/plain"
    assert found["x-cube-webhook-delivery"] == "id-1"
    assert found["x-cube-webhook-event"] == "a.b"
    if "user-agent" not in map(str.lower, headers):
        assert found["user-agent"] == USER_AGENT
    assert verify(BODY, found, SECRET) == {"id": "1"}


@pytest.mark.parametrize("name", [name for name in OURS if name not in OPEN])
def test_of_a_configuration_that_names_one_of_ours(wire: Wire, name: str) -> None:
    """Nor in the spelling that CGI and WSGI cannot tell from it."""
    for spelling in (name, name.title(), name.replace("-", "_"), name.replace("-", "_").upper()):
        with pytest.raises(ConfigError):
            endpoint(wire, headers={spelling: "x"})
