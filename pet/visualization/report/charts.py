"""Curves of a run as plain values that the script of the page draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pet.utils.metrics_file import Row
from pet.visualization.curves import Curve, main_names

_MOST_POINTS, _MOST_PANELS = 800, 6
_TIMES = ("time", "data_time")


def charts_of(rows: list[Row], best: str = "") -> list[dict[str, Any]]:
    """Panels in the order of the page; those without values are left out.

    Args:
        rows: of ``metrics.json``.
        best: metric that decides which checkpoint is the best; it is always shown at first.

    Returns:
        title, unit, epoch (updates of one, 0 if unknown), and series: name, x, y (``None`` interrupts the line), on (shown at
        first).
    """
    training, evaluated = _columns(rows)
    panels: list[tuple[str, str, dict[str, Curve], set[str] | None]] = []
    losses = {name: curve for name, curve in training.items() if "loss" in name}
    if len(losses) == 2 and "total_loss" in losses:  # the only term is the total
        losses = {"total_loss": losses["total_loss"]}
    panels.append(("Losses", "", dict(sorted(losses.items(), key=lambda item: item[0] != "total_loss")), None))
    for dataset, curves in evaluated.items():
        shown = {*main_names(curves), best.rpartition("/")[2]}
        panels.append((f"Results on {dataset}" if dataset else "Results", "", curves, shown))
    panels.append(("Learning rate", "", {"lr": training["lr"]} if "lr" in training else {}, None))
    other = {name: curve for name, curve in training.items() if name not in (*losses, *_TIMES, "lr") and "loss" not in name}
    panels += [(name, "", {name: curve}, None) for name, curve in list(other.items())[:_MOST_PANELS]]
    panels.append(("Seconds of an update", "s", {name: training[name] for name in _TIMES if name in training}, None))
    epoch = _updates_of_an_epoch(rows)
    return [_panel(title, unit, curves, shown, epoch) for title, unit, curves, shown in panels if curves]


def _columns(rows: list[Row]) -> tuple[dict[str, Curve], dict[str, dict[str, Curve]]]:
    """Training values by name, and results by data set and metric."""
    training: dict[str, Curve] = {}
    evaluated: dict[str, dict[str, Curve]] = {}
    for row in rows:
        for name in [name for name in row if name not in ("iteration", "epoch", "eval")]:
            training.setdefault(name, Curve()).add(row["iteration"], _value(row[name]))
        for name, value in (row.get("eval") or {}).items():
            dataset, metric = split_name(name)
            evaluated.setdefault(dataset, {}).setdefault(metric, Curve()).add(row["iteration"], _value(value))
    return training, evaluated


def split_name(name: str) -> tuple[str, str]:
    """Data set and metric of ``<data set>/<metric>``; a metric of a class has a further part."""
    dataset, slash, metric = name.partition("/")
    return (dataset, metric) if slash else ("", name)


def _value(value: Any) -> float:
    """A number, or NaN for what JSON could not hold."""
    return float(value) if isinstance(value, int | float) else math.nan


def _updates_of_an_epoch(rows: list[Row]) -> float:
    known = [row for row in rows if isinstance(row.get("epoch"), int | float) and row["epoch"] > 0]
    return float(known[-1]["iteration"] / known[-1]["epoch"]) if known else 0.0


def _panel(title: str, unit: str, curves: Mapping[str, Curve], shown: set[str] | None, epoch: float) -> dict[str, Any]:
    series = []
    for name, curve in sorted(curves.items(), key=lambda item: shown is not None and item[0] not in shown):
        x, y = thinned(curve)
        series.append({"name": name, "x": x, "y": y, "on": shown is None or name in shown})
    return {"title": title, "unit": unit, "epoch": epoch, "series": series}


def thinned(curve: Curve, limit: int = _MOST_POINTS) -> tuple[list[float], list[float | None]]:
    """At most ``limit`` points: of equal parts of a longer curve the lowest and the highest value, so that no peak is lost."""
    count = len(curve.x)
    chosen = list(range(count))
    if count > limit:
        chosen = [0, count - 1]
        parts = (limit - 2) // 2
        for part in range(parts):
            rows = range(part * count // parts, (part + 1) * count // parts)
            finite = [row for row in rows if math.isfinite(curve.y[row])] or list(rows)
            chosen += [min(finite, key=lambda row: curve.y[row]), max(finite, key=lambda row: curve.y[row])]
    order = sorted(set(chosen))
    return [curve.x[row] for row in order], [curve.y[row] if math.isfinite(curve.y[row]) else None for row in order]
