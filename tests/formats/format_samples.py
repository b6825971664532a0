"""Events to be written in every format, and a chat service on loopback."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from cubehook import WebhookFormatter, formats
from cubehook.outcome import Reply

# A busy machine is no failure.
RELAXED = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

CHATS = ("slack", "discord", "teams", "wecom", "feishu", "dingtalk")
ID = "550e8400-e29b-41d4-a716-446655440000"
MOMENT = datetime(2026, 7, 1, 8, 0, 0, 123456, tzinfo=timezone.utc).timestamp()

# What some service or other would take for a mention, a link, a picture or markup.
INJECTIONS = (
    "@everyone @here @all",
    "<!channel> <!here> <@U012AB3CD> <#C123ABC456> <!subteam^SAZ94GDB8>",
    "<https://evil.example|https://good.example>",
    "<@123456789> <@&987654321> <#11> <t:1618953630:R> <:emoji:1>",
    '<at user_id="all">everyone</at> <at id=all></at> <at>Jane Doe</at>',
    "<@wangqing> <@all>",
    "[good](https://evil.example) ![x](https://evil.example/pixel.png)",
    '<font color="warning">x</font> <a href="https://evil.example">x</a>',
    "```\n# not a heading\n> not a quotation\n- not an item",
    "`code` *bold* _italic_ ~struck~ ||spoiler||",
    "\\*\\[x\\](https://evil.example)",
    "&lt;!channel&gt; &amp;lt;",
    "{{DATE(2017-02-14T06:08:39Z,SHORT)}} @{body()} ${x}",
)
UGLY = (
    "",
    " ",
    "\n\r\t\x00\x07\x1b[31m\x7f\x85\u2028\u2029",
    "\u202egnp.exe\u202c \u2066x\u2069 \u200e\u200f\u061c",
    "a\u200bb\u2060c\ufeffd\u00ade\U000e0041",
    "\ud800 \udc00",
    "e\u0301" * 400,
    "a" + "\u0300" * 2000,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 200,
    "\U0001f1e9\U0001f1ea" * 400,
    "\U0001f44d\U0001f3fd" * 400,
    "\u1112\u1161\u11ab" * 400,
    "\u6f22" * 1500,
    '"' * 5000,
    "\\" * 1500,
    "&" * 1500,
    "`" * 1500,
    "<" * 1500,
    "_" * 1500,
    "x" * 3000,
)

texts = st.one_of(
    st.sampled_from(INJECTIONS + UGLY),
    st.text(st.characters(exclude_categories=()), max_size=40),
    st.text(max_size=400),
    st.lists(st.sampled_from(INJECTIONS + UGLY), max_size=3).map("".join),
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=20) | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts.map(lambda text: text[:20]), inner, max_size=4)
    ),
    max_leaves=8,
)
# Long names are slow to redact, and cut at far less.
names = texts.map(lambda text: text[:80]).filter(lambda name: name not in ("message", "asctime"))
fields = st.one_of(
    st.dictionaries(names, values, max_size=6),
    st.dictionaries(names, values, min_size=14, max_size=40),
    st.fixed_dictionaries({"sandbox_id": values, "snapshot_id": values}),
)
levels = st.sampled_from([logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
event_names = st.sampled_from(["sandbox.created", "snapshot.deleted", "api.error", "x" * 128])


def record(level: int = logging.INFO, /, **attributes: Any) -> logging.LogRecord:
    """A record of an event, ``sandbox.created`` unless it says so."""
    given = {"name": "app", "msg": "a message", "levelno": level, "created": MOMENT}
    return logging.makeLogRecord(
        {**given, "event": "sandbox.created", "event_id": ID, **attributes}
    )


def formatter(name: str) -> WebhookFormatter:
    """The formatter of that name, as an endpoint gets it."""
    made = formats.make(name, (), ())
    assert isinstance(made, WebhookFormatter)
    return made


def body(name: str, one: logging.LogRecord) -> Any:
    """The record in that format, parsed by the rules of JSON and UTF-8."""
    return parsed(formatter(name).format(one).encode("utf-8"))


def joined(name: str, records: Sequence[logging.LogRecord], times: int = 1) -> Any:
    """The records in one body, one after the other and so many times."""
    made = formatter(name)
    bodies = [made.format(one).encode("utf-8") for one in records]
    return parsed(made.join("a-batch", bodies * times))


def parsed(raw: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    value = json.loads(raw.decode("utf-8"), parse_constant=refuse)
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # no half of a surrogate pair
    return value


def answer(value: object, status: int = 200) -> Reply:
    """An answer with this body: bytes as they are, anything else as JSON."""
    return Reply(status, body=value if isinstance(value, bytes) else json.dumps(value).encode())


class Service:
    """An HTTP server that answers what ``reply`` says to path and body, with status 200."""

    def __init__(self, reply: Callable[[str, bytes], object]) -> None:
        self.received: list[tuple[str, bytes]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                service.received.append((self.path, content))
                answered = json.dumps(reply(self.path, content)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answered)))
                self.end_headers()
                self.wfile.write(answered)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def endpoint(self, path: str, **keys: Any) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._server.server_address[1]}{path}"
        return {"name": "chat", "url": url, "allow_private_urls": True, "events": ["*"], **keys}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
