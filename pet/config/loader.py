"""Strict, safe YAML: plain data only, and the line of every key.

Differs from PyYAML's safe loader where that one surprises: only ``true`` and ``false`` are booleans (``on``, ``NO``, ``yes``
stay text), no octal, base-60 or date values (``0123`` and ``12:30:00`` stay text), ``1e-3`` is a number, a key given twice is
a problem, tags and merge keys are refused, and size, depth and aliases are limited.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pet.config.problem import ConfigError, Problem

SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 40

NULL = re.compile(r"(?:~|null|Null|NULL|None)?")
BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,39})")
FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?")
INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Document:
    """The content of one YAML file.

    Attributes:
        name: the file as messages show it.
        data: nested plain values.
        lines: path of a key -> line, 1-based.
        problems: keys given twice.
    """

    name: str
    data: dict[str, Any]
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def where(self, path: tuple[str, ...]) -> str:
        """``file:line`` of a key, or of the nearest map around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines[path]}" if path else self.name


def resolve(text: str) -> None | bool | int | float | str:
    """The value of an unquoted YAML scalar."""
    if NULL.fullmatch(text):
        return None
    if BOOL.fullmatch(text):
        return text.lower() == "true"
    if INT.fullmatch(text):
        return int(text)
    if FLOAT.fullmatch(text):
        return float(text)
    if INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def load_text(text: str, name: str) -> Document:
    """Parse YAML whose top level is a map (or nothing); a ``ConfigError`` names file and line of what is refused."""
    builder = _Builder(text, name)
    data = builder.build()
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise _refusal(name, 1, "the top level of a config is a map of sections (MISC:, SOLVER:, ...)")
    return Document(name, data, builder.lines, builder.problems)


def load_file(path: str | Path) -> Document:
    """Read one YAML file, without its ``_BASE_``."""
    path = Path(path)
    name = display(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError([Problem(name, f"a config is a {' or '.join(SUFFIXES)} file (data, never code)")])
    try:
        with open(path, "rb") as handle:
            content = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([Problem(name, f"cannot be read: {error.strerror}")]) from error
    if len(content) > MAX_BYTES:
        raise ConfigError([Problem(name, f"is larger than {MAX_BYTES >> 20} MiB, the limit of a config")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refusal(name, line, f"is not UTF-8 text (byte {content[error.start]:#04x})") from error
    return load_text(text, name)


def parse_value(text: str, typed: bool = True) -> Any:
    """The value of a piece of YAML, e.g. ``[1, 2]``; ``typed=False`` keeps every scalar as text.

    Raises:
        ConfigError: the text is no YAML.
    """
    return _Builder(text, "value", typed).build()


def display(path: str | Path) -> str:
    """A path as messages show it: relative to the current folder where it lies inside."""
    absolute = os.path.abspath(path)
    inside = os.path.commonpath([absolute, os.getcwd()]) == os.getcwd()
    return os.path.relpath(absolute) if inside else absolute


def _refusal(name: str, line: int, message: str) -> ConfigError:
    return ConfigError([Problem(f"{name}:{line}", message)])


class _Builder:
    """Builds plain values from parser events, so that tags, anchors and lines are seen before anything is made of them."""

    def __init__(self, text: str, name: str, typed: bool = True) -> None:
        self.name, self.typed = name, typed
        self.lines: dict[tuple[str, ...], int] = {}
        self.problems: list[Problem] = []
        self._events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        # An anchor maps to its value and to the number of nodes in it; None while it is being built.
        self._anchors: dict[str, tuple[Any, int] | None] = {}
        self._nodes = 0

    def build(self) -> Any:
        """The value of the only document; ``None`` if there is none."""
        try:
            self._next()  # start of the stream
            event = self._next()
            if isinstance(event, yaml.StreamEndEvent):
                return None
            value = self._value(self._next(), ())
            self._next()  # end of the document
            event = self._next()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            reason = "; ".join(part for part in (error.context, error.problem) if part)
            raise _refusal(self.name, mark.line + 1 if mark else 1, f"is no valid YAML: {reason}") from error
        except yaml.YAMLError as error:
            raise ConfigError([Problem(self.name, f"is no valid YAML: {' '.join(str(error).split())}")]) from error
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._refuse(event, "a config file holds one document; remove the second '---'")
        return value

    def _next(self) -> Any:
        return next(self._events)

    def _refuse(self, event: Any, message: str) -> ConfigError:
        return _refusal(self.name, event.start_mark.line + 1, message)

    def _value(self, event: Any, path: tuple[str, ...], depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise self._refuse(event, f"is nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.tag is not None and event.tag != "!":
            raise self._refuse(event, f"tag {event.tag!r} is refused: a config holds plain values only")
        self._count(event, 1)
        first = self._nodes
        if event.anchor:
            self._anchors[event.anchor] = None
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = resolve(event.value) if self.typed and event.implicit[0] else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(path, depth)
        else:
            value = self._mapping(path, depth)
        if event.anchor:
            self._anchors[event.anchor] = (value, self._nodes - first + 1)
        return value

    def _sequence(self, path: tuple[str, ...], depth: int) -> list[Any]:
        values = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            values.append(self._value(event, (*path, "[]"), depth + 1))
        return values

    def _mapping(self, path: tuple[str, ...], depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        seen: dict[str, int] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            name = self._key(event)
            here, line = (*path, name), event.start_mark.line + 1
            value = self._value(self._next(), here, depth + 1)
            if name in seen:
                text = f"is given twice, in lines {seen[name]} and {line}; remove one"
                self.problems.append(Problem(".".join(here), text, f"{self.name}:{line}"))
            seen[name] = self.lines[here] = line
            values[name] = value
        return values

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.tag not in (None, "!"):
            raise self._refuse(event, "a key is plain text")
        if event.value == "<<" and event.implicit[0]:
            raise self._refuse(event, "merge keys (<<) are refused; share settings with _BASE_")
        self._count(event, 1)
        return str(event.value)

    def _alias(self, event: Any) -> Any:
        known = self._anchors.get(event.anchor, (None, -1))
        if known is None:
            raise self._refuse(event, f"alias *{event.anchor} stands inside its own anchor")
        value, size = known
        if size < 0:
            raise self._refuse(event, f"alias *{event.anchor} has no anchor &{event.anchor} before it")
        self._count(event, size)
        return value

    def _count(self, event: Any, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._refuse(event, f"holds more than {MAX_NODES} values (aliases expanded), the limit of a config")
