"""Fenced blocks of a Markdown file: files to write, and commands with what they print."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^( *)```(\w*) *([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block. `file` is the name that its info string or the sentence before it gives, or empty."""

    language: str
    file: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command, and lines of which each is part of its output, in order."""

    line: str
    output: tuple[str, ...]


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before = re.search(r"in `([\w./-]+\.\w+)`[^`]*\Z", text[: match.start()])
        named = match[3].strip() or (before[1] if before and match[2] in ("yaml", "python") else "")
        found.append(Block(match[2], named, textwrap.dedent(match[4])))
    return found


def commands(block: Block) -> list[Command]:
    """The commands behind `$`, or, where there is none, every line less its comment."""
    lines = block.text.splitlines()
    if not any(line.startswith("$ ") for line in lines):
        return [Command(line.partition(" #")[0].strip(), ()) for line in lines if line.strip()]
    found: list[Command] = []
    for line in filter(None, lines):
        if line.startswith("$ "):
            found.append(Command(line[2:], ()))
        else:
            found[-1] = Command(found[-1].line, (*found[-1].output, line))
    return found
