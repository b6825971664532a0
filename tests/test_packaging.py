"""What is installed is what is in the repository."""

from __future__ import annotations

import configparser
from pathlib import Path

import cubehook

ROOT = Path(__file__).parent.parent


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_every_package_is_listed() -> None:
    listed = set(_setup()["options"]["packages"].split())
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "cubehook").rglob("*.py")}
    found = {".".join(folder.parts) for folder in folders}
    assert listed == found | {"cubehook.examples"}


def test_public_names() -> None:
    promised = {
        *("WebhookHandler", "WebhookFormatter", "Endpoint", "Event", "verify"),
        *("ConfigError", "VerificationError"),
    }
    assert promised <= set(cubehook.__all__)
    assert all(hasattr(cubehook, name) for name in cubehook.__all__)


def test_import_loads_no_optional_package() -> None:
    extras = {"yaml", "click", "rich", "structlog", "loguru"}
    sources = [path for path in (ROOT / "cubehook").rglob("*.py") if "cli" not in path.parts]
    for source in sources:
        text = source.read_text(encoding="utf-8")
        imported = {
            line.split()[1].split(".")[0]
            for line in text.splitlines()
            if line.startswith(("import ", "from "))
        }
        assert not imported & extras, source
