"""What mkdocs cannot be told in mkdocs.yml: hooks of the documentation's site.

The pages are read in two places, in a copy of the repository and on the site, and their links have
to work in both. So the files beside ``docs/`` that pages link to become pages of the site as well.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BESIDE = ("SECURITY.md", "CHANGELOG.md")
LANGUAGES = ("zh",)
"""Folders of ``docs/`` that hold translations; everything else is English."""

_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
_FENCED = re.compile(r"^(?P<fence>```+).*?^(?P=fence)$", re.M | re.S)
_SHOWN = {".py": "python", ".yaml": "yaml", ".ini": "ini"}
"""The files of an example that its page shows, with the language of each."""


def beside() -> list[str]:
    """The pages that do not stand in ``docs/``, by their path in the repository."""
    examples = sorted((ROOT / "examples").glob("*/README.md"))
    return [path.relative_to(ROOT).as_posix() for path in examples] + [
        "SECURITY.md",
        "CHANGELOG.md",
    ]


def repository_path(page: str) -> str:
    """Where the page of that path on the site stands in the repository."""
    return page if page in beside() else f"docs/{page}"


def site_path(path: str) -> str:
    """The page, and perhaps the place in it, that shows the file of that path."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path == "README.md":
        return "index.md"
    if not path.startswith("examples/") or path.endswith(".md"):
        return path
    folder, _, name = path.removeprefix("examples/").partition("/")
    shown = "/" not in name and posixpath.splitext(name)[1] in _SHOWN
    return f"examples/{folder}/README.md" + (f"#{name}" if shown else "")


def with_site_links(markdown: str, page: str) -> str:
    """The page with its links to files beside ``docs/`` led to where the site shows those."""
    here = repository_path(page)

    def led(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), match["path"]))
        if here.startswith("docs/") and path.startswith("docs/"):
            return match[0]
        target, _, place = site_path(path).partition("#")
        anchor = match["anchor"] or (f"#{place}" if place else "")
        return posixpath.relpath(target, posixpath.dirname(page) or ".") + anchor

    code = [match.span() for match in _FENCED.finditer(markdown)]
    return _LINK.sub(
        lambda match: match[0] if any(a <= match.start() < b for a, b in code) else led(match),
        markdown,
    )


def with_sources(markdown: str, page: str) -> str:
    """An example's README with the example's files below it."""
    folder = posixpath.dirname(repository_path(page))
    if not folder.startswith("examples/"):
        return markdown
    for file in sorted((ROOT / folder).iterdir()):
        if language := _SHOWN.get(file.suffix):
            markdown += (
                f"\n\n## `{file.name}` {{#{file.name}}}\n\n"
                f'```{language}\n--8<-- "{folder}/{file.name}"\n```\n'
            )
    return markdown


# What mkdocs calls.


def on_config(config: Any) -> Any:
    """Anchors as in a repository's view of the pages, Chinese ones too; the examples in the nav."""
    from pymdownx.slugs import slugify  # noqa: PLC0415  # tests read this file without mkdocs

    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    first_tab = next(iter(config.nav[0].values()))
    first_tab.append({"Examples": [path for path in beside() if path.startswith("examples/")]})
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages that stand beside ``docs/``."""
    from mkdocs.structure.files import File  # noqa: PLC0415

    for path in beside():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """What of a page is for the site."""
    path = page.file.src_uri
    return with_sources(with_site_links(markdown, path), path)


def on_page_context(context: Any, *, page: Any, config: Any, **_: Any) -> Any:
    """The theme speaks the language of the page."""
    folder = page.file.src_uri.partition("/")[0]
    config.theme["language"] = folder if folder in LANGUAGES else "en"
    return context
