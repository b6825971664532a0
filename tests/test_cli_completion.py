"""``cubehook completion``: the scripts, and what they ask the command for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cubehook.cli.commands import cli
from cubehook.cli.completion import SHELLS, VARIABLE

ROOT = Path(__file__).parent.parent


def asked(words: str, last: str) -> list[str]:
    """What bash is told of the last word."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "cubehook"],
        env=os.environ
        | {
            "PYTHONPATH": paths,
            VARIABLE: "bash_complete",
            "COMP_WORDS": f"{words} {last}",
            "COMP_CWORD": str(len(words.split())),
        },
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # nor is a shell needed for it
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0, result.output
    assert f"{VARIABLE}={shell}_complete" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_understands_it(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    script = CliRunner().invoke(cli, ["completion", shell]).stdout
    subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=30)


def test_another_shell() -> None:
    result = CliRunner().invoke(cli, ["completion", "csh"])
    assert result.exit_code == 2


def test_a_command_is_completed() -> None:
    assert asked("cubehook", "li") == ["listen"]


def test_an_option_is_completed() -> None:
    assert asked("cubehook send", "--max") == ["--max-retries"]


def test_a_choice_is_completed() -> None:
    assert asked("cubehook verify --scheme", "git") == ["github"]


def every_option() -> list[tuple[str, str]]:
    """Each command, and each of its options; those that have a page of their own are left out."""
    found = []
    for name, command in cli.commands.items():
        if name in ("follow", "consume"):
            continue
        for one in [command, *getattr(command, "commands", {}).values()]:
            for parameter in one.params:
                found += [(name, option) for option in parameter.opts if option.startswith("-")]
    return sorted(set(found))


def test_the_reference_has_every_command_and_option() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    _, *sections = re.split(r"^## ", text, flags=re.M)
    by_name = {section.partition("\n")[0]: section for section in sections}
    assert [name for name in cli.commands if f"`{name}`" not in text] == []
    missing = [
        (name, option)
        for name, option in every_option()
        if not re.search(rf"{re.escape(option)}\b", by_name[name])
        # Told of all commands at once, or of none that would not be understood without.
        and option not in ("--json", "--help")
    ]
    assert missing == []


def test_every_command_tells_its_exit_statuses() -> None:
    for name, command in cli.commands.items():
        for one in getattr(command, "commands", {name: command}).values():
            assert "xit status" in (one.help or ""), one.name
