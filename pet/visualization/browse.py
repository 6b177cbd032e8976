"""Pictures of samples of a data set: as they are stored, and on their way through the transforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pet.visualization.canvas import Picture, flow
from pet.visualization.detections import display, side_by_side, with_legend
from pet.visualization.instances import Instances, draw_instances
from pet.visualization.segments import IGNORED, draw_panoptic, draw_semantic, resize_map

LARGE, SMALL = (720, 1080), (300, 420)  # (height, width) within which one sample, or one of many, is drawn
_GAP = 10
_SHARE_WORTH_NAMING = 0.05


@dataclass(frozen=True)
class Names:
    """What the labels of a data set are called.

    Attributes:
        classes: of objects and whole pictures.
        semseg: of the semantic map.
        segments, is_thing: of panoptic segments, and which of them are things.
        skeleton: pairs of keypoints that are joined by a line.
    """

    classes: Sequence[str]
    semseg: Sequence[str] = ()
    segments: Sequence[str] = ()
    is_thing: Sequence[bool] = ()
    skeleton: Sequence[tuple[int, int]] = ()

    @staticmethod
    def of(dataset: Any) -> Names:
        """Those of a data set."""
        classes, stuff = list(dataset.class_names), list(getattr(dataset, "stuff_names", ()))
        semseg = list(getattr(dataset, "semseg_names", ())) or classes
        return Names(
            classes, semseg, [*classes, *stuff], getattr(dataset, "is_thing", ()), getattr(dataset, "skeleton", None) or ()
        )


def draw_sample(
    image: Picture,
    target: Mapping[str, Any],
    names: Names,
    caption: str = "",
    *,
    right: str = "",
    largest: tuple[int, int] = LARGE,
) -> Picture:
    """A picture with all that belongs to it: objects, semantic map and panoptic segments beside one another, captions below.

    Args:
        image: (H, W, 3) uint8 RGB.
        target: in pixels of the image, any of ``boxes`` (K, 4) with ``labels`` (K,), ``masks`` (an object with ``to_bitmaps``),
            ``keypoints`` (K, P, 3) and ``notes``; ``semseg`` (H, W); ``panoptic``, ids (H, W) with segments; ``label`` or
            ``scores`` (C,) of the whole picture.
        names: what labels are called.
        caption: text in front of what is told of the labels.
        right: text at the right end of the caption, such as the name of the file.
        largest: (height, width) within which the image is drawn.
    """
    size, pixels = (image.shape[0], image.shape[1]), torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    shown: Picture = display(pixels, size, largest)
    panels = [draw(shown, size, target, names) for key, draw in _PANELS.items() if key in target]
    panels = panels or [Panel(shown, _whole(target, names))]
    tiles = []
    for number, panel in enumerate(panels):
        left, ends = (caption, f"{size[1]} x {size[0]}") if number == 0 else ("", "")
        ends = "  ".join(filter(None, (right if number == len(panels) - 1 else "", ends)))
        tile = side_by_side([panel.picture], [", ".join(filter(None, (left, panel.said)))], ends)
        tiles.append(with_legend(tile, panel.classes, names.semseg, "distinct"))
    return tiles[0] if len(tiles) == 1 else flow(tiles, sum(tile.shape[1] + _GAP for tile in tiles) + _GAP, _GAP)


def sheet(tiles: Sequence[Picture], title: str, width: int = 1860) -> Picture:
    """Drawn samples in rows of at most ``width`` pixels with a title above."""
    return flow(tiles, width, _GAP, title)


@dataclass(frozen=True)
class Panel:
    """One drawing of a sample, what is said below it, and the classes of the semantic map that a legend explains."""

    picture: Picture
    said: str
    classes: Sequence[int] = ()


def _objects(shown: Picture, size: tuple[int, int], target: Mapping[str, Any], names: Names) -> Panel:
    masks = target.get("masks")
    found = Instances(
        np.asarray(target["boxes"]),
        np.asarray(target["labels"]),
        masks=None if masks is None else masks.to_bitmaps().astype(bool),
        keypoints=target.get("keypoints"),
        notes=tuple(target.get("notes", ())),
    ).resized(size, (shown.shape[0], shown.shape[1]))
    picture = draw_instances(shown, found, names.classes, skeleton=names.skeleton, min_side=0)
    return Panel(picture, f"{len(found)} object{'' if len(found) == 1 else 's'}")


def _semantic(shown: Picture, size: tuple[int, int], target: Mapping[str, Any], names: Names) -> Panel:
    classes: NDArray[Any] = resize_map(np.asarray(target["semseg"]), shown.shape[:2])
    present = [int(label) for label in np.unique(classes) if label != IGNORED]
    return Panel(draw_semantic(shown, classes, names.semseg, legend=False, min_side=0), "semantic map", present)


def _segments(shown: Picture, size: tuple[int, int], target: Mapping[str, Any], names: Names) -> Panel:
    ids, segments = target["panoptic"]
    ids = resize_map(np.asarray(ids), shown.shape[:2])
    return Panel(draw_panoptic(shown, ids, segments, names.segments, names.is_thing, min_side=0), f"{len(segments)} segments")


_PANELS: dict[str, Callable[[Picture, tuple[int, int], Mapping[str, Any], Names], Panel]] = {
    "boxes": _objects,
    "semseg": _semantic,
    "panoptic": _segments,
}


def _whole(target: Mapping[str, Any], names: Names) -> str:
    """The class of the whole picture, or its classes with their shares."""
    if "label" in target:
        return names.classes[int(target["label"])] if int(target["label"]) >= 0 else "no label"
    shares = [(float(share), name) for share, name in zip(target.get("scores", ()), names.classes, strict=False)]
    told = sorted((pair for pair in shares if pair[0] >= _SHARE_WORTH_NAMING), reverse=True)
    return ", ".join(name if share == 1 else f"{share:.2f} {name}" for share, name in told)
