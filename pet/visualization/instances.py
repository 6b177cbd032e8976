"""Pictures of objects: boxes, masks and keypoints with their names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pet.visualization.canvas import FAINT, Colour, Picture
from pet.visualization.labels import MIN_SIDE, Style, Tag, draw_tags, enlarged, style_of
from pet.visualization.palette import palette, variant

INSTANCE_PARTS = frozenset({"box", "class", "mask", "keypoint"})
_FILL = 0.4  # opacity of masks
_HIDDEN, _WHITE = 1, (255, 255, 255)


@dataclass(frozen=True)
class Instances:
    """The K objects of one picture.

    Attributes:
        boxes: (K, 4) x1, y1, x2, y2 in pixels.
        labels: (K,) class indices; ``None`` for proposals, which have no class.
        scores: (K,), or ``None`` for ground truth.
        masks: (K, H, W) bool or 0 and 1, or ``None``.
        keypoints: (K, P, 3) x, y, visibility (0: not there, 1: hidden, 2: visible), or ``None``.
        notes: a word about each that is drawn in grey, such as "crowd", or "" for all others; () stands for no notes.
    """

    boxes: NDArray[Any]
    labels: NDArray[Any] | None = None
    scores: NDArray[Any] | None = None
    masks: NDArray[Any] | None = None
    keypoints: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("labels", "scores", "masks", "keypoints"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.boxes):
                raise ValueError(f"{len(self.boxes)} boxes and {len(value)} {name}: there must be one for each object")

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, index: NDArray[Any]) -> Instances:
        """The objects of an index or bool array."""
        names = ("labels", "scores", "masks", "keypoints")
        chosen = {name: None if getattr(self, name) is None else getattr(self, name)[index] for name in names}
        notes = tuple(np.array(self.notes, object)[index].tolist()) if self.notes else ()
        return Instances(self.boxes[index], notes=notes, **chosen)

    def resized(self, old: tuple[int, int], new: tuple[int, int]) -> Instances:
        """For a picture of another size; both are (height, width)."""
        if old == new:
            return self
        factors = np.array([new[1] / old[1], new[0] / old[0]])
        boxes = np.asarray(self.boxes, np.float64) * np.tile(factors, 2)
        keypoints, masks = self.keypoints, self.masks
        if keypoints is not None:
            keypoints = np.concatenate([keypoints[..., :2] * factors, keypoints[..., 2:]], axis=-1)
        if masks is not None:
            masks = resize_masks(masks, new)
        return replace(self, boxes=boxes, keypoints=keypoints, masks=masks)


def resize_masks(masks: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks (K, H, W) at another size (height, width), with smooth outlines."""
    resized = np.zeros((len(masks), *size), bool)
    for number, mask in enumerate(masks):
        shrinks = size[0] < mask.shape[0]
        values = mask.astype(np.uint8) * 255
        resized[number] = cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR) > 127
    return resized


def draw_instances(
    image: Picture,
    instances: Instances,
    class_names: Sequence[str],
    *,
    colours: str = "distinct",
    colour_by: str = "auto",
    show: Collection[str] = INSTANCE_PARTS,
    skeleton: Sequence[tuple[int, int]] = (),
    min_side: int = MIN_SIDE,
) -> Picture:
    """The image with its objects. Small images are enlarged, so the picture may be larger than the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        instances: in pixels of the image.
        class_names: C names.
        colours: name of a palette, see ``pet.visualization.palette``.
        colour_by: ``class``: a colour for each class, masks of one class in shades of it; ``instance``: a colour for each
            object, which suits keypoints and data sets with one class; ``auto``: ``instance`` if keypoints are drawn.
        show: what of it to draw: ``box``, ``class`` (names and scores), ``mask``, ``keypoint``.
        skeleton: pairs of keypoints, from 0, that are joined by a line.
        min_side: images with a shorter longer side are enlarged to about that many pixels.
    """
    if colour_by not in ("auto", "class", "instance"):
        raise ValueError(f"colour_by is '{colour_by}'; expected auto, class or instance")
    if colour_by == "auto":
        colour_by = "instance" if "keypoint" in show and instances.keypoints is not None else "class"
    picture = enlarged(image, min_side)
    instances = instances.resized(_size(image), _size(picture))
    style = style_of(picture)
    shades = _colours(instances, len(class_names), colours, colour_by)
    largest_first = np.argsort(-_areas(instances), kind="stable")
    if "mask" in show and instances.masks is not None:
        _draw_masks(picture, instances, shades, largest_first, style)
    if "box" in show:
        for number in largest_first.tolist():
            _draw_box(picture, instances.boxes[number], shades[number], style, bool(_note(instances, number)))
    if "keypoint" in show and instances.keypoints is not None:
        for number in largest_first.tolist():
            draw_keypoints(picture, instances.keypoints[number], shades[number], skeleton)
    if "class" in show:
        draw_tags(picture, _tags(instances, class_names, shades, _size(picture)), style)
    return picture


