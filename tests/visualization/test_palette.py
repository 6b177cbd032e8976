"""Classes keep their colours, and readers of any colour vision tell the first ones apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pet.visualization.palette import PALETTES, ink_on, palette, seen_by_all, variant


@pytest.mark.parametrize("name", list(PALETTES))
def test_a_class_keeps_its_colour_when_others_are_added(name: str) -> None:
    np.testing.assert_array_equal(palette(name, 5), palette(name, 300)[:5])
    assert palette(name, 300).shape == (300, 3)
    assert palette(name, 300).dtype == np.uint8


def test_no_two_of_the_first_twenty_look_alike_to_any_reader() -> None:
    seen = seen_by_all(palette("distinct", 20).astype(float))
    distance = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1).min(axis=0)
    assert distance[~np.eye(20, dtype=bool)].min() > 15  # about 2 are just noticeable


def test_all_computed_colours_differ() -> None:
    assert len(np.unique(palette("distinct", 256), axis=0)) == 256


def test_coco_colours_are_those_of_its_category_file(shared_data: Path) -> None:
    file = shared_data / "segmentation" / "coco_panoptic_sample" / "panoptic_coco_categories.json"
    np.testing.assert_array_equal(palette("coco", 133), [c["color"] for c in json.loads(file.read_text())])


def test_voc_colours_are_the_published_ones() -> None:
    # background, aeroplane, bicycle, bird, ..., tvmonitor
    expected = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
    }
    assert {label: tuple(palette("voc", 21)[label].tolist()) for label in expected} == expected


def test_cityscapes_begins_with_road_and_ends_with_bicycle() -> None:
    colours = palette("cityscapes", 19).tolist()
    assert (colours[0], colours[11], colours[18]) == ([128, 64, 128], [220, 20, 60], [119, 11, 32])


def test_text_contrasts_with_its_ground_and_shades_differ() -> None:
    assert ink_on((240, 228, 66)) == (0, 0, 0)
    assert ink_on((0, 60, 120)) == (255, 255, 255)
    assert len({variant((86, 180, 233), number) for number in range(7)}) == 7
    assert variant((86, 180, 233), 0) == (86, 180, 233)


def test_an_unknown_palette_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'cityscapes'"):
        palette("cityscape", 3)
