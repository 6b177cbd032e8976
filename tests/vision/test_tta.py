"""Test-time augmentation: views of a picture, and one prediction made of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import keypointrcnn_inference
from torchvision.ops import roi_align

from pet.config import ConfigError
from pet.data.collate import collate_padded
from pet.data.structures import Sample
from pet.data.transforms.geometry import Resize
from pet.data.views import MakeViews, ViewBatch
from pet.models.losses.semantic import SemanticView, merged_semantic_map, semantic_map
from pet.vision import build_dataset, forward_test
from pet.vision.tta import predict_views
from tests.vision.tiny import assert_alike, batches, make, photographs, predictions

ON = "TEST.TTA.ENABLED=True"


def plain_equals(tmp_path: Path, words: list[str], head: str, *tta: str) -> None:
    cfg, net = make(tmp_path, head, *words)
    expected = predictions(cfg, net)
    cfg, net = make(tmp_path, head, *words, ON, *tta)
    assert all(isinstance(batch, ViewBatch) for batch in batches(cfg))
    assert_alike(predictions(cfg, net), expected)


@pytest.mark.parametrize("head", ["mask", "keypoint", "proposals", "retinanet", "panoptic", "classes"])
def test_one_view_is_the_plain_result(head: str, tmp_path: Path, shared_data: Path) -> None:
    words = [*photographs(shared_data), "TEST.IMS_PER_GPU=3", "TEST.LIMIT=3"]
    plain_equals(tmp_path, words, head, "TEST.TTA.FLIP=()")


@pytest.mark.parametrize("head", ["cascade", "mask", "keypoint", "fcos", "panoptic"])
def test_the_same_view_twice_is_the_plain_result(head: str, tmp_path: Path, shared_data: Path) -> None:
    """Doubles of boxes go, means of equal maps are these maps. (Proposals lose doubles of neighbouring levels as well.)

    Without padding, in which random weights find boxes that have no extent within the picture, and so no overlap.
    """
    words = [*photographs(shared_data), "TEST.LIMIT=2", "TEST.SIZE_DIVISIBILITY=0", "TEST.IMS_PER_GPU=1"]
    plain_equals(tmp_path, words, head, "TEST.TTA.FLIP=()", "TEST.TTA.SCALE_FACTORS=(1.0, 1.0001)")


@pytest.mark.parametrize("head", ["faster", "mask", "keypoint", "semseg", "classes"])
def test_two_scales_and_two_flips_are_four_passes_of_one_decoded_picture(
    head: str, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*photographs(shared_data), "TEST.LIMIT=2", "TEST.IMS_PER_GPU=1", ON, "TEST.TTA.SCALES=(48, 64)"]
    cfg, net = make(tmp_path, head, *words)
    seen: list[tuple[int, ...]] = []
    net.backbone.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape[-2:])))
    dataset = build_dataset(cfg, is_train=False)
    reads: list[int] = []
    kind, read = type(dataset), type(dataset).read
    monkeypatch.setattr(kind, "read", lambda self, index: reads.append(index) or read(self, index))
    predictions(cfg, net)
    assert len(seen) == 2 * 4
    assert sorted(reads) == [0, 1]
    assert seen[0] == seen[1] != seen[2] == seen[3]


def viewed(image: np.ndarray, flips: Sequence[str], scales: Sequence[int] = (64,), pairs: Any = ()) -> ViewBatch:
    """One picture (H, W, 3) as the loader would show it."""
    views = MakeViews([[Resize((scale,))] for scale in scales], flips, pairs)
    sample = views(Sample(image, {"original_size": image.shape[:2]}, 0), np.random.default_rng(0))
    return views.collate(partial(collate_padded, size_divisibility=32), [sample])


def noise(height: int, width: int) -> np.ndarray:
    """Smooth colours without symmetry."""
    large = F.interpolate(torch.rand(1, 3, height // 8, width // 8), (height, width), mode="bicubic").clamp(0, 1) * 255
    return large[0].permute(1, 2, 0).to(torch.uint8).numpy().copy()


AXES = {"horizontal": (1,), "vertical": (0,), "diagonal": (0, 1)}  # of (height, width)
PAIRS = ((1, 2), (3, 4))


def mirror(points: Tensor, size: tuple[int, int], flip: str) -> Tensor:
    """(..., 2) x and y in a mirrored picture."""
    moved = points.clone()
    for axis in AXES[flip]:
        moved[..., 1 - axis] = size[axis] - moved[..., 1 - axis]
    return moved


def mirror_boxes(boxes: Tensor, size: tuple[int, int], flip: str) -> Tensor:
    corners = mirror(boxes.view(-1, 2, 2), size, flip)
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


@pytest.mark.parametrize("flip", AXES)
@pytest.mark.parametrize("head", ["cascade", "mask", "keypoint", "proposals", "retinanet", "fcos", "ssd"])
def test_a_mirrored_picture_gives_mirrored_instances(head: str, flip: str, tmp_path: Path) -> None:
    """The network is not symmetric, but the views of a picture are those of the mirrored one."""
    _, net = make(tmp_path, head)
    size = (48, 48) if head == "ssd" else (64, 96)
    image = noise(*size)
    with torch.inference_mode():
        outputs = [predict_views(net, viewed(one, [flip], size[:1], PAIRS)) for one in (image, np.flip(image, AXES[flip]).copy())]
    plain, found = (next(iter(one.values()))[0] for one in outputs)
    assert len(plain["boxes"]) > 3
    torch.testing.assert_close(found["scores"], plain["scores"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found["boxes"], mirror_boxes(plain["boxes"], size, flip), atol=1e-3, rtol=0)
    if head == "mask":
        torch.testing.assert_close(found["masks"], plain["masks"].flip([axis - 2 for axis in AXES[flip]]), atol=1e-4, rtol=0)
    if head == "keypoint":
        order = [0, 1, 2, 3, 4] if flip == "diagonal" else [0, 2, 1, 4, 3]
        points = mirror(plain["keypoints"][:, order, :2], size, flip)
        torch.testing.assert_close(found["keypoints"][..., :2], points, atol=1e-2, rtol=0)


def test_a_mirrored_picture_gives_a_mirrored_semantic_map(tmp_path: Path) -> None:
    _, net = make(tmp_path, "semseg")
    image = noise(64, 96)
    with torch.inference_mode():
        plain, found = (forward_test(net, viewed(one, list(AXES)))["semseg"][0] for one in (image, image[:, ::-1].copy()))
    assert len(plain.unique()) > 2
    assert (found == plain.flip(1)).float().mean() > 0.999


def test_a_symmetric_picture_gives_symmetric_boxes(tmp_path: Path) -> None:
    """Where no box suppresses another: of a box in the middle and its mirror image only one could stay."""
    words = ["MODEL.ROI_HEAD.FASTER.NMS_THRESH=1.0", "MODEL.ROI_HEAD.FASTER.DETECTIONS_PER_IMG=1000"]
    _, net = make(tmp_path, "faster", *words)
    half = noise(64, 48)
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    with torch.inference_mode():
        plain, found = (predict_views(net, viewed(image, flips))["instances"][0] for flips in ((), ("horizontal",)))
    assert asymmetry(found) < 1e-3 < asymmetry(plain)


def asymmetry(found: dict[str, Tensor]) -> float:
    """Largest distance between a box and the nearest mirrored one of its class and score, pixels."""
    rows = torch.cat([found["boxes"], 1000 * found["labels"][:, None], 1000 * found["scores"][:, None]], 1)
    others = torch.cat([mirror_boxes(found["boxes"], (64, 96), "horizontal"), rows[:, 4:]], 1)
    return float(torch.cdist(rows, others, p=torch.inf).amin(1).max())


class Eye(nn.Module):
    """Sees what is there: a box around what is red, its mask, and its two ends as left and right of its head, which is green."""

    nms_thresh, detections_per_img = 0.5, 5

    def levels(self, images: Tensor, sizes: Any = None) -> tuple[list[Tensor], list[Tensor]]:
        return [], [images.float() / 255]

    def find(self, levels: list[Tensor], images: ImageList) -> dict[str, Any]:
        instances = []
        for image in levels[0]:
            ys, xs = torch.nonzero(image[0] > 0.5, as_tuple=True)
            box = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
            instances.append({"boxes": box[None], "scores": torch.ones(1), "labels": torch.zeros(1, dtype=torch.int64)})
        red = 8 * levels[0][:, :1] - 4
        return {"instances": instances, "semseg": torch.cat([-red, red], 1)}

    def region_heads(self) -> dict[str, Any]:
        return {"mask": EyeMasks(), "keypoint": EyePoints()}

    def final_boxes(self) -> nn.Module:
        return self


class EyeMasks:
    def maps(self, levels: list[Tensor], images: ImageList, instances: list[dict[str, Tensor]]) -> list[Tensor]:
        boxes = [one["boxes"] for one in instances]
        return list(roi_align(levels[0], boxes, 28, aligned=True)[:, :1].split([len(one) for one in boxes]))

    def attach(self, instances: list[dict[str, Tensor]], maps: list[Tensor]) -> list[dict[str, Tensor]]:
        return [{**one, "masks": masks} for one, masks in zip(instances, maps, strict=True)]


class EyePoints:
    def maps(self, levels: list[Tensor], images: ImageList, instances: list[dict[str, Tensor]]) -> list[Tensor]:
        boxes = [one["boxes"] for one in instances]
        green = 50 * roi_align(levels[0], boxes, 56, aligned=True)[:, 1:2]
        upright = green[:, :, :28].sum((1, 2, 3)) > green[:, :, 28:].sum((1, 2, 3))
        x = torch.arange(56.0) * torch.where(upright, 1.0, -1.0)[:, None, None, None]
        return list(torch.cat([green - x, green + x], 1).split([len(one) for one in boxes]))

    def attach(self, instances: list[dict[str, Tensor]], maps: list[Tensor]) -> list[dict[str, Tensor]]:
        found = keypointrcnn_inference(torch.cat(maps), [one["boxes"] for one in instances])
        return [{**one, "keypoints": points} for one, points in zip(instances, found[0], strict=True)]


def test_every_view_is_brought_back_to_where_it_came_from() -> None:
    """Two scales in four mirrors of an object that lies to one side; padding on the right and below in every view."""
    image = np.zeros((70, 100, 3), np.uint8)
    image[16:40, 22:62, 0] = 255
    image[20:23, 22:62, 1] = 255
    with torch.inference_mode():
        outputs = forward_test(Eye(), viewed(image, ["horizontal", "vertical", "diagonal"], (70, 140), pairs=((0, 1),)))
    found, truth = outputs["instances"][0], torch.from_numpy(image[..., 0] > 0)
    torch.testing.assert_close(found["boxes"], torch.tensor([[22.0, 16.0, 62.0, 40.0]]), atol=1.0, rtol=0)
    assert (found["masks"][0] & truth).sum() / (found["masks"][0] | truth).sum() > 0.95
    torch.testing.assert_close(found["keypoints"][0, :, :2], torch.tensor([[22.0, 21.5], [62.0, 21.5]]), atol=2.0, rtol=0)
    assert (outputs["semseg"][0].bool() == truth).float().mean() > 0.98


def test_semantic_probabilities_are_averaged_at_the_size_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    views = [
        SemanticView(5 * torch.randn(9, 4, 5), (32, 40), (30, 36)),
        SemanticView(2 * torch.randn(9, 8, 9), (64, 72), (60, 72), (-1,)),
    ]
    total = torch.zeros(9, 45, 54)
    for view in views:
        whole = F.interpolate(view.logits[None], view.input_size, mode="bilinear")[..., : view.valid[0], : view.valid[1]]
        total += F.interpolate(whole.flip(-1) if view.mirrored else whole, (45, 54), mode="bilinear")[0].softmax(0)
    for budget in (1, 2**24):  # a class at a time, all at once
        monkeypatch.setattr("pet.models.losses.semantic._BUDGET", budget)
        assert torch.equal(merged_semantic_map(views, (45, 54)), total.argmax(0).to(torch.uint8))
    first = semantic_map(views[0].logits, (32, 40), (30, 36), (45, 54))
    assert torch.equal(merged_semantic_map(views[:1], (45, 54)), first)
    assert not torch.equal(first, total.argmax(0).to(torch.uint8))


@pytest.mark.parametrize("head", ["panoptic", "keypoint"])
def test_batch_size_and_workers_change_nothing(head: str, tmp_path: Path, shared_data: Path) -> None:
    words = [*photographs(shared_data), "TEST.LIMIT=4", ON, "TEST.TTA.SCALES=(48, 56)"]
    cfg, net = make(tmp_path, head, *words, "TEST.IMS_PER_GPU=1")
    expected = predictions(cfg, net)
    cfg, net = make(tmp_path, head, *words, "TEST.IMS_PER_GPU=3", "DATA.LOADER_THREADS=2")
    assert_alike(predictions(cfg, net), expected)


def test_scales_and_keypoints_of_views_follow_the_config(tmp_path: Path) -> None:
    def first(*words: str) -> Any:
        cfg, _ = make(tmp_path, "keypoint", ON, "TEST.RESIZE.SCALE=40", "TEST.RESIZE.MAX_SIZE=60", *words)
        return next(batches(cfg))

    factors = first("TEST.TTA.SCALE_FACTORS=(1.0, 1.5, 0.5)", "TEST.TTA.FLIP=(vertical,)")
    assert [view.targets["sizes"][0] for view in factors.views] == [(40, 40)] * 2 + [(60, 60)] * 2 + [(20, 20)] * 2
    assert factors.flips == ["", "vertical"] * 3
    assert torch.equal(factors.views[1].images[0, :, :40], factors.views[0].images[0, :, :40].flip(1))
    assert factors.images is factors.views[0].images
    assert factors.to("meta").views[5].images.is_meta
    assert first().flip_pairs == first("TEST.TTA.SWAP_KEYPOINTS=True").flip_pairs != ()
    assert first("TEST.TTA.SWAP_KEYPOINTS=False").flip_pairs == ()
    pair = first("TEST.TTA.SCALES=([48, 40], 20)", "TEST.TTA.FLIP=()")
    assert [view.targets["sizes"][0] for view in pair.views] == [(48, 40), (20, 20)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["TEST.TTA.SCALE_FACTORS=()"], "SCALE_FACTORS.*at least one scale"),
        (["TEST.TTA.SCALES=(48,)", "TEST.TTA.SCALE_FACTORS=(2.0,)"], "set one of them"),
        (["TEST.TTA.SCALES=(0.5, 1.0)"], "factors belong to SCALE_FACTORS"),
        (["TEST.TTA.SCALES=(48,)", "TEST.TRANSFORMS=(normalize,)"], "transform resize"),
        (["TEST.TTA.SCALE_FACTORS=(2.0,)", "TEST.TRANSFORMS=(normalize,)"], r"transform resize.*e\.g\. TEST\.TRANSFORMS"),
        (["TEST.TTA.FLIP=(horizontal, horizontal)"], "twice"),
        (["TEST.TTA.FLIP=(sideways,)"], "horizontal, vertical, diagonal"),
        (["TEST.TRANSFORMS=(resize, center_crop, normalize)"], "center_crop.*could not be brought back"),
        (["TEST.TRANSFORMS=(resize, random_horizontal_flip, normalize)"], "random_horizontal_flip.*could not be brought back"),
    ],
    ids=["no scales", "both", "factors", "no resize", "no resize for factors", "twice", "flip", "crop", "random"],
)
def test_views_that_cannot_be_made_or_undone_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        make(tmp_path, "mask", ON, *words)


def test_a_head_that_cannot_be_merged_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, net = make(tmp_path, "faster")
    monkeypatch.setattr(net, "final_boxes", nn.Identity)
    with pytest.raises(ValueError, match="Identity.*no nms_thresh and no detections_per_img"), torch.inference_mode():
        forward_test(net, viewed(noise(64, 64), ["horizontal"]))
