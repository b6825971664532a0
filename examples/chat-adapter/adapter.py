"""Alerts in a chat: takes cubehook's webhooks and posts each event to WeCom or Slack.

Try it: WEBHOOK_SECRET=test-secret python adapter.py --fake-chat
Use it: WEBHOOK_SECRET=… CHAT_WEBHOOK_URL=… python adapter.py
"""

from __future__ import annotations

import argparse
import html
import http.client
import json
import logging
import os
import re
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cubehook import VerificationError, verify

MAX_BODY = 1024 * 1024
MAX_ANSWER = 65_536
CHAT_TIMEOUT = 4.0  # seconds for each step; cubehook waits 10 s for our answer
REMEMBERED_IDS = 10_000

WECOM_BYTES = 2048  # of UTF-8, the most in one text
WECOM_TOO_MANY = 45009  # errcode: over 20 messages in a minute
SLACK_BYTES = 4000

log = logging.getLogger("chat-adapter")


# --- What people read ---


def text_of(event: dict[str, Any]) -> str:
    """The event's name, when it happened, and its fields, a line each."""
    when = str(event.get("timestamp", ""))[:19].replace("T", " ")
    lines = [one_line(event.get("event")), one_line(f"{when} UTC, {event.get('level')}")]
    for name, value in event.items():
        if name not in ("id", "timestamp", "level", "event"):
            lines.append(f"{one_line(name)}: {one_line(value)}")
    return "\n".join(lines)


