"""Nearest names for messages about a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, candidates: Iterable[str], count: int = 3, cutoff: float = 0.6) -> list[str]:
    """The closest candidates to ``name``, best first, ignoring case."""
    by_lower: dict[str, str] = {}
    for candidate in candidates:
        by_lower.setdefault(candidate.lower(), candidate)
    matches = difflib.get_close_matches(name.lower(), list(by_lower), n=count, cutoff=cutoff)
    return [by_lower[m] for m in matches]


def did_you_mean(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str:
    """``" Did you mean 'x'?"`` for the nearest candidate, or an empty string."""
    found = nearest(name, candidates, count=1, cutoff=cutoff)
    return f" Did you mean '{found[0]}'?" if found else ""
