"""Maps are drawn in the colours of their classes, with a legend of those present."""

from __future__ import annotations

import numpy as np
import pytest

from pet.visualization import draw_legend, draw_panoptic, draw_semantic, palette
from pet.visualization.segments import resize_map

NAMES = ["road", "sky", "car"]


def halves() -> np.ndarray:
    classes = np.zeros((480, 640), np.uint8)
    classes[:, 320:] = 1
    return classes


def image() -> np.ndarray:
    return np.full((480, 640, 3), 100, np.uint8)


@pytest.mark.parametrize("name", ["distinct", "cityscapes", "voc", "coco", "random"])
def test_pixels_take_the_colour_of_their_class(name: str) -> None:
    picture = draw_semantic(image(), halves(), NAMES, colours=name, legend=False)
    expected = np.round(100 * 0.4 + palette(name, 3) * 0.6)
    np.testing.assert_array_equal(picture[240, 100], expected[0])
    np.testing.assert_array_equal(picture[240, 500], expected[1])


def test_pixels_that_are_not_judged_stay_as_they_are() -> None:
    classes = halves()
    classes[:, 320:] = 255
    assert (draw_semantic(image(), classes, NAMES, legend=False)[:, 325:] == 100).all()
    assert (draw_semantic(image(), np.full_like(classes, 255), NAMES)[:480] == 100).all()


def test_the_legend_has_the_classes_that_are_present_and_no_others() -> None:
    picture = draw_semantic(image(), halves(), NAMES)
    assert picture.shape[0] > 480
    below = {tuple(c) for c in np.unique(picture[480:].reshape(-1, 3), axis=0).tolist()}
    colours = [tuple(c) for c in palette("distinct", 3).tolist()]
    assert [colour in below for colour in colours] == [True, True, False]


def test_a_long_legend_says_how_many_more_there_are() -> None:
    colours = [tuple(c) for c in palette("distinct", 100).tolist()]
    picture = draw_legend([f"class {i}" for i in range(100)], colours, 640, 9)  # type: ignore[arg-type]
    drawn = {tuple(c) for c in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert sum(c in drawn for c in colours) == 59


def test_things_differ_by_instance_and_stuff_does_not() -> None:
    ids = np.ones((480, 640), np.int32)
    ids[100:200, 100:200], ids[100:200, 400:500], ids[300:400, 100:200] = 2, 3, 4
    segments = [{"id": 1, "label": 1}, {"id": 2, "label": 2}, {"id": 3, "label": 2}, {"id": 4, "label": 1}]
    picture = draw_panoptic(image(), ids, segments, NAMES, [False, False, True], names=False)
    assert tuple(picture[150, 150]) != tuple(picture[150, 450])
    assert tuple(picture[350, 150]) == tuple(picture[20, 20])


def test_void_and_names() -> None:
    ids = np.zeros((480, 640), np.int32)
    ids[:, :320] = 7
    segments = [{"id": 7, "label": 1, "score": 0.9, "crowd": False}]
    plain, named = (draw_panoptic(image(), ids, segments, NAMES, [False] * 3, names=names) for names in (False, True))
    assert (named[:, 325:] == 100).all()
    assert (plain != named).any()


def test_tiny_maps_are_enlarged_without_new_values() -> None:
    classes = np.random.default_rng(0).integers(0, 3, (24, 32)).astype(np.uint8)
    assert draw_semantic(np.zeros((24, 32, 3), np.uint8), classes, NAMES, legend=False).shape == (360, 480, 3)
    np.testing.assert_array_equal(resize_map(classes, (240, 320))[5::10, 5::10], classes)
    assert set(np.unique(resize_map(classes, (17, 50)))) <= {0, 1, 2}


def test_a_map_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="must be the same"):
        draw_semantic(image(), np.zeros((10, 10), np.uint8), NAMES)
