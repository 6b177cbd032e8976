"""Instance masks: polygons stay polygons, and pixels are those of COCO's own tool."""

from __future__ import annotations

import contextlib
import io

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pet.data.masks import InstanceMasks

SIZE = (40, 60)
SQUARE = [[10, 5, 30, 5, 30, 25, 10, 25]]  # x 10 to 30, y 5 to 25
TRIANGLE = [[40, 10, 55, 10, 40, 35]]


def bitmap(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    pixels = np.zeros(size, np.uint8)
    pixels[top:bottom, left:right] = 1
    return pixels


def masks() -> InstanceMasks:
    """A square and a triangle as polygons, a bar as pixels."""
    bar = InstanceMasks.from_bitmaps(bitmap(30, 2, 36, 50)[None])
    return InstanceMasks.concatenate([InstanceMasks.from_polygons([SQUARE, TRIANGLE], SIZE), bar])


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))


@pytest.fixture(scope="module", params=["train", "val"])
def coco(request, shared_data) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(shared_data / "detection" / "coco_mini" / "annotations" / f"instances_{request.param}2017.json"))


# What COCO.annToMask itself calls.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pixels_and_run_lengths_are_those_of_pycocotools(coco):
    for picture in coco.imgs.values():
        annotations = coco.loadAnns(coco.getAnnIds(picture["id"]))
        found = InstanceMasks.from_coco([a["segmentation"] for a in annotations], (picture["height"], picture["width"]))
        pixels, rles, areas = found.to_bitmaps(), found.to_rles(), found.areas()
        for annotation, one, rle, area in zip(annotations, pixels, rles, areas, strict=True):
            assert np.array_equal(one, coco.annToMask(annotation))
            assert rle["counts"] == coco.annToRLE(annotation)["counts"].decode()
            assert rle["size"] == [picture["height"], picture["width"]]
            assert area == one.sum()


def test_boxes_are_those_of_the_annotations(coco):
    for annotation in coco.loadAnns(coco.getAnnIds(iscrowd=False)):
        picture = coco.imgs[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        box = InstanceMasks.from_coco([annotation["segmentation"]], (picture["height"], picture["width"])).boxes()[0]
        assert np.allclose(box, (x, y, x + width, y + height), atol=1.0)


def test_polygons_scaled_and_flipped_agree_with_pixels_scaled_and_flipped(coco):
    overlaps = []
    for annotation in coco.loadAnns(coco.getAnnIds(iscrowd=False)):
        if annotation["area"] < 1024:
            continue
        picture = coco.imgs[annotation["image_id"]]
        one = InstanceMasks.from_coco([annotation["segmentation"]], (picture["height"], picture["width"]))
        pixels = InstanceMasks.from_bitmaps(one.to_bitmaps())
        changes = (lambda m: m.resize((333, 517)), lambda m: m.flip(horizontal=True), lambda m: m.flip(vertical=True))
        overlaps += [iou(change(one).to_bitmaps(), change(pixels).to_bitmaps()) for change in changes]
    # Thin structures of one or two pixels differ; everything else agrees.
    assert np.mean(overlaps) > 0.97
    assert np.quantile(overlaps, 0.05) > 0.92


def test_run_lengths_come_back_whatever_their_form():
    pixels = np.random.default_rng(0).integers(0, 2, (3, *SIZE), np.uint8)
    first = InstanceMasks.from_bitmaps(pixels)
    rles = first.to_rles()
    assert all(isinstance(rle["counts"], str) for rle in rles)
    again = InstanceMasks.from_rles(rles, SIZE)
    assert np.array_equal(again.to_bitmaps(), pixels)
    flat = pixels[0].ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]]))).tolist()
    counts = np.diff([0, *edges]).tolist()
    plain = InstanceMasks.from_coco([{"size": list(SIZE), "counts": counts}], SIZE)
    assert np.array_equal(plain.to_bitmaps()[0], pixels[0])
    with pytest.raises(ValueError, match="a mask of 40x60 does not fit the picture of 41x60"):
        InstanceMasks.from_rles(rles, (41, 60))


def test_polygons_of_one_instance_are_united():
    one = InstanceMasks.from_polygons([[SQUARE[0], [20, 15, 35, 15, 35, 20, 20, 20]]], SIZE)
    assert np.array_equal(one.to_bitmaps()[0], bitmap(5, 10, 25, 30) | bitmap(15, 20, 20, 35))
    assert one.boxes().tolist() == [[10, 5, 35, 25]]


