"""The schemes, by name: those of the package, and those that an application registers."""

from __future__ import annotations

import re

from cubehook.signing._scheme import Scheme
from cubehook.signing.cube import CubeScheme
from cubehook.signing.dingtalk import DingTalkScheme
from cubehook.signing.e2b import E2BScheme
from cubehook.signing.feishu import FeishuScheme
from cubehook.signing.github import GitHubScheme
from cubehook.signing.standard import StandardScheme
from cubehook.signing.standard_ed25519 import StandardEd25519Scheme

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        CubeScheme(),
        StandardScheme(),
        StandardEd25519Scheme(),
        GitHubScheme(),
        E2BScheme(),
        FeishuScheme(),
        DingTalkScheme(),
    )
}


def known() -> tuple[str, ...]:
    """The names of all schemes."""
    return tuple(_SCHEMES)


def find(name: str) -> Scheme:
    """The scheme of that name; KeyError where there is none."""
    return _SCHEMES[name]


def register(scheme: Scheme) -> None:
    """Make an application's own scheme known to endpoints and to `cubehook.verify`.

    Do it before the endpoints that name it are configured. Raises ValueError where the name is
    taken, or is not a word of at most 64 lower-case letters, digits, ``.``, ``_`` and ``-``.
    """
    if not _NAME.fullmatch(scheme.name):
        raise ValueError("a scheme's name must be lower-case letters, digits, '.', '_' and '-'")
    if _SCHEMES.setdefault(scheme.name, scheme) is not scheme:
        raise ValueError(f"there is a scheme {scheme.name!r} already")
