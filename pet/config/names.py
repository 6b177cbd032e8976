"""The nearest existing key for one that does not exist."""

from __future__ import annotations

from collections.abc import Iterable

from pet.config.upstream import pet_key
from pet.utils.suggest import nearest


def suggest(full_key: str, keys: Iterable[str]) -> str:
    """``" Did you mean ...?"`` over the full paths of ``keys`` and of their sections, or an empty string.

    A key of the same last name elsewhere counts most: ``SOLVER.BASE_LR`` finds ``SOLVER.OPTIMIZER.BASE_LR``. For a key of
    OpenMMLab's configs the text names what Pet has instead.
    """
    instead = pet_key(full_key)
    if instead:
        return f" It is a key of OpenMMLab's configs; in Pet: {instead}"
    names = _with_sections(keys)
    last = _last(full_key)
    same = [name for name in names if _last(name) == last.upper()]
    if 1 <= len(same) <= 3:
        found, *others = nearest(full_key, same, count=3, cutoff=0.0)
        return f" Did you mean '{found}'?" + (f" It also exists as {' and '.join(others)}." if others else "")
    close = nearest(full_key, names, count=1)
    if not close:
        similar = nearest(last, {_last(name) for name in names}, count=1)
        close = nearest(full_key, [name for name in names if _last(name) in similar], count=1, cutoff=0.0)
    return f" Did you mean '{close[0]}'?" if close else ""


def _with_sections(keys: Iterable[str]) -> list[str]:
    names: dict[str, None] = {}
    for key in keys:
        parts = key.split(".")
        names |= dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return list(names)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
