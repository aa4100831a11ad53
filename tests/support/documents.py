"""The project's documents as a reader follows them: commands in order, links, and the files that they name.

Relies on the tags of code blocks: a block tagged `sh` runs on the rehearsal; one tagged `text` shows output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
START = ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
_PATH = re.compile(r"([\w.-]+/)+([\w.-]+)?|[\w.-]+\.(in|json|md|py|toml|txt|yaml)")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Section:
    """The commands under one heading, which a reader types into one shell."""

    page: Path
    title: str
    commands: tuple[str, ...]


def sections(page: Path = START, seen: set[Path] | None = None) -> Iterator[Section]:
    """The sections of a page, in the order of a reader who follows each link to another page in docs/ right after the
    section that contains it."""
    seen = {page} if seen is None else seen
    for part in re.split(r"^(?=#+ )", page.read_text(), flags=re.MULTILINE):
        ours = tuple(line for mark, block in _BLOCK.findall(part) if mark == "sh" for line in block.splitlines())
        if ours:
            yield Section(page, part.splitlines()[0].lstrip("# "), ours)
        for target in links(page, part):
            if target.parent.name == "docs" and target.suffix == ".md" and target not in seen:
                seen.add(target)
                yield from sections(target, seen)


def links(page: Path, text: str | None = None) -> list[Path]:
    """The files of the project that a page links to."""
    found = _LINK.findall(page.read_text() if text is None else text)
    return [(page.parent / target).resolve() for target in found if "://" not in target]


def anchors(page: Path) -> list[str]:
    """The anchors of a page's headings, as a browser is sent to them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in found]


def commands(page: Path) -> list[str]:
    """Every command line on a page, in a block or within a sentence, without its comment."""
    text = page.read_text()
    lines = [line for mark, block in _BLOCK.findall(text) if mark == "sh" for line in block.splitlines()]
    lines += _CODE.findall(_BLOCK.sub("", text))
    return [line.partition(" #")[0].strip() for line in lines]


def named_files(page: Path) -> list[str]:
    """The files and folders of the project that a page names: inline code that looks like a path."""
    codes = _CODE.findall(_BLOCK.sub("", page.read_text()))
    return [code for code in codes if is_path(code)]


def is_path(code: str) -> bool:
    """Whether code in a sentence names a file or a folder."""
    return _PATH.fullmatch(code) is not None


def untagged(page: Path) -> list[str]:
    """Code blocks without a tag, of which nobody can tell whether to run them."""
    return [block for mark, block in _BLOCK.findall(page.read_text()) if not mark]
