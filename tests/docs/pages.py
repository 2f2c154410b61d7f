"""The pages of the documentation: their fenced blocks, and the commands that they show."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.places import ROOT

DOCS = ROOT / "docs"
# Pages of the repository that are read outside the built site.
OUTSIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)(?P=fence)$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block. place: page and line, as editors open them."""

    place: str
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A line of a console block that begins with `$`, in words, without its comment."""

    place: str
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        """Its first word, without the folder of the environment."""
        return self.words[0].removeprefix(".venv/bin/")

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


def pages() -> list[Path]:
    """Every page, those of the site and those beside it."""
    found = [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts]
    return [ROOT / name for name in OUTSIDE if (ROOT / name).exists()] + found


def blocks(*languages: str) -> list[Block]:
    """The blocks of these languages on all pages."""
    return [block for page in pages() for block in blocks_of(page) if block.language in languages]


def blocks_of(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page."""
    text = page.read_text()
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        lines = [each.removeprefix(found["indent"]) for each in found["text"].splitlines()]
        yield Block(f"{page.relative_to(ROOT)}:{line}", found["language"].strip(), "\n".join(lines) + "\n")


def commands() -> list[Command]:
    """Every command of every console block."""
    found = []
    for block in blocks("console"):
        for line in block.text.splitlines():
            if line.startswith("$ ") and (words := shlex.split(line.removeprefix("$ "), comments=True)):
                found.append(Command(block.place, tuple(words)))
    return found
