"""The transport on libcurl, where TLS, forks and descriptors are concerned."""

from __future__ import annotations

import os
import resource
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from certificates import CLIENT, Certificates
from harness import HASTY, AdapterFor, Watched, attempt, reply
from receiver import MUTUAL, FaultReceiver

pycurl = pytest.importorskip("pycurl")

import cubehook  # noqa: E402
from cubehook import _multi, forks  # noqa: E402
from cubehook.attempt import Transport  # noqa: E402
from cubehook.curl import CurlTransport  # noqa: E402
from cubehook.outcome import Failure, Reply  # noqa: E402


@pytest.fixture
def transport() -> str:
    """The one that this is about."""
    return "curl"


def forked(child: Callable[[], bool]) -> bool:
    """What ``child`` answers in a forked process."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = 0 if child() else 1
        finally:
            os._exit(code)  # no test runner's cleaning up
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestForking:
    def test_a_child_says_no_goodbye_on_the_parents_connections(
        self, faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, tls: bool
    ) -> None:
        adapters = [adapter_for(faulty.url("ok", tls=tls))]
        assert reply(adapters[0]).status == 204

        def child() -> bool:
            adapters.pop().close()
            return watched.still_open == []

        assert forked(child)
        assert forked(lambda: adapters.clear() is None)
        assert forked(lambda: bool(adapters.pop().post({}, b"{}") == Reply(204)))
        for _ in range(2):
            assert reply(adapters[0]).status == 204
        assert [request.connection for request in faulty.requests] == [1, 2, 1, 1]

    def test_a_child_leaves_a_request_under_way_to_the_parent(
        self,
        faulty: FaultReceiver,
        adapter_for: AdapterFor,
        watched: Watched,
        tls: bool,
    ) -> None:
        faulty.drip = 0.3
        adapter = adapter_for(faulty.url("slow", tls=tls))
        others = adapter_for(faulty.url("ok", tls=tls))
        assert reply(adapter).status == 204

        def child() -> bool:
            adapter.close()
            return bool(others.post({}, b"{}") == Reply(204))

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(adapter.post, {}, b"{}")
            faulty.wait(2)
            assert forked(child)
            assert not running.done()
            assert running.result() == Reply(204)
        assert reply(adapter).status == 204
        slow = [request.connection for request in faulty.requests if request.path == "slow"]
        assert slow == [1, 1, 1]

    def test_a_fork_waits_for_no_network(
        self, faulty: FaultReceiver, adapter_for: AdapterFor, trusted: ssl.SSLContext
    ) -> None:
        adapter = adapter_for(faulty.url("never-answer", tls=True), **HASTY)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(adapter.post, {}, b"{}")
            faulty.wait(1)
            assert forked(lambda: forks.kept_out.acquire(timeout=1.0))
            assert not running.done()
            assert running.result() == Failure("timeout")


CHILD_ENDS = """
import os, sys
from cubehook import Endpoint
from cubehook.curl import CurlTransport
limits = {"allow_private_urls": True, "timeout": 5.0, "connect_timeout": 5.0}
transport = CurlTransport(Endpoint(url=sys.argv[1], ca_bundle=sys.argv[2], **limits))
print(transport.post({}, b"{}").status, flush=True)
child = os.fork()
if child == 0:
    sys.exit(0)  # everything that is left is torn down
