"""A measurement in a process of its own: `run` has it made there and brings its result back."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks.peers import environment

_LONGEST = 900.0  # seconds; a measurement takes some


class ChildError(Exception):
    """The measurement broke off; the text is the last line that it printed."""


def run(function: Callable[..., Any], **arguments: Any) -> Any:
    """What ``function`` of a module of ours returns in a fresh process; both ways by JSON."""
    name = f"{function.__module__}:{function.__name__}"
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:  # some leave files behind
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.child", name, json.dumps(arguments)],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST,
            cwd=scratch,
            env=environment(scratch),
        )
    if not done.stdout:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ChildError(lines[-1] if lines else f"it ended with {done.returncode}")
    return json.loads(done.stdout)


def main() -> None:
    """In the process: call the function, answer, and go."""
    name, arguments = sys.argv[1:]
    answers = os.dup(1)
    os.dup2(2, 1)  # some contenders print
    module, _, function = name.partition(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    with open(answers, "w", encoding="utf-8") as answer:
        json.dump(result, answer)
    os._exit(0)  # some contenders take long to end, which is measured elsewhere


if __name__ == "__main__":
    main()
