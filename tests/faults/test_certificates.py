"""Whom an endpoint trusts, and as whom it speaks: ``ca_bundle`` and ``client_cert``, for real."""

from __future__ import annotations

import logging
import os
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from certificates import CLIENT, EXPIRED, FOREIGN, FOREIGN_CA, GOOD, WRONG_NAME, Certificates
from harness import SETTINGS, AdapterFor, attempt, only_requests, reply
from receiver import MUTUAL, FaultReceiver

from cubehook import ConfigError, Endpoint, WebhookHandler
from cubehook import tls as tls_
from cubehook.attempt import _transport
from cubehook.outcome import Failure, Reply
from cubehook.transport import WebhookAdapter

INVALID = Failure("certificate not valid")
# TLS 1.3 tells a client only after the handshake; its request may meet a closed connection then.
TURNED_AWAY = {"TLS failed", "connection reset", "connection closed"}


@pytest.fixture
def made(certificates: Certificates | None) -> Certificates:
    """The certificates; skips without."""
    if certificates is None:
        pytest.skip("no openssl command")
    return certificates


@pytest.fixture
def pair(made: Certificates) -> list[str]:
    """The client's certificate and its key."""
    return [str(made.certificate(CLIENT)), str(made.key(CLIENT))]


def put(path: Path, *parts: Path) -> None:
    """Write these files' contents to ``path``, as one; it is a new file then."""
    new = path.with_suffix(".new")
    new.write_bytes(b"".join(part.read_bytes() for part in parts))
    os.replace(new, path)


# --- ca_bundle ---


def test_a_file_of_authorities(
    faulty: FaultReceiver, adapter_for: AdapterFor, made: Certificates, tmp_path: Path
) -> None:
    url = faulty.url("ok", tls=True)
    assert attempt(adapter_for(url))[0] == INVALID
    assert attempt(adapter_for(url, ca_bundle=str(made.certificate(FOREIGN_CA))))[0] == INVALID
    assert reply(adapter_for(url, ca_bundle=str(made.ca))).status == 204
    put(tmp_path / "both.pem", made.certificate(FOREIGN_CA), made.ca)
    assert reply(adapter_for(url, ca_bundle=str(tmp_path / "both.pem"))).status == 204


def test_a_folder_of_authorities(
    faulty: FaultReceiver, adapter_for: AdapterFor, made: Certificates, tmp_path: Path
) -> None:
    url = faulty.url("ok", tls=True)
    shutil.copy(made.certificate(FOREIGN_CA), tmp_path / "foreign.pem")
    made.rehash(tmp_path)
    assert attempt(adapter_for(url, ca_bundle=str(tmp_path)))[0] == INVALID
    shutil.copy(made.ca, tmp_path / "ca.pem")
    made.rehash(tmp_path)
    assert reply(adapter_for(url, ca_bundle=str(tmp_path))).status == 204


@pytest.mark.parametrize("server", [WRONG_NAME, EXPIRED])
def test_a_bundle_makes_no_bad_certificate_good(
    faulty: FaultReceiver, adapter_for: AdapterFor, made: Certificates, server: str
) -> None:
    assert attempt(adapter_for(faulty.url(server), ca_bundle=str(made.ca)))[0] == INVALID


def test_a_certificate_is_no_authority(
    faulty: FaultReceiver, adapter_for: AdapterFor, made: Certificates
) -> None:
    adapter = adapter_for(faulty.url("ok", tls=True), ca_bundle=str(made.certificate(WRONG_NAME)))
    assert attempt(adapter)[0] == INVALID


def test_one_endpoints_trust_is_not_anothers(
    faulty: FaultReceiver, adapter_for: AdapterFor, made: Certificates
) -> None:
    url = faulty.url("ok", tls=True)
    for _ in range(2):
        assert reply(adapter_for(url, ca_bundle=str(made.ca))).status == 204
        assert attempt(adapter_for(url))[0] == INVALID


# --- client_cert ---


