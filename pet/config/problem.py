"""What is wrong with a config, and the one report of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing to correct.

    Attributes:
        key: full key, e.g. ``SOLVER.OPTIMIZER.BASE_LR``; a file name where no key is concerned.
        message: what is allowed and what to do.
        where: ``file:line`` or ``command line``; ``check_cfg`` fills it in for a check of several keys.
        value: the value as text; likewise filled in.
        related: other keys the problem depends on. Their values and origins are added to the report, and the problem is
            left out if one of them is wrong itself.
    """

    key: str
    message: str
    where: str = ""
    value: str = ""
    related: tuple[str, ...] = ()

    def __str__(self) -> str:
        subject = f"{self.key} is {self.value}" if self.value else self.key
        at = f" ({self.where})" if self.where else ""
        return f"{subject}{at}{';' if self.value else ':'} {self.message}"


class ConfigError(ValueError):
    """All problems of a config in one report; ``problems`` holds them one by one."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"the config has {count} problem{'s' if count > 1 else ''}:"]
        lines += [f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1)]
        return "\n".join(lines)


def show(value: Any, limit: int = 80) -> str:
    """``repr`` of a value, shortened to ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."
