"""Objects are drawn where they are, in the size of the picture, with names that can be read."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pet.visualization import Instances, draw_instances, palette
from pet.visualization.labels import Style, Tag, draw_tags, style_of

NAMES = ["cat", "dog", "owl"]
COLOURS = [tuple(c) for c in palette("distinct", 3).tolist()]


def grey(height: int = 480, width: int = 640) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def one(label: int = 0, score: float | None = None, **parts: np.ndarray) -> Instances:
    scores = None if score is None else np.array([score])
    return Instances(np.array([[100.0, 120.0, 300.0, 320.0]]), np.array([label]), scores, **parts)


def where(picture: np.ndarray, colour: tuple[int, ...]) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of all pixels of a colour, ends exclusive."""
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_box_lies_exactly_on_its_object_in_the_colour_of_its_class(label: int) -> None:
    assert where(draw_instances(grey(), one(label), NAMES, show={"box"}), COLOURS[label]) == (100, 120, 300, 320)


def test_lines_and_letters_grow_with_the_picture() -> None:
    small, usual, large = (style_of(grey(h, w)) for h, w in ((96, 96), (480, 640), (3000, 4000)))
    assert small.line == 1
    assert small.text >= 7
    assert large.line > 4 * usual.line
    assert large.text > 4 * usual.text


@pytest.mark.parametrize(("shape", "factor"), [((96, 96), 5), ((48, 64), 7), ((480, 640), 1)])
def test_tiny_images_are_enlarged_with_what_is_on_them(shape: tuple[int, int], factor: int) -> None:
    box = np.array([[10.0, 12.0, 30.0, 40.0]])
    picture = draw_instances(grey(*shape), Instances(box, np.array([0])), NAMES, show={"box"})
    assert picture.shape[:2] == (shape[0] * factor, shape[1] * factor)
    assert where(picture, COLOURS[0]) == tuple(int(v) * factor for v in box[0])


def test_a_mask_is_tinted_and_the_rest_is_left_alone() -> None:
    mask = np.zeros((1, 480, 640), bool)
    mask[0, 150:250, 150:250] = True
    picture = draw_instances(grey(), one(masks=mask), NAMES, show={"mask"})
    changed = (picture != 128).any(axis=2)
    assert changed[150:250, 150:250].all()
    assert not changed[:147].any()
    assert not changed[:, 254:].any()
    assert 128 != int(picture[200, 200, 2]) < COLOURS[0][2]  # seen through


def test_masks_of_one_class_differ_in_shade() -> None:
    masks = np.zeros((2, 480, 640), bool)
    masks[0, 10:100, 10:100] = masks[1, 10:100, 200:300] = True
    boxes = np.array([[10.0, 10, 100, 100], [200, 10, 300, 100]])
    picture = draw_instances(grey(), Instances(boxes, np.array([1, 1]), masks=masks), NAMES, show={"mask"})
    assert tuple(picture[50, 50]) != tuple(picture[50, 250])


def test_keypoints_that_are_not_there_are_not_drawn() -> None:
    points = np.array([[[150.0, 200, 2], [250, 200, 1], [0, 0, 0]]])
    picture = draw_instances(grey(), one(keypoints=points), NAMES, show={"keypoint"}, skeleton=[(0, 1), (1, 2)])
    assert tuple(picture[200, 150]) == COLOURS[0]
    assert tuple(picture[200, 250]) == (255, 255, 255)  # a hidden one is a ring
    assert tuple(picture[200, 200]) == COLOURS[0]  # the line between them
    assert (picture[:100] == 128).all()


def test_parts_that_are_switched_off_are_not_drawn() -> None:
    full = one(score=0.9, masks=np.ones((1, 480, 640), bool), keypoints=np.array([[[150.0, 200, 2]]]))
    np.testing.assert_array_equal(draw_instances(grey(), full, NAMES, show=()), grey())


def test_no_objects_leave_the_image_as_it_is() -> None:
    nothing = Instances(
        np.zeros((0, 4)), np.zeros(0, np.int64), masks=np.zeros((0, 480, 640), bool), keypoints=np.zeros((0, 3, 3))
    )
    image = grey()
    np.testing.assert_array_equal(draw_instances(image, nothing, NAMES), image)


