"""How bodies are written: one file for each format, found here by name or by dotted path."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence

from cubehook.formats._base import (
    BatchFormat,
    BodyFormat,
    WebhookFormatter,
    has_batches,
    redacted,
)
from cubehook.redaction import Redactor

__all__ = [
    "BatchFormat",
    "BodyFormat",
    "WebhookFormatter",
    "find",
    "has_batches",
    "known",
    "make",
    "redacted",
]

# Imported when they are used: most applications use one.
_FORMATS = {
    "cube": "cubehook.formats.WebhookFormatter",
    "standard": "cubehook.formats.standard.StandardFormatter",
    "cloudevents": "cubehook.formats.cloudevents.CloudEventsFormatter",
    "e2b": "cubehook.formats.e2b.E2BFormatter",
    "slack": "cubehook.formats.slack.SlackFormatter",
    "discord": "cubehook.formats.discord.DiscordFormatter",
    "teams": "cubehook.formats.teams.TeamsFormatter",
    "wecom": "cubehook.formats.wecom.WeComFormatter",
    "feishu": "cubehook.formats.feishu.FeishuFormatter",
    "lark": "cubehook.formats.feishu.FeishuFormatter",
    "dingtalk": "cubehook.formats.dingtalk.DingTalkFormatter",
}


def known() -> tuple[str, ...]:
    """The names of all formats."""
    return tuple(_FORMATS)


def find(name: str) -> type[logging.Formatter]:
    """The formatter class of that name, or at that dotted path.

    Raises LookupError where there is none.
    """
    module, _, attribute = _FORMATS.get(name, name).rpartition(".")
    if not module:
        raise LookupError("unknown format")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs foreign code
        raise LookupError(f"cannot be imported ({type(error).__name__})") from None
    if not (isinstance(found, type) and issubclass(found, logging.Formatter)):
        raise LookupError("is not a logging.Formatter class")
    return found


def make(name: str, redact: Sequence[str], keep: Sequence[str]) -> BodyFormat:
    """The format of that name or dotted path, with the handler's rules of redaction.

    Raises LookupError where there is none, or it cannot be made.
    """
    found = find(name)
    try:
        if issubclass(found, WebhookFormatter):
            return found(redact=redact, keep=keep)
        return redacted(found(), Redactor(redact, keep))
    except Exception as error:  # of the application's class
        raise LookupError(f"cannot be made ({type(error).__name__})") from None
