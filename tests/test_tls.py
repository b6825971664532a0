"""TLS contexts, and the files they are made of: verified always, made once, made anew on change."""

from __future__ import annotations

import os
import pty
import shutil
import ssl
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import pytest

from cubehook import ConfigError, Endpoint, sockets, tls

sys.path.append(str(Path(__file__).parent / "faults"))

import certificates as certs

PLANTED = "pl4nted-V4lue"
URL = "https://a.example/"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> certs.Certificates:
    """Certificates, with an encrypted key among them."""
    if not certs.available():
        pytest.skip("no openssl command")
    certificates = certs.make(tmp_path_factory.mktemp("certificates"))
    certificates.encrypt(certificates.key(certs.CLIENT), certificates.key("locked"))
    return certificates


@pytest.fixture(autouse=True)
def nothing_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests have made is not there, and this one's is not for others."""
    monkeypatch.setattr(tls, "_latest", type(tls._latest)())
    tls._made.cache_clear()


def problems(**options: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        Endpoint(url=URL, **options)
    assert PLANTED not in f"{caught.value!r}{''.join(traceback.format_exception(caught.value))}"
    return caught.value.problems


def subjects(context: ssl.SSLContext) -> list[str]:
    names = [dict(item[0] for item in one["subject"]) for one in context.get_ca_certs()]
    return [name.get("commonName", "") for name in names]


# --- What a context is ---


def test_a_context_verifies() -> None:
    context = tls.load()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.sslsocket_class is sockets.DeadlineTLSSocket
    assert len(context.get_ca_certs()) > 50


def test_a_bundle_takes_the_place_of_the_usual_one(made: certs.Certificates) -> None:
    assert subjects(tls.load(str(made.ca))) == ["fault receiver ca"]


def test_a_folder_is_looked_into_when_needed(made: certs.Certificates, tmp_path: Path) -> None:
    shutil.copy(made.ca, tmp_path)
    made.rehash(tmp_path)
    assert subjects(tls.load(str(tmp_path))) == []


@pytest.mark.parametrize(
    "variable", ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSLKEYLOGFILE"]
)
def test_no_variable_changes_a_context(
    made: certs.Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    file = tmp_path / "file"
    if variable != "SSLKEYLOGFILE":
        shutil.copy(made.ca, file)
    monkeypatch.setenv(variable, str(file))
    context = tls.load()
    assert "fault receiver ca" not in subjects(context)
    assert context.keylog_filename is None
    assert file.exists() == (variable != "SSLKEYLOGFILE")


# --- Made once, and anew ---


def test_the_same_files_make_one_context(made: certs.Certificates) -> None:
    pair = [str(made.certificate(certs.CLIENT)), str(made.key(certs.CLIENT))]
    assert tls.load() is tls.load() is tls.context()
    assert tls.load(None, pair) is tls.load(None, tuple(pair)) is tls.context(None, pair)
    others = [
        tls.load(),
        tls.load(str(made.ca)),
        tls.load(None, pair),
        tls.load(str(made.ca), pair),
    ]
    assert len({id(context) for context in others}) == 4


def _rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")
    os.utime(path, ns=(0, 0))


def _replace(path: Path) -> None:
    new = path.with_suffix(".new")
    shutil.copy2(path, new)
    os.replace(new, path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.utime(path, ns=(0, 1)),
        _rewrite,  # another size, and the same time
        _replace,  # another file of the same size and time, as mounted secrets change
    ],
    ids=["time", "size", "file"],
)
@pytest.mark.parametrize("which", ["ca", "certificate", "key"])
def test_a_file_that_has_changed_is_read_again(
    made: certs.Certificates, tmp_path: Path, which: str, change: Callable[[Path], None]
) -> None:
    files = {}
    for name, source in [
        ("ca", made.ca),
        ("certificate", made.certificate(certs.CLIENT)),
        ("key", made.key(certs.CLIENT)),
    ]:
        files[name] = tmp_path / name
        shutil.copy(source, files[name])
        os.utime(files[name], ns=(0, 0))
    arguments = str(files["ca"]), (str(files["certificate"]), str(files["key"]))
    before = tls.load(*arguments)
    assert tls.load(*arguments) is before
    change(files[which])
    assert tls.load(*arguments) is not before


def test_a_folder_that_was_hashed_again_is_read_again(
    made: certs.Certificates, tmp_path: Path
) -> None:
    shutil.copy(made.certificate(certs.FOREIGN_CA), tmp_path)
    made.rehash(tmp_path)
    before = tls.load(str(tmp_path))
    shutil.copy(made.ca, tmp_path)
    made.rehash(tmp_path)
    assert tls.load(str(tmp_path)) is not before


def test_a_context_outlives_its_files(made: certs.Certificates, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    shutil.copy(made.ca, bundle)
    known = tls.context(str(bundle))
    bundle.unlink()
    assert tls.context(str(bundle)) is known
    with pytest.raises(FileNotFoundError):
        tls.load(str(bundle))
    bundle.write_text("half of a chan")
    assert tls.context(str(bundle)) is known
    shutil.copy(made.certificate(certs.FOREIGN_CA), bundle)
    assert subjects(tls.context(str(bundle))) == ["fault receiver foreign-ca"]


def test_there_is_no_context_for_files_that_never_were(tmp_path: Path) -> None:
    tls.load(certifi.where())
    with pytest.raises(FileNotFoundError):
        tls.context(str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        tls.context(certifi.where(), [str(tmp_path / "none")])


# --- What the configuration says of the files ---


@pytest.fixture
def place(made: certs.Certificates, tmp_path: Path) -> Path:
    """A folder with files that are wrong, under a name that must not be told."""
    folder = tmp_path / PLANTED
    folder.mkdir()
    (folder / "empty").touch()
    (folder / "text").write_text(PLANTED)
    (folder / "binary").write_bytes(bytes(range(256)))
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (folder / "broken").write_text(broken)
    (folder / "folder").mkdir()
    (folder / "not-hashed").mkdir()
    shutil.copy(made.ca, folder / "not-hashed" / "ca.pem")
    for name in ("client.pem", "client.key", "good.pem", "locked.key"):
        shutil.copy(made.directory / name, folder)
    whole = folder / "client-locked.pem"
    whole.write_bytes((folder / "client.pem").read_bytes() + (folder / "locked.key").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none", "FileNotFoundError"),
        ("none/none", "FileNotFoundError"),
        ("text/none", "NotADirectoryError"),
        ("empty", "SSLError"),
        ("text", "SSLError"),
        ("binary", "SSLError"),
        ("broken", "SSLError"),
        ("client.key", "SSLError"),
        ("folder", "FileNotFoundError"),
        ("not-hashed", "FileNotFoundError"),
        ("\0", "ValueError"),
        ("x" * 300, "OSError"),
    ],
)
def test_bundles_that_are_none(place: Path, name: str, why: str) -> None:
    assert problems(ca_bundle=f"{place}/{name}") == (
        f"ca_bundle: names a file that does not hold certificates ({why})",
    )


def test_a_bundle_that_is_one(made: certs.Certificates) -> None:
    assert Endpoint(url=URL, ca_bundle=str(made.ca)).ca_bundle == str(made.ca)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ("none", "FileNotFoundError"),
        ("empty", "SSLError"),
        ("text", "SSLError"),
        ("broken", "SSLError"),
        ("client.pem", "SSLError"),  # without a key
        ("client.key", "SSLError"),  # without a certificate
        ("folder", "IsADirectoryError SSLError OSError"),
        ("\0", "ValueError"),
        (["client.pem", "none"], "FileNotFoundError"),
        (["none", "client.key"], "FileNotFoundError"),
        (["good.pem", "client.key"], "SSLError"),  # of two
        (["client.key", "client.pem"], "SSLError"),  # in the wrong order
        (["client.pem", "locked.key"], "OSError"),
        ("client-locked.pem", "OSError"),
    ],
    ids=str,
)
def test_client_certificates_that_are_none(place: Path, names: str | list[str], why: str) -> None:
    named = [names] if isinstance(names, str) else names
    paths = [f"{place}/{name}" for name in named]
    (problem,) = problems(client_cert=paths[0] if isinstance(names, str) else paths)
    start = "client_cert: names a file that does not hold a certificate and its key ("
    assert problem.startswith(start)
    assert problem.removeprefix(start).removesuffix(")") in why.split()


