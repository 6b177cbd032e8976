"""Text stays inside its room, small images stay sharp, files appear whole."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pet.utils.images import write_png
from pet.visualization.canvas import INK, blank, fit, put_text, put_text_upwards, shorten, text_width, tile_grid


def ink_box(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right end of what is not white."""
    rows, columns = np.nonzero((picture < 200).any(axis=2))
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


@pytest.mark.parametrize("width", [30, 60, 90])
def test_shortened_text_fits(width: int) -> None:
    text = shorten("a rather long class name", width, 8)
    assert text.endswith("..")
    assert text_width(text, 8) <= width
    assert shorten("cat", 60, 8) == "cat"


@pytest.mark.parametrize("anchor", ["left", "centre", "right"])
def test_text_is_written_where_it_was_asked_for(anchor: str) -> None:
    picture = blank(40, 300)
    put_text(picture, "HORSE", 150, 30, 10, INK, anchor)
    top, bottom, left, right = ink_box(picture)
    expected = {"left": left, "centre": (left + right) / 2, "right": right}[anchor]
    assert abs(expected - 150) <= 4
    assert abs(bottom - 30) <= 2
    assert 8 <= bottom - top <= 12


def test_text_upwards_rises_from_its_start_and_is_cut_at_the_border() -> None:
    picture = blank(100, 40)
    put_text_upwards(picture, "HORSE", 20, 80, 10)
    top, bottom, left, right = ink_box(picture)
    assert bottom - top > right - left
    assert abs(bottom - 80) <= 4
    assert abs(right - 20) <= 2
    put_text_upwards(picture, "a text that is much longer than the picture is high", 20, 80, 10)


@pytest.mark.parametrize(("side", "expected"), [(28, 196), (32, 192), (64, 192)])
def test_small_images_grow_by_a_whole_factor(side: int, expected: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    grown = fit(image, 196)
    assert grown.shape == (expected, expected, 3)
    np.testing.assert_array_equal(grown[:: expected // side, :: expected // side], image)


@pytest.mark.parametrize(
    ("shape", "expected"), [((100, 50), (196, 98)), ((300, 600), (98, 196)), ((1, 1000), (1, 196)), ((120, 120), (196, 196))]
)
def test_other_images_keep_their_proportions(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit(np.zeros((*shape, 3), np.uint8), 196).shape[:2] == expected


def test_tiles_are_laid_out_row_by_row() -> None:
    tiles = [blank(10, 20, (n, n, n)) for n in range(5)]
    picture = tile_grid(tiles, columns=2, gap=4)
    assert picture.shape == (4 + 3 * 14, 4 + 2 * 24, 3)
    assert [int(picture[4 + 14 * (n // 2), 4 + 24 * (n % 2), 0]) for n in range(5)] == [0, 1, 2, 3, 4]


def test_written_picture_reads_back_equal_with_red_as_red(tmp_path: Path) -> None:
    picture = blank(8, 9, (200, 10, 30))
    path = tmp_path / "vis" / "a.png"
    write_png(path, picture)
    np.testing.assert_array_equal(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], picture)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="written as PNG"):
        write_png(tmp_path / "a.jpg", blank(2, 2))
    with pytest.raises(ValueError, match="uint8"):
        write_png(tmp_path / "a.png", np.zeros((2, 2, 3)))  # type: ignore[arg-type]
