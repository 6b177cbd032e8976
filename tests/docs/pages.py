"""The pages of the documentation as data: fenced blocks, commands, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import REPOSITORY

DOCS = REPOSITORY / "docs"
SECTIONS = ("MISC", "ANALYSER", "EVAL", "VIS", "DATA", "TRAIN", "TEST", "SOLVER", "MODEL")

_FENCE = re.compile(r"(?P<fence>`{3,}|:{3,})\s*(?P<info>\{?[\w-]*\}?)\s*(?P<argument>.*)")
_OPTION = re.compile(r":([\w-]+):\s*(.*)")
_FILE = re.compile(r"<!-- file: (\S+) -->")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page, line: file relative to the repository, and the line of the opening fence.
        info: language, or ``{directive}``.
        argument: what follows it on the line.
        options: of a directive, by name.
        text: the body without options.
        file: the file this block shows (its caption, or ``<!-- file: NAME -->`` above it), else empty.
    """

    page: str
    line: int
    info: str
    argument: str
    options: dict[str, str]
    text: str
    file: str

    @property
    def language(self) -> str:
        """``bash``, ``python``, ..., also of a code-block directive; empty for other directives."""
        if self.info == "{code-block}":
            return self.argument
        return "" if self.info.startswith("{") else self.info

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a bash or console block.

    Attributes:
        where: page and line of its block.
        env: variables set in front of it.
        words: program and arguments.
    """

    where: str
    env: tuple[tuple[str, str], ...]
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """The command as one line."""
        return shlex.join([*(f"{name}={value}" for name, value in self.env), *self.words])


def pages() -> list[Path]:
    """All pages of the site, and the README."""
    return [REPOSITORY / "README.md", *sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)]


def name_of(page: Path) -> str:
    """A page relative to the repository."""
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page; fences inside a block belong to its text."""
    lines = page.read_text(encoding="utf-8").splitlines()
    at, file = 0, ""
    while at < len(lines):
        marked, opening = _FILE.fullmatch(lines[at].strip()), _FENCE.fullmatch(lines[at].strip())
        file = marked[1] if marked else file
        at += 1
        if opening is None:
            file = file if marked or not lines[at - 1].strip() else ""
            continue
        start, body = at, []
        while lines[at].strip() != opening["fence"]:
            body.append(lines[at])
            at += 1
        at += 1
        options: dict[str, str] = {}
        while opening["info"].startswith("{") and body and (option := _OPTION.fullmatch(body[0].strip())):
            options[option[1]] = option[2]
            body.pop(0)
        text = "\n".join(body).strip("\n") + "\n"
        shown = (options.get("caption", "") if opening["info"] == "{code-block}" else "") or file
        yield Block(name_of(page), start, opening["info"], opening["argument"].strip(), options, text, shown)
        file = ""


def all_blocks() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in pages() for block in blocks(page)]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"(?ms)^\s*(`{3,}|:{3,})[^\n]*\n.*?^\s*\1\s*$", "", text)


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block: every line of ``bash``, lines that begin with ``$`` of ``console``."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    elif block.language != "bash":
        return
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        env = []
        while words and _ASSIGNMENT.fullmatch(words[0]):
            name, _, value = words.pop(0).partition("=")
            env.append((name, value))
        if words:
            yield Command(str(block), tuple(env), tuple(words))


def all_commands() -> list[Command]:
    """Every command once, at its first place."""
    found: dict[str, Command] = {}
    for block in all_blocks():
        for command in commands(block):
            found.setdefault(command.text, command)
    return list(found.values())
