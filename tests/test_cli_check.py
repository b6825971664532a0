"""``cubehook check``: what it finds in configurations, and what it finds on the network."""

from __future__ import annotations

import json
import logging.config
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from loopback import Receiver

sys.path.append(str(Path(__file__).parent / "faults"))

import certificates as certs
from proxy import Proxy
from receiver import FaultReceiver

from cubehook.cli import check
from cubehook.cli.commands import cli
from cubehook.config import ENDPOINTS_VARIABLE
from cubehook.event import KNOWN_EVENTS

CLASS = "cubehook.WebhookHandler"
PLANTED = "planted"
NAME = "planted-host.example"

Run = Callable[..., Result]
Write = Callable[..., str]
GOOD = {"name": "ops", "url": f"https://{NAME}/planted-path?planted", "secret": "env:CHECK_SECRET"}
LOGGERS = {"cube": {"level": "INFO", "handlers": ["webhooks"]}}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECK_SECRET", "planted-secret")
    monkeypatch.delenv(ENDPOINTS_VARIABLE, raising=False)


@pytest.fixture(autouse=True)
def resolver(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names and their addresses; others are not known. Nothing asks DNS."""
    known = {NAME: ["93.184.216.34"]}
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **kw: Any) -> Any:
        if host.replace(".", "").isdecimal() or host == "localhost":
            return real(host, port, *args, **kw)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "planted")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@pytest.fixture
def run() -> Run:
    """Runs the command; no URL, host, secret or header may be in what it prints."""

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(cli, ["check", *arguments])
        for text in (PLANTED, "127.0.0.1", "93.184"):
            assert text not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        return result

    return invoke


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a logging.yaml with one handler, and returns its path."""

    def make(*endpoints: Any, loggers: Any = LOGGERS, handlers: Any = None, **keys: Any) -> str:
        handler = {"class": CLASS, "endpoints": list(endpoints) or [GOOD], **keys}
        whole = {"version": 1, "handlers": {"webhooks": handler, **(handlers or {})}}
        path = tmp_path / "logging.yaml"
        path.write_text(yaml.safe_dump({**whole, **loggers_of(loggers)}))
        return str(path)

    return make


def loggers_of(given: dict[str, Any]) -> dict[str, Any]:
    """``root`` stands beside the others in a configuration."""
    rest = {name: one for name, one in given.items() if name != "root"}
    return {"loggers": rest} | ({"root": given["root"]} if "root" in given else {})


def warnings(result: Result) -> list[str]:
    return list(json.loads(result.stdout)["warnings"])


class TestValid:
    def test_all_is_well(self, run: Run, write: Write) -> None:
        result = run(write())
        assert result.exit_code == 0, result.output
        assert "handler 'webhooks'; loggers: cube (INFO)" in result.stdout
        assert "1 secret (env), read" in result.stdout
        assert result.stdout.endswith("valid\n")
        assert result.stderr == ""

    def test_everything_that_is_told(self, run: Run, write: Write, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("planted-too")
        endpoint = GOOD | {
            "secret": ["env:CHECK_SECRET", f"file:{tmp_path / 'secret'}", "planted-literal"],
            "events": ["sandbox.*"],
            "scheme": ["cube", "github"],
            "headers": {"X-Token": "planted"},
            "batch": {"max_events": 5, "linger": 2},
            "ordered": False,
            "timeout": 3,
        }
        found = json.loads(run(write(endpoint), "--json", "--offline").stdout)
        (handler,) = found["handlers"]
        assert found["valid"] is True
        assert (handler["name"], handler["loggers"]) == ("webhooks", {"cube": "INFO"})
        (one,) = handler["endpoints"]
        assert one["limits"].pop("rate", None) is None
        assert one == {
            "name": "ops",
            "enabled": True,
            "https": True,
            "events": ["sandbox.*"],
            "format": "cube",
            "schemes": ["cube", "github"],
            "secrets": ["env", "file", "literal"],
            "ordered": False,
            "batch": {"max_events": 5, "linger": 2.0},
            "proxy": False,
            "transport": "requests",
            "limits": {
                "timeout": 3.0,
                "connect_timeout": 5.0,
                "max_retries": 10,
                "backoff_initial": 1.0,
                "backoff_max": 3600.0,
                "max_concurrency": 32,
            },
            "addresses": None,
            "connection": None,
        }
        shown = run(write(endpoint), "--offline").stdout
        assert "batches of up to 5, after 2 s, in any order" in shown
        assert "3 secrets (env, file, literal), read" in shown

    def test_json_file_and_ini(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(
            json.dumps({"handlers": {"w": {"class": CLASS, "endpoints": [GOOD]}}, "version": 1})
        )
        (tmp_path / "a.ini").write_text(
            "[loggers]\nkeys=root,cube\n[logger_root]\nlevel=WARNING\nhandlers=\n"
            "[logger_cube]\nqualname=cube\nhandlers=w\nlevel=INFO\n"
            f"[handlers]\nkeys=w\n[handler_w]\nclass={CLASS}\nargs=({[GOOD]!r},)\n"
        )
        assert "no logger has it" in run(str(tmp_path / "a.json")).stdout
        assert run(str(tmp_path / "a.ini")).exit_code == 0

    def test_the_environment(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENDPOINTS_VARIABLE, json.dumps([GOOD]))
        result = run()
        assert result.exit_code == 0
        assert result.stdout.startswith(ENDPOINTS_VARIABLE)

    def test_the_environment_without_it(self, run: Run) -> None:
        result = run("--json")
        assert result.exit_code == 1
        assert warnings(result) == [f"{ENDPOINTS_VARIABLE}: has no endpoints, and does nothing"]

    def test_no_thread_and_no_database_is_made(
        self, run: Run, write: Write, tmp_path: Path
    ) -> None:
        pytest.importorskip("sqlalchemy")
        before = threading.active_count()
        path = write(outbox=f"sqlite:///{tmp_path / 'outbox.db'}")
        result = run(path)
        assert "with an outbox" in result.stdout
        assert not (tmp_path / "outbox.db").exists()
        assert threading.active_count() <= before + 1  # a probe that is just ending

    def test_endpoints_in_the_outbox(self, run: Run, write: Write, tmp_path: Path) -> None:
        pytest.importorskip("sqlalchemy")
        path = write(outbox=f"sqlite:///{tmp_path / 'outbox.db'}")
        whole = yaml.safe_load(Path(path).read_text())
        whole["handlers"]["webhooks"]["endpoints"] = "outbox"
        Path(path).write_text(yaml.safe_dump(whole))
        result = run(path)
        assert result.exit_code == 0
        assert "cubehook endpoints list" in result.stdout


class TestNotValid:
    def test_every_problem_at_once(self, run: Run, write: Write) -> None:
        wrong = GOOD | {"url": "ftp://planted", "events": ["planted!"], "secret": "env:NOT_SET"}
        others = {"second": {"class": CLASS, "endpoints": [{"name": "b"}], "queue_capacity": 0}}
        result = run(write(wrong, handlers=others))
        assert (result.exit_code, result.stdout) == (2, "")
        lines = result.stderr.splitlines()
        assert all(line.startswith("cubehook: handler '") for line in lines)
        for place in (
            "handler 'webhooks': endpoint 'ops': url: ",
            "handler 'webhooks': endpoint 'ops': events: ",
            "handler 'webhooks': endpoint 'ops': secret: names an environment variable",
            "handler 'second': queue_capacity: ",
            "handler 'second': endpoint 'b': url: is missing",
        ):
            assert any(place in line for line in lines), place

    def test_as_json(self, run: Run, write: Write) -> None:
        result = run(write({"name": "b"}), "--json")
        assert result.exit_code == 2
        assert json.loads(result.stdout) == {
            "valid": False,
            "problems": ["handler 'webhooks': endpoint 'b': url: is missing"],
            "warnings": [],
            "handlers": [],
        }

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("a.yaml", "planted: [", "is not YAML"),
            ("a.json", "{planted", "is not JSON (line 1"),
            ("a.toml", "", "must end with"),
            ("a.yaml", "[]", "no configuration of logging"),
            ("a.yaml", "handlers: {}", "has no handler of class"),
            ("a.ini", "planted", "is not INI"),
        ],
    )
    def test_files_that_are_none(
        self, run: Run, tmp_path: Path, name: str, text: str, said: str
    ) -> None:
        (tmp_path / name).write_text(text)
        result = run(str(tmp_path / name))
        assert result.exit_code == 2
        assert said in result.stderr

    @pytest.mark.parametrize(
        "loggers", ["[a]", "planted", "{a: 'cfg://planted'}", "{a: {handlers: {b: 1}}}"]
    )
    def test_loggers_that_are_none(self, run: Run, tmp_path: Path, loggers: str) -> None:
        path = tmp_path / "a.yaml"
        handler = f"{{class: {CLASS}, endpoints: [{{url: 'https://{NAME}/'}}]}}"
        path.write_text(f"handlers: {{w: {handler}}}\nloggers: {loggers}\n")
        assert run(str(path), "--offline").exit_code in (1, 2)

    def test_no_file(self, run: Run) -> None:
        assert run("/not/there.yaml").exit_code == 2

    def test_a_variable_that_is_wrong(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENDPOINTS_VARIABLE, "[planted")
        assert run().exit_code == 2

    def test_options_that_exclude_each_other(self, run: Run, write: Write) -> None:
        assert run(write(), "--offline", "--connect").exit_code == 2


class TestWarnings:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"secret": None}, "has no secret: its requests are not signed"),
            ({"events": ["sandbx.created", "foo.*"]}, "subscribes to none of the known events"),
            (
                {"url": f"http://{NAME}/", "allow_insecure_http": True},
                "plain http: whoever is on the way reads and changes what is sent",
            ),
        ],
    )
    def test_of_an_endpoint(self, run: Run, write: Write, change: Any, said: str) -> None:
        endpoint = {key: value for key, value in (GOOD | change).items() if value is not None}
        result = run(write(endpoint), "--json")
        assert result.exit_code == 1
        assert warnings(result) == [f"handler 'webhooks': endpoint 'ops': {said}"]

    @pytest.mark.parametrize("name", ["slack", "discord", "teams", "wecom"])
    def test_a_chat_that_looks_at_no_signature(self, run: Run, write: Write, name: str) -> None:
        endpoint = {"name": "ops", "url": GOOD["url"], "format": name}
        assert run(write(endpoint), "--offline").exit_code == 0

    @pytest.mark.parametrize("name", ["feishu", "dingtalk", "e2b", "cloudevents"])
    def test_a_format_with_signatures(self, run: Run, write: Write, name: str) -> None:
        endpoint = {"name": "ops", "url": GOOD["url"], "format": name}
        (said,) = warnings(run(write(endpoint), "--json", "--offline"))
        assert said.endswith("has no secret: its requests are not signed")

    @pytest.mark.parametrize(
        ("loggers", "said"),
        [
            ({}, "no logger has it"),
            ({"cube": {"handlers": ["webhooks"], "level": "WARNING"}}, "in force is WARNING"),
            ({"cube": {"handlers": ["webhooks"]}}, "in force is WARNING"),  # of the root logger
            ({"cube": {"handlers": ["webhooks"]}, "root": {"level": "INFO"}}, None),
            ({"a.b.c": {"handlers": ["webhooks"]}, "a": {"level": "DEBUG"}}, None),
            ({"a.b.c": {"handlers": ["webhooks"]}, "a": {"level": "ERROR"}}, "is ERROR"),
            ({"root": {"handlers": ["webhooks"]}}, "'root': the level in force is WARNING"),
            ({"root": {"handlers": ["webhooks"]}, "cube": {"level": "INFO"}}, None),
            (
                {"root": {"handlers": ["webhooks"]}, "cube": {"level": 20, "propagate": False}},
                "is WARNING",
            ),
            ({"": {"handlers": ["webhooks"], "level": "INFO"}}, None),
            ({"cube": {"handlers": ["webhooks"], "level": 25}}, "Level 25"),
        ],
        ids=str,
    )
    def test_of_loggers(self, run: Run, write: Write, loggers: Any, said: str | None) -> None:
        found = warnings(run(write(loggers=loggers), "--json", "--offline"))
        assert [said in one for one in found if said] == ([True] if said else [])
        assert said or not found

    def test_of_its_own_level(self, run: Run, write: Write) -> None:
        (said,) = warnings(run(write(level="ERROR"), "--json", "--offline"))
        assert said == "handler 'webhooks': its level is ERROR: events are logged at INFO"

    def test_a_handler_that_another_one_has(self, run: Run, write: Write) -> None:
        memory = {"class": "logging.handlers.MemoryHandler", "capacity": 1, "target": "webhooks"}
        path = write(loggers={}, handlers={"memory": memory})
        assert run(path, "--offline").exit_code == 0

    def test_the_known_events_are_those_of_the_documentation(self) -> None:
        text = (Path(__file__).parent.parent / "docs" / "events.md").read_text()
        assert [name for name in KNOWN_EVENTS if f"`{name}`" not in text] == []


