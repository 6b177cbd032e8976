"""Confusion matrices and curves show the numbers they are given."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pet.visualization import draw_confusion, draw_curves, draw_run, read_metrics
from pet.visualization.canvas import SERIES
from pet.visualization.curves import Curve, nice_ticks


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=2).any())


@pytest.mark.parametrize("classes", [1, 2, 12, 13, 30, 31, 61, 250, 1000])
def test_confusion_of_any_number_of_classes_is_drawn(classes: int) -> None:
    confusion = np.eye(classes, dtype=np.int64) * 7
    picture = draw_confusion(confusion, [f"class {c}" for c in range(classes)], "title")
    assert picture.dtype == np.uint8
    assert picture.shape[0] < 1300
    assert picture.shape[1] < 1300


def test_confusion_tints_the_diagonal_blue_and_mistakes_red() -> None:
    picture = draw_confusion(np.array([[9, 1], [0, 10]]), ["a", "b"]).astype(int)
    blue = (picture[..., 2] - picture[..., 0] > 80).sum()
    red = (picture[..., 0] - picture[..., 2] > 20).sum()
    cell = 46 * 46
    assert 1.5 * cell < blue < 2 * cell  # two cells, less their numbers
    assert 0.75 * cell < red < cell


def test_empty_confusion_and_wrong_names() -> None:
    assert draw_confusion(np.zeros((3, 3), np.int64), ["a", "b", "c"]).ndim == 3
    with pytest.raises(ValueError, match="does not fit 2 class names"):
        draw_confusion(np.zeros((3, 3), np.int64), ["a", "b"])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.0013, 0.0021), (-5, 12000), (97.2, 99.9), (3, 3), (0, 0), (1e-9, 2e-9)])
def test_ticks_are_round_and_enclose_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 12
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-9 * step
    assert ticks[-1] >= high - 1e-9 * step
    assert f"{step:.0e}"[0] in "125"


def test_metrics_file_is_read_by_panel_and_its_unfinished_last_line_ignored(tmp_path: Path) -> None:
    rows = [
        {"iteration": 10, "epoch": 1, "lr": 0.1, "total_loss": 2.0, "loss_cls": 1.5, "data_time": 0.1},
        {"iteration": 20, "epoch": 2, "eval": {"shapes_val/top1": 90.0}},
    ]
    path = tmp_path / "metrics.json"
    path.write_text("\n".join(json.dumps(row) for row in rows) + '\n{"itera')
    panels = read_metrics(path)
    assert {name: sorted(curves) for name, curves in panels.items()} == {
        "loss": ["loss_cls", "total_loss"],
        "lr": ["lr"],
        "metrics": ["shapes_val/top1"],
    }
    assert panels["metrics"]["shapes_val/top1"] == Curve([20.0], [90.0])
    assert draw_run(path, "run").shape == (34 + 3 * 250, 760, 3)


def test_damaged_metrics_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1, "lr": 1}\n[]\n{"iteration": 2, "lr": 1}\n')
    with pytest.raises(ValueError, match=r"metrics\.json:2: not a JSON object"):
        read_metrics(path)
    path.write_text("")
    with pytest.raises(ValueError, match="holds no losses"):
        draw_run(path)


def test_a_run_of_one_update_and_values_that_are_not_finite_are_drawn() -> None:
    assert has_colour(draw_curves({"loss": Curve([5.0], [1.0])}), SERIES[0])
    interrupted = Curve([1.0, 2.0, 3.0, 4.0], [1.0, math.nan, math.inf, 2.0])
    assert has_colour(draw_curves({"loss": interrupted}), SERIES[0])
    assert not has_colour(draw_curves({"loss": Curve([1.0], [math.nan])}), SERIES[0])


def test_more_curves_than_colours_are_told() -> None:
    curves = {f"loss_{n}": Curve([1.0, 2.0], [float(n), n + 1.0]) for n in range(len(SERIES) + 3)}
    assert has_colour(draw_curves(curves), SERIES[-1])
