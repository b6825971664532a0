"""Who is put to the test beside cubehook, and the program each of them runs in.

A contender is a row of `CONTENDERS`: what to import, how it is set up, how an event is logged. All
have their defaults, but for the receiver's address and what the rest of a row says.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.metadata
import importlib.util
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST, PATH = "127.0.0.1", "peers"

_REPOSITORY = Path(__file__).parent.parent
_START_SECONDS = 60.0  # imports, on a machine that is busy

_LOG = "logger.info(text)"

_STDLIB = """
import queue
from logging.handlers import HTTPHandler, QueueHandler, QueueListener

handler = QueueHandler(queue.SimpleQueue())
listener = QueueListener(handler.queue, HTTPHandler(f"{HOST}:{PORT}", f"/{PATH}", "POST"))
handler.listener = listener  # as Python 3.12 has it
listener.start()
"""

SENTRY = """
import sentry_sdk
from sentry_sdk.integrations.logging import LoggingIntegration

sentry_sdk.init(
    f"http://key@{{HOST}}:{{PORT}}/{{PATH}}/1",
    integrations=[LoggingIntegration({levels})],
    {options}
)
"""


@dataclass(frozen=True)
class Contender:
    """One way to send log records over HTTP.

    distribution: its name on PyPI; empty for the standard library. modules: what `setup` imports.
    setup: makes ``handler``, or leaves it None if it takes its records otherwise. It may use
    ``HOST``, ``PORT``, ``PATH``, ``URL``, and ``LEVEL``, the lowest level that is to be sent.
    log: logs the event ``text``, the one with this ``number``, to ``logger``. status: what it
    takes for success.
    """

    name: str
    distribution: str
    modules: tuple[str, ...]
    setup: str
    log: str = _LOG
    status: int = 200

    @property
    def version(self) -> str | None:
        """None: it is not installed."""
        try:
            found = all(map(importlib.util.find_spec, self.modules))
            version = importlib.metadata.version(self.distribution) if self.distribution else ""
        except (ImportError, importlib.metadata.PackageNotFoundError):
            return None
        return version if found else None

    def handler(self, port: int) -> logging.Handler | None:
        """What `setup` makes of it in this process."""
        names: dict[str, Any] = {
            "HOST": HOST,
            "PORT": port,
            "PATH": PATH,
            "URL": f"http://{HOST}:{port}/{PATH}",
            "LEVEL": logging.INFO,
            "handler": None,
        }
        exec(self.setup, names)
        handler: logging.Handler | None = names["handler"]
        return handler


CONTENDERS = (
    Contender(
        "cubehook",
        "cubehook",
        ("cubehook",),
        """
import cubehook

handler = cubehook.WebhookHandler([{
    "name": "peers", "url": URL, "secret": "test-secret", "events": ["*"],
    "allow_private_urls": True,
}])
""",
        # Some sandboxes, many events each: the order by key is part of the work.
        'logger.info("", extra={"event": "sandbox.created", '
        '"sandbox_id": f"sandbox-{number % 40}", "text": text})',
    ),
    Contender("QueueListener", "", ("logging.handlers",), _STDLIB),
    Contender(
        "QueueListener, stop at exit",
        "",
        ("logging.handlers",),
        _STDLIB + "import atexit\n\natexit.register(listener.stop)\n",
    ),
    Contender(
        "loki, queue handler",
        "python-logging-loki",
        ("logging_loki",),
        """
import queue
import logging_loki

handler = logging_loki.LokiQueueHandler(queue.Queue(-1), url=URL, tags={"app": "x"}, version="1")
""",
        status=204,
    ),
    Contender(
        "loki-logger-handler",
        "loki-logger-handler",
        ("loki_logger_handler",),
        """
from loki_logger_handler.loki_logger_handler import LokiLoggerHandler

handler = LokiLoggerHandler(url=URL, labels={"app": "x"})
""",
        status=204,
    ),
    Contender(
        "logzio",
        "logzio-python-handler",
        ("logzio",),
        """
from logzio.handler import LogzioHandler

handler = LogzioHandler("test-token", url=URL)
""",
    ),
    Contender(
        "logstash-async",
        "python-logstash-async",
        ("logstash_async",),
        """
from logstash_async.handler import AsynchronousLogstashHandler

handler = AsynchronousLogstashHandler(
    HOST, PORT, transport="logstash_async.transport.HttpTransport", path=PATH, database_path=None
)
""",
    ),
    Contender(
        "watchtower",
        "watchtower",
        ("watchtower", "boto3"),
        """
import boto3
import watchtower

client = boto3.client(
    "logs", endpoint_url=URL, region_name="us-east-1",
    aws_access_key_id="test", aws_secret_access_key="test",
)
handler = watchtower.CloudWatchLogHandler(boto3_client=client)
""",
    ),
    Contender(
        "splunk",
        "splunk_handler",
        ("splunk_handler",),
        """
from splunk_handler import SplunkHandler

handler = SplunkHandler(
    HOST, PORT, "test-token", "main", protocol="http", verify=False, url=URL
)
""",
    ),
    Contender(
        "logtail",
        "logtail-python",
        ("logtail",),
        """
import logtail

