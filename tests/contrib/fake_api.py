"""The API of a sandbox service on loopback, as far as the SDKs' calls in the tests need it."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PLANTED = "planted-0123456789abcdef"
"""In every field of an answer, and every argument of a call, that may be secret."""

Answer = tuple[int, Any]


class SandboxApi:
    """Answers as CubeAPI does. Sandboxes are ``sb-1``, ``sb-2``, …; templates are not looked up.

    calls: the requests that came, as method and path. broken: answer all with 500.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken = False
        self._states: dict[str, str] = {}
        self._snapshots: set[str] = set()
        self._number = itertools.count(1)
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        self.calls.append(f"{method} {path}")
        if self.broken:
            return 500, {"code": 500, "message": "broken"}
        for pattern, respond in _ROUTES:
            found = re.fullmatch(pattern, f"{method} {path}")
            if found:
                return respond(self, body, *found.groups())
        return 404, {"code": 404, "message": "no such route"}

    def _create(self, body: dict[str, Any]) -> Answer:
        return 201, self._made(body.get("templateID", "base"))

    def _made(self, template: str) -> dict[str, Any]:
        sandbox = f"sb-{next(self._number)}"
        self._states[sandbox] = "running"
        return _described(sandbox, template)

    def _look(self, body: dict[str, Any], sandbox: str) -> Answer:
        return 200, {**_described(sandbox), "state": self._states.get(sandbox)}

    def _kill(self, body: dict[str, Any], sandbox: str) -> Answer:
        return (204, None) if self._states.pop(sandbox, None) else _not_found()

    def _pause(self, body: dict[str, Any], sandbox: str) -> Answer:
        if self._states.get(sandbox) == "paused":
            return 409, {"code": 409, "message": "it is paused"}
        if sandbox not in self._states:
            return _not_found()
        self._states[sandbox] = "paused"
        return 204, None

    def _run(self, body: dict[str, Any], sandbox: str) -> Answer:
        if sandbox not in self._states:
            return _not_found()
        self._states[sandbox] = "running"
        return 200, _described(sandbox)

    def _timeout(self, body: dict[str, Any], sandbox: str) -> Answer:
        return (204, None) if sandbox in self._states else _not_found()

    def _snapshot(self, body: dict[str, Any], sandbox: str) -> Answer:
        snapshot = f"snap-{next(self._number)}"
        self._snapshots.add(snapshot)
        return 201, {"snapshotID": snapshot, "names": [body["name"]] if "name" in body else []}

    def _drop(self, body: dict[str, Any], snapshot: str) -> Answer:
        if snapshot not in self._snapshots:
            return _not_found()
        self._snapshots.discard(snapshot)
        return 204, None

    def _roll_back(self, body: dict[str, Any], sandbox: str) -> Answer:
        done = {"sandboxID": sandbox, "snapshotID": body["snapshotID"]}
        return 200, {**done, "operationID": "op-1", "status": "success"}

    def _fork(self, body: dict[str, Any], sandbox: str) -> Answer:
        failed = {"error": {"code": 500, "message": "no room"}}
        return 201, [{"sandbox": self._made("base")}, failed, {"sandbox": self._made("base")}]


_ONE = r"(?:/v2)?/sandboxes/([^/]+)"
_ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    (r"POST (?:/v2)?/sandboxes", SandboxApi._create),
    (f"GET {_ONE}", SandboxApi._look),
    (f"DELETE {_ONE}", SandboxApi._kill),
    (f"POST {_ONE}/pause", SandboxApi._pause),
    (f"POST {_ONE}/(?:resume|connect)", SandboxApi._run),
    (f"POST {_ONE}/timeout", SandboxApi._timeout),
    (f"POST {_ONE}/snapshots", SandboxApi._snapshot),
    (f"POST {_ONE}/rollback", SandboxApi._roll_back),
    (f"POST {_ONE}/fork", SandboxApi._fork),
    (r"DELETE /templates/([^/]+)", SandboxApi._drop),
]


def _described(sandbox: str, template: str = "tpl-1") -> dict[str, Any]:
    return {
        "sandboxID": sandbox,
        "templateID": template,
        "clientID": "client",
        "envdVersion": "0.5.0",
        "envdAccessToken": PLANTED,
        "trafficAccessToken": PLANTED,
    }


def _not_found() -> Answer:
    return 404, {"code": 404, "message": "sandbox not found"}


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close joins them

    def __init__(self, api: SandboxApi) -> None:
        self.api = api
        super().__init__(("127.0.0.1", 0), _Requests)


class _Requests(BaseHTTPRequestHandler):
    """HTTP/1.0: each connection ends with its answer, since the SDKs do not close theirs."""

    server: _Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        given = json.loads(body) if body else {}
        status, answer = self.server.api.answer(self.command, self.path, given)
        content = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
