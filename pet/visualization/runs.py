"""Curves of several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pet.utils.metrics_file import Row
from pet.utils.suggest import did_you_mean
from pet.visualization.canvas import Picture, blank, put_text, shorten
from pet.visualization.curves import Curve, draw_curves, values_of

DEFAULT_KEYS = ("total_loss", "lr")


def draw_runs(runs: Mapping[str, Sequence[Row]], keys: Sequence[str] = (), title: str = "", by_epoch: bool = False) -> Picture:
    """One panel for each key, in it one curve for each run.

    Args:
        runs: rows of metrics.json by the name of the run.
        keys: names of scalars or of metrics, these with or without their data set; none: total_loss and lr.
        title: text above the panels.
        by_epoch: the horizontal axis counts epochs instead of updates.

    Raises:
        KeyError: no run has one of the keys; the text lists those that exist.
    """
    known = sorted({name for rows in runs.values() for row in rows for name in values_of(row)})
    chosen = list(keys) or [key for key in DEFAULT_KEYS if key in known] or known[:1] or list(DEFAULT_KEYS)
    unit = "epoch" if by_epoch else "iteration"
    end = max((float(row[unit]) for rows in runs.values() for row in rows), default=1.0)
    label = "epoch" if by_epoch else "update"
    panels = [draw_curves(_panel(runs, key, known, unit), key, (0.0, end), label) for key in chosen]
    if title:
        head = blank(34, panels[0].shape[1])
        put_text(head, shorten(title, head.shape[1] - 32, 10), 16, 25, 10)
        panels.insert(0, head)
    return np.concatenate(panels)


def _panel(runs: Mapping[str, Sequence[Row]], key: str, known: Sequence[str], unit: str) -> dict[str, Curve]:
    """The curves of a key; of a metric that several data sets have, one for each of them."""
    names = [key] if key in known else [name for name in known if name.rpartition("/")[2] == key]
    if not names:
        hint = did_you_mean(key, [*known, *(name.rpartition("/")[2] for name in known)])
        raise KeyError(f"no run has values of '{key}'.{hint} There are: {', '.join(known) or 'none'}")
    curves: dict[str, Curve] = {}
    for run, rows in runs.items():
        for name in names:
            label = run if len(names) == 1 else f"{run} {name.rpartition('/')[0]}"
            points = [(row[unit], values_of(row)) for row in rows]
            found = [(x, values[name]) for x, values in points if name in values]
            if found:
                curves[label] = Curve([float(x) for x, _ in found], [y for _, y in found])
    return curves