def test_a_client_is_known_by_its_certificate(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    made: Certificates,
    pair: list[str],
    tmp_path: Path,
) -> None:
    put(tmp_path / "one.pem", *map(Path, pair))
    put(tmp_path / "turned.pem", *map(Path, reversed(pair)))
    one, turned = str(tmp_path / "one.pem"), str(tmp_path / "turned.pem")
    for cert in (pair, tuple(pair), one, [one], [one, pair[1]], turned):
        adapter = adapter_for(faulty.url(f"{MUTUAL}/ok"), ca_bundle=str(made.ca), client_cert=cert)
        assert [reply(adapter).status for _ in range(2)] == [204, 204]
    assert [request.connection for request in faulty.requests] == [
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
        5,
        5,
        6,
        6,
    ]


@pytest.mark.parametrize("name", [None, FOREIGN, GOOD])
def test_a_client_with_none_or_a_wrong_one(
    faulty: FaultReceiver, adapter_for: AdapterFor, made: Certificates, name: str | None
) -> None:
    cert = [str(made.certificate(name)), str(made.key(name))] if name else None
    for _ in range(2):
        adapter = adapter_for(faulty.url(f"{MUTUAL}/ok"), ca_bundle=str(made.ca), client_cert=cert)
        result, _ = attempt(adapter)
        assert isinstance(result, Failure)
        assert result.reason in TURNED_AWAY
        assert not result.final
    assert faulty.requests == []


def test_a_client_shows_its_certificate_to_no_impostor(
    faulty: FaultReceiver, adapter_for: AdapterFor, pair: list[str]
) -> None:
    assert attempt(adapter_for(faulty.url(f"{MUTUAL}/ok"), client_cert=pair))[0] == INVALID


def test_a_client_that_is_not_asked(
    faulty: FaultReceiver, adapter_for: AdapterFor, made: Certificates, pair: list[str]
) -> None:
    adapter = adapter_for(faulty.url("ok", tls=True), ca_bundle=str(made.ca), client_cert=pair)
    assert reply(adapter).status == 204


# --- Files that change ---


@pytest.fixture
def deliver(
    handler_for: Callable[..., WebhookHandler], logger: logging.Logger, transport: str
) -> Callable[[list[dict[str, Any]]], int]:
    """Log an event at a handler of these endpoints; how many were delivered by then."""
    made: list[WebhookHandler] = []

    def one(endpoints: list[dict[str, Any]]) -> int:
        if made:
            made[0].update_endpoints(endpoints)
        else:
            options: dict[str, Any] = {"max_retries": 0, "allow_private_urls": True}
            made.append(handler_for(endpoints, transport=transport, **options))
        logger.info("", extra={"event": "sandbox.created"})
        assert made[0].flush(5)
        return made[0].stats().delivered

    return one


def test_authorities_are_read_again_by_an_update(
    faulty: FaultReceiver,
    made: Certificates,
    deliver: Callable[..., int],
    tmp_path: Path,
) -> None:
    bundle = tmp_path / "ca.pem"
    endpoints = [{"name": "ops", "url": faulty.url("ok", tls=True), "ca_bundle": str(bundle)}]
    put(bundle, made.certificate(FOREIGN_CA))
    assert deliver(endpoints) == 0
    put(bundle, made.ca)
    assert deliver(endpoints) == 1
    put(bundle, made.certificate(FOREIGN_CA))
    assert deliver(endpoints) == 1


def test_a_clients_certificate_is_read_again_by_an_update(
    faulty: FaultReceiver,
    made: Certificates,
    deliver: Callable[..., int],
    tmp_path: Path,
) -> None:
    cert = tmp_path / "client.pem"
    one = {
        "name": "ops",
        "url": faulty.url(f"{MUTUAL}/ok"),
        "ca_bundle": str(made.ca),
        "client_cert": str(cert),
    }
    put(cert, made.certificate(FOREIGN), made.key(FOREIGN))
    assert deliver([one]) == 0
    put(cert, made.certificate(CLIENT), made.key(CLIENT))
    assert deliver([one]) == 1
    assert deliver([one]) == 2


