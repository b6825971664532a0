"""Which field names never leave: the tables, and the one spelling all names are compared in.

``redaction`` applies the decision to whole events; here a name is only text.
"""

from __future__ import annotations

import re
import unicodedata

# The whole name. The last line holds the containers that a payload must never carry.
_NAMES = """
    api_key apikey api_token auth auth_header authorization authorization_header
    bearer bearer_token client_secret cookie credential credentials csrf csrf_token
    csrftoken hashed_password id_token idtoken jwt jwt_token mysql_pwd passphrase
    password password_digest password_hash passwd pwd private_key private_key_pem
    privatekey proxy_authorization refresh_token refreshtoken secret secret_key
    secret_value secretkey session sessionid session_token set_cookie signature token
    token_value webhook_secret webhook_signature x_api_key xapikey xsrf

    env envs env_vars environment environ
    """
EXACT = frozenset(_NAMES.split())
SUFFIXES = (
    "_api_key",
    "_auth",
    "_authorization",
    "_bearer",
    "_cookie",
    "_credential",
    "_credentials",
    "_csrf",
    "_jwt",
    "_passphrase",
    "_password",
    "_passwd",
    "_private_key",
    "_secret",
    "_secret_key",
    "_signature",
    "_token",
)
PREFIXES = (
    "access_token_",
    "api_key_",
    "authorization_",
    "bearer_",
    "client_secret_",
    "csrf_",
    "id_token_",
    "jwt_",
    "private_key_",
    "refresh_token_",
    "secret_key_",
    "set_cookie_",
    "x_api_key_",
)
# What is derived from a secret is as good as the secret: stripped, then matched again.
DERIVED = ("_hash", "_digest", "_pem", "_der", "_hex", "_b64", "_base64", "_encrypted")

_BOUNDARY = re.compile(r"(?<=[^\W_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATORS = re.compile(r"[\W_]+")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]+")
_SLICED = 256  # no name in any table is longer once its derived endings are off
_HANGUL_FILLERS = "\u115f\u1160\u3164\uffa0"  # letters to Unicode, nothing to the eye


def normalise(name: str) -> str:
    """The name in snake_case: ``IDToken``, ``id.token`` and ``ID-TOKEN`` are all ``id_token``.

    Everything that is neither letter nor digit separates words, so ``user[password]`` and
    ``--password`` are seen through as well.
    """
    name = _CONTROL.sub("", name) if name.isascii() else _fold(name)
    return _SEPARATORS.sub("_", _BOUNDARY.sub("_", name)).strip("_").lower()


def is_sensitive(name: str, redact: frozenset[str], keep: frozenset[str]) -> bool:
    """Whether a field of this name is removed; ``redact`` and ``keep`` are normalised names."""
    name = normalise(name)
    if redact and _matches(name, redact, (), ()):
        return True
    return name not in keep and _matches(name, EXACT, SUFFIXES, PREFIXES)


def _matches(
    name: str, exact: frozenset[str], suffixes: tuple[str, ...], prefixes: tuple[str, ...]
) -> bool:
    # Offsets instead of slices: a long tail of `_hash_hash…` must not cost its square.
    end = len(name)
    while end:
        if (end <= _SLICED or end == len(name)) and name[:end] in exact:
            return True
        if name.startswith(prefixes, 0, end) or name.endswith(suffixes, 0, end):
            return True
        if not name.endswith(DERIVED, 0, end):
            return False
        end -= next(len(tail) for tail in DERIVED if name.endswith(tail, 0, end))
    return False


def _fold(name: str) -> str:
    # Marks and invisible characters go first: they hide a name from the tables, and long runs
    # of marks are what makes normalisation quadratic.
    visible = "".join(
        char
        for char in name
        if (unicodedata.category(char)[0] not in "CM" or char.isspace())
        and char not in _HANGUL_FILLERS
    )
    return unicodedata.normalize("NFKC", visible)
