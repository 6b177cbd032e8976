"""Statistics of data sets, curves of classes and plots show what was measured."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from pet.data.datasets.shapes import ShapesDataset
from pet.evaluation.precision_recall import precision_recall, roc
from pet.visualization.plots import draw_bars, draw_density, draw_histogram
from pet.visualization.precision_recall import draw_f1, draw_precision_recall, draw_roc
from pet.visualization.statistics import draw_statistics, object_statistics, pixel_shares

BLUE = (60, 110, 180)


def shapes(**options) -> ShapesDataset:
    return ShapesDataset("drawn", None, None, True, labels="all", num_images=30, image_size=48, num_shapes=2, **options)


class Few(SimpleNamespace):
    """A data set of two pictures."""

    def __len__(self) -> int:
        return 2


def coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == np.array(colour)).all(axis=2)


def test_objects_are_counted_as_the_data_set_counts_them() -> None:
    dataset = shapes()
    statistics = object_statistics(dataset)
    assert statistics.counts.tolist() == dataset.instance_counts()["usable"].tolist()
    assert statistics.each.sum() == statistics.counts.sum() == len(statistics.boxes)
    rows = dataset.annotations(0)
    x1, y1, x2, y2 = rows.boxes[0].tolist()
    expected = [(x1 + x2) / 2 / rows.width, (y1 + y2) / 2 / rows.height, (x2 - x1) / rows.width, (y2 - y1) / rows.height]
    found = np.flatnonzero(np.abs(statistics.boxes - expected).max(axis=1) < 1e-6)
    assert len(found) == 1
    assert statistics.pixels[found[0]].tolist() == pytest.approx([x2 - x1, y2 - y1], abs=1e-5)


def test_a_slow_data_set_is_looked_at_for_seconds_only_but_everywhere_in_it() -> None:
    class Slow(SimpleNamespace):
        def __len__(self) -> int:
            return 3000

    seen: list[int] = []
    one = SimpleNamespace(boxes=np.ones((1, 4)), labels=np.zeros(1, np.int64), width=9, height=9)

    def read(value: object) -> Callable[[int], object]:
        return lambda index: (seen.append(index), value)[1]

    dataset = Slow(annotations=read(one), semseg=read(np.zeros((2, 2), np.uint8)), usable=lambda rows: [True], class_names=["a"])
    quarters = [
        lambda: object_statistics(dataset, clock=lambda: len(seen) / 4).pictures,
        lambda: pixel_shares(dataset, 1, clock=lambda: len(seen) / 4)[1],
    ]
    for looked_at in quarters:
        seen.clear()
        assert looked_at() == len(seen) == len(set(seen)) == 20, "a quarter of a second each, five seconds"
        assert {index // 1000 for index in seen} == {0, 1, 2}
        first = list(seen)
        seen.clear()
        looked_at()
        assert seen == first


def test_shares_of_pixels_add_up_to_all_that_are_judged() -> None:
    dataset = shapes()
    shares, looked_at = pixel_shares(dataset, len(dataset.semseg_names))
    assert looked_at == 30
    assert shares.sum() == pytest.approx(100)
    counts = np.bincount(np.concatenate([dataset.semseg(i).ravel() for i in range(30)]), minlength=256)
    assert shares[0] == pytest.approx(100 * counts[0] / counts[:255].sum())


@pytest.mark.parametrize("wanted", [("boxes",), ("semseg",), ("boxes", "masks", "semseg"), ("label",), ()], ids="+".join)
def test_what_is_trained_on_is_what_is_drawn(wanted) -> None:
    dataset = shapes()
    dataset.want(wanted)
    parts = 2 if {"boxes", "semseg"} <= set(wanted) else 1
    picture = draw_statistics(dataset)
    assert picture.dtype == np.uint8
    first_bar_of_a_class = coloured(picture, (86, 180, 233)).any(axis=1)
    starts = np.flatnonzero(np.diff(first_bar_of_a_class.astype(int)) == 1)
    assert len(starts) == (parts if wanted else 0)


def test_a_set_without_any_object_is_drawn_too() -> None:
    empty = SimpleNamespace(
        boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64), width=9, height=9, crowd=np.zeros(0, bool)
    )
    read = {"annotations": lambda index: empty, "usable": lambda rows: ~rows.crowd}
    dataset = Few(name="none", class_names=["a"], wanted={"boxes"}, **read)
    assert object_statistics(dataset).each.tolist() == [0, 0]
    assert not coloured(draw_statistics(dataset), (8, 48, 107)).any(), "no centre of a box"


def test_several_labels_of_a_picture_are_counted_one_by_one() -> None:
    labels = np.array([[1, 1, 0], [0, 1, 0]])
    picture = draw_statistics(Few(name="many", class_names=["a", "b", "c"], labels=lambda: labels))
    lengths = [coloured(picture, colour).any(axis=0).sum() for colour in ((86, 180, 233), (230, 159, 0), (0, 158, 115))]
    assert lengths == [130, 260, 0], "one of a, two of b, none of c"


def test_of_very_many_bars_the_largest_and_the_smallest_are_shown() -> None:
    values = np.arange(100)
    few, many = draw_bars(values[:41], [str(v) for v in values[:41]], ""), draw_bars(values, [str(v) for v in values], "")
    assert few.shape[0] == many.shape[0], "forty bars and the gap"


def test_a_histogram_keeps_what_lies_beyond_its_ends() -> None:
    picture = draw_histogram(np.array([-5.0, 0.5, 99.0]), np.array([0.0, 1.0, 2.0, 3.0]), [(1.0, "1")], "")
    heights = coloured(picture, BLUE).sum(axis=0)
    inside = heights[17:-17]
    assert inside[:50].max() == 2 * inside[-50:].max() > 0


def test_a_density_is_dark_where_points_are() -> None:
    picture = draw_density(np.array([0.01]), np.array([0.01]), "", ("x", "y"), downwards=True)
    dark = np.argwhere(coloured(picture, (8, 48, 107)))
    assert len(dark)
    assert dark[:, 1].max() < picture.shape[1] / 4
    assert dark[:, 0].max() < 34 + 30


def test_curves_of_classes_are_drawn_also_without_any_ground_truth() -> None:
    generator = np.random.default_rng(0)
    scores, targets = generator.random((60, 12)), generator.integers(0, 2, (60, 12))
    names = [f"class {c}" for c in range(12)]
    curves = precision_recall(scores, targets)
    rates, found, _ = roc(scores, targets)
    some = [draw_precision_recall(curves, names), draw_f1(curves, names), draw_roc(rates, found, names)]
    assert len({picture.tobytes() for picture in some}) == 3
    nothing = precision_recall(scores, np.zeros_like(targets))
    for picture in (draw_precision_recall(nothing, names), draw_f1(nothing, names)):
        assert picture.std() < min(one.std() for one in some), "it says that there is nothing to see"