handler = logtail.LogtailHandler("test-token", host=URL)
""",
    ),
    Contender(
        "seqlog",
        "seqlog",
        ("seqlog",),
        """
from seqlog.structured_logging import SeqLogHandler

handler = SeqLogHandler(URL)
""",
    ),
    Contender(
        "OpenTelemetry logs",
        "opentelemetry-exporter-otlp-proto-http",
        ("opentelemetry.sdk._logs", "opentelemetry.exporter.otlp.proto.http"),
        """
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

provider = LoggerProvider()
provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(endpoint=URL)))
handler = LoggingHandler(logger_provider=provider)
""",
    ),
    Contender(
        "sentry events",
        "sentry-sdk",
        ("sentry_sdk",),
        # Without the breadcrumbs: they repeat the events before, which is no delivery.
        SENTRY.format(levels="level=None, event_level=LEVEL", options="max_breadcrumbs=0,"),
    ),
    Contender(
        "sentry logs",
        "sentry-sdk",
        ("sentry_sdk",),
        SENTRY.format(
            levels="level=None, event_level=None, sentry_logs_level=LEVEL",
            options="max_breadcrumbs=0, enable_logs=True,",
        ),
    ),
)

EVENT = r"peers-([a-z]+)-(\d{5})"
"""What the receiver looks for in a body: the name of a group of events, and a number."""

_PROGRAM = """
import logging, os, sys, time

HOST, PORT, PATH, URL, ROOT = {site!r}
LEVEL = logging.DEBUG if ROOT else logging.INFO
answers = os.dup(1)
os.dup2(2, 1)  # some contenders print
handler = None
{setup}
logger = logging.getLogger("app")
target = logging.getLogger() if ROOT else logger
target.setLevel(LEVEL)
if handler is not None:
    target.addHandler(handler)

def log(group, count):
    for number in range(count):
        text = f"peers-{{group}}-{{number:05}}"
        {log}

def answer(word):
    os.write(answers, f"{{word}} {{time.monotonic()}}\\n".encode())

answer("ready")
for line in sys.stdin:
    word, *arguments = line.split()
    if word == "log":
        log(arguments[0], int(arguments[1]))
        answer("logged")
    elif word == "fork":
        count, seconds = map(int, arguments)
        log("before", count)
        child = os.fork()
        log("parent" if child else "child", count)
        time.sleep(seconds)
        if not child:
            sys.exit()
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def environment(home: str) -> dict[str, str]:
    """Nothing of ours: no proxy, no credentials, no settings of a contender."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": home,
        "PYTHONPATH": str(_REPOSITORY),
        "PYTHONWARNINGS": "ignore",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def plain(body: bytes) -> bytes:
    """A body without its compression, whatever the headers say."""
    for magic, decompress in ((b"\x1f\x8b", gzip.decompress), (b"x", zlib.decompress)):
        if body.startswith(magic):
            with contextlib.suppress(OSError, EOFError, zlib.error):
                return decompress(body)
    return body


class Program:
    """A contender in a process of its own, which does what it is told and ends when it is told.

    port: the receiver's. root: the handler is put on the root logger, at DEBUG. ``log GROUP COUNT``
    logs so many events, and is answered; ``fork COUNT SECONDS`` logs them before a fork and on both
    sides of it, which then live on for so long; the status is the child's then.

    Raises RuntimeError if it cannot be set up, or breaks off before it answers.
    """

    def __init__(self, contender: Contender, port: int, *, root: bool = False) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="peers-")
        self._errors = Path(self._scratch.name, "stderr")
        site = (HOST, port, PATH, f"http://{HOST}:{port}/{PATH}", root)
        text = _PROGRAM.format(site=site, setup=contender.setup, log=contender.log)
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", text],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self._scratch.name,  # some leave files behind
                env=environment(self._scratch.name),
                start_new_session=True,  # with its children it can be killed
            )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._end: float | None = None
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            if self.hear(_START_SECONDS) is None:
                raise RuntimeError("it does not start")
        except BaseException:
            self.close()
            raise

    def tell(self, *words: object) -> None:
        """Tell it to do something. Does not wait."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it crashed; what is missing will show
            self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())
            self._process.stdin.flush()

    def end(self) -> None:
        """Tell it that nothing more will come: it ends when it is done."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def hear(self, timeout: float) -> float | None:
        """Wait for its next answer: the moment, on the clock that all processes share, or None."""
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            return None
        if not answer:
            raise RuntimeError(self._complaint())
        return float(answer.split()[1])

    def ended(self, by: float) -> float | None:
        """Wait for its end, until that moment: when it was, None if it is still there."""
        self._watcher.join(max(by - time.monotonic(), 0.0))
        return self._end

    @property
    def status(self) -> int | None:
        """Its exit status; None while it is there."""
        return self._process.returncode

    def close(self) -> None:
        """Kill it and its children, if they are still there."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._watcher.join()
        self.end()
        self._scratch.cleanup()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _complaint(self) -> str:
        lines = self._errors.read_text(errors="replace").split("\n")
        return next(filter(None, map(str.strip, reversed(lines))), "it broke off")

    def _watch(self) -> None:
        self._process.wait()
        self._end = time.monotonic()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._answers.put(line.decode())
        self._answers.put("")
