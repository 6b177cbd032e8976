"""Picture of the curves of a run, from its metrics.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from pet.config import CfgNode
from pet.utils import comm
from pet.utils.images import write_png
from pet.utils.metrics_file import Row, read_rows
from pet.visualization.canvas import FAINT, INK, RULE, SERIES, Colour, Picture, blank, put_text, shorten, text_width

_WIDTH, _HEIGHT = 760, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 176, 36, 34
_SIZE = 8
_MOST_SERIES = len(SERIES)
# Fractional bits of the coordinates that OpenCV is given: smooth lines need more than whole pixels.
_SHIFT = 4


@dataclass
class Curve:
    """Values of one name.

    Attributes:
        x: updates, ascending.
        y: values; NaN and infinity interrupt the line.
    """

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)

    def add(self, x: float, y: float) -> None:
        """Append a point."""
        self.x.append(float(x))
        self.y.append(y)


def read_metrics(path: str | Path) -> dict[str, dict[str, Curve]]:
    """Curves of a metrics.json by panel (``loss``, ``lr``, ``metrics``) and name, over updates; see ``read_rows``."""
    panels: dict[str, dict[str, Curve]] = {"loss": {}, "lr": {}, "metrics": {}}
    for row in read_rows(path):
        for name, value in values_of(row).items():
            panel = _panel_of(name, name in row)
            if panel:
                panels[panel].setdefault(name, Curve()).add(row["iteration"], value)
    return panels


def values_of(row: Row) -> dict[str, float]:
    """All numbers of a row but its position, evaluations included."""
    values = {**row, **(row.get("eval") or {})}
    return {name: float(v) for name, v in values.items() if isinstance(v, int | float) and name not in ("iteration", "epoch")}


def _panel_of(name: str, training: bool) -> str:
    if not training:
        return "metrics"
    if name == "lr":
        return "lr"
    return "loss" if "loss" in name else ""


def draw_run(path: str | Path, title: str = "") -> Picture:
    """Loss, learning rate and evaluation metrics of a run, one above the other; panels without values are left out.

    Args:
        path: metrics.json of the run.
        title: text above the panels.

    Raises:
        ValueError: the file holds no values.
    """
    panels = {name: curves for name, curves in read_metrics(path).items() if curves}
    losses = panels.get("loss", {})
    if len(losses) == 2 and "total_loss" in losses:  # the only term is the total: one curve would hide the other
        panels["loss"] = {"total_loss": losses["total_loss"]}
    if "metrics" in panels:
        panels["metrics"] = _main_metrics(panels["metrics"])
    if not panels:
        raise ValueError(f"{path} holds no losses, learning rates or evaluations to draw")
    end = max(curve.x[-1] for curves in panels.values() for curve in curves.values())
    pictures = [draw_curves(curves, name, (0.0, end)) for name, curves in panels.items()]
    if title:
        head = blank(34, _WIDTH)
        put_text(head, shorten(title, _WIDTH - 32, 10), 16, 25, 10)
        pictures.insert(0, head)
    return np.concatenate(pictures)


def _main_metrics(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """Curves named by their metric alone if all are of one data set; of very many the main ones."""
    sets = {name.rpartition("/")[0] for name in curves}
    named = {name.rpartition("/")[2] if len(sets) == 1 else name: curve for name, curve in curves.items()}
    return {name: named[name] for name in main_names(named)}


def main_names(curves: Mapping[str, Curve]) -> list[str]:
    """The eight metrics with the shortest names: bbox_AP, not bbox_AR100, of those with a finite value."""
    finite = [name for name, curve in curves.items() if any(map(math.isfinite, curve.y))] or list(curves)
    shortest = sorted(finite, key=lambda name: len(name.rpartition("/")[2]))[:_MOST_SERIES]
    return [name for name in finite if name in shortest]


def draw_curves(
    curves: Mapping[str, Curve],
    title: str = "",
    x_range: tuple[float, float] | None = None,
    x_label: str = "update",
    *,
    behind: Sequence[Curve] = (),
    notes: Mapping[str, str] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Picture:
    """One panel of curves with axes, ticks and a legend (the first eight names) that gives the last values.

    Args:
        curves: values by name; without a finite one the panel says so.
        title: text above the panel.
        x_range: ends of the horizontal axis; ``None``: from the curves.
        x_label: unit of the horizontal axis.
        behind: more curves, faint and without a name.
        notes: texts in the legend instead of the last values.
        y_range: ends of the vertical axis; ``None``: from the curves.
    """
    points = [(x, y) for curve in curves.values() for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(y)]
    picture = blank(_HEIGHT, _WIDTH)
    put_text(picture, title, 16, 22, 9)
    if not points:
        put_text(picture, "no finite values", _WIDTH // 2, _HEIGHT // 2, _SIZE, FAINT, "centre")
        return picture
    low_x, high_x = x_range or (min(x for x, _ in points), max(x for x, _ in points))
    ticks_y = nice_ticks(*(y_range or (min(y for _, y in points), max(y for _, y in points))))
    axes = _Axes(low_x, max(high_x, low_x + 1), ticks_y[0], ticks_y[-1])
    _draw_axes(picture, axes, ticks_y, x_label)
    for curve in behind:
        _draw_line(picture, axes, curve, RULE, 1)
    for number, (name, curve) in enumerate(list(curves.items())[:_MOST_SERIES]):
        _draw_line(picture, axes, curve, SERIES[number])
        _draw_legend(picture, number, name, (notes or {}).get(name, f"{curve.y[-1]:.4g}"))
    if len(curves) > _MOST_SERIES:
        put_text(picture, f"and {len(curves) - _MOST_SERIES} more", _WIDTH - _RIGHT + 14, _HEIGHT - _BOTTOM + 2, _SIZE, FAINT)
    return picture


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers that enclose ``low`` to ``high``, at distances of 1, 2 or 5 times a power of ten."""
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        spread = abs(high) * 0.1 or 1.0
        low, high = low - spread, high + spread
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


