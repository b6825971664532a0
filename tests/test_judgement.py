"""What a format brings along beside the body: its judgement of answers, its scheme, its rate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import responses
from loopback import Receiver

from cubehook import ConfigError, Endpoint, WebhookFormatter, WebhookHandler
from cubehook.attempt import Sender
from cubehook.config import load_endpoints
from cubehook.message import Message
from cubehook.outcome import Failure, Reply
from cubehook.rate import Rate
from cubehook.signing import Key, Scheme, Sealed, _registry, register
from cubehook.worker import Worker

HERE = __name__
URL = "https://chat.example/hook?token=t"
MESSAGE = Message("an-id", "sandbox.created", None, "application/json", b'{"a":1}')


class Strict(WebhookFormatter):
    """Takes an answer for what it is only the third time."""

    scheme = "cube"
    rate_limit = "50/s"
    judged: ClassVar[list[int]] = []

    def judge(self, reply: Reply) -> Reply | Failure:
        self.judged.append(reply.status)
        return reply if len(self.judged) > 2 else Failure("code 7", final=False)


class Unyielding(WebhookFormatter):
    def judge(self, reply: Reply) -> Reply | Failure:
        return Failure("code 8", final=True)


class Raising(WebhookFormatter):
    def judge(self, reply: Reply) -> Reply | Failure:
        raise KeyError("errcode")


class Plain(logging.Formatter):
    """An application's, which knows nothing of judging."""


class Wrong(WebhookFormatter):
    rate_limit = "fast"


class Sealing(Scheme):
    """Signs in the body and in the query."""

    name = "sealing"
    dated = True
    signature_header = "x-sealing"

    def key(self, secret: str) -> Key:
        return secret.encode()

    def sign(
        self, *, message_id: str, event: str, timestamp: int, body: bytes, keys: Sequence[Key]
    ) -> dict[str, str]:
        return {"X-Signed": str(len(body))}

    def seal(self, *, timestamp: int, body: bytes, keys: Sequence[Key]) -> Sealed:
        return Sealed(body + b"|sealed", {"sign": "a+b/=", "at": str(len(keys))})

    def check(
        self, headers: Mapping[str, str], body: bytes, keys: Any, now: float, tolerance: float
    ) -> None:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def unjudged() -> None:
    Strict.judged = []


@pytest.fixture
def sealing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_SCHEMES", dict(_registry._SCHEMES))
    register(Sealing())


def log(logger: logging.Logger, number: int = 1) -> None:
    logger.info("x", extra={"event": "sandbox.created", "event_id": f"e{number}"})


class TestJudgement:
    def test_what_failed_by_it_is_tried_again(
        self, receiver: Receiver, logger: logging.Logger, handler: Callable[..., WebhookHandler]
    ) -> None:
        made = handler([receiver.endpoint(format=f"{HERE}.Strict")])
        log(logger)
        assert made.flush(5.0)
        stats = made.stats()
        assert (stats.delivered, stats.retried, stats.dead) == (1, 2, 0)
        assert len({one.body for one in receiver.received()}) == 1
        assert Strict.judged == [204, 204, 204]

    def test_what_is_final_by_it_is_dead_at_once(
        self, receiver: Receiver, logger: logging.Logger, handler: Callable[..., WebhookHandler]
    ) -> None:
        made = handler([receiver.endpoint(format=f"{HERE}.Unyielding")])
        log(logger)
        assert made.flush(5.0)
        assert (made.stats().dead, made.stats().retried) == (1, 0)

    def test_one_that_raises_is_a_failure_that_is_retried(
        self, receiver: Receiver, logger: logging.Logger, handler: Callable[..., WebhookHandler]
    ) -> None:
        made = handler([receiver.endpoint(format=f"{HERE}.Raising", max_retries=1)])
        log(logger)
        assert made.flush(5.0)
        assert (made.stats().dead, made.stats().retried) == (1, 1)

    def test_a_formatter_without_one_goes_by_the_status(
        self, receiver: Receiver, logger: logging.Logger, handler: Callable[..., WebhookHandler]
    ) -> None:
        made = handler([receiver.endpoint(format=f"{HERE}.Plain")])
        log(logger)
        assert made.flush(5.0)
        assert made.stats().delivered == 1
        receiver.problems.clear()  # it reads JSON

    def test_a_handlers_own_formatter_judges_too(
        self, receiver: Receiver, logger: logging.Logger, handler: Callable[..., WebhookHandler]
    ) -> None:
        made = handler([receiver.endpoint()])
        made.setFormatter(Unyielding())
        log(logger)
        assert made.flush(5.0)
        assert made.stats().dead == 1

    def test_a_worker_judges_by_the_format_too(
        self,
        receiver: Receiver,
        logger: logging.Logger,
        handler: Callable[..., WebhookHandler],
        tmp_path: Any,
    ) -> None:
        pytest.importorskip("sqlalchemy")
        url = f"sqlite:///{tmp_path / 'outbox.db'}"
        endpoint = receiver.endpoint(format=f"{HERE}.Unyielding")
        storing = handler([endpoint], outbox=url, deliver=False)
        log(logger)
        assert storing.flush(5.0)
        worker = Worker(url, load_endpoints([endpoint], storing._settings))
        try:
            assert worker.drain()
            assert worker.metrics().endpoints["hook"].dead == 1
            other = load_endpoints([receiver.endpoint(format=f"{HERE}.Strict")], storing._settings)
            worker.update_endpoints(other)  # of a format it has not seen
        finally:
            worker.stop()


