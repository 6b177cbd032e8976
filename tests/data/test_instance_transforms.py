"""Boxes, masks, keypoints and label maps stay with the pixels they belong to, whatever happens to the picture."""

from __future__ import annotations

import pickle
from typing import Any

import cv2
import numpy as np
import pytest

from pet.data.masks import InstanceMasks
from pet.data.structures import Sample
from pet.data.transforms import Chain, build_transforms
from pet.data.transforms.annotations import crop_target
from pet.data.transforms.compose import Mosaic
from pet.data.transforms.geometry import RandomCrop, RandomHorizontalFlip, RandomVerticalFlip, Resize
from pet.data.transforms.jitter import MinIouRandomCrop, SsdCropAndExpand

SIZE = (120, 160)
# x1, y1, x2, y2 of rectangles that do not touch one another.
BOXES = np.array([[10, 20, 50, 60], [70, 10, 130, 40], [60, 60, 150, 110]], np.float32)
COLOURS = np.array([[255, 40, 0], [0, 255, 40], [40, 0, 255]], np.uint8)
PAIRS = [(0, 1)]


def picture(shift: int = 0, bitmaps: bool = False, kinds: str = "boxes masks keypoints semseg") -> Sample:
    """Rectangles of known colours on grey: class k has colour k; keypoints are left end, right end, middle."""
    boxes = BOXES + shift
    image, semseg = np.full((*SIZE, 3), 90, np.uint8), np.zeros(SIZE, np.uint8)
    points = np.zeros((len(boxes), 4, 3), np.float32)
    for k, (x1, y1, x2, y2) in enumerate(boxes.astype(int).tolist()):
        image[y1:y2, x1:x2], semseg[y1:y2, x1:x2] = COLOURS[k], k + 1
        y = (y1 + y2) / 2
        points[k, :3] = [(x1 + 4, y, 2), (x2 - 4, y, 1), ((x1 + x2) / 2, y, 2)]  # the fourth is not labelled
    polygons = [[[[x1, y1], [x2, y1], [x2, y2], [x1, y2]]] for x1, y1, x2, y2 in boxes.tolist()]
    masks = InstanceMasks.from_polygons(polygons, SIZE)
    if bitmaps:
        masks = InstanceMasks.from_bitmaps(masks.to_bitmaps())
    everything = {"boxes": boxes, "masks": masks, "keypoints": points, "semseg": semseg}
    target: dict[str, Any] = {name: everything[name] for name in kinds.split()}
    target |= {"labels": np.arange(len(boxes)), "original_size": SIZE}
    for array in (image, *(v for v in target.values() if isinstance(v, np.ndarray))):
        array.setflags(write=False)
    return Sample(image, target, 0)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def extent(pixels: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def check_together(sample: Sample, blended: bool = False) -> None:
    """Box, mask, colour, label map and keypoints of every instance tell the same."""
    target, (height, width) = sample.target, sample.image.shape[:2]
    count = len(target["labels"])
    masks: InstanceMasks = target["masks"]
    assert masks.size == (height, width)
    assert len(target["boxes"]) == len(masks) == len(target["keypoints"]) == count
    assert target["boxes"].dtype == target["keypoints"].dtype == np.float32
    for box, label, mask, points in zip(target["boxes"], target["labels"], masks.to_bitmaps(), target["keypoints"], strict=True):
        assert (box[:2] >= 0).all()
        assert (box[2:] <= (width, height)).all()
        assert np.abs(box - extent(mask)).max() <= 1.51
        inner = mask.astype(bool) & inner_pixels(mask)
        if not blended and inner.any():
            assert np.abs(sample.image[inner].astype(int) - COLOURS[label]).mean() < 12
            if "semseg" in target:
                assert (target["semseg"][inner] == label + 1).mean() > 0.98
        if not blended:  # hidden keypoints may lie outside the part that is seen
            check_points(points, box)


def inner_pixels(mask: np.ndarray) -> np.ndarray:
    """Pixels whose neighbours up to two away belong to the mask: interpolation does not reach them."""
    return cv2.erode(mask, np.ones((5, 5), np.uint8), borderValue=1).astype(bool)


def check_points(points: np.ndarray, box: np.ndarray) -> None:
    assert points[3].tolist() == [0, 0, 0]
    for x, y, visibility in points.tolist():
        if visibility == 0:
            assert (x, y) == (0, 0)
            continue
        assert box[0] - 1 <= x <= box[2] + 1
        assert box[1] - 1 <= y <= box[3] + 1
    left, right, _ = points[:3]
    if left[2] and right[2]:
        assert left[0] < right[0] + 1


GEOMETRY: dict[str, dict[str, Any]] = {
    "resize-choice": {"scales": (60, 100, 200), "max_size": 250},
    "resize-range": {"scales": (50, 200), "scales_sampling": "range"},
    "resize-scale_factor": {"scales_sampling": "scale_factor", "scale_factor": (0.5, 2.0)},
    "resize-force_size": {"scales": ((90, 190), (200, 90)), "scales_sampling": "force_size"},
    "random_horizontal_flip": {"flip_pairs": PAIRS},
    "random_crop": {"crop_scales": ((64, 80), (140, 100), (200, 200)), "padding": 5},
    "center_crop": {"crop_scales": (90, 130)},
    "random_resized_crop": {"size": (100, 140), "scale": (0.2, 1.0)},
    "min_iou_random_crop": {},
    "ssd_crop_and_expand": {"max_scale": 2.0},
    "efficient_det_resize_crop": {"size": (128, 128), "scale": (0.4, 2.0)},
    "mosaic": {"size": (100, 120)},
}


@pytest.mark.parametrize("bitmaps", [False, True], ids=["polygons", "bitmaps"])
@pytest.mark.parametrize("case", GEOMETRY)
def test_labels_stay_with_the_picture(case, bitmaps):
    name = case.split("-")[0]
    chain = Chain(build_transforms([name], {name: GEOMETRY[case]}), lambda g: picture(int(g.integers(5)), bitmaps))
    source = picture(bitmaps=bitmaps)
    instances = 0
    for seed in range(40):
        moved = chain(source, rng(seed))
        check_together(moved)
        instances += len(moved.target["labels"])
        assert moved.target["semseg"].shape == moved.image.shape[:2]
        assert moved.target["original_size"] == SIZE
    assert instances > 40


@pytest.mark.parametrize("bitmaps", [False, True], ids=["polygons", "bitmaps"])
def test_labels_stay_with_the_picture_through_a_long_chain(bitmaps):
    names = ["mosaic", "random_horizontal_flip", "photometric_distort", "ssd_crop_and_expand", "copy_paste", "resize"]
    options = {
        "mosaic": {"size": (100, 120), "prob": 0.5},
        "random_horizontal_flip": {"flip_pairs": PAIRS},
        "photometric_distort": {"prob": 0.0},
        "resize": {"scales": 110},
    }
    chain = Chain(build_transforms(names, options), lambda g: picture(int(g.integers(5)), bitmaps))
    for seed in range(25):
        moved = chain(picture(bitmaps=bitmaps), rng(seed))
        assert set(moved.target) == {"boxes", "labels", "masks", "keypoints", "semseg", "original_size"}
        assert len({len(moved.target[name]) for name in ("boxes", "labels", "masks", "keypoints")}) == 1
        pixels = moved.target["masks"].to_bitmaps()
        for mask, label in zip(pixels, moved.target["labels"], strict=True):
            inner = mask.astype(bool) & inner_pixels(mask)
            assert not inner.any() or (moved.target["semseg"][inner] == label + 1).mean() > 0.9


ALL = [*GEOMETRY, "random_vertical_flip", "copy_paste", "det_mixup", "photometric_distort"]


@pytest.mark.parametrize("case", ALL)
def test_the_same_generator_gives_the_same_sample_and_the_source_stays(case):
    name = case.split("-")[0]
    kinds = "boxes masks keypoints" + ("" if name == "det_mixup" else " semseg")
    chain = Chain(build_transforms([name], {name: GEOMETRY.get(case, {})}), lambda g: picture(3, kinds=kinds))
    source = picture(kinds=kinds)  # its arrays refuse to be written to
    pixels = source.target["masks"].to_bitmaps()
    for seed in range(8):
        first, second = chain(source, rng(seed)), chain(source, rng(seed))
        assert np.array_equal(first.image, second.image)
        for key in ("boxes", "labels", "keypoints"):
            assert np.array_equal(first.target[key], second.target[key])
        assert np.array_equal(first.target["masks"].to_bitmaps(), second.target["masks"].to_bitmaps())
    assert np.array_equal(source.target["masks"].to_bitmaps(), pixels)
    assert set(source.target) == {*kinds.split(), "labels", "original_size"}


@pytest.mark.parametrize("transform", [RandomHorizontalFlip, RandomVerticalFlip])
@pytest.mark.parametrize("bitmaps", [False, True], ids=["polygons", "bitmaps"])
def test_a_flip_done_twice_is_no_flip(transform, bitmaps):
    flip, source = transform(1.0, flip_pairs=PAIRS), picture(bitmaps=bitmaps)
    once = flip(source, rng(0))
    twice = flip(once, rng(0))
    assert not np.array_equal(once.target["boxes"], source.target["boxes"])
    assert np.array_equal(twice.image, source.image)
    for key in ("boxes", "keypoints", "semseg"):
        assert np.array_equal(twice.target[key], source.target[key])
    assert np.array_equal(twice.target["masks"].to_bitmaps(), source.target["masks"].to_bitmaps())


def test_mirrored_keypoints_change_places():
    source = picture()
    mirrored = RandomHorizontalFlip(1.0, flip_pairs=PAIRS)(source, rng(0)).target["keypoints"]
    before = source.target["keypoints"]
    assert np.array_equal(mirrored[:, 0, 2], before[:, 1, 2])
    assert np.allclose(mirrored[:, 0, 0], SIZE[1] - before[:, 1, 0])
    assert np.allclose(mirrored[:, 2, 0], SIZE[1] - before[:, 2, 0])
    plain = RandomHorizontalFlip(1.0)(source, rng(0)).target["keypoints"]
    assert np.array_equal(plain[:, :, 2], before[:, :, 2])


def test_a_crop_drops_what_it_cut_away_and_unlabels_points_outside():
    part = crop_target(picture().target, 0, 30, (50, 60))  # x 30 to 90, y 0 to 50
    assert part["labels"].tolist() == [0, 1]
    assert part["boxes"].tolist() == [[0, 20, 20, 50], [40, 10, 60, 40]]
    assert part["keypoints"][0, :, 2].tolist() == [0, 1, 2, 0]  # the left end lies outside
    assert part["semseg"].shape == (50, 60)


def test_a_crop_that_takes_the_mask_takes_the_instance():
    corner = InstanceMasks.from_polygons([[[0, 0, 100, 0, 0, 100]]], SIZE)  # the lower right of its box is empty
    target = {"boxes": np.array([[0, 0, 100, 100]], np.float32), "labels": np.array([4]), "masks": corner}
    assert len(crop_target(target, 70, 70, (30, 30))["boxes"]) == 0
    without = {name: target[name] for name in ("boxes", "labels")}
    assert len(crop_target(without, 70, 70, (30, 30))["boxes"]) == 1


def test_pictures_without_instances_pass_through_everything():
    names = ["mosaic", "det_mixup", "copy_paste", "ssd_crop_and_expand", "random_horizontal_flip", "efficient_det_resize_crop"]

    def bare() -> Sample:
        sample = picture(kinds="boxes masks keypoints")
        none = {k: v[:0] for k, v in sample.target.items() if k in ("boxes", "labels", "keypoints")}
        return Sample(sample.image, {**none, "masks": sample.target["masks"].select([]), "original_size": SIZE}, 0)

    for seed in range(5):
        moved = Chain(build_transforms(names, {"mosaic": {"size": 64}}), lambda g: bare())(bare(), rng(seed))
        assert moved.target["boxes"].shape == (0, 4)
        assert moved.target["keypoints"].shape == (0, 4, 3)
        assert len(moved.target["masks"]) == 0


@pytest.mark.parametrize("kinds", ["boxes", "boxes masks", "boxes keypoints", "semseg"])
def test_whatever_labels_there_are_survive_every_transform(kinds):
    names = [
        "resize",
        "random_horizontal_flip",
        "random_vertical_flip",
        "mosaic",
        "ssd_crop_and_expand",
        "random_crop",
        "center_crop",
    ]
    names += ["random_resized_crop", "efficient_det_resize_crop", "photometric_distort"]
    names += [] if "semseg" in kinds else ["det_mixup"]

    def one() -> Sample:
        sample = picture(kinds=kinds)
        return sample if "boxes" in kinds else Sample(sample.image, {"semseg": sample.target["semseg"]}, 0)

    moved = Chain(build_transforms(names, {"mosaic": {"size": 64}}), lambda g: one())(one(), rng(1))
    assert set(moved.target) == set(one().target)


def test_semantic_crops_are_drawn_again_while_one_class_covers_too_much():
    def share(seed: int, limit: float) -> float:
        semseg = np.zeros((60, 300), np.uint8)
        semseg[:, 100:140], semseg[:, 250:] = 1, 255
        sample = Sample(np.zeros((60, 300, 3), np.uint8), {"semseg": semseg}, 0)
        part = RandomCrop((60, 60), cat_max_ths=limit)(sample, rng(seed)).target["semseg"]
        counts = np.bincount(part[part != 255], minlength=2)
        return counts.max() / max(counts.sum(), 1)

    free, limited = ([share(seed, limit) for seed in range(100)] for limit in (0.0, 0.75))
    assert np.mean(np.array(free) > 0.75) > 0.4
    assert np.mean(np.array(limited) > 0.75) < 0.1
    assert free == [share(seed, 1.0) for seed in range(100)]
    with pytest.raises(ValueError, match="CAT_MAX_THS is 2"):
        RandomCrop(cat_max_ths=2)


def test_the_border_of_a_label_map_is_not_judged():
    sample = Sample(np.zeros((10, 10, 3), np.uint8), {"semseg": np.zeros((10, 10), np.uint8)}, 0)
    for label in (255, 19):
        padded = RandomCrop((14, 16), ignore_label=label)(sample, rng(0)).target["semseg"]
        assert (padded == label).sum() == 14 * 16 - 100
    scaled = Resize((23, 37), scales_sampling="force_size")(picture(), rng(0)).target["semseg"]
    assert set(np.unique(scaled)) <= {0, 1, 2, 3}


# --------------------------------------------------------------------------------------------------------- new ones


def test_ssd_crops_overlap_enough_and_keep_centres():
    for threshold in (0.3, 0.7):
        crop, cut = MinIouRandomCrop((threshold,)), 0
        for seed in range(60):
            moved = crop(picture(), rng(seed))
            if moved.image.shape[:2] == SIZE:
                continue
            cut += 1
            part, kept = moved.target["boxes"], BOXES[moved.target["labels"]]
            area = np.prod(moved.image.shape[:2])
            inner = (part[:, 2:] - part[:, :2]).prod(1)
            whole = (kept[:, 2:] - kept[:, :2]).prod(1)
            assert (inner / (whole + area - inner)).max() >= threshold - 1e-5
            ratio = moved.image.shape[1] / moved.image.shape[0]
            assert 0.5 <= ratio <= 2.0
        assert cut > 5


def test_ssd_expansion_fills_with_the_mean_and_shrinks_the_share_of_objects():
    shares = []
    for seed in range(60):
        moved = SsdCropAndExpand(1.0, thresholds=())(picture(), rng(seed))
        shares.append(moved.image.shape[0] / SIZE[0])
        check_together(moved)
        outside = moved.target["semseg"] == 255
        assert (moved.image[outside] == (124, 116, 104)).all()
    assert 1.0 <= min(shares) < 1.3
    assert 3.5 < max(shares) <= 4.0


def test_scale_jitter_reaches_its_size_and_its_range():
    chain = Chain(build_transforms(["efficient_det_resize_crop"], {"efficient_det_resize_crop": {"size": (96, 112)}}), None)
    results = [chain(picture(), rng(seed)) for seed in range(60)]
    assert {r.image.shape for r in results} == {(96, 112, 3)}
    widths = [float(np.diff(r.target["boxes"][0, ::2])[0]) for r in results if len(r.target["boxes"])]
    assert min(widths) < 10 < 40 < max(widths)


def test_pasted_objects_lie_on_top_and_cut_the_masks_below():
    options = {"copy_paste": {"prob": 1.0, "share": 1.0}}
    kinds = "boxes masks keypoints semseg"
    moved = Chain(build_transforms(["copy_paste"], options), lambda g: picture(9, kinds=kinds))(picture(), rng(0))
    pixels = moved.target["masks"].to_bitmaps()
    assert moved.target["labels"].tolist() == [0, 1, 2, 0, 1, 2]
    assert pixels.sum(0).max() == 1
    for box, mask, label in zip(moved.target["boxes"], pixels, moved.target["labels"], strict=True):
        assert np.abs(box - extent(mask)).max() <= 1
        assert (moved.image[mask.astype(bool)] == COLOURS[label]).all()
        assert (moved.target["semseg"][mask.astype(bool)] == label + 1).all()
    assert moved.target["keypoints"][0, :3, 2].tolist() == [2, 1, 1]  # the middle is covered, the left end is not
    same = Chain(build_transforms(["copy_paste"], options), lambda g: picture())(picture(), rng(0))
    assert len(same.target["labels"]) == 3  # all below were covered completely


def test_copy_paste_takes_some_objects_and_scales_the_partner():
    def small(generator: np.random.Generator) -> Sample:
        return Resize((60, 60), scales_sampling="force_size")(picture(), generator)

    chain = Chain(build_transforms(["copy_paste"], {"copy_paste": {"prob": 1.0}}), small)
    counts = {len(chain(picture(), rng(seed)).target["labels"]) for seed in range(100)}
    assert counts == {3, 4, 5, 6}
    for seed in range(20):
        check_together(chain(picture(), rng(seed)), blended=True)
    with pytest.raises(ValueError, match="copy_paste needs instance masks"):
        Chain(build_transforms(["copy_paste"], {"copy_paste": {"prob": 1.0}}), lambda g: picture())(
            picture(kinds="boxes"), rng(0)
        )


def test_a_mosaic_shows_four_pictures_around_a_point():
    drawn: list[int] = []

    def draw(generator: np.random.Generator) -> Sample:
        drawn.append(1)
        return picture()

    moved = Chain([Mosaic(SIZE, center_range=(1.0, 1.0))], draw)(picture(), rng(0))
    assert len(drawn) == 3
    assert moved.image.shape == (2 * SIZE[0], 2 * SIZE[1], 3)
    offsets = np.array([[0, 0], [SIZE[1], 0], [0, SIZE[0]], [SIZE[1], SIZE[0]]])
    assert np.array_equal(moved.target["boxes"], np.concatenate([BOXES + np.tile(o, 2) for o in offsets]))
    assert (moved.target["semseg"] != 255).all()
    with pytest.raises(ValueError, match="CENTER_RANGE is"):
        Mosaic(center_range=(0.5, 2.5))


def test_det_mixup_blends_and_unites():
    chain = Chain(
        build_transforms(["det_mixup"], {"det_mixup": {"scale": (1.0, 1.0)}}), lambda g: picture(5, kinds="boxes masks")
    )
    source = picture(kinds="boxes masks")
    moved = chain(source, rng(0))
    assert moved.target["labels"].tolist() == [0, 1, 2, 0, 1, 2]
    assert np.array_equal(moved.target["boxes"], np.concatenate([BOXES, BOXES + 5]))
    expected = (source.image.astype(float) + picture(5).image) / 2
    assert np.abs(moved.image - expected).max() <= 0.51
    with pytest.raises(ValueError, match="det_mixup cannot mix label maps"):
        Chain(build_transforms(["det_mixup"]), lambda g: picture())(picture(), rng(0))
    with pytest.raises(ValueError, match="labelled alike"):
        Chain(build_transforms(["det_mixup"]), lambda g: picture(kinds="boxes"))(source, rng(0))


def test_compositions_follow_one_another_and_partners_are_not_composed():
    reads: list[int] = []

    def draw(generator: np.random.Generator) -> Sample:
        reads.append(1)
        return picture(kinds="boxes masks")

    options = {"mosaic": {"size": 64}, "random_horizontal_flip": {"prob": 1.0}}
    chain = Chain(build_transforms(["mosaic", "random_horizontal_flip", "det_mixup"], options), draw)
    moved = chain(picture(kinds="boxes masks"), rng(0))
    assert moved.image.shape == (128, 128, 3)
    assert len(reads) == 4


def test_samples_and_masks_survive_pickling():
    back = pickle.loads(pickle.dumps(picture()))
    assert np.array_equal(back.target["masks"].to_bitmaps(), picture().target["masks"].to_bitmaps())
