"""Pictures of precision and recall, F1 and receiver operating characteristics of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pet.visualization.canvas import SERIES, Picture
from pet.visualization.curves import Curve, draw_curves

Floats = NDArray[np.floating[Any]]
_ALL = "all classes"
_NAMED = len(SERIES) - 1
_UNIT = (0.0, 1.0)


class PrecisionRecall(Protocol):
    """What is read of ``pet.evaluation.precision_recall.PrecisionRecall``: R recalls, C classes, NaN without ground truth."""

    recalls: Floats
    precisions: Floats

    def f1_by_score(self, grid: Floats) -> Floats:
        """(G, C)."""


def draw_precision_recall(curves: PrecisionRecall, class_names: Sequence[str], title: str = "") -> Picture:
    """Precision over recall; the legend gives the average precision, percent.

    The mean over classes and the seven classes with the lowest precision have names and colours, the others are faint.

    Args:
        curves: of C classes.
        class_names: C names.
        title: first words above the picture.
    """
    head = f"{title}: precision over recall"
    return _draw(curves.recalls, curves.precisions, class_names, head, "recall", lambda column: f"AP {100 * column.mean():.1f}")


def draw_f1(curves: PrecisionRecall, class_names: Sequence[str], title: str = "") -> Picture:
    """F1 over the score that a detection needs; the legend gives the best F1 and its score. Arguments as for precision."""
    grid = np.linspace(0.0, 1.0, 101)

    def best(column: Floats) -> str:
        return f"{column.max():.2f} at {grid[int(column.argmax())]:.2f}"

    return _draw(grid, curves.f1_by_score(grid), class_names, f"{title}: F1 over the score needed", "score", best)


def draw_roc(false_rates: Floats, true_rates: Floats, class_names: Sequence[str], title: str = "") -> Picture:
    """True over false positive rate; the legend gives the area under the curve.

    Args:
        false_rates: (R,) ascending.
        true_rates: (R, C); NaN for a class that cannot be judged.
        class_names: C names.
        title: first words above the picture.
    """
    head = f"{title}: true over false positive rate"

    def area(column: Floats) -> str:
        return f"AUC {np.trapezoid(column, false_rates):.3f}"

    return _draw(false_rates, true_rates, class_names, head, "false rate", area)


def _draw(
    x: Floats,
    columns: Floats,
    class_names: Sequence[str],
    title: str,
    x_label: str,
    note: Callable[[Floats], str],
) -> Picture:
    """Columns (R, C) as curves over x (R,): their mean, the lowest ones in colour, the others behind."""
    known = np.flatnonzero(~np.isnan(columns).any(axis=0))
    order = known[np.argsort(columns[:, known].mean(axis=0), kind="stable")]
    named = sorted(order[:_NAMED].tolist())
    shown: dict[str, Floats] = {_ALL: columns[:, known].mean(axis=1)} if len(known) else {}
    shown |= {class_names[c]: columns[:, c] for c in named}
    if len(order) > _NAMED:
        title += f", the {_NAMED} lowest of {len(order)} classes in colour"
    return draw_curves(
        {name: _curve(x, column) for name, column in shown.items()},
        title,
        _UNIT,
        x_label,
        behind=[_curve(x, columns[:, c]) for c in order[_NAMED:]],
        notes={name: note(column) for name, column in shown.items()},
        y_range=_UNIT,
    )


def _curve(x: Floats, y: Floats) -> Curve:
    return Curve(x.tolist(), y.tolist())
