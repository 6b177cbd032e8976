"""The thirty fault campaigns: what is broken, what is promised, and how many times it is tried.

A campaign is a function ``(count, seed, folder) -> Figure``. ``make faults`` runs each with its full count and prints the
figures; ``test_campaigns.py`` runs each with a small count inside ``make test``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_MODULES = ("kills", "exactness", "preemption", "files", "non_finite", "ranks", "workers", "samples", "hostile")


@dataclass
class Figure:
    """What a campaign found.

    Attributes:
        good: trials that ended as promised.
        total: trials made.
        what: the unit of ``good``, such as ``equal`` or ``refused``.
        failures: a text for every trial that did not, enough to repeat it.
        extra: other numbers worth reporting, such as ``p95 stop time 3.1 s``.
    """

    good: int
    total: int
    what: str
    failures: list[str] = field(default_factory=list)
    extra: str = ""

    def __str__(self) -> str:
        return f"{self.good}/{self.total} {self.what}" + (f"; {self.extra}" if self.extra else "")

    def judge(self, problems: Sequence[str], trial: str) -> None:
        """Count a trial: as promised without ``problems``; ``trial`` says how to repeat it."""
        if problems:
            self.failures.append(f"{trial}: {'; '.join(problems)}")
        else:
            self.good += 1

    @property
    def kept(self) -> bool:
        """Whether every trial ended as promised."""
        return self.good == self.total > 0 and not self.failures


Campaign = Callable[[int, int, Path], Figure]


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes:
        id: ``F01`` to ``F30``.
        promise: what happens instead of a loss, in one line.
        small, full: number of trials inside ``make test`` and in ``make faults``.
        several: whether the campaign starts several ranks.
    """

    id: str
    promise: str
    small: int
    full: int
    several: bool
    run: Campaign


_FAULTS: dict[str, Fault] = {}


def fault(id: str, promise: str, *, small: int, full: int, several: bool = False) -> Callable[[Campaign], Campaign]:
    """Register a campaign under its number."""

    def register(run: Campaign) -> Campaign:
        assert id not in _FAULTS, f"{id} is there twice"
        _FAULTS[id] = Fault(id, promise, small, full, several, run)
        return run

    return register


def all_faults() -> list[Fault]:
    """Every campaign, by number."""
    return faults_of(*_MODULES)


def faults_of(*modules: str) -> list[Fault]:
    """The campaigns of some modules, by number."""
    for name in modules:
        importlib.import_module(f"tests.faults.{name}")
    return [_FAULTS[id] for id in sorted(_FAULTS) if _FAULTS[id].run.__module__.rpartition(".")[2] in modules]
