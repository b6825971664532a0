"""A test CA and the certificates it signs: a good one, one for another name, an expired one.

Made by the ``openssl`` command in a directory of the caller's; nothing of it is kept.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

GOOD, WRONG_NAME, EXPIRED = "good", "wrong-name", "expired"

_HERE = "DNS:localhost,IP:127.0.0.1"
_NAMES = {GOOD: _HERE, WRONG_NAME: "DNS:other.example", EXPIRED: _HERE}
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
# Python 3.13 verifies strictly (RFC 5280): every extension here is one that it asks for.
_EXTENSIONS = """\
subjectAltName={names}
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""
_PAST = ("-not_before", "20200101000000Z", "-not_after", "20200102000000Z")  # OpenSSL >= 3.4
_PAST_BY_DAYS = ("-days", "-1")  # before


@dataclass(frozen=True)
class Certificates:
    """The directory they are in."""

    directory: Path

    @property
    def ca(self) -> Path:
        """What a client has to trust."""
        return self.directory / "ca.pem"

    def server_context(self, name: str) -> ssl.SSLContext:
        """For a server that shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        return context


def available() -> bool:
    """Whether there is an ``openssl`` command."""
    return shutil.which("openssl") is not None


def make(directory: Path) -> Certificates:
    """A CA and all the certificates, in ``directory``."""
    _openssl(
        directory,
        *("req", "-x509", *_NEW_KEY, "-keyout", "ca.key", "-out", "ca.pem"),
        *("-days", "2", "-subj", "/CN=fault receiver CA"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    for name, names in _NAMES.items():
        (directory / f"{name}.ext").write_text(_EXTENSIONS.format(names=names))
        request = ("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        _openssl(directory, "req", *_NEW_KEY, *request)
        if name != EXPIRED:
            _sign(directory, name, "-days", "2")
        else:
            _sign_expired(directory)
    return Certificates(directory)


def _sign(directory: Path, name: str, *validity: str) -> None:
    _openssl(
        directory,
        *("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem"),
        *("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-extfile", f"{name}.ext", *validity),
    )


def _sign_expired(directory: Path) -> None:
    try:
        _sign(directory, EXPIRED, *_PAST)
    except subprocess.CalledProcessError:
        _sign(directory, EXPIRED, *_PAST_BY_DAYS)


def _openssl(directory: Path, *arguments: str) -> None:
    command = ["openssl", *arguments]
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=30)
