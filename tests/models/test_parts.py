"""Necks, heads, losses, pixels: what they compute."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pet.models.heads.cls import build_cls_head
from pet.models.losses import build_cls_loss
from pet.models.losses.classification import top1
from pet.models.necks import build_neck
from pet.models.pixels import PixelNormalizer


@pytest.mark.parametrize("shape", [(2, 8), (2, 5, 8), (2, 8, 3, 3)])
def test_linear_head_takes_vectors_tokens_and_maps(shape: tuple[int, ...]) -> None:
    head = build_cls_head("linear", [4, 8], 10, dropout=0.0)
    levels = [torch.rand(2, 4, 9, 9), torch.rand(shape)]
    assert head(levels).shape == (2, 10)


def test_unknown_parts_are_named_with_the_nearest() -> None:
    with pytest.raises(KeyError, match="linear"):
        build_cls_head("liner", [8], 10, 0.0)
    with pytest.raises(KeyError, match="gap"):
        build_neck("gapp", [8])
    with pytest.raises(KeyError, match="cross_entropy"):
        build_cls_loss("cross_entrop")
    with pytest.raises(TypeError, match="NECK_OPTIONS"):
        build_neck("gap", [8], {"p": 3})


def test_gap_neck_joins_the_levels() -> None:
    neck = build_neck("gap", [4, 8])
    levels = [torch.rand(2, 4, 6, 6), torch.rand(2, 8, 3, 3)]
    (joined,) = neck(levels)
    assert neck.channels == (12,)
    torch.testing.assert_close(joined, torch.cat([levels[0].mean((2, 3)), levels[1].mean((2, 3))], 1))
    assert build_neck("", [4]) is None


def test_cross_entropy_of_indices_equals_that_of_shares() -> None:
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    for smoothing in (0.0, 0.1):
        loss = build_cls_loss("cross_entropy", label_smoothing=smoothing)
        hot = F.one_hot(labels, 5).float()
        torch.testing.assert_close(loss(logits, labels), loss(logits, hot))
        by_hand = -((hot * (1 - smoothing) + smoothing / 5) * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(loss(logits, hot), by_hand)
    torch.testing.assert_close(loss.scores(logits).sum(1), torch.ones(6))


def test_bce_judges_each_class_for_itself() -> None:
    logits, targets = torch.randn(4, 3), torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    loss = build_cls_loss("bce")
    torch.testing.assert_close(loss(logits, targets), F.binary_cross_entropy_with_logits(logits, targets))
    labels = torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(loss(logits, labels), F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 3).float()))
    torch.testing.assert_close(loss.scores(logits), logits.sigmoid())


def test_bce_leaves_out_classes_that_are_not_judged() -> None:
    logits, targets = torch.randn(2, 3), torch.tensor([[1.0, -1, 0], [-1, -1, 1]])
    judged = targets >= 0
    expected = F.binary_cross_entropy_with_logits(logits[judged], targets[judged])
    torch.testing.assert_close(build_cls_loss("bce")(logits, targets), expected)
    assert build_cls_loss("bce")(logits, torch.full((2, 3), -1.0)) == 0


def test_bce_threshold_makes_mixed_targets_hard() -> None:
    logits, mixed = torch.randn(2, 3), torch.tensor([[0.7, 0.3, 0.0], [0.15, 0.85, 0.0]])
    hard = torch.tensor([[1.0, 1, 0], [0, 1, 0]])
    loss = build_cls_loss("bce", target_threshold=0.2)
    torch.testing.assert_close(loss(logits, mixed), F.binary_cross_entropy_with_logits(logits, hard))


def test_top1_counts_right_answers_for_every_kind_of_target() -> None:
    logits = torch.eye(4)
    assert top1(logits, torch.tensor([0, 1, 0, 0])) == 50.0
    mixed = torch.tensor([[0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]])
    assert top1(logits, mixed) == 50.0
    several = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
    assert top1(logits, several) == 75.0


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_pixels_equal_torchvision_normalisation() -> None:
    from torchvision.transforms.v2.functional import normalize, to_dtype

    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    expected = normalize(to_dtype(images, torch.float32, scale=True), list(MEAN), list(STD))
    torch.testing.assert_close(PixelNormalizer(MEAN, STD, "rgb")(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", ["bgr", "rgb255", "bgr255"])
def test_pixels_of_every_layout_describe_the_same_picture(layout: str) -> None:
    factor = 255.0 if layout.endswith("255") else 1.0
    step = -1 if layout.startswith("bgr") else 1
    mean, std = [v * factor for v in MEAN][::step], [v * factor for v in STD][::step]
    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    usual = PixelNormalizer(MEAN, STD, "rgb")(images)
    found = PixelNormalizer(mean, std, layout)(images)
    torch.testing.assert_close(found.flip(1) if step < 0 else found, usual, rtol=1e-5, atol=1e-6)


def test_pixels_without_normalize_keep_only_order_and_range() -> None:
    images = torch.randint(0, 256, (1, 3, 2, 2), dtype=torch.uint8)
    torch.testing.assert_close(PixelNormalizer(MEAN, STD, "rgb", normalize=False)(images), images / 255)
    torch.testing.assert_close(PixelNormalizer(MEAN, STD, "bgr255", normalize=False)(images), images.flip(1).float())


def test_pixels_leave_no_trace_in_a_checkpoint() -> None:
    assert not PixelNormalizer(MEAN, STD, "rgb").state_dict()