def draw_keypoints(picture: Picture, points: NDArray[Any], colour: Colour, skeleton: Sequence[tuple[int, int]] = ()) -> None:
    """Draw the keypoints (P, 3) of one object onto the picture: full dots, rings for hidden ones, lines of the skeleton."""
    line = style_of(picture).line
    width, radius = round(1.3 * line) + 1, round(1.5 * line) + 1
    places = [(round(float(x)), round(float(y))) for x, y, _ in points]
    seen = [bool(v > 0) for v in points[:, 2]]
    limbs = [(places[a], places[b]) for a, b in skeleton if seen[a] and seen[b]]
    for begin, end in limbs:
        cv2.line(picture, begin, end, _WHITE, width + line + 1, cv2.LINE_AA)
    for begin, end in limbs:
        cv2.line(picture, begin, end, colour, width, cv2.LINE_AA)
    for place, visible, point in zip(places, seen, points, strict=True):
        if not visible:
            continue
        inner, outer = (_WHITE, colour) if point[2] == _HIDDEN else (colour, _WHITE)
        cv2.circle(picture, place, radius + max(1, line // 2), outer, -1, cv2.LINE_AA)
        cv2.circle(picture, place, radius, inner, -1, cv2.LINE_AA)


def tint(picture: Picture, mask: NDArray[Any], colour: Colour, opacity: float) -> None:
    """Lay a colour over the pixels of a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    inside = mask[part].astype(bool)
    old = picture[part]
    old[inside] = (old[inside] * (1 - opacity) + np.array(colour) * opacity).round().astype(np.uint8)


def outline(picture: Picture, mask: NDArray[Any], colour: Colour, width: int) -> None:
    """Draw the outline of a mask (H, W)."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, found, -1, colour, width, cv2.LINE_AA)


def _draw_masks(picture: Picture, instances: Instances, shades: Sequence[Colour], order: NDArray[Any], style: Style) -> None:
    masks: Any = instances.masks
    for number in order.tolist():
        if _note(instances, number):
            outline(picture, masks[number], FAINT, style.line)
            continue
        tint(picture, masks[number], shades[number], _FILL)
        outline(picture, masks[number], shades[number], style.line)


def _draw_box(picture: Picture, box: NDArray[Any], colour: Colour, style: Style, dashed: bool) -> None:
    """The line lies inside the box; what of a box is outside of the picture is cut off."""
    height, width = _size(picture)
    x1, y1 = max(round(float(box[0])), 0), max(round(float(box[1])), 0)
    x2, y2 = min(round(float(box[2])), width) - 1, min(round(float(box[3])), height) - 1
    if x2 < x1 or y2 < y1:
        return
    if not dashed:
        for step in range(style.line):
            inner = (min(x1 + step, x2), min(y1 + step, y2)), (max(x2 - step, x1), max(y2 - step, y1))
            cv2.rectangle(picture, *inner, colour, 1)
        return
    dash, thick = 4 * style.line + 2, style.line
    for x in range(x1, x2 + 1, 2 * dash):
        for y in (y1, max(y2 - thick + 1, y1)):
            picture[y : y + thick, x : min(x + dash, x2 + 1)] = colour
    for y in range(y1, y2 + 1, 2 * dash):
        for x in (x1, max(x2 - thick + 1, x1)):
            picture[y : min(y + dash, y2 + 1), x : x + thick] = colour


def _tags(instances: Instances, names: Sequence[str], shades: Sequence[Colour], size: tuple[int, int]) -> list[Tag]:
    """The names, the most certain ones first; without scores the largest first."""
    order = -_areas(instances) if instances.scores is None else -np.asarray(instances.scores, np.float64)
    high = (size[1], size[0], size[1], size[0])
    tags = []
    for number in np.argsort(order, kind="stable").tolist():
        score = None if instances.scores is None else f"{float(instances.scores[number]):.2f}"
        name = None if instances.labels is None else names[int(instances.labels[number])]
        text = " ".join(word for word in (name, score, _note(instances, number)) if word)
        corners = np.clip(np.asarray(instances.boxes[number], np.float64), 0, high).tolist()
        if text:
            tags.append(Tag(text, shades[number], (corners[0], corners[1], corners[2], corners[3])))
    return tags


def _colours(instances: Instances, num_classes: int, name: str, colour_by: str) -> list[Colour]:
    count = len(instances) if colour_by == "instance" or instances.labels is None else num_classes
    of_all = [(int(r), int(g), int(b)) for r, g, b in palette(name, max(count, 1))]
    used = [0] * max(count, 1)
    shades: list[Colour] = []
    for number in range(len(instances)):
        label = number if colour_by == "instance" else 0 if instances.labels is None else int(instances.labels[number])
        shade = of_all[label] if instances.masks is None else variant(of_all[label], used[label])
        used[label] += 1
        shades.append(FAINT if _note(instances, number) else shade)
    return shades


def _areas(instances: Instances) -> NDArray[np.float64]:
    boxes = np.asarray(instances.boxes, np.float64).reshape(-1, 4)
    areas: NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def _note(instances: Instances, number: int) -> str:
    return instances.notes[number] if instances.notes else ""


def _size(picture: Picture) -> tuple[int, int]:
    return picture.shape[0], picture.shape[1]