def one_line(value: object) -> str:
    """A value as one line: a line end in it could pass for a line of ours."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())


def cut(text: str, most: int) -> str:
    """The text in at most so many bytes of UTF-8, cut between two characters."""
    data = text.encode("utf-8", "replace")
    if len(data) <= most:
        return data.decode("utf-8")
    return data[: most - len("…".encode())].decode("utf-8", "ignore") + "…"


# --- The chats ---


class ChatError(Exception):
    """The chat did not take a message. The text is ours: an error's own might hold the URL."""

    def __init__(self, reason: str, retry_after: str | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Chat(NamedTuple):
    """How a chat wants a message, and how it says that it took one (raises `ChatError`)."""

    message: Callable[[str], object]
    check: Callable[[bytes], None]


def wecom_message(text: str) -> object:
    # "<@somebody>" would call somebody.
    return {"msgtype": "text", "text": {"content": cut(text.replace("<@", "< @"), WECOM_BYTES)}}


def wecom_check(answer: bytes) -> None:
    """WeCom answers 200 even when it refuses: what counts is the errcode in the body."""
    try:
        code = int(json.loads(answer)["errcode"])
    except (ValueError, KeyError, TypeError):
        raise ChatError("an answer without an errcode") from None
    if code != 0:
        raise ChatError(f"errcode {code}", "60" if code == WECOM_TOO_MANY else None)


def slack_message(text: str) -> object:
    # After the escapes "<!channel>" calls nobody. They come last: a cut could go through one.
    return {"text": html.escape(cut(text, SLACK_BYTES), quote=False)}


def slack_check(answer: bytes) -> None:
    """Slack says everything with the status."""


CHATS = {"wecom": Chat(wecom_message, wecom_check), "slack": Chat(slack_message, slack_check)}


def chat_at(url: str) -> str:
    """Which chat's URL that is. Raises ValueError for what is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError
    return "slack" if parts.hostname.endswith((".slack.com", ".slack-gov.com")) else "wecom"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is redirected becomes a GET, and the message is lost: take it as a failure."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post(url: str, chat: Chat, text: str) -> None:
    """Post a text to a chat. Raises `ChatError`."""
    data = json.dumps(chat.message(text)).encode()
    try:
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=CHAT_TIMEOUT) as answer:
            body = answer.read(MAX_ANSWER)
    except urllib.error.HTTPError as error:
        with error:
            wait = error.headers.get("Retry-After", "")
            retry_after = wait if re.fullmatch(r"[0-9]{1,5}", wait) else None
            raise ChatError(f"status {error.code}", retry_after) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)  # URLError is put around other errors
        raise ChatError(type(cause).__name__) from None
    chat.check(body)


# --- Each event once ---


class Deliveries:
    """The ids posted lately, and those being posted. Bounded, and gone after a restart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._posted: OrderedDict[str, None] = OrderedDict()
        self._in_hand: set[str] = set()

    def begin(self, delivery: str) -> bool:
        """True for a new one; False for one that was posted."""
        with self._lock:
            if delivery in self._in_hand:
                raise RequestError(503, "being posted by another thread")
            if delivery in self._posted:
                return False
            self._in_hand.add(delivery)
            return True

    def end(self, delivery: str, *, posted: bool) -> None:
        """Remember it if it was posted; otherwise the next attempt is new again."""
        with self._lock:
            self._in_hand.discard(delivery)
            if posted:
                self._posted[delivery] = None
                if len(self._posted) > REMEMBERED_IDS:
                    self._posted.popitem(last=False)


# --- The receiver ---


class RequestError(Exception):
    """Answer with this status. cubehook tries again after 5xx, and not after 4xx."""

    def __init__(self, status: int, reason: str, retry_after: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after


class Handler(BaseHTTPRequestHandler):
    """One request on one connection."""

    server: Adapter
    timeout = 10.0

    def do_POST(self) -> None:
        try:
            body = self.read_body()
            if self.path != self.server.path:
                raise RequestError(404, "no such path")
            self.server.take(self.headers, body)
        except RequestError as error:
            log.warning("answered %d: %s", error.status, error)
            self.send_response(error.status)
            if error.retry_after is not None:
                self.send_header("Retry-After", error.retry_after)
        else:
            self.send_response(204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,20}", length):
            raise RequestError(400, "no usable Content-Length")
        if int(length) > MAX_BODY:
            raise RequestError(413, f"body is over {MAX_BODY} bytes")
        return self.rfile.read(int(length))

    def log_message(self, *_: Any) -> None:
        """Silence the base class, which logs what came in as it came in."""


class Adapter(ThreadingHTTPServer):
    """The server: verifies what comes in and posts it; made by `make_server`."""

    daemon_threads = True
    path: str
    secrets: tuple[str, ...]
    chat: Chat
    url: str
    deliveries: Deliveries

    def take(self, headers: Message, body: bytes) -> None:
        """Post an event, unless it was posted. Raises `RequestError`."""
        try:
            event = verify(body, headers.items(), self.secrets)
        except VerificationError as error:
            raise RequestError(401, str(error)) from None
        delivery = headers["X-Cube-Webhook-Delivery"]  # signed, so it was checked as well
        line = f"{ascii(one_line(event.get('event')))[1:-1]} id={delivery}"
        if not self.deliveries.begin(delivery):
            log.info("duplicate %s", line)
            return
        posted = False
        try:
            post(self.url, self.chat, text_of(event))
            posted = True
        except ChatError as error:
            raise RequestError(502, f"not posted {line}: {error}", error.retry_after) from None
        finally:
            self.deliveries.end(delivery, posted=posted)
        log.info("posted %s", line)

    def handle_error(self, *_: Any) -> None:
        log.warning("connection ended by %s", type(sys.exc_info()[1]).__name__)


def make_server(
    host: str, port: int, *, path: str = "/webhook", secrets: Sequence[str], chat: str, url: str
) -> Adapter:
    """A server that listens (port 0: on a free one) and waits for `serve_forever()`."""
    server = Adapter((host, port), Handler)
    server.path, server.secrets = path, tuple(secrets)
    server.chat, server.url = CHATS[chat], url
    server.deliveries = Deliveries()
    return server


# --- A chat to try it with ---


class FakeChat(ThreadingHTTPServer):
    """Answers as WeCom or Slack would, and prints what people would see."""

    daemon_threads = True

    def __init__(self, failures: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _FakeChatHandler)
        self.failures = failures
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _FakeChatHandler(BaseHTTPRequestHandler):
    server: FakeChat

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        wecom = "msgtype" in message
        failing = self.server.failures > 0
        self.server.failures -= failing
        if failing:
            status, answer = (200, b'{"errcode":-1}') if wecom else (503, b"service_unavailable")
            print("  | (the chat refuses a message)", file=sys.stderr)
        else:
            status, answer = 200, b'{"errcode":0,"errmsg":"ok"}' if wecom else b"ok"
            text = message["text"]["content"] if wecom else html.unescape(message["text"])
            print("  | " + "\n  | ".join(text.split("\n")), file=sys.stderr)
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Only the messages are shown."""


# --- The command ---


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Post the events of cubehook's webhooks to a chat.",
        epilog="WEBHOOK_SECRET: what the webhooks are signed with; several, separated by commas, "
        "while one is being replaced. CHAT_WEBHOOK_URL: the chat's incoming webhook.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8787)
    parser.add_argument("--path", default="/webhook")
    parser.add_argument("--chat", choices=CHATS, help="default: what the URL's host tells")
    parser.add_argument("--fake-chat", action="store_true", help="post to a chat that only prints")
    parser.add_argument("--fail", type=int, default=0, help="first messages that one refuses")
    options = parser.parse_args()

    secrets = [part.strip() for part in os.environ.get("WEBHOOK_SECRET", "").split(",")]
    if not all(secrets):
        parser.error("set WEBHOOK_SECRET")
    url = os.environ.get("CHAT_WEBHOOK_URL")
    if options.fake_chat:
        os.environ["no_proxy"] = "127.0.0.1"  # a proxy, which is used otherwise, cannot reach it
        url = FakeChat(options.fail).url
    if not url:
        parser.error("set CHAT_WEBHOOK_URL (or give --fake-chat)")
    try:
        url = url.strip()
        chat = options.chat or chat_at(url)
    except ValueError:
        parser.error("CHAT_WEBHOOK_URL is not a URL with http:// or https://")

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    host, port, path = options.host, options.port, options.path
    try:
        server = make_server(host, port, path=path, secrets=secrets, chat=chat, url=url)
    except (OSError, OverflowError) as error:
        parser.error(f"cannot listen on {host}:{port}: {error}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # raises KeyboardInterrupt
    with server, suppress(KeyboardInterrupt):
        fake = "a fake " if options.fake_chat else ""
        log.info("listening on http://%s:%d%s for %s%s", host, port, path, fake, chat)
        server.serve_forever()
    log.info("stopped")


if __name__ == "__main__":
    main()