class TestWhatLoggingRefuses:
    """``dictConfig`` would raise, so it is not valid."""

    @pytest.mark.parametrize(
        ("loggers", "keys", "problem"),
        [
            (LOGGERS, {"level": "planted"}, "handler 'webhooks': level: is not known"),
            ({"a": {"level": "planted"}}, {}, "logger 'a': level: is not known"),
            ({"root": {"level": "planted"}}, {}, "logger 'root': level: is not known"),
            (
                {"a": {"handlers": ["webhooks", "planted"]}},
                {},
                "logger 'a': handlers: has one that is not in the file",
            ),
            ({"a": {"handlers": 3}}, {}, "logger 'a': handlers: must be a list"),
        ],
    )
    def test_levels_and_handlers(
        self, run: Run, write: Write, loggers: Any, keys: Any, problem: str
    ) -> None:
        path = write(loggers=loggers, **keys)
        result = run(path, "--json", "--offline")
        assert (result.exit_code, json.loads(result.stdout)["problems"]) == (2, [problem])
        whole = yaml.safe_load(Path(path).read_text())
        with pytest.raises((ValueError, TypeError)):
            # Not those that other tests listen to.
            logging.config.dictConfig(whole | {"disable_existing_loggers": False})

    @pytest.mark.parametrize("version", [None, 2, "1"])
    def test_its_version(self, run: Run, tmp_path: Path, version: object) -> None:
        whole = {"handlers": {"w": {"class": CLASS, "endpoints": [GOOD]}}, "version": version}
        path = tmp_path / "logging.json"
        path.write_text(json.dumps({key: one for key, one in whole.items() if one is not None}))
        result = run(str(path), "--offline")
        assert (result.exit_code, result.stderr) == (2, "cubehook: version: must be 1\n")

    def test_an_ini_file(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "logging.ini"
        path.write_text(
            "[handlers]\nkeys=w\n[handler_w]\nclass=cubehook.WebhookHandler\nlevel=planted\n"
            f"args=([{GOOD!r}],)\n[loggers]\nkeys=root\n[logger_root]\nhandlers=w,planted\n"
        )
        result = run(str(path), "--offline")
        assert result.exit_code == 2
        assert "handler 'w': level: is not known" in result.stderr
        assert "logger 'root': handlers: has one that is not in the file" in result.stderr


class TestAddresses:
    def test_ok(self, run: Run, write: Write) -> None:
        found = json.loads(run(write(), "--json").stdout)
        addresses = found["handlers"][0]["endpoints"][0]["addresses"]
        assert addresses == {"status": "ok", "of": "endpoint", "count": 1, "reason": None}

    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            ("10.0.0.1", "private address"),
            ("169.254.169.254", "link-local address"),
            ("127.0.0.2", "loopback address"),
        ],
    )
    def test_refused(
        self, run: Run, write: Write, resolver: dict[str, list[str]], address: str, reason: str
    ) -> None:
        resolver[NAME].append(address)  # one of two is enough
        result = run(write(), "--json")
        assert result.exit_code == 1
        said = f"handler 'webhooks': endpoint 'ops': the address is refused: {reason}"
        assert warnings(result) == [said]

    def test_not_resolvable(self, run: Run, write: Write) -> None:
        result = run(write(GOOD | {"url": "https://planted.invalid/"}), "--connect", "--json")
        assert result.exit_code == 1
        (one,) = json.loads(result.stdout)["handlers"][0]["endpoints"]
        assert one["addresses"]["status"] == "not resolvable"
        assert one["connection"]["status"] == "failed"
        assert len(warnings(result)) == 1

    def test_a_look_up_that_hangs(
        self, run: Run, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        over = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [])
        began = time.monotonic()
        result = run(write(), "--timeout", "0.2", "--json")
        assert time.monotonic() - began < 5
        over.set()
        assert result.exit_code == 1
        assert "the address is timeout: no answer in time" in warnings(result)[0]

    def test_offline_asks_nobody(
        self, run: Run, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def asked(*_: Any, **__: Any) -> Any:
            raise AssertionError("it was asked")

        monkeypatch.setattr(socket, "getaddrinfo", asked)
        assert run(write(), "--offline").exit_code == 0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> certs.Certificates:
    if not certs.available():
        pytest.skip("no openssl command")
    return certs.make(tmp_path_factory.mktemp("certificates"))


class TestConnect:
    @pytest.fixture
    def faulty(self, certificates: certs.Certificates) -> Iterator[FaultReceiver]:
        with FaultReceiver(certificates) as running:
            yield running

    def endpoint(self, faulty: FaultReceiver, server: str, **keys: Any) -> dict[str, Any]:
        return GOOD | {"url": faulty.url(server), "allow_private_urls": True, **keys}

    def connection(self, result: Result) -> dict[str, Any]:
        (one,) = json.loads(result.stdout)["handlers"][0]["endpoints"]
        return dict(one["connection"])

    def test_plain(self, run: Run, write: Write, receiver: Receiver) -> None:
        result = run(write(receiver.endpoint()), "--connect", "--json")
        found = self.connection(result)
        assert 0 < found.pop("seconds") < 5
        assert found == {"status": "ok", "reason": None, "tls": None, "days": None, "proxy": None}
        assert receiver.received() == []
        assert receiver.wait_for_disconnects()

    def test_nobody_there(self, run: Run, write: Write, dead_url: str) -> None:
        endpoint = GOOD | {"url": dead_url, "allow_private_urls": True}
        result = run(write(endpoint), "--connect", "--json")
        assert self.connection(result)["reason"] == "connection refused"
        assert any("no connection: connection refused" in one for one in warnings(result))

    def test_tls(
        self, run: Run, write: Write, faulty: FaultReceiver, certificates: certs.Certificates
    ) -> None:
        trusting = {"ca_bundle": str(certificates.ca)}
        result = run(write(self.endpoint(faulty, "https", **trusting)), "--connect", "--json")
        found = self.connection(result)
        assert (found["status"], found["tls"], found["days"]) == ("ok", "TLSv1.3", 1)
        assert warnings(result)[-1].endswith("its certificate expires in 1 days")
        assert faulty.requests == []

    @pytest.mark.parametrize(
        ("server", "trusted", "reason"),
        [
            ("https", False, "certificate not valid (unknown authority)"),
            (certs.EXPIRED, True, "certificate not valid (expired)"),
            (certs.WRONG_NAME, True, "certificate not valid (for another address)"),
            ("slow-tls", True, "connect timeout"),
            ("never-accept", True, "connect timeout"),
        ],
    )
    def test_what_a_delivery_would_not_do_either(
        self,
        run: Run,
        write: Write,
        faulty: FaultReceiver,
        certificates: certs.Certificates,
        server: str,
        trusted: bool,
        reason: str,
    ) -> None:
        keys = {"ca_bundle": str(certificates.ca)} if trusted and server != "never-accept" else {}
        endpoint = self.endpoint(faulty, server, connect_timeout=0.3, **keys)
        found = self.connection(run(write(endpoint), "--connect", "--json"))
        assert (found["status"], found["reason"]) == ("failed", reason)

    def test_the_time_is_one_for_all(
        self, run: Run, write: Write, faulty: FaultReceiver, receiver: Receiver
    ) -> None:
        slow = [self.endpoint(faulty, "slow-tls", name=f"slow-{n}") for n in range(5)]
        began = time.monotonic()
        path = write(*slow, receiver.endpoint())
        result = run(path, "--connect", "--timeout", "0.5", "--json")
        assert time.monotonic() - began < 5
        found = json.loads(result.stdout)["handlers"][0]["endpoints"]
        statuses = [one["connection"]["status"] for one in found]
        assert statuses[-1] == "ok"
        assert set(statuses[:-1]) <= {"failed", "timeout"}

    def test_through_a_proxy(
        self, run: Run, write: Write, faulty: FaultReceiver, certificates: certs.Certificates
    ) -> None:
        proxy = Proxy({"localhost": "127.0.0.1"})
        try:
            keys = {"ca_bundle": str(certificates.ca), "proxy": proxy.url("planted:planted")}
            url = faulty.url("https", host="localhost")
            secure = self.endpoint(faulty, "https", url=url, **keys)
            result = run(write(secure), "--connect", "--json")
            assert self.connection(result)["proxy"] == "tunnel"
            assert [one.method for one in proxy.asked] == ["CONNECT"]
            plain = self.endpoint(faulty, "http", proxy=proxy.url())
            result = run(write(plain), "--connect")
            assert "to the proxy alone, which forwards" in result.stdout
            assert len(proxy.asked) == 1
            assert faulty.requests == []
        finally:
            proxy.close()

    def test_a_proxy_that_is_refused(self, run: Run, write: Write) -> None:
        endpoint = GOOD | {"proxy": "http://169.254.1.1:80"}
        result = run(write(endpoint), "--connect", "--json")
        assert warnings(result) == [
            "handler 'webhooks': endpoint 'ops': the address of its proxy is refused: "
            "link-local address"
        ]


def test_soon_is_longer_than_a_renewal_takes() -> None:
    assert check.SOON_DAYS >= 7
