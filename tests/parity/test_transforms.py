"""Our uint8 transforms against torchvision's: equal up to rounding where the algorithm is the same."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode
from torchvision.transforms import RandomErasing as TorchErasing
from torchvision.transforms import RandomResizedCrop as TorchCrop
from torchvision.transforms.v2 import functional as F

from pet.data.structures import Sample
from pet.data.transforms import augment_ops as ops
from pet.data.transforms import color
from pet.data.transforms.auto_augment import POLICIES
from pet.data.transforms.erase import RandomErasing
from pet.data.transforms.geometry import (
    CenterCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
    Resize,
    pad_image,
    resize_image,
)


def picture(height: int = 61, width: int = 83, seed: int = 0) -> np.ndarray:
    """Smooth structure plus noise."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (7, 9, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + rng.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def array(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def difference(first: np.ndarray, second: torch.Tensor) -> np.ndarray:
    assert first.dtype == np.uint8
    return np.abs(first.astype(int) - array(second).astype(int))


RNG = np.random.default_rng(0)
SAMPLE = Sample(picture(), {}, 0)


@pytest.mark.parametrize("size", [(30, 41), (61, 40), (97, 140), (20, 200)])
def test_linear_resize_within_one_level_of_torchvision_without_antialias(size):
    found = difference(
        resize_image(picture(), size, "linear"),
        F.resize(tensor(picture()), list(size), InterpolationMode.BILINEAR, antialias=False),
    )
    assert found.max() <= 1


@pytest.mark.parametrize("size", [(30, 41), (97, 140)])
def test_cubic_resize_within_two_levels(size):
    # Both use a = -0.75; OpenCV rounds its weights to 11 bits.
    found = difference(
        resize_image(picture(), size, "cubic"),
        F.resize(tensor(picture()), list(size), InterpolationMode.BICUBIC, antialias=False),
    )
    assert found.max() <= 2


def test_area_resize_by_a_whole_factor_is_the_mean_of_the_pixels():
    image = picture(60, 90)
    expected = image.reshape(20, 3, 30, 3, 3).mean((1, 3))
    assert np.abs(resize_image(image, (20, 30), "area") - expected).max() <= 0.51


@pytest.mark.parametrize(("height", "width"), [(61, 83), (83, 61), (375, 500), (427, 640), (100, 333)])
def test_sizes_of_the_shorter_side_rule_equal_torchvision(height, width):
    for short, limit in ((50, None), (256, None), (80, 120)):
        ours = Resize(short, max_size=limit or 0)(Sample(picture(height, width), {}, 0), RNG).image.shape[:2]
        theirs = F.resize(tensor(picture(height, width)), [short], max_size=limit, antialias=False).shape[-2:]
        assert np.abs(np.subtract(ours, theirs)).max() <= (1 if limit else 0)


@pytest.mark.parametrize("size", [(32, 32), (61, 83), (40, 81), (33, 20)])
def test_center_crop_flips_and_padding_are_equal(size):
    assert difference(CenterCrop(size)(SAMPLE, RNG).image, F.center_crop(tensor(picture()), list(size))).max() == 0
    assert difference(RandomHorizontalFlip(1.0)(SAMPLE, RNG).image, F.horizontal_flip(tensor(picture()))).max() == 0
    assert difference(RandomVerticalFlip(1.0)(SAMPLE, RNG).image, F.vertical_flip(tensor(picture()))).max() == 0
    assert difference(pad_image(picture(), 1, 2, 3, 4, (7, 7, 7)), F.pad(tensor(picture()), [3, 1, 4, 2], fill=7)).max() == 0


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.77, 1.0, 1.4, 2.5])
def test_brightness_contrast_and_saturation_within_rounding(factor):
    image = picture()
    assert difference(color.adjust_brightness(image, factor), F.adjust_brightness(tensor(image), factor)).max() <= 1
    assert difference(color.adjust_contrast(image, factor), F.adjust_contrast(tensor(image), factor)).max() <= 2
    # torchvision cuts the grey value to an integer, we round it: up to |1 - factor| more.
    assert difference(color.adjust_saturation(image, factor), F.adjust_saturation(tensor(image), factor)).max() <= 1 + math.ceil(
        abs(1 - factor)
    )


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.0, 0.1, 0.37])
def test_hue_within_two_levels(shift):
    assert difference(color.adjust_hue(picture(), shift), F.adjust_hue(tensor(picture()), shift)).max() <= 2


