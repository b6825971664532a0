"""The signing keys of one endpoint, made anew when a file that holds a secret of it has changed."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Sequence

from cubehook import signing
from cubehook.notices import notice
from cubehook.secret import Secret
from cubehook.signing import Key, Scheme

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Files are looked at once in so many seconds, when something is to be signed."""


class Keyring:
    """Keeps the keys of the endpoint ``name``, which uses these schemes and secrets.

    Raises `ConfigError` where they do not go together.
    """

    def __init__(self, name: str, schemes: Sequence[str], secrets: Sequence[Secret]) -> None:
        self._name = name
        self._schemes = schemes
        self._secrets = secrets
        self._keys = self._made(secrets)
        in_files = any(secret.stamp for secret in secrets)
        self._look_at = time.monotonic() + LOOK_SECONDS if in_files else math.inf

    def current(self) -> tuple[tuple[Scheme, tuple[Key, ...]], ...]:
        """Each scheme with its keys, as they are to be used now."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS  # first, so that others need not look
            if any(secret.changed for secret in self._secrets):
                self._read_again()
        return self._keys

    def _made(self, secrets: Sequence[Secret]) -> tuple[tuple[Scheme, tuple[Key, ...]], ...]:
        return signing.signing_keys(self._schemes, [secret.value for secret in secrets])

    def _read_again(self) -> None:
        try:
            secrets = [one.read(one.source) if one.changed else one for one in self._secrets]
            self._keys = self._made(secrets)
        except ValueError as error:  # a ConfigError is one, too
            # A file may be met half written; what is complete then has changed once more.
            secrets = [
                dataclasses.replace(one, stamp=one.stamp_now()) if one.changed else one
                for one in self._secrets
            ]
            told = (self._name, error)
            notice(logger, logging.WARNING, "endpoint %r: secret: %s; the former one stays", *told)
        else:
            notice(logger, logging.INFO, "endpoint %r: secret: its file was read again", self._name)
        self._secrets = secrets
