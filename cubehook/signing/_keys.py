"""Which of the secrets a scheme uses: the one rule for those who sign and those who verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cubehook import forks
from cubehook.errors import ConfigError
from cubehook.signing._registry import find
from cubehook.signing._scheme import Key, Scheme


def signing_keys(
    names: Sequence[str], secrets: Sequence[str]
) -> tuple[tuple[Scheme, tuple[Key, ...]], ...]:
    """The schemes of these names, each with the keys of those secrets that it takes.

    Raises `ConfigError` where no scheme takes a secret, or a scheme takes none of the secrets.
    Its problems name no value. Without secrets nothing is signed, and that is no problem.
    """
    schemes = {name: find(name) for name in names}
    keys: dict[str, list[Key]] = {name: [] for name in schemes}
    problems = []
    for secret in secrets:
        refusals = {}
        for name, scheme in schemes.items():
            try:
                with forks.kept_out:  # a key is made by OpenSSL
                    keys[name].append(scheme.key(secret))
            except ValueError as error:
                refusals[name] = str(error)
        if len(refusals) == len(schemes):
            problems.append(_told(refusals))
    if secrets and not problems:
        problems += [f"has none for scheme {name!r}" for name, made in keys.items() if not made]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return tuple((scheme, tuple(keys[name])) for name, scheme in schemes.items())


def verification_keys(scheme: Scheme, secrets: Sequence[str], refusals: list[str]) -> list[Key]:
    """The keys of those secrets that the scheme takes; ``refusals`` gets why not the others."""
    keys = []
    for secret in secrets:
        try:
            keys.append(scheme.verification_key(secret))
        except ValueError as error:
            refusals.append(str(error))
    return keys


def _told(refusals: Mapping[str, str]) -> str:
    if len(refusals) == 1:
        return next(iter(refusals.values()))
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
    return f"fits none of the schemes ({reasons})"
