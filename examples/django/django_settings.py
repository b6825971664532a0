"""Django's settings: what is of interest is ``LOGGING``."""

from __future__ import annotations

import os

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "for-the-example-only")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["sandboxes"]
TIME_ZONE = "UTC"
ROOT_URLCONF = "sandboxes.urls"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "brief": {"format": "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"},
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "brief"},
        # No endpoints here: they are in CUBE_API_WEBHOOK_ENDPOINTS.
        "webhooks": {"class": "cubehook.WebhookHandler"},
    },
    "loggers": {
        # What the application logs, and what becomes of the deliveries.
        "cube": {"level": "INFO", "handlers": ["console", "webhooks"], "propagate": False},
        "cubehook": {"level": "INFO", "handlers": ["console"], "propagate": False},
    },
}