def test_the_image_itself_is_not_changed() -> None:
    image = grey()
    draw_instances(image, one(), NAMES)
    assert (image == 128).all()


@pytest.mark.parametrize("box", [(-50, -50, 700, 500), (600, 400, 900, 900), (-90, -90, -10, -10), (50, 50, 50, 50)], ids=str)
def test_boxes_beyond_the_border_or_without_extent_are_drawn_as_far_as_they_go(box: tuple[float, ...]) -> None:
    assert draw_instances(grey(), Instances(np.array([box]), np.array([0])), NAMES).shape == (480, 640, 3)


def test_crowds_are_grey_and_dashed() -> None:
    crowd = Instances(np.array([[100.0, 120, 300, 320]]), np.array([0]), notes=("crowd",))
    picture = draw_instances(grey(), crowd, NAMES, show={"box"})
    assert not (picture == COLOURS[0]).all(axis=2).any()
    assert 0.3 < (picture[120, 100:300] != 128).any(axis=1).mean() < 0.7


def overlap(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / ((a[2] - a[0]) * (a[3] - a[1]))


def test_names_of_objects_that_overlap_do_not() -> None:
    shifts = np.arange(5)[:, None] * np.array([4.0, 3.0, 4.0, 3.0])
    tags = [Tag("traffic light 0.97", COLOURS[0], tuple(box)) for box in np.array([200.0, 200, 400, 400]) + shifts]  # type: ignore[arg-type]
    placed = [place for place in draw_tags(grey(), tags, Style(2, 9)) if place is not None]
    assert len(placed) == 5
    assert max(overlap(a, b) for i, a in enumerate(placed) for b in placed[:i]) == 0.0


def test_names_stay_inside_the_picture_and_off_small_objects() -> None:
    boxes = [(0.0, 0.0, 640.0, 480.0), (630.0, 470.0, 640.0, 480.0), (300.0, 200.0, 312.0, 212.0)]
    placed = draw_tags(grey(), [Tag("baseball glove", COLOURS[0], box) for box in boxes], Style(2, 9))
    for place, box in zip(placed, boxes, strict=True):
        assert place is not None
        assert 0 <= place[0] < place[2] <= 640
        assert 0 <= place[1] < place[3] <= 480
        assert box == boxes[0] or overlap(tuple(map(int, box)), place) == 0.0


def test_a_name_without_room_is_left_out_rather_than_written_over_others() -> None:
    tags = [Tag("donut 0.55", COLOURS[0], (300.0, 200.0, 310.0, 210.0)) for _ in range(60)]
    placed = [place for place in draw_tags(grey(), tags, Style(2, 9)) if place is not None]
    assert 4 <= len(placed) < 60


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="1 boxes and 2 labels"):
        Instances(np.zeros((1, 4)), np.zeros(2))
    with pytest.raises(ValueError, match="expected auto, class or instance"):
        draw_instances(grey(), one(), NAMES, colour_by="score")


def test_real_photographs_are_drawn_in_any_size(shared_data: Path) -> None:
    folder = shared_data / "detection" / "coco_mini"
    content = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    names = [c["name"] for c in content["categories"]]
    index = {c["id"]: i for i, c in enumerate(content["categories"])}
    entry = max(content["images"], key=lambda i: sum(a["image_id"] == i["id"] for a in content["annotations"]))
    found = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
    boxes = np.array([a["bbox"] for a in found])
    boxes[:, 2:] += boxes[:, :2]
    image = cv2.imdecode(np.fromfile(folder / "val2017" / entry["file_name"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    objects = Instances(boxes, np.array([index[a["category_id"]] for a in found]))
    for side in (96, 640, 2000):
        size = (side * entry["height"] // entry["width"], side)
        scaled = cv2.resize(np.ascontiguousarray(image), size[::-1])
        picture = draw_instances(scaled, objects.resized(image.shape[:2], size), names)
        share = (picture != cv2.resize(scaled, picture.shape[1::-1])).any(axis=2).mean()
        assert share > 0.02
