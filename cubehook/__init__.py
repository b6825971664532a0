"""A ``logging.Handler`` that turns tagged log records into signed webhooks."""

from cubehook._version import __version__
from cubehook.endpoint import Endpoint
from cubehook.errors import ConfigError, CubehookError, VerificationError
from cubehook.event import Event
from cubehook.formats import WebhookFormatter
from cubehook.handler import WebhookHandler
from cubehook.signing import verify
from cubehook.stats import EndpointStats, Stats

__all__ = [
    "ConfigError",
    "CubehookError",
    "Endpoint",
    "EndpointStats",
    "Event",
    "Stats",
    "VerificationError",
    "WebhookFormatter",
    "WebhookHandler",
    "__version__",
    "verify",
]
