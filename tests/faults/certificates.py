"""A test CA and the certificates it signs: a good one, one for another name, an expired one.

Also one for a client, and one for a client by a CA of its own, which nobody trusts.

Made by the ``openssl`` command in a directory of the caller's; nothing of it is kept.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

GOOD, WRONG_NAME, EXPIRED = "good", "wrong-name", "expired"
CLIENT, FOREIGN = "client", "foreign"
CA, FOREIGN_CA = "ca", "foreign-ca"
OTHER_NAME = "other.example"

_HERE = "DNS:localhost,IP:127.0.0.1"
_NAMES = {
    GOOD: _HERE,
    WRONG_NAME: f"DNS:{OTHER_NAME}",
    EXPIRED: _HERE,
    CLIENT: "DNS:client.example",
    FOREIGN: "DNS:client.example",
}
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
# Python 3.13 verifies strictly (RFC 5280): every extension here is one that it asks for.
_EXTENSIONS = """\
subjectAltName={names}
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage={usage}
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
        return self.certificate(CA)

    def certificate(self, name: str) -> Path:
        """The file of that certificate."""
        return self.directory / f"{name}.pem"

    def key(self, name: str) -> Path:
        """The file of its key."""
        return self.directory / f"{name}.key"

    def server_context(self, name: str, *, mutual: bool = False) -> ssl.SSLContext:
        """For a server that shows this certificate; mutual: and wants to see one of a client."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate(name), self.key(name))
        if mutual:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context

    def rehash(self, folder: Path) -> None:
        """Make a folder with certificates into one that OpenSSL finds them in."""
        _openssl(folder, "rehash", ".")

    def encrypt(self, key: Path, to: Path) -> None:
        """Write the key once more, under a passphrase."""
        arguments = ("-in", str(key), "-aes256", "-passout", "pass:xyzzy", "-out", str(to))
        _openssl(self.directory, "ec", *arguments)


def available() -> bool:
    """Whether there is an ``openssl`` command."""
    return shutil.which("openssl") is not None


def make(directory: Path) -> Certificates:
    """A CA and all the certificates, in ``directory``."""
    for authority in (CA, FOREIGN_CA):
        _openssl(
            directory,
            *("req", "-x509", *_NEW_KEY, "-keyout", f"{authority}.key"),
            *("-out", f"{authority}.pem", "-days", "2", "-subj", f"/CN=fault receiver {authority}"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )
    for name, names in _NAMES.items():
        usage = "clientAuth" if name in (CLIENT, FOREIGN) else "serverAuth"
        (directory / f"{name}.ext").write_text(_EXTENSIONS.format(names=names, usage=usage))
        request = ("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        _openssl(directory, "req", *_NEW_KEY, *request)
        if name != EXPIRED:
            _sign(directory, name, "-days", "2")
        else:
            _sign_expired(directory)
    return Certificates(directory)


def _sign(directory: Path, name: str, *validity: str) -> None:
    authority = FOREIGN_CA if name == FOREIGN else CA
    _openssl(
        directory,
        *("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem"),
        *("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial"),
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
