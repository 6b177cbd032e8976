"""Tables of numbers by class, for the log and the console."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LIMIT = 30


class ClassNumbers(NamedTuple):
    """Numbers of the classes of a data set.

    Attributes:
        names: C names.
        columns: title to (C,) numbers; the first one says which classes are the worst.
    """

    names: Sequence[str]
    columns: Mapping[str, NDArray[Any]]

    def lines(self) -> list[str]:
        """As text, see ``metric_table_lines``."""
        return metric_table_lines(self.columns, self.names)

    def plain(self) -> dict[str, list[Any]]:
        """As plain values: ``class`` and the columns, lists of equal length."""
        return {"class": list(self.names), **{title: np.asarray(values).tolist() for title, values in self.columns.items()}}


def metric_table_lines(
    columns: Mapping[str, NDArray[Any]], class_names: Sequence[str], limit: int = LIMIT, first: str = "class"
) -> list[str]:
    """One line for each class; ``-`` stands for a number that has no meaning.

    Args:
        columns: title to (C,) numbers, floating point with two decimals, integers as they are. The first one says which
            classes are the worst.
        class_names: C names.
        limit: with more classes, those with the lowest first column, lowest first.
        first: title of the names.
    """
    lines: list[str] = []
    order = list(range(len(class_names)))
    if len(order) > limit:
        title, values = next(iter(columns.items()))
        order = np.argsort(values, kind="stable")[:limit].tolist()  # NaN comes last
        lines.append(f"the {limit} lowest {title} of {len(class_names)} classes:")
    width = max([len(first), *(len(class_names[c]) for c in order)])
    widths = {title: max(9, len(title) + 2) for title in columns}
    lines.append(f"{first:<{width}}" + "".join(f"{title:>{widths[title]}}" for title in columns))
    for c in order:
        cells = "".join(f"{number(values[c]):>{widths[title]}}" for title, values in columns.items())
        lines.append(f"{class_names[c]:<{width}}{cells}")
    return lines


def number(value: Any) -> str:
    """A number as the text of a table cell."""
    if isinstance(value, int | np.integer):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.2f}"


def result_line(results: Mapping[str, float]) -> str:
    """All results in one line."""
    return "  ".join(f"{name} {number(float(value))}" for name, value in results.items())


def nan_mean(values: NDArray[Any]) -> float:
    """Mean of the numbers that have a meaning; NaN, without a warning, if none has."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
