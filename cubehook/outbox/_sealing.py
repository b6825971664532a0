"""What must not be read in a database is encrypted there: Fernet, with keys of the operator's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cubehook.errors import ConfigError
from cubehook.secret import Secret, variable

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

KEY_VARIABLE = "CUBEHOOK_KEY"
"""Holds the key, or several, or ``file:PATH`` of where they are."""

_SEPARATORS = re.compile(r"[\s,]+")


class Keys:
    """Fernet keys: the first one encrypts, all of them decrypt. None at all: nothing is sealed.

    source: the keys, with commas or white space between them, or ``env:NAME`` or ``file:PATH`` of
    such a text; None: ``CUBEHOOK_KEY``, which may be unset or empty.

    Raises `ConfigError` for what is no key, and where the extra ``crypto`` is missing.
    """

    def __init__(self, source: str | None = None) -> None:
        text = variable(KEY_VARIABLE) if source is None else source
        self._fernet = _fernet(_texts(text)) if text else None

    def __bool__(self) -> bool:
        return self._fernet is not None

    def __repr__(self) -> str:
        return "Keys(…)"

    def seal(self, data: bytes) -> bytes:
        """Encrypt with the first key; there has to be one."""
        assert self._fernet is not None
        return self._fernet.encrypt(data)

    def open(self, sealed: bytes) -> bytes:
        """Decrypt. Raises ValueError, with a phrase, if none of the keys fits."""
        if self._fernet is None:
            raise ValueError(f"is encrypted, and there is no key ({KEY_VARIABLE} is not set)")
        from cryptography.fernet import InvalidToken  # noqa: PLC0415  # an extra

        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            pass  # out here, no traceback shows what was to be decrypted
        raise ValueError("was encrypted with another key, or is damaged")


def _texts(source: str) -> list[str]:
    try:
        text = Secret.read(source).value
    except ValueError as error:
        problem = str(error)
    else:
        texts = list(filter(None, _SEPARATORS.split(text)))
        if texts:
            return texts
        problem = "is empty"
    raise ConfigError(f"key: {problem}")


def _fernet(texts: list[str]) -> MultiFernet:
    problem = "needs: pip install 'cubehook[crypto]'"
    try:
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415  # an extra

        return MultiFernet([Fernet(text) for text in texts])
    except ImportError:
        pass
    except ValueError:  # its text may tell of the key
        problem = "is no Fernet key: 32 bytes in URL-safe base64"
    raise ConfigError(f"key: {problem}")