def test_single_operations_of_the_policies():
    image = picture()
    for bits in (0, 2, 4, 8):
        assert difference(ops.posterize(image, bits), F.posterize(tensor(image), bits)).max() == 0
    for threshold in (0.0, 100.0, 128.0, 255.0):
        assert difference(ops.solarize(image, threshold), F.solarize(tensor(image), threshold)).max() == 0
    assert difference(ops.invert(image), F.invert(tensor(image))).max() == 0
    assert difference(ops.equalize(image), F.equalize(tensor(image))).max() == 0
    low = (image // 3 + 40).astype(np.uint8)
    assert difference(ops.auto_contrast(low), F.autocontrast(tensor(low))).max() <= 1
    flat = np.full((9, 9, 3), 77, np.uint8)
    assert np.array_equal(ops.auto_contrast(flat), flat)
    assert np.array_equal(ops.equalize(flat), flat)
    for factor in (0.0, 0.4, 1.7):
        assert difference(ops.adjust_sharpness(image, factor), F.adjust_sharpness(tensor(image), factor)).max() <= 1 + math.ceil(
            abs(1 - factor)
        )


@pytest.mark.parametrize(("amount", "degrees"), [(0.3, 30.0), (-0.2, -17.0)])
def test_warps_are_those_of_torchvision(amount, degrees):
    image = picture()
    t = tensor(image)
    linear, corner = InterpolationMode.BILINEAR, [0, 0]
    angle = math.degrees(math.atan(amount))
    black = (0, 0, 0)

    def close(matrix, expected):
        # Positions are rounded to 1/32 of a pixel by OpenCV.
        found = difference(ops.warp(image, matrix, black), expected)
        assert found.mean() < 1.0
        assert np.percentile(found, 95) <= 4

    close([[1, amount, 0], [0, 1, 0]], F.affine(t, 0, [0, 0], 1.0, [angle, 0], linear, list(black), corner))
    close([[1, 0, 0], [amount, 1, 0]], F.affine(t, 0, [0, 0], 1.0, [0, angle], linear, list(black), corner))
    close(ops.rotation_matrix(61, 83, degrees), F.rotate(t, degrees, linear, fill=list(black)))
    close([[1, 0, -9], [0, 1, 0]], F.affine(t, 0, [9, 0], 1.0, [0, 0], linear, list(black)))
    assert np.array_equal(ops.translate_x(image, 10 / 83)[:, 10:], image[:, :-10])
    assert np.array_equal(ops.translate_y(image, 10 / 61)[10:], image[:-10])


@pytest.mark.parametrize("name", ["imagenet", "cifar10", "svhn"])
def test_policies_hold_the_published_values(name):
    names = {
        "autocontrast": "auto_contrast",
        "shearx": "shear_x",
        "sheary": "shear_y",
        "translatex": "translate_x",
        "translatey": "translate_y",
    }
    theirs = [
        tuple((names.get(o.lower(), o.lower()), pytest.approx(p), pytest.approx((m or 0) / 9)) for o, p, m in pair)
        for pair in AutoAugment(AutoAugmentPolicy[name.upper()]).policies
    ]
    assert POLICIES[name] == theirs


def test_random_resized_crop_draws_from_the_distribution_of_torchvision():
    height, width, draws = 120, 170, 4000
    ours = RandomResizedCrop(8)
    rng = np.random.default_rng(0)
    mine = np.array([ours.choose(height, width, rng) for _ in range(draws)], float)
    image = torch.empty(3, height, width)
    theirs = np.array([TorchCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(draws)], float)
    for values in ((lambda p: p[:, 0]), (lambda p: p[:, 1]), (lambda p: p[:, 2] * p[:, 3]), (lambda p: p[:, 3] / p[:, 2])):
        assert largest_gap(values(mine), values(theirs)) < 0.04


def test_erasing_draws_from_the_distribution_of_torchvision():
    height, width, draws = 100, 130, 3000
    rng = np.random.default_rng(0)
    mine = np.array([RandomErasing(area=(0.02, 0.33), ratio=(0.3, 3.3)).choose(height, width, rng) for _ in range(draws)], float)
    image = torch.zeros(3, height, width)
    theirs = np.array([TorchErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(draws)], float)
    for values in ((lambda p: p[:, 0]), (lambda p: p[:, 2] * p[:, 3]), (lambda p: p[:, 2] / p[:, 3])):
        assert largest_gap(values(mine), values(theirs)) < 0.05


def largest_gap(first: np.ndarray, second: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of two samples; 1.63 * sqrt(2 / n) is its 1 % limit, 0.036 for n = 4000."""
    grid = np.sort(np.concatenate([first, second]))
    return float(
        np.abs(
            np.searchsorted(np.sort(first), grid, "right") / len(first)
            - np.searchsorted(np.sort(second), grid, "right") / len(second)
        ).max()
    )