def test_an_update_with_half_of_a_change_changes_nothing(
    faulty: FaultReceiver,
    made: Certificates,
    deliver: Callable[..., int],
    tmp_path: Path,
) -> None:
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    one = {
        "name": "ops",
        "url": faulty.url(f"{MUTUAL}/ok"),
        "ca_bundle": str(made.ca),
        "client_cert": [str(cert), str(key)],
    }
    put(cert, made.certificate(CLIENT))
    put(key, made.key(CLIENT))
    assert deliver([one]) == 1
    put(cert, made.certificate(GOOD))
    with pytest.raises(ConfigError) as caught:
        deliver([one])
    assert caught.value.problems == (
        "endpoint 'ops': client_cert: names a file that does not hold a certificate and its key "
        "(SSLError)",
    )
    put(cert, made.certificate(CLIENT))
    assert deliver([one]) == 2


@pytest.mark.parametrize("gone", [FileNotFoundError, PermissionError])
def test_files_that_cannot_be_read_any_more(
    faulty: FaultReceiver,
    transport: str,
    made: Certificates,
    pair: list[str],
    monkeypatch: pytest.MonkeyPatch,
    gone: type[OSError],
) -> None:
    """A forked child makes its adapters anew; it may have given up the right to read a key."""
    url = faulty.url(f"{MUTUAL}/ok")
    files: dict[str, Any] = {"ca_bundle": str(made.ca), "client_cert": pair}
    endpoint = Endpoint(url=url, transport=transport, **files, **SETTINGS)
    first = _transport(endpoint)

    def stamp(path: str) -> Any:
        raise gone(path)

    monkeypatch.setattr(tls_, "_stamp", stamp)
    second = _transport(endpoint)
    assert [reply(adapter).status for adapter in (first, second)] == [204, 204]
    first.close()
    second.close()
    with pytest.raises(ConfigError):
        Endpoint(url=url, **files)


# --- Verification stays on ---


@only_requests  # the other has no such arguments
@pytest.mark.parametrize("verify", [False, None, "the bundle"])
def test_no_argument_switches_verification_off(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    made: Certificates,
    pair: list[str],
    verify: Any,
) -> None:
    url = faulty.url("ok", tls=True)
    options = {"verify": str(made.ca) if verify else verify, "cert": tuple(pair)}
    adapter = adapter_for(url)
    assert isinstance(adapter, WebhookAdapter)
    with pytest.raises(requests.exceptions.SSLError):
        adapter.send(adapter._prepared({}, b"{}"), **options)
    with requests.Session() as session:
        session.mount("https://", adapter)
        session.verify = options["verify"]
        with pytest.raises(requests.exceptions.SSLError):
            session.post(url, data=b"{}", **options)
    assert faulty.requests == []


def test_no_variable_adds_an_authority(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    made: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(made.ca, tmp_path / "ca.pem")
    made.rehash(tmp_path)
    tls_._made.cache_clear()
    for name in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(made.ca))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
    url = faulty.url("ok", tls=True)
    assert attempt(adapter_for(url))[0] == INVALID
    assert attempt(adapter_for(url, ca_bundle=str(made.certificate(FOREIGN_CA))))[0] == INVALID


def test_no_key_is_logged(
    faulty: FaultReceiver,
    adapter_for: AdapterFor,
    transport: str,
    made: Certificates,
    pair: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = tmp_path / "keys"
    url = faulty.url(f"{MUTUAL}/ok")
    options = {"ca_bundle": str(made.ca), "client_cert": pair}
    adapter = adapter_for(url, **options)
    tls_._made.cache_clear()
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    if transport == "curl":
        # libcurl can be kept from it in no other way.
        assert attempt(adapter)[0] == Failure("SSLKEYLOGFILE is set")
        with pytest.raises(ConfigError, match="SSLKEYLOGFILE"):
            adapter_for(url, **options)
        assert faulty.accepted == 0
    else:
        assert attempt(adapter_for(url, **options))[0] == Reply(204)
    assert not log.exists()
    # A context of the standard library's own writes them: the variable is right.
    assert ssl.create_default_context().keylog_filename == str(log)
    assert log.exists()
