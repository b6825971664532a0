"""TLS contexts. Certificates are always verified; whom to trust, and as whom to speak, can be told.

A context that would differ in nothing is made once: reading a bundle of authorities takes tens of
milliseconds and a megabyte.
"""

from __future__ import annotations

import functools
import os
import re
import ssl
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from cubehook import forks
from cubehook.sockets import TLSContext

_MOST_CONTEXTS = 256
_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]+")  # by which OpenSSL finds an authority in a folder

_Stamp: TypeAlias = tuple[int, int, int]
_Files: TypeAlias = tuple[str | None, tuple[str, ...]]

_latest: weakref.WeakValueDictionary[_Files, TLSContext] = weakref.WeakValueDictionary()


def context(ca_bundle: str | None = None, client_cert: Sequence[str] = ()) -> TLSContext:
    """The context for these files, as they are now, or as they were when they could last be read.

    For endpoints that were checked with `load`: a process that is forked later may have given up
    the right to read a key.
    """
    try:
        return load(ca_bundle, client_cert)
    except OSError:
        known = _latest.get((ca_bundle, tuple(client_cert)))
        if known is None:
            raise
        return known


def load(ca_bundle: str | None = None, client_cert: Sequence[str] = ()) -> TLSContext:
    """The context for these files, as they are now.

    ca_bundle: a PEM file, or a folder as ``openssl rehash`` makes it, of the authorities to trust
    in the place of certifi's. client_cert: PEM files of a certificate and its key, or one of both.

    Raises OSError (``ssl.SSLError`` is one) for files that cannot be read or do not fit together.
    """
    files = ca_bundle, tuple(client_cert)
    made = _made(*files, tuple(_stamp(path) for path in (ca_bundle, *client_cert) if path))
    _latest[files] = made
    return made


def _stamp(path: str) -> _Stamp:
    """What differs once the file is another one."""
    found = os.stat(path)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


@functools.lru_cache(maxsize=_MOST_CONTEXTS)
def _made(
    ca_bundle: str | None, client_cert: tuple[str, ...], changed: tuple[_Stamp, ...]
) -> TLSContext:
    bundle = ca_bundle or DEFAULT_CA_BUNDLE_PATH
    with forks.kept_out:
        # Not urllib3's or ssl's default context: those write keys to where SSLKEYLOGFILE says.
        made = TLSContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if os.path.isdir(bundle):
            _look_into(bundle)
            made.load_verify_locations(capath=bundle)
        else:
            made.load_verify_locations(cafile=bundle)
        if client_cert:
            # Without the function OpenSSL would ask the terminal for the passphrase of a key.
            made.load_cert_chain(client_cert[0], client_cert[-1], _no_passphrase)
    paths = [path for path in (ca_bundle, *client_cert) if path and not os.path.isdir(path)]
    made.files = {path: Path(path).read_bytes() for path in paths}
    return made


def _look_into(folder: str) -> None:
    # OpenSSL takes any folder, and finds nobody to trust in it later.
    if not any(_HASHED_NAME.fullmatch(name) for name in os.listdir(folder)):
        raise FileNotFoundError("no authority in the folder")


def _no_passphrase() -> str:
    raise OSError("the key is encrypted")