def test_client_certificates_that_are_some(made: certs.Certificates, tmp_path: Path) -> None:
    certificate, key = str(made.certificate(certs.CLIENT)), str(made.key(certs.CLIENT))
    whole = tmp_path / "whole.pem"
    whole.write_bytes(Path(certificate).read_bytes() + Path(key).read_bytes())
    for given, kept in [
        ([certificate, key], (certificate, key)),
        ((certificate, key), (certificate, key)),
        (str(whole), (str(whole),)),
        ([str(whole)], (str(whole),)),
    ]:
        endpoint = Endpoint(url=URL, client_cert=given)
        assert endpoint.client_cert == kept
        assert hash(endpoint) == hash(Endpoint(url=URL, client_cert=kept))


def test_a_client_certificate_is_for_https(made: certs.Certificates) -> None:
    pair = [str(made.certificate(certs.CLIENT)), str(made.key(certs.CLIENT))]
    with pytest.raises(ConfigError) as caught:
        Endpoint(url="http://a.example/", allow_insecure_http=True, client_cert=pair)
    assert caught.value.problems == ("client_cert: needs an https URL",)


def test_an_encrypted_key_asks_nobody(made: certs.Certificates) -> None:
    """At a terminal, OpenSSL itself would."""
    pair = [str(made.certificate(certs.CLIENT)), str(made.key("locked"))]
    code = f"""
import os
from cubehook import Endpoint
os.open(os.ttyname(0), os.O_RDWR)  # the one that /dev/tty is from now on
Endpoint(url={URL!r}, client_cert={pair!r})
"""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as child:
            _, errors = child.communicate(timeout=30)
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"does not hold a certificate and its key (OSError)" in errors
