"""Prediction pictures show the chosen images, tell right from wrong, and do not depend on the number of processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pet.visualization import Prediction, PredictionPictures, prediction_grid, sample_mosaic
from pet.visualization.canvas import NEUTRAL, RIGHT, WRONG
from pet.visualization.predictions import spread_ids
from tests.helpers import run_ranks

NAMES = ["cat", "dog", "owl"]


@dataclass
class Inputs:
    ids: torch.Tensor
    images: torch.Tensor
    targets: dict[str, Any] = field(default_factory=dict)


def batch(ids: list[int]) -> tuple[Inputs, dict[str, torch.Tensor]]:
    chosen = torch.tensor(ids)
    images = (chosen * 10).to(torch.uint8)[:, None, None, None].expand(-1, 3, 28, 28)
    return Inputs(chosen, images, {"label": chosen % 3}), {"scores": torch.eye(3)[chosen % 2]}


def rank_pictures(rank: int, world: int) -> dict[str, np.ndarray]:
    pictures = PredictionPictures(NAMES, 4, num_samples=9)
    for id in range(rank, 9, world):
        pictures.process(*batch([id]))
    return pictures.pictures()


def image(side: int = 28) -> np.ndarray:
    return np.full((side, side, 3), 90, np.uint8)


def colours(picture: np.ndarray) -> set[tuple[int, int, int]]:
    return {tuple(c) for c in np.unique(picture.reshape(-1, 3), axis=0).tolist()}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("truth", "frame", "absent"), [(("cat",), RIGHT, WRONG), (("dog",), WRONG, NEUTRAL), (None, NEUTRAL, RIGHT)]
)
def test_frame_tells_right_from_wrong_from_unknown(truth: tuple[str, ...] | None, frame: Any, absent: Any) -> None:
    picture = prediction_grid([Prediction(image(), truth, ("cat",), 0.9)])
    assert tuple(picture[10, 10]) == frame
    assert absent not in colours(picture)


def test_several_labels_are_right_only_when_all_agree() -> None:
    assert Prediction(image(), ("cat", "dog"), ("dog", "cat"), 0.9).right
    assert not Prediction(image(), ("cat", "dog"), ("dog",), 0.9).right
    assert Prediction(image(), (), (), math.nan).right


def test_images_of_any_size_and_long_names_fit_the_grid() -> None:
    predictions = [Prediction(image(side), ("n" * 80,), ("m" * 80,), 0.5) for side in (1, 28, 64, 100, 500)]
    assert prediction_grid(predictions, "t" * 300).shape[1] == 4 * 204 + 5 * 10


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="no predictions"):
        prediction_grid([])
    with pytest.raises(ValueError, match="one for each"):
        sample_mosaic([image()], [])


def test_mosaic_holds_every_image() -> None:
    shades = [np.full((32, 32, 3), shade, np.uint8) for shade in (10, 60, 110)]
    found = colours(sample_mosaic(shades, ["cat", "dog 0.70, cat 0.30", ""], "batch"))
    assert {(10, 10, 10), (60, 60, 60), (110, 110, 110)} <= found


def test_images_are_spread_over_the_data_set() -> None:
    assert [i // 250 for i in sorted(spread_ids(1000, 4))] == [0, 1, 2, 3]
    assert sorted(spread_ids(3, 16)) == [0, 1, 2]
    assert all(len(spread_ids(n, 16)) == min(n, 16) for n in range(1, 200))


def test_images_show_most_classes_whether_sorted_or_taking_turns() -> None:
    ids = spread_ids(1000, 16)
    assert len({i // 100 for i in ids}) == 10
    assert len({i % 10 for i in ids}) >= 7


def test_only_the_chosen_images_are_kept() -> None:
    pictures = PredictionPictures(NAMES, 4, num_samples=9)
    for start in (6, 0, 3):
        pictures.process(*batch([start, start + 1, start + 2]))
    shown = pictures.pictures()["predictions"]
    expected = [(10 * i,) * 3 for i in sorted(spread_ids(9, 4))]
    assert [tuple(shown[34 + 10 + 102, 10 + 214 * n + 102]) for n in range(4)] == expected
    pictures.reset()
    assert pictures.pictures() == {}


@pytest.mark.distributed
def test_picture_is_the_same_for_two_processes() -> None:
    alone = rank_pictures(0, 1)
    first, second = run_ranks(2, rank_pictures, 2)
    assert second == {}
    np.testing.assert_array_equal(first["predictions"], alone["predictions"])


def test_unlabelled_and_multi_label_batches_are_drawn() -> None:
    inputs, outputs = batch([0, 1])
    for targets in ({}, {"label": torch.tensor([-1, -1])}, {"scores": torch.eye(3)[:2]}):
        pictures = PredictionPictures(NAMES, 2)
        pictures.process(Inputs(inputs.ids, inputs.images, targets), outputs)
        frame = tuple(pictures.pictures()["predictions"][46, 12])
        assert frame == (RIGHT if "scores" in targets else NEUTRAL)


def test_real_images_are_drawn(shared_data: Path) -> None:
    import cv2

    files = sorted((shared_data / "classification" / "hymenoptera_224" / "val").glob("*/*.jpg"))[:6]
    images = [cv2.imdecode(np.fromfile(f, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for f in files]
    picture = prediction_grid([Prediction(i, ("ants",), ("bees",), 0.7) for i in images])
    assert len(colours(picture)) > 1000