os.waitpid(child, 0)
print(transport.post({}, b"{}").status)
"""


def test_the_end_of_a_forked_child_says_no_goodbye_either(
    faulty: FaultReceiver, certificates: Certificates | None
) -> None:
    if certificates is None:
        pytest.skip("no openssl command")
    command = [sys.executable, "-W", "ignore", "-c", CHILD_ENDS]
    arguments = [faulty.url("ok", tls=True), str(certificates.ca)]
    ended = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "PYTHONPATH": str(Path(cubehook.__file__).parent.parent)},
    )
    assert (ended.stdout.split(), ended.stderr) == (["204", "204"], "")
    assert [request.connection for request in faulty.requests] == [1, 1]


def test_openssl_is_called_inside_steps_only(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    trusted: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outside: list[str] = []

    class Multi:
        def __init__(self) -> None:
            self._multi = pycurl.CurlMulti()

        def __getattr__(self, name: str) -> object:
            owned = forks.kept_out._is_owned()  # type: ignore[attr-defined]
            if not owned:
                outside.append(name)
            return getattr(self._multi, name)

    monkeypatch.setattr(_multi, "pycurl", _Patched(Multi))
    for path in ("ok", "body/70000", "reset"):
        adapter = adapter_for(faulty.url(path, tls=True))
        for _ in range(2):
            attempt(adapter)
        adapter.close()
    assert outside == []


class _Patched:
    """``pycurl`` with another ``CurlMulti``."""

    def __init__(self, multi: type) -> None:
        self.CurlMulti = multi

    def __getattr__(self, name: str) -> object:
        return getattr(pycurl, name)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """The next descriptors are above 1024, which ``select`` cannot take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1400
    if hard not in (resource.RLIM_INFINITY,) and hard < wanted:
        pytest.skip("not so many descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    null = os.open(os.devnull, os.O_RDONLY)
    held = [null]
    while held[-1] < 1100:
        held.append(os.dup(null))
    yield
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_descriptors_of_any_number(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("ok", tls=tls))
    for _ in range(2):
        assert reply(adapter).status == 204
    (descriptor,) = watched.still_open
    assert isinstance(descriptor, int)
    assert descriptor > 1024
    assert [request.connection for request in faulty.requests] == [1, 1]


def test_descriptors_are_not_inherited(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, tls: bool
) -> None:
    reply(adapter_for(faulty.url("ok", tls=tls)))
    (descriptor,) = watched.still_open
    assert isinstance(descriptor, int)
    assert not os.get_inheritable(descriptor)


def test_a_transport_that_is_dropped_closes_its_connections(
    faulty: FaultReceiver, watched: Watched, adapter_for: AdapterFor, tls: bool
) -> None:
    """Nothing is collected in this test: no cycle keeps them."""
    made = adapter_for(faulty.url("ok", tls=tls))
    assert isinstance(made, CurlTransport)
    other: list[Transport] = [CurlTransport(made._setup.endpoint)]
    assert reply(other[0]).status == 204
    assert len(watched.still_open) == 1
    other.clear()
    assert watched.still_open == []
    faulty.wait_closed()


def test_a_closed_connection_says_goodbye_in_tls(
    faulty: FaultReceiver, adapter_for: AdapterFor, watched: Watched, tls: bool
) -> None:
    adapter = adapter_for(faulty.url("ok", tls=tls))
    reply(adapter)
    adapter.close()
    faulty.wait_closed()
    assert watched.still_open == []


def test_a_key_with_a_passphrase_is_not_asked_for(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    certificates: Certificates | None,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One that got past the configuration: it was encrypted meanwhile."""
    if certificates is None:
        pytest.skip("no openssl command")
    certificates.encrypt(certificates.key(CLIENT), tmp_path / "client.key")
    pair = [str(certificates.certificate(CLIENT)), str(certificates.key(CLIENT))]
    url = faulty.url(f"{MUTUAL}/ok")
    adapter = adapter_for(url, ca_bundle=str(certificates.ca), client_cert=pair)
    assert isinstance(adapter, CurlTransport)
    adapter._setup.options[pycurl.SSLKEY_BLOB] = (tmp_path / "client.key").read_bytes()
    result, took = attempt(adapter)
    assert result == Failure("TLS failed")
    assert took < 1.0
    assert capfd.readouterr() == ("", "")


def test_a_certificate_in_the_bundle_is_no_authority_for_itself(
    faulty: FaultReceiver, adapter_for: AdapterFor, certificates: Certificates | None
) -> None:
    """As Python has it; libcurl's own default is another one."""
    if certificates is None:
        pytest.skip("no openssl command")
    bundle = str(certificates.certificate("good"))
    result, _ = attempt(adapter_for(faulty.url("ok", tls=True), ca_bundle=bundle))
    assert result == Failure("certificate not valid")


def test_the_timer_is_a_moment() -> None:
    """What happens meanwhile does not put it off."""
    wishes = _multi._Wishes()
    reader, writer = os.pipe()
    os.write(writer, b"x")
    wishes.watch(pycurl.POLL_IN, reader, None, None)
    wishes.set_timer(50)
    assert wishes.wait() == [(reader, pycurl.CSELECT_IN)]
    due = wishes._due
    threading.Event().wait(0.06)
    wishes.watch(pycurl.POLL_REMOVE, reader, None, None)
    wishes.watch(pycurl.POLL_REMOVE, reader, None, None)
    assert wishes._due == due
    assert wishes.wait() == []
    assert wishes._due > due  # it is over, until libcurl sets another one
    wishes.watch(pycurl.POLL_INOUT, writer, None, None)
    os.close(reader)
    ((descriptor, selected),) = wishes.wait()
    assert descriptor == writer
    assert selected & pycurl.CSELECT_ERR
    os.close(writer)
