"""What mkdocs does not check: code that is shown and not run, tests that are named, the navigation.

How pages are written, and what the markers mean: docs/writing.md.
"""

from __future__ import annotations

import ast
import configparser
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml

from cubehook import ConfigError, Endpoint
from cubehook.cli.commands import cli
from cubehook.config import Settings, load

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "includes" not in path.parts)

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<marker>(?:no )?test\b[^\n]*?) *-->\n)?"
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
_FILE = re.compile(r"^cat > \S+\.(?P<kind>py|yaml|json) <<'EOF'\n(?P<code>.*?)^EOF$", re.M | re.S)
_TEST_NAME = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)+)`")
_COMMAND = re.compile(r"(?:^|[\s;&|(])(?:\S*/)?cubehook(?=\s|$)")

OUTPUT = ("text", "http")
SHELLS = ("bash", "sh", "console")
KINDS = {"py": "python", "yaml": "yaml", "json": "json"}

LOGGINGS_OWN = {"class", "()", "level", "formatter", "filters"}
HANDLER_KEYS = {item.name for item in fields(Settings)} | {"endpoints"}
ENDPOINT_KEYS = {item.name for item in fields(Endpoint)}

ELSEWHERE = re.compile(
    r"names an environment variable that is not set|names a file that|needs: pip install"
    r"|the directory of the SQLite file does not exist|its driver is not installed"
    r"|cannot be imported"
)
"""Problems that a configuration has on this machine, and not on the reader's."""


@dataclass(frozen=True)
class Block:
    """A block of code, without its indentation. marker: what the comment above it says."""

    page: Path
    line: int
    language: str
    code: str
    marker: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def excused(self) -> bool:
        """Whether there is a reason for not running it."""
        return re.match(r"no test: \S", self.marker) is not None

    @property
    def runs(self) -> bool:
        """Whether test_docs.py runs it."""
        return re.match(r"test(:|$)", self.marker) is not None


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page; a file that a shell is to write is one as well."""
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        language = match["language"].partition(" ")[0]
        code = textwrap.dedent(match["code"])
        for file in _FILE.finditer(code) if language in SHELLS else ():
            within = line + code.count("\n", 0, file.start())
            yield Block(page, within + 1, KINDS[file["kind"]], file["code"], "")
        yield Block(page, line, language, _FILE.sub("", code), match["marker"] or "")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(*languages: str) -> pytest.MarkDecorator:
    blocks = [block for block in BLOCKS if block.language in languages and not block.runs]
    return pytest.mark.parametrize("block", blocks, ids=str)


# --- Code ---


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_checked_or_says_why_not(block: Block) -> None:
    checked = ("python", "yaml", "json", "ini", *OUTPUT)
    assert block.runs or block.excused or block.language in checked, "add <!-- no test: reason -->"
    assert not block.runs or block.language in ("python", "js", "bash"), "nothing runs these"


@of("python")
def test_python_compiles(block: Block) -> None:
    compile(block.code, str(block), "exec", ast.PyCF_ONLY_AST)


@of("json")
def test_json_parses(block: Block) -> None:
    if not block.excused:
        accept(json.loads(block.code))


@of("ini")
def test_ini_parses(block: Block) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(block.code)
    assert parser.sections()


@of("yaml")
def test_yaml_is_what_cubehook_takes(block: Block) -> None:
    if not block.excused:
        accept(yaml.safe_load(block.code))


@of("bash", "sh")
def test_shell_parses(block: Block) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    done = subprocess.run([bash, "-n"], input=block.code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@of(*SHELLS)
def test_commands_are_those_of_the_command_line(block: Block) -> None:
    for command in commands_in(block):
        assert unknown_in(command) == [], command


def accept(value: Any) -> None:
    """Let cubehook look at what is a configuration, or a part of one."""
    if isinstance(value, list) and all(isinstance(item, dict) and "url" in item for item in value):
        look_at({"endpoints": value})
    elif isinstance(value, dict) and isinstance(value.get("handlers"), dict):
        for handler in value["handlers"].values():
            if str(handler.get("class", "")).startswith("cubehook."):
                look_at({key: handler[key] for key in handler.keys() - LOGGINGS_OWN})
    elif isinstance(value, dict) and value.keys() <= HANDLER_KEYS:
        look_at(value)
    elif isinstance(value, dict) and value.keys() <= ENDPOINT_KEYS:
        look_at({"endpoints": [{"url": "https://example.com/", **value}]})


def look_at(options: Mapping[str, Any]) -> None:
    rest = {key: value for key, value in options.items() if key != "endpoints"}
    problems: tuple[str, ...] = ()
    try:
        load(options.get("endpoints", []), rest)
    except ConfigError as error:
        problems = error.problems
    assert [problem for problem in problems if not ELSEWHERE.search(problem)] == []


def commands_in(block: Block) -> Iterator[list[str]]:
    """The arguments of each ``cubehook`` that is called."""
    lines = block.code.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in filter(_COMMAND.search, lines):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        for place, word in enumerate(words):
            if word.rpartition("/")[2] == "cubehook":
                rest = words[place + 1 :]
                ends = (n for n, word in enumerate(rest) if set(word) <= set("();<>|&"))
                yield rest[: next(ends, len(rest))]


def unknown_in(arguments: list[str]) -> list[str]:
    """What of a command the command line does not know."""
    command: click.Command = cli
    unknown = []
    for argument in arguments:
        option = argument.partition("=")[0]
        known = {name for parameter in command.params for name in parameter.opts}
        known |= {name for parameter in command.params for name in parameter.secondary_opts}
        if option.startswith("--"):
            unknown += [option] if option not in known | {"--help"} else []
        elif isinstance(command, click.Group):
            found = command.get_command(click.Context(command), argument)
            if found is None:
                return [argument]
            command = found
    return unknown


def test_an_unknown_command_and_option_are_noticed() -> None:
    assert unknown_in(["worker", "--once"]) == []
    assert unknown_in(["worker", "--twice"]) == ["--twice"]
    assert unknown_in(["deliveries", "lost"]) == ["lost"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"handlers": {"w": {"class": "cubehook.WebhookHandler", "time_out": 5}}},
        {"handlers": {"w": {"class": "cubehook.WebhookHandler", "endpoints": [{"name": "ops"}]}}},
        [{"url": "https://example.com/", "formt": "cube"}],
        {"scheme": "unknown", "secret": "test-secret"},
        {"max_retries": -1},
    ],
)
def test_a_wrong_configuration_is_noticed(wrong: Any) -> None:
    with pytest.raises(AssertionError):
        accept(wrong)


def test_markers_are_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- test: A=b -->\n```python\n1\n```\n\n    ```json\n    {}\n    ```\n"
        "<!-- no test: asks -->\n```bash\nls\n```\n<!-- no test: -->\n```go\nx\n```\n"
    )
    found = [(one.language, one.code, one.runs, one.excused) for one in blocks_of(page)]
    assert found == [
        ("python", "1\n", True, False),
        ("json", "{}\n", False, False),
        ("bash", "ls\n", False, True),
        ("go", "x\n", False, False),
    ]


# --- What pages name ---


def names_in(path: Path) -> Iterator[str]:
    """The names of the tests in a file, as pytest takes them."""

    def walk(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
        for child in node.body:
            if isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}::{child.name}")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}::{child.name}"

    tree = ast.parse(path.read_text(encoding="utf-8"))
    return walk(tree, path.relative_to(ROOT).as_posix())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_are_named_exist(page: Path) -> None:
    named = set(_TEST_NAME.findall(page.read_text(encoding="utf-8")))
    files = {ROOT / name.partition("::")[0] for name in named}
    existing = {name for path in files if path.exists() for name in names_in(path)}
    assert named - existing == set()


def test_every_guarantee_names_a_test() -> None:
    text = (DOCS / "guarantees.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.M)[1:]
    without = [part.partition("\n")[0] for part in sections if not _TEST_NAME.search(part)]
    assert without == ["What is not promised"]


# --- The site ---


def included(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "includes" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def paths_in(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from paths_in(item)


def test_every_page_is_in_the_navigation_once() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = [path for path in paths_in(config["nav"]) if path not in included("site").beside()]
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in PAGES)


@pytest.mark.parametrize(
    ("page", "link", "led"),
    [
        ("guide.md", "configuration.md#secrets", "configuration.md#secrets"),
        ("guide.md", "../SECURITY.md", "SECURITY.md"),
        ("guide.md", "../README.md", "index.md"),
        ("guide.md", "../examples/quickstart", "examples/quickstart/README.md"),
        ("guide.md", "../examples/quickstart/app.py", "examples/quickstart/README.md#app.py"),
        (
            "zh/guide.md",
            "../../examples/quickstart/README.md#a",
            "../examples/quickstart/README.md#a",
        ),
        ("zh/guide.md", "../delivery.md", "../delivery.md"),
        ("examples/quickstart/README.md", "../../docs/events.md", "../../events.md"),
        ("SECURITY.md", "docs/security.md", "security.md"),
        ("guide.md", "https://example.com/../README.md", "https://example.com/../README.md"),
        ("guide.md", "#stats", "#stats"),
    ],
)
def test_links_to_the_repository_lead_to_the_site(page: str, link: str, led: str) -> None:
    assert included("site").with_site_links(f"see [it]({link}).", page) == f"see [it]({led})."


def test_links_in_code_stay() -> None:
    page = "```md\n[a](../SECURITY.md)\n```\n[a](../SECURITY.md)\n"
    assert included("site").with_site_links(page, "guide.md") == (
        "```md\n[a](../SECURITY.md)\n```\n[a](SECURITY.md)\n"
    )


def test_names_in_docstrings_become_a_list() -> None:
    pytest.importorskip("griffe")
    text = "Waits.\n\ntime: seconds;\nNone: for ever. left, right: sides: two.\n\nRaises: no."
    known = frozenset({"time", "left", "right"})
    items = "- `time`: seconds; None: for ever.\n- `left`, `right`: sides: two."
    assert included("docstrings").as_markdown(text, known) == f"Waits.\n\n{items}\n\nRaises: no."
