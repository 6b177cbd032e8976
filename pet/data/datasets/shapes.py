"""Coloured shapes on textured backgrounds, drawn on the fly: a data set without files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pet.data.datasets.annotated import AnnotatedDataset, Annotations, Panoptic, SemanticMap
from pet.data.datasets.base import DATASETS
from pet.data.masks import InstanceMasks
from pet.data.structures import Image, Sample
from pet.utils.rng import STREAM_SYNTHETIC, keyed_generator

Points = npt.NDArray[np.float64]

# Fixed-point bits of the coordinates that OpenCV draws with.
_SHIFT = 4
KEYPOINT_NAMES = ("center", "top", "right", "bottom", "left")
_SKELETON = ((0, 1), (0, 2), (0, 3), (0, 4))
# Nobody annotated these points; the tolerance is that of a shoulder of COCO.
_SIGMA = 0.079
_MAX_SHAPES = 16
_KINDS = ("label", "boxes", "masks", "keypoints", "semseg", "panoptic")


def _regular(corners: int, turn: float = 0.0) -> Points:
    angle = np.arange(corners) * (2 * np.pi / corners) + turn - np.pi / 2
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _star(spikes: int, inner: float) -> Points:
    points = _regular(2 * spikes)
    points[1::2] *= inner
    return points


def _outlines() -> dict[str, Points]:
    """Outline of every class in a circle of radius 1, y down. A ring is drawn as one line that returns inside."""
    circle = _regular(36)
    bar = 0.32
    cross = np.array(
        [
            (-bar, -1),
            (bar, -1),
            (bar, -bar),
            (1, -bar),
            (1, bar),
            (bar, bar),
            (bar, 1),
            (-bar, 1),
            (-bar, bar),
            (-1, bar),
            (-1, -bar),
            (-bar, -bar),
        ]
    )
    arrow = np.array([(0, -1), (0.85, -0.05), (0.32, -0.05), (0.32, 1), (-0.32, 1), (-0.32, -0.05), (-0.85, -0.05)])
    bite = circle[9:28] * (0.45, 0.8) + (-0.05, 0.0)
    moon = np.concatenate([circle[9:28] - (-0.3, 0), bite[::-1] - (-0.3, 0)])
    ring = np.concatenate([circle, circle[:1], 0.55 * circle[:1], 0.55 * circle[::-1]])
    return {
        "circle": 0.9 * circle,
        "square": 1.05 * _regular(4, np.pi / 4),
        "triangle": 1.1 * _regular(3),
        "star": 1.1 * _star(5, 0.42),
        "cross": cross,
        "ring": ring,
        "pentagon": _regular(5),
        "arrow": arrow,
        "moon": 1.1 * moon,
        "bar": np.array([(-0.3, -1), (0.3, -1), (0.3, 1), (-0.3, 1)]),
    }


OUTLINES = _outlines()
CLASS_NAMES = tuple(OUTLINES)


@dataclass(frozen=True, slots=True)
class Shape:
    """One drawn shape: class index, (x, y) centre and radius in pixels, rotation in radians, RGB colour."""

    label: int
    center: tuple[float, float]
    radius: float
    angle: float
    color: tuple[int, int, int]

    def place(self, points: Points) -> Points:
        """Points of the unit circle in the picture: (K, 2) float, pixels."""
        c, s = np.cos(self.angle) * self.radius, np.sin(self.angle) * self.radius
        return np.asarray(points @ np.array([[c, s], [-s, c]]) + self.center, np.float64)


@DATASETS.register("shapes_dataset")
class ShapesDataset(AnnotatedDataset):
    """Pictures that are a pure function of ``(seed, is_train, index)``.

    A picture shows one main shape (its class is the label), drawn last, and up to ``num_shapes - 1`` smaller ones that may
    be partly hidden or cut off. Shapes are turned by any angle; colours are random but keep a contrast to the background.

    Args:
        name: name in the catalog.
        images, annotations: not used; must be ``None``.
        is_train: training and test pictures come from different streams.
        num_images: pictures; default 4000 for training, 1000 for testing.
        image_size: side of the square picture, 16 to 2048 pixels.
        seed: selects another set of pictures.
        num_shapes: largest number of shapes in a picture, 1 to 16.
        labels: "class": a set for classification, whose labels cost nothing; "all": boxes, masks, keypoints, semantic and
            panoptic maps as well. Keypoints are in the order of ``KEYPOINT_NAMES``, relative to the shape's own orientation; 1
            marks those that another shape hides. Shapes that are completely hidden or outside have no label.
        max_angle: degrees that a shape is turned by at most, either way; 180 is any angle. Keypoints of a symmetric shape can
            only be told apart when it is not turned too far.
        semantic: classes of the semantic map. "all": the shapes, then the background; "stuff": the background, then "things".
    """

    def __init__(
        self,
        name: str,
        images: Path | None = None,
        annotations: Path | None = None,
        is_train: bool = True,
        *,
        num_images: int = 0,
        image_size: int = 64,
        seed: int = 0,
        num_shapes: int = 3,
        labels: str = "class",
        max_angle: float = 180.0,
        semantic: str = "all",
    ) -> None:
        if images is not None or annotations is not None:
            raise ValueError(f"{name}: shapes_dataset draws its pictures; remove IMAGES and ANNOTATIONS")
        for key, value, low, high in (
            ("IMAGE_SIZE", image_size, 16, 2048),
            ("NUM_SHAPES", num_shapes, 1, _MAX_SHAPES),
            ("NUM_IMAGES", num_images, 0, 2**31),
            ("MAX_ANGLE", max_angle, 0, 180),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name}: {key} is {value}; allowed are {low} to {high}")
        if labels not in ("class", "all"):
            raise ValueError(f"{name}: LABELS is '{labels}'; allowed are 'class' and 'all'")
        self._all_labels = labels == "all"
        super().__init__(name, CLASS_NAMES, None, _KINDS if self._all_labels else ("label",))
        self.num_images = num_images or (4000 if is_train else 1000)
        self.image_size, self.seed, self.num_shapes, self.max_angle = image_size, seed, num_shapes, max_angle
        self._split = int(is_train)
        self._present: npt.NDArray[np.bool_] | None = None
        if self._all_labels:
            self._describe_labels(semantic)

    def _describe_labels(self, semantic: str) -> None:
        self.set_panoptic_classes(["background"], [len(CLASS_NAMES) + 1], semantic)
        self._semseg_table = self.semseg_table()
        self.keypoint_names, self.skeleton = list(KEYPOINT_NAMES), list(_SKELETON)
        self.flip_pairs = [(KEYPOINT_NAMES.index("right"), KEYPOINT_NAMES.index("left"))]
        self.sigmas = [_SIGMA] * len(KEYPOINT_NAMES)
        self.id_bound = self.num_images * _MAX_SHAPES

    def __len__(self) -> int:
        return self.num_images

    def labels(self) -> npt.NDArray[np.generic]:
        """The class of each picture (N,); with all labels, whether a class is visible in it (N, C), for which it is drawn."""
        # The classes take turns: equal counts, known without drawing.
        main = np.arange(self.num_images, dtype=np.int64) % len(CLASS_NAMES)
        if not self._all_labels:
            return main
        if self._present is None:
            self._present = np.zeros((self.num_images, len(CLASS_NAMES)), np.bool_)
            for index in range(self.num_images):
                self._present[index, self.annotations(index).labels] = True
        return self._present

    def sizes(self) -> npt.NDArray[np.int64]:
        return np.full((self.num_images, 2), self.image_size, np.int64)

    def image_id(self, index: int) -> int | str:
        return index

    def read(self, index: int) -> Sample:
        """Draw picture ``index``; ``target["label"]`` is the class of the main shape, the rest as ``AnnotatedDataset`` says."""
        image, shapes = self._draw(index)
        target: dict[str, Any] = {}
        if self._all_labels:
            scene = _Scene(shapes, self.image_size)
            if self.wanted & {"boxes", "masks", "keypoints"}:
                target.update(self.clean_target(self._truth(index, scene)))
            if "semseg" in self.wanted:
                target["semseg"] = self._semseg_table[scene.classes()]
            target["original_size"] = (self.image_size, self.image_size)
        if "label" in self.wanted:
            target["label"] = index % len(CLASS_NAMES)
        return Sample(image, target, index)

    def picture(self, index: int) -> Image:
        return self._draw(index)[0]

    def annotations(self, index: int) -> Annotations:
        return self._truth(index, self._scene(index))

    def semseg(self, index: int) -> SemanticMap:
        if not self._all_labels:
            return super().semseg(index)
        return np.asarray(self._semseg_table[self._scene(index).classes()], np.uint8)

    def panoptic(self, index: int) -> Panoptic:
        if not self._all_labels:
            return super().panoptic(index)
        scene = self._scene(index)
        # The background is the last segment.
        ids = np.where(scene.ids == 0, len(scene.shapes) + 1, scene.ids).astype(np.int32)
        labels = [*(shape.label for shape in scene.shapes), len(CLASS_NAMES)]
        areas = np.bincount(ids.ravel(), minlength=len(labels) + 1)[1:].tolist()
        segments = enumerate(zip(labels, areas, strict=True), start=1)
        return ids, [{"id": i, "label": label, "crowd": False, "area": area} for i, (label, area) in segments if area]

    def _scene(self, index: int) -> _Scene:
        return _Scene(self._draw(index)[1], self.image_size)

    def _truth(self, index: int, scene: _Scene) -> Annotations:
        count, size = len(scene.shapes), self.image_size
        bitmaps = scene.bitmaps()
        masks = InstanceMasks.from_bitmaps(bitmaps)
        return Annotations(
            self.describe(index),
            size,
            size,
            index,
            masks.boxes(),
            np.array([shape.label for shape in scene.shapes], np.int64),
            np.arange(1, count + 1, dtype=np.int64) + index * _MAX_SHAPES,
            np.zeros(count, np.bool_),
            np.zeros(count, np.bool_),
            bitmaps.sum((1, 2), dtype=np.int64).astype(np.float64),
            masks,
            scene.keypoints(),
        )

    def _draw(self, index: int) -> tuple[Image, list[Shape]]:
        rng = keyed_generator(self.seed, STREAM_SYNTHETIC, self._split, index)
        image = _texture(rng, self.image_size)
        shapes = self._choose_shapes(rng, index, image)
        for shape in shapes:
            _fill(image, shape, shape.color, cv2.LINE_AA)
        grain = rng.integers(0, 25, image.shape, np.uint8)
        image = cv2.subtract(cv2.add(image, grain), np.full(image.shape, 12, np.uint8)).astype(np.uint8, copy=False)
        return image, shapes

    def _choose_shapes(self, rng: np.random.Generator, index: int, image: Image) -> list[Shape]:
        size = self.image_size
        shapes = []
        count = int(rng.integers(0, self.num_shapes))
        for place in range(count + 1):
            main = place == count
            radius = size * rng.uniform(0.28, 0.42) if main else size * rng.uniform(0.08, 0.16)
            margin = 0.85 * radius if main else 0.0
            x, y = rng.uniform(margin, size - margin, 2)
            label = index % len(CLASS_NAMES) if main else int(rng.integers(len(CLASS_NAMES)))
            around = image[min(int(y), size - 1), min(int(x), size - 1)]
            shapes.append(Shape(label, (float(x), float(y)), float(radius), self._angle(rng), _contrasting(rng, around)))
        return shapes

    def _angle(self, rng: np.random.Generator) -> float:
        if self.max_angle >= 180:
            return float(rng.uniform(0, 2 * np.pi))
        return float(np.deg2rad(rng.uniform(-self.max_angle, self.max_angle)))


def _texture(rng: np.random.Generator, size: int) -> Image:
    """A smooth colour field with stripes: (size, size, 3) uint8."""
    coarse = (rng.integers(50, 206, 3) + rng.integers(-40, 41, (4, 4, 3))).astype(np.uint8)
    image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)
    angle, wave = rng.uniform(0, np.pi), rng.uniform(0.1, 0.5) * 64 / size
    axis = np.arange(size, dtype=np.float32) * wave
    phase = np.add.outer(axis * np.float32(np.sin(angle)), axis * np.float32(np.cos(angle)))
    stripes = (np.sin(phase) > 0).astype(np.uint8) * np.uint8(rng.integers(0, 30))
    return cv2.add(image, cv2.merge([stripes] * 3)).astype(np.uint8, copy=False)


def _contrasting(rng: np.random.Generator, background: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    """A random colour at least 160 away from ``background`` (sum of the absolute differences)."""
    color = rng.integers(0, 256, 3)
    if np.abs(color - background.astype(np.int64)).sum() < 160:
        color = (color + 128) % 256
    return int(color[0]), int(color[1]), int(color[2])


def _fill(image: npt.NDArray[Any], shape: Shape, color: Any, line: int) -> None:
    points = np.round(shape.place(OUTLINES[CLASS_NAMES[shape.label]]) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(image, [points], color, line, _SHIFT)


class _Scene:
    """What is visible of the shapes of a picture.

    Attributes:
        shapes: those of which a pixel is visible, in the order of drawing.
        ids: (H, W) int32, 0 for the background and k + 1 for shape k.
    """

    def __init__(self, shapes: list[Shape], size: int) -> None:
        owner = np.zeros((size, size), np.int32)
        for number, shape in enumerate(shapes, start=1):
            _fill(owner, shape, number, cv2.LINE_8)
        visible = np.bincount(owner.ravel(), minlength=len(shapes) + 1)[1:] > 0
        self.shapes = [shape for shape, seen in zip(shapes, visible, strict=True) if seen]
        renumber = np.concatenate([[0], np.where(visible, np.cumsum(visible), 0)]).astype(np.int32)
        self.ids = renumber[owner]

    def bitmaps(self) -> npt.NDArray[np.uint8]:
        """Visible parts: (K, H, W), 0 or 1."""
        numbers = np.arange(1, len(self.shapes) + 1)
        return np.asarray(self.ids[None] == numbers[:, None, None], np.uint8)

    def classes(self) -> npt.NDArray[np.int64]:
        """Class of every pixel (H, W), the background last."""
        table = np.array([len(CLASS_NAMES), *(shape.label for shape in self.shapes)], np.int64)
        return np.asarray(table[self.ids], np.int64)

    def keypoints(self) -> npt.NDArray[np.float32]:
        """(K, 5, 3) float32."""
        points = [_keypoints(shape, number, self.ids) for number, shape in enumerate(self.shapes, start=1)]
        return np.asarray(np.stack(points), np.float32)


def _keypoints(shape: Shape, number: int, owner: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """(5, 3) float32; the tips lie on the circle around the shape."""
    unit = np.array([(0, 0), (0, -1), (1, 0), (0, 1), (-1, 0)], np.float64)
    points = shape.place(unit)
    size = owner.shape[0]
    result = np.zeros((len(unit), 3), np.float32)
    for row, (x, y) in zip(result, points, strict=True):
        if 0 <= x < size and 0 <= y < size:
            hidden = owner[int(y), int(x)] > number
            row[:] = (x, y, 1 if hidden else 2)
    return result