@dataclass(frozen=True)
class _Axes:
    """Ranges of the values that the plot area shows."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixel of a value."""
        across = (x - self.low_x) / (self.high_x - self.low_x)
        up = (y - self.low_y) / (self.high_y - self.low_y)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)


def _draw_axes(picture: Picture, axes: _Axes, ticks_y: list[float], x_label: str) -> None:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tick in ticks_y:
        y = round(axes.place(axes.low_x, tick)[1])
        picture[y, _LEFT : right + 1] = RULE
        put_text(picture, f"{tick:.6g}", _LEFT - 8, y + _SIZE // 2, _SIZE, FAINT, "right")
    ticks_x = [tick for tick in nice_ticks(axes.low_x, axes.high_x, 6) if axes.low_x <= tick <= axes.high_x]
    for tick in ticks_x:
        x = round(axes.place(tick, axes.low_y)[0])
        picture[bottom : bottom + 5, x] = FAINT
        put_text(picture, f"{tick:.12g}", x, bottom + 18, _SIZE, FAINT, "centre")
    picture[bottom, _LEFT : right + 1] = FAINT
    put_text(picture, x_label, right + 36, bottom + 18, _SIZE, FAINT)


def _draw_line(picture: Picture, axes: _Axes, curve: Curve, colour: Colour, weight: int = 2) -> None:
    """The curve as strokes between finite values; a value without neighbours is a dot."""
    strokes: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(curve.x, curve.y, strict=True):
        if math.isfinite(y):
            strokes[-1].append(axes.place(x, y))
        elif strokes[-1]:
            strokes.append([])
    for stroke in strokes:
        pixels = (np.array(stroke).reshape(-1, 2) * 2**_SHIFT).round().astype(np.int32)
        cv2.polylines(picture, [pixels], False, colour, weight, cv2.LINE_AA, _SHIFT)
        if len(stroke) <= 30:
            for x, y in pixels.tolist():
                cv2.circle(picture, (x, y), 3 << _SHIFT, colour, -1, cv2.LINE_AA, _SHIFT)


def _draw_legend(picture: Picture, number: int, name: str, value: str) -> None:
    left, base = _WIDTH - _RIGHT + 14, _TOP + 12 + number * 22
    room = _RIGHT - 14 - 22 - 16 - text_width(value, _SIZE)
    cv2.line(picture, (left, base - 4), (left + 14, base - 4), SERIES[number], 3, cv2.LINE_AA)
    put_text(picture, shorten(name, room, _SIZE), left + 22, base, _SIZE, INK)
    put_text(picture, value, _WIDTH - 10, base, _SIZE, FAINT, "right")


def write_curves(cfg: CfgNode) -> None:
    """``<CKPT>/vis/curves.png``: loss, learning rate and results over the updates."""
    if cfg.VIS.ENABLED and comm.is_main_process():
        folder = Path(cfg.MISC.CKPT)
        write_png(folder / "vis" / "curves.png", draw_run(folder / "metrics.json", folder.name))
