"""An nginx that answers every request with 204: `Nginx` runs it in the foreground, for a while."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.peers import HOST

_CONFIG = """
daemon off;
worker_processes 1;
pid {scratch}/pid;
error_log {scratch}/errors crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    server {{
        listen {host}:{port};
        location / {{ return 204; }}
        location = /status {{ stub_status; }}
    }}
}}
"""
_START_SECONDS = 10.0


class MissingError(Exception):
    """There is no nginx, or none that starts."""


def found() -> str:
    """Where nginx is. Raises `MissingError`."""
    path = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or shutil.which("nginx")
    if path is None:
        raise MissingError(
            "nginx is not installed (Debian and Ubuntu: apt-get install nginx-light)"
        )
    return path


def version() -> str:
    """Its version."""
    printed = subprocess.run([found(), "-v"], check=False, capture_output=True, text=True).stderr
    return printed.strip().rpartition("/")[2]


class Nginx:
    """See the module. ``port``: on loopback."""

    def __init__(self) -> None:
        path = found()
        self._asked = 0
        self._scratch = tempfile.TemporaryDirectory(prefix="benchmark-nginx-")
        with socket.create_server((HOST, 0)) as free:
            self.port: int = free.getsockname()[1]
        scratch = Path(self._scratch.name)
        scratch.chmod(0o755)  # started by root, its worker is somebody else
        config = scratch / "nginx.conf"
        config.write_text(_CONFIG.format(scratch=scratch, host=HOST, port=self.port))
        self._process = subprocess.Popen(
            [path, "-e", "stderr", "-p", str(scratch), "-c", str(config)],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def requests(self) -> int:
        """How many requests it has answered, apart from the ones that ask this."""
        self._asked += 1
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://{HOST}:{self.port}/status", timeout=_START_SECONDS) as answer:
            found = re.search(r"^ *\d+ +\d+ +(\d+)", answer.read().decode(), re.MULTILINE)
        assert found is not None
        return int(found[1]) - self._asked

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.communicate()
        self._scratch.cleanup()

    def __enter__(self) -> Nginx:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _wait(self) -> None:
        ends = time.monotonic() + _START_SECONDS
        while time.monotonic() < ends:
            if self._process.poll() is not None:
                assert self._process.stderr is not None
                lines = self._process.stderr.read().strip().splitlines()
                raise MissingError(f"nginx does not start: {lines[-1] if lines else ''}")
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise MissingError("nginx does not start")