class TestDefaultsOfAFormat:
    def test_its_scheme_and_rate_are_the_endpoints(self) -> None:
        endpoint = Endpoint(url=URL, format=f"{HERE}.Strict")
        assert endpoint.schemes == ("cube",)
        assert endpoint.rate == Rate(50, 1.0)

    def test_unless_it_says_otherwise(self) -> None:
        endpoint = Endpoint(url=URL, format=f"{HERE}.Strict", scheme="github", rate_limit="2/s")
        assert endpoint.schemes == ("github",)
        assert endpoint.rate == Rate(2, 1.0)
        assert Endpoint(url=URL, format=f"{HERE}.Strict", rate_limit="none").rate is None

    @pytest.mark.parametrize("name", ["cube", f"{HERE}.Plain"])
    def test_most_have_none(self, name: str) -> None:
        endpoint = Endpoint(url=URL, format=name)
        assert (endpoint.schemes, endpoint.rate) == (("cube",), None)

    def test_wrong_ones_are_told(self) -> None:
        with pytest.raises(ConfigError, match="format: has defaults of its own that are wrong"):
            Endpoint(url=URL, format=f"{HERE}.Wrong")

    def test_a_wrong_rate_is_told(self) -> None:
        with pytest.raises(ConfigError, match="rate_limit: must be like"):
            Endpoint(url=URL, rate_limit="planted")


class TestSealing:
    def test_with_requests(self, sealing: None) -> None:
        endpoint = Endpoint(url=URL, scheme="sealing", secret="s", timeout=5.0, connect_timeout=5.0)
        with responses.RequestsMock() as mock:
            mock.post("https://chat.example/hook", status=200, body=b"ok")
            sender = Sender(endpoint)
            assert sender(MESSAGE) == Reply(200, body=b"ok")
            sender.close()
            (call,) = mock.calls
        assert call.request.url == URL + "&sign=a%2Bb%2F%3D&at=1"
        assert call.request.body == b'{"a":1}|sealed'
        assert call.request.headers["X-Signed"] == str(len(b'{"a":1}|sealed'))

    @pytest.mark.parametrize("transport", ["requests", "curl"])
    def test_on_the_wire_and_not_a_second_time(
        self, transport: str, sealing: None, receiver: Receiver
    ) -> None:
        if transport == "curl":
            pytest.importorskip("pycurl")
        keys = {"timeout": 5.0, "connect_timeout": 5.0, "transport": transport}
        given = receiver.endpoint("/hook", **keys) | {"scheme": "sealing"}
        (endpoint,) = load_endpoints([given], WebhookHandler([])._settings)
        sender = Sender(endpoint)
        for _ in range(2):
            assert sender(MESSAGE) == Reply(204)
        sender.close()
        receiver.problems.clear()  # it knows of no such scheme
        for one in receiver.received():
            assert one.path == "/hook?sign=a%2Bb%2F%3D&at=1"
            assert one.body == b'{"a":1}|sealed'


class Bundled(WebhookFormatter):
    content_type = "application/one+json"
    batch_content_type = "application/many+json"


class TestBatches:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [("Bundled", "application/many+json"), ("Strict", "application/json")],
    )
    def test_have_a_content_type_of_their_own_if_the_format_has_one(
        self,
        name: str,
        expected: str,
        receiver: Receiver,
        logger: logging.Logger,
        handler: Callable[..., WebhookHandler],
    ) -> None:
        batch = {"max_events": 2, "linger": 5.0}
        Strict.judged = [204, 204]
        made = handler([receiver.endpoint(format=f"{HERE}.{name}", batch=batch)])
        log(logger, 1)
        log(logger, 2)
        assert made.flush(5.0)
        (request,) = receiver.received()
        assert request.headers["content-type"] == expected
        assert len(request.json["events"]) == 2
