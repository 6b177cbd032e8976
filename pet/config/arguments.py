"""``KEY VALUE`` and ``KEY=VALUE`` words of a command line."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from pet.config.problem import Problem

_PAIR = re.compile(r"([A-Za-z_][\w\-]*(?:\.[\w\-]+)*)=(.*)", re.DOTALL)


def split_arguments(words: Iterable[Any], known: Collection[str], where: str) -> tuple[list[tuple[str, Any]], list[Problem]]:
    """Pairs of key and value, and a problem for every KEY that has no VALUE.

    Args:
        words: the words; a value may be any Python object.
        known: full keys, by which a forgotten VALUE is recognised when another KEY follows.
        where: origin, for messages.
    """
    pairs: list[tuple[str, Any]] = []
    problems: list[Problem] = []
    left = list(words)
    while left:
        name = left.pop(0)
        pair = _PAIR.fullmatch(name) if isinstance(name, str) else None
        if pair:
            pairs.append((pair[1], pair[2]))
        elif not isinstance(name, str) or not name:
            problems.append(Problem(repr(name), "expected KEY VALUE or KEY=VALUE", where))
        elif not left or _is_key(left[0], known):
            problems.append(Problem(name, f"has no VALUE; write {name} VALUE or {name}=VALUE", where))
        else:
            pairs.append((name, left.pop(0)))
    return pairs, problems


def _is_key(word: Any, known: Collection[str]) -> bool:
    if not isinstance(word, str):
        return False
    pair = _PAIR.fullmatch(word)
    return (pair[1] if pair else word) in known
