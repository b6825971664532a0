"""Where a measurement was made: the machine, the interpreter, the versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import ssl
import subprocess
from pathlib import Path
from typing import Any

from benchmarks import nginx
from benchmarks.peers import CONTENDERS

_LIBRARIES = ("requests", "urllib3", "pycurl", "opentelemetry-sdk", "SQLAlchemy")


def describe() -> dict[str, Any]:
    """What a reader has to know of it."""
    return {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "openssl": ssl.OPENSSL_VERSION,
        "nginx": _nginx(),
        "commit": _commit(),
        "versions": dict(sorted(_versions().items())),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model"}:
            return value.strip()
    return platform.machine()


def _nginx() -> str | None:
    try:
        return nginx.version()
    except nginx.MissingError:
        return None


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {}
    for name in {*_LIBRARIES, *(one.distribution for one in CONTENDERS if one.distribution)}:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