def test_selecting_takes_indices_and_conditions():
    three = masks()
    assert np.array_equal(three.select([2, 0]).to_bitmaps(), three.to_bitmaps()[[2, 0]])
    assert np.array_equal(three.select(np.array([False, True, True])).to_bitmaps(), three.to_bitmaps()[1:])
    assert len(three.select([])) == len(three.select(np.zeros(3, bool))) == 0
    with pytest.raises(IndexError, match="3 masks cannot be selected by an array of shape"):
        three.select(np.array([True]))


def test_resizing_scales_boxes():
    scaled = masks().resize((80, 180))
    assert scaled.size == (80, 180)
    assert scaled.to_bitmaps().shape == (3, 80, 180)
    assert np.allclose(scaled.boxes(), masks().boxes() * (3, 2, 3, 2))


@pytest.mark.parametrize(("horizontal", "vertical"), [(True, False), (False, True), (True, True)])
def test_flips_mirror_the_pixels_and_undo_themselves(horizontal, vertical):
    three = masks().select([0, 2])
    flipped = three.flip(horizontal, vertical)
    steps = (slice(None), slice(None, None, -1 if vertical else 1), slice(None, None, -1 if horizontal else 1))
    assert np.array_equal(flipped.to_bitmaps(), three.to_bitmaps()[steps])
    assert np.array_equal(flipped.flip(horizontal, vertical).to_bitmaps(), three.to_bitmaps())


def test_crops_shift_and_drop_nothing():
    part = masks().crop(10, 20, (15, 25))
    assert part.size == (15, 25)
    assert len(part) == 3
    assert np.array_equal(part.to_bitmaps(), masks().to_bitmaps()[:, 10:25, 20:45])
    assert part.boxes().tolist()[0] == [0, 0, 10, 15]
    assert part.boxes().tolist()[2] == [0, 0, 0, 0]
    assert part.areas().tolist()[::2] == [150, 0]


def test_padding_places_the_picture_and_cuts_what_was_outside():
    whole = masks().pad(3, 4, (50, 70))
    expected = np.zeros((3, 50, 70), np.uint8)
    expected[:, 3:43, 4:64] = masks().to_bitmaps()
    assert np.array_equal(whole.to_bitmaps(), expected)
    cut = masks().crop(10, 20, (15, 25)).pad(10, 20, SIZE)
    window = np.zeros((3, *SIZE), np.uint8)
    window[:, 10:25, 20:45] = masks().to_bitmaps()[:, 10:25, 20:45]
    assert np.array_equal(cut.to_bitmaps(), window)


def test_operations_leave_the_masks_they_start_from_alone():
    three, before = masks(), masks().to_bitmaps()
    for change in (
        lambda m: m.resize((20, 30)),
        lambda m: m.flip(True, True),
        lambda m: m.crop(3, 3, (9, 9)),
        lambda m: m.pad(1, 1, (90, 90)),
        lambda m: m.to_rles(),
        lambda m: m.boxes(),
    ):
        change(three)
    assert np.array_equal(three.to_bitmaps(), before)


def test_no_masks_at_all_are_allowed():
    empty = InstanceMasks.from_polygons([], SIZE)
    assert empty.resize((4, 5)).to_bitmaps().shape == (0, 4, 5)
    assert empty.boxes().shape == (0, 4)
    assert empty.to_rles() == []
    assert len(empty.areas()) == 0
    assert len(InstanceMasks.from_bitmaps(np.zeros((0, *SIZE), bool))) == 0
    nothing = InstanceMasks.from_polygons([[]], SIZE)
    assert nothing.boxes().tolist() == [[0, 0, 0, 0]]
    assert coco_mask.area(nothing.to_rles()).tolist() == [0]


def test_faulty_input_is_named():
    with pytest.raises(ValueError, match="at least three points, but has 4 numbers"):
        InstanceMasks.from_polygons([[[1, 2, 3, 4]]], SIZE)
    with pytest.raises(ValueError, match="different sizes cannot be joined"):
        InstanceMasks.concatenate([masks(), masks().resize((9, 9))])


def test_masks_are_painted_into_the_memory_they_are_given():
    memory = np.zeros((3, *SIZE), np.uint8)
    assert masks().to_bitmaps(out=memory) is memory
    assert np.array_equal(memory, masks().to_bitmaps())
    contours, _ = cv2.findContours(memory[0], cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    assert cv2.boundingRect(contours[0]) == (10, 5, 20, 20)
