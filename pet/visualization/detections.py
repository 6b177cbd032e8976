"""Pictures of an evaluation and of training batches: ground truth and predictions of objects and maps, side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pet.utils import comm
from pet.visualization.canvas import FAINT, INK, Picture, blank, flow, put_text, shorten, stack, text_width
from pet.visualization.instances import Instances, draw_instances
from pet.visualization.palette import palette
from pet.visualization.predictions import spread_ids
from pet.visualization.segments import IGNORED, colour_of, draw_legend, draw_panoptic, draw_semantic, resize_map

SHOW = frozenset({"box", "class", "keypoint", "mask", "panoseg", "semseg"})

_HEIGHT, _WIDEST, _ROW, _GAP = 300, 480, 1860, 12
_CAPTION, _TEXT = 20, 8
_MOST_INSTANCES, _MOST_PROPOSALS = 100, 40
_KEYPOINT_SCORE = 2.0  # of a heat map, before the softmax; below it a keypoint is a guess

Drawing = tuple[Picture, list[int]]  # with the classes that the legend must name


class Inputs(Protocol):
    """What is read of a padded batch; ``pet.data.structures.Batch`` has it."""

    @property
    def images(self) -> Tensor:
        """(N, 3, H, W) uint8 RGB."""

    @property
    def targets(self) -> Mapping[str, Any]:
        """``sizes`` and ``original_sizes``: (h, w) of each image; ``label``: its class, if known."""

    @property
    def ids(self) -> Tensor:
        """(N,) int64."""


class Truth(Protocol):
    """What is read of a data set; ``pet.data.datasets.annotated.AnnotatedDataset`` has it."""

    name: str
    class_names: list[str]

    def __len__(self) -> int: ...

    @property
    def kinds(self) -> Collection[str]:
        """What it has: ``boxes``, ``masks``, ``keypoints``, ``semseg``, ``panoptic``."""

    def annotations(self, index: int) -> Any:
        """Boxes and what belongs to them, in pixels of the original picture."""


class DetectionPictures:
    """Collects pictures of chosen images while a model is evaluated: ground truth on the left, predictions on the right.

    Args:
        dataset: knows the truth.
        num_images: images to show, spread over the data set.
        threshold: score that an object needs to be drawn.
        show: what to draw: ``box``, ``class`` (names and scores), ``mask``, ``keypoint``, ``semseg``, ``panoseg``.
        colours: name of a palette, see ``pet.visualization.palette``.
        keypoint_threshold: ``keypoint_scores`` that a keypoint needs to be drawn.
        title: text above the pictures; the name of the data set if empty.
        largest: (height, width) within which each picture is drawn.
    """

    def __init__(
        self,
        dataset: Truth,
        num_images: int,
        *,
        threshold: float = 0.5,
        show: Collection[str] = SHOW,
        colours: str = "distinct",
        keypoint_threshold: float = _KEYPOINT_SCORE,
        title: str = "",
        largest: tuple[int, int] = (_HEIGHT, _WIDEST),
    ) -> None:
        if num_images < 1:
            raise ValueError(f"num_images is {num_images}; it must be at least 1")
        unknown = sorted(set(show) - SHOW)
        if unknown:
            raise ValueError(f"there is no '{unknown[0]}' to show; expected some of {', '.join(sorted(SHOW))}")
        self.dataset, self.threshold, self.title = dataset, threshold, title or dataset.name
        self.show, self.colours, self.keypoint_threshold = frozenset(show), colours, keypoint_threshold
        self.ids, self.largest = spread_ids(len(dataset), num_images), largest
        palette(colours, 1)  # a wrong name is refused here
        self._kinds: dict[str, Callable[[Picture, tuple[int, int], int, Any], list[Drawing]]] = {}
        if self.show & {"box", "class", "mask", "keypoint"}:
            self._kinds |= {"instances": self._draw_instances, "proposals": self._draw_proposals}
        if "semseg" in self.show:
            self._kinds["semseg"] = self._draw_semantic
        if "panoseg" in self.show:
            self._kinds["panoptic"] = self._draw_panoptic
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._found: dict[str, dict[int, Drawing]] = {}

    def process(self, inputs: Inputs, outputs: Mapping[str, Any]) -> None:
        """Draw what is chosen of one batch.

        ``outputs`` may hold ``instances``, ``proposals``, ``semseg``, ``panoptic``: lists with an entry for each image, at the
        size of the original picture; and ``scores`` (N, C) for the whole pictures.
        """
        for row, id in enumerate(inputs.ids.tolist()):
            if id in self.ids:
                for kind, drawing in self._tiles(inputs, outputs, row).items():
                    self._found.setdefault(kind, {})[id] = drawing

    def draw(self, inputs: Inputs, outputs: Mapping[str, Any], row: int) -> Picture:
        """One picture of a batch with everything that is shown of it, one kind of prediction below the other."""
        tiles = self._tiles(inputs, outputs, row)
        if not tiles:  # all that the model predicts is switched off in VIS
            return display(inputs.images[row], inputs.targets["sizes"][row], self.largest)
        return stack([with_legend(tile, labels, self._names(kind), self.colours) for kind, (tile, labels) in tiles.items()])

    def _tiles(self, inputs: Inputs, outputs: Mapping[str, Any], row: int) -> dict[str, Drawing]:
        """What is shown of one picture, by kind."""
        # Sets with a class for each picture do not tell original sizes, and nothing is drawn on their pictures.
        originals = inputs.targets.get("original_sizes", inputs.targets["sizes"])
        id, (height, width) = int(inputs.ids[row]), (int(side) for side in originals[row])
        image = display(inputs.images[row], inputs.targets["sizes"][row], self.largest)
        said = self._whole(outputs["scores"][row], inputs.targets.get("label", ()), row) if "scores" in outputs else ""
        drawings = {
            kind: draw(image, (height, width), id, outputs[kind][row]) for kind, draw in self._kinds.items() if kind in outputs
        }
        if said and not drawings:
            drawings["classes"] = [(image, [])]
        return {kind: self._tile(id, drawn, said) for kind, drawn in drawings.items()}

    def pictures(self) -> dict[str, Picture]:
        """Pictures by name on rank 0: ``predictions`` (objects), ``proposals``, ``semseg``, ``panoptic``, ``classes``.

        Only what was seen is in it. A collective: every process calls it; the pictures are the same for any number of processes.
        """
        merged: dict[str, dict[int, Drawing]] = {}
        for part in comm.gather(self._found, patient=True):
            for kind, drawings in part.items():
                merged.setdefault(kind, {}).update(drawings)
        names = {"instances": "predictions"}
        return {names.get(kind, kind): self._sheet(kind, found) for kind, found in sorted(merged.items())}

    def _sheet(self, kind: str, found: Mapping[int, Drawing]) -> Picture:
        scored = f", score at least {self.threshold:g}" if kind == "instances" else ""
        sheet = flow([found[id][0] for id in sorted(found)], _ROW, _GAP, f"{self.title}: {kind}{scored}")
        present = {label for _, labels in found.values() for label in labels}
        return with_legend(sheet, present, self._names(kind), self.colours)

    def _names(self, kind: str) -> list[str]:
        """The classes of objects, of the semantic map, or of panoptic segments (things, then stuff)."""
        names = list(self.dataset.class_names)
        if kind == "semseg":
            return list(getattr(self.dataset, "semseg_names", ())) or names
        return names + list(getattr(self.dataset, "stuff_names", ())) if kind == "panoptic" else names

    def _tile(self, id: int, drawings: Sequence[Drawing], said: str) -> Drawing:
        captions = ["ground truth", "predicted"] if len(drawings) == 2 else ["predicted"]
        captions[-1] += f": {said}" if said else ""
        tile = side_by_side([picture for picture, _ in drawings], captions, self._file(id))
        return tile, sorted({label for _, labels in drawings for label in labels})

    def _file(self, id: int) -> str:
        if not {"boxes", "masks", "keypoints"} & set(getattr(self.dataset, "kinds", ())):
            return f"image {id}"
        return str(self.dataset.annotations(id).file).rpartition("/")[2]

    def _whole(self, scores: Tensor, labels: Sequence[Any] | Tensor, row: int) -> str:
        """The class of the whole picture and its score, and the truth where that is known and another."""
        values, names = scores.detach().float().cpu(), self.dataset.class_names
        best = int(values.argmax())
        truth = int(labels[row]) if len(labels) else -1
        return f"{names[best]} {float(values[best]):.2f}" + (f" (is {names[truth]})" if truth not in (-1, best) else "")

    def _draw_instances(self, image: Picture, original: tuple[int, int], id: int, output: Mapping[str, Any]) -> list[Drawing]:
        draw = partial(self._objects, image)
        found = instances_of(output, self.threshold, self.keypoint_threshold)
        drawings = [draw(found.resized(original, image.shape[:2]))]
        if "boxes" in self.dataset.kinds:
            truth = self.dataset.annotations(id)
            drawings.insert(0, draw(truth_of(truth, original, (image.shape[0], image.shape[1]))))
        return drawings

    def _objects(self, image: Picture, instances: Instances) -> Drawing:
        options: dict[str, Any] = {
            "colours": self.colours,
            "show": self.show,
            "skeleton": getattr(self.dataset, "skeleton", None) or (),
            "min_side": 0,
        }
        return draw_instances(image, instances, self.dataset.class_names, **options), []

    def _draw_proposals(self, image: Picture, original: tuple[int, int], id: int, output: Mapping[str, Any]) -> list[Drawing]:
        best = np.argsort(-as_numpy(output["scores"]), kind="stable")[:_MOST_PROPOSALS]
        boxes = Instances(as_numpy(output["boxes"])[best]).resized(original, image.shape[:2])
        drawings = [self._objects(image, boxes)]
        if "boxes" in self.dataset.kinds:
            truth = truth_of(self.dataset.annotations(id), original, (image.shape[0], image.shape[1]))
            drawings.insert(0, self._objects(image, truth))
        return drawings

    def _draw_semantic(self, image: Picture, original: tuple[int, int], id: int, output: Any) -> list[Drawing]:
        maps = [as_numpy(output)]
        if "semseg" in self.dataset.kinds:
            maps.insert(0, np.asarray(cast("Any", self.dataset).semseg(id)))
        maps = [resize_map(classes, image.shape[:2]) for classes in maps]
        names, colours = self._names("semseg"), self.colours
        return [
            (draw_semantic(image, classes, names, colours=colours, legend=False, min_side=0), _judged(classes))
            for classes in maps
        ]

    def _draw_panoptic(self, image: Picture, original: tuple[int, int], id: int, output: Any) -> list[Drawing]:
        maps = [output]
        if "panoptic" in self.dataset.kinds:
            maps.insert(0, cast("Any", self.dataset).panoptic(id))
        things = cast("Any", self.dataset).is_thing
        names, colours = self._names("panoptic"), self.colours
        drawings = []
        for ids, segments in maps:
            ids = resize_map(as_numpy(ids), image.shape[:2])
            labels = sorted({int(s["label"]) for s in segments if not things[int(s["label"])]})
            drawings.append((draw_panoptic(image, ids, segments, names, things, colours=colours, min_side=0), labels))
        return drawings


def training_mosaic(
    batch: Inputs,
    class_names: Sequence[str],
    title: str = "",
    *,
    show: Collection[str] = SHOW,
    colours: str = "distinct",
    skeleton: Sequence[tuple[int, int]] = (),
    semseg_names: Sequence[str] = (),
    limit: int | None = None,
) -> Picture:
    """The images of a padded training batch as the model sees them, without the padding, with all that belongs to them.

    Args:
        batch: uint8 images and targets: ``sizes``, and any of ``boxes``, ``labels``, ``masks``, ``keypoints`` (lists of a tensor
            for each image), ``semseg`` (N, H, W) and ``label`` (N,).
        class_names: C names.
        title: text above.
        show: what to draw, as for ``DetectionPictures``.
        colours: name of a palette.
        skeleton: pairs of keypoints, from 0, joined by a line.
        semseg_names: names of the classes of the semantic map; () stands for ``class_names``.
        limit: images to show; ``None``: all.
    """
    count = len(batch.images) if limit is None else min(limit, len(batch.images))
    targets, of_map = batch.targets, list(semseg_names or class_names)
    tiles: list[Picture] = []
    present: set[int] = set()
    for row in range(count):
        height, width = int(targets["sizes"][row][0]), int(targets["sizes"][row][1])
        image = display(batch.images[row], (height, width))
        caption = ""
        if "semseg" in targets and "semseg" in show:
            classes = resize_map(as_numpy(targets["semseg"][row])[:height, :width], image.shape[:2])
            image = draw_semantic(image, classes, of_map, colours=colours, legend=False, min_side=0)
            present |= set(_judged(classes))
        if "boxes" in targets:
            instances = _targets_of(targets, row, (height, width)).resized((height, width), (image.shape[0], image.shape[1]))
            options: dict[str, Any] = {"colours": colours, "show": show, "skeleton": skeleton, "min_side": 0}
            image = draw_instances(image, instances, class_names, **options)
            caption = f"{len(instances)} object{'' if len(instances) == 1 else 's'}"
        if "label" in targets and int(targets["label"][row]) >= 0:
            caption = class_names[int(targets["label"][row])]
        tiles.append(side_by_side([image], [caption], f"{width} x {height}"))
    return with_legend(flow(tiles, _ROW, _GAP, title), present, of_map, colours)


def with_legend(sheet: Picture, present: Collection[int], names: Sequence[str], colours: str) -> Picture:
    """A sheet with the names of the present classes below; the sheet itself if there are none."""
    if not present:
        return sheet
    table, labels = palette(colours, len(names)), sorted(present)
    swatches = [colour_of(table, label) for label in labels]
    legend = draw_legend([names[label] for label in labels], swatches, sheet.shape[1] - 2 * _GAP, 9)
    frame = blank(legend.shape[0] + _GAP, sheet.shape[1])
    frame[: legend.shape[0], _GAP : _GAP + legend.shape[1]] = legend
    return stack([sheet, frame])


def display(image: Tensor, size: Sequence[int], largest: tuple[int, int] = (_HEIGHT, _WIDEST)) -> Picture:
    """The valid part (h, w) of a padded uint8 image (3, H, W), at the size at which it is shown: the largest that fits.

    Args:
        image: uint8 RGB.
        size: its valid height and width.
        largest: (height, width) to fit into; the default is that of a sheet.
    """
    height, width = int(size[0]), int(size[1])
    picture = image[:, :height, :width].permute(1, 2, 0).contiguous().cpu().numpy()
    factor = min(largest[0] / height, largest[1] / width)
    if factor >= 2:
        whole = int(factor)
        return cast(Picture, picture.repeat(whole, axis=0).repeat(whole, axis=1))
    shape = max(round(width * factor), 1), max(round(height * factor), 1)
    return cast(Picture, cv2.resize(picture, shape, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC))


def side_by_side(pictures: Sequence[Picture], captions: Sequence[str], right: str = "") -> Picture:
    """Pictures of one height in a row, a caption below each, and a grey one at the right end."""
    gap = 4
    height, width = pictures[0].shape[0], sum(p.shape[1] for p in pictures) + gap * (len(pictures) - 1)
    tile = blank(height + _CAPTION, width)
    left = 0
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        tile[:height, left : left + picture.shape[1]] = picture
        text = shorten(caption, picture.shape[1], _TEXT)
        put_text(tile, text, left, height + 14, _TEXT, INK)
        if number == len(pictures) - 1:
            room = picture.shape[1] - text_width(text, _TEXT) - 12
            if room > 40:
                put_text(tile, shorten(right, room, _TEXT), width, height + 14, _TEXT, FAINT, "right")
        left += picture.shape[1] + gap
    return tile


def instances_of(output: Mapping[str, Any], threshold: float, keypoint_threshold: float = _KEYPOINT_SCORE) -> Instances:
    """Predictions of one image of at least a score, the best first; unlikely keypoints count as not there."""
    scores = as_numpy(output["scores"])
    order = np.argsort(-scores, kind="stable")
    chosen = order[scores[order] >= threshold][:_MOST_INSTANCES]
    parts: dict[str, Any] = {
        name: as_numpy(output[name], chosen) for name in ("boxes", "labels", "scores", "masks") if name in output
    }
    if "keypoints" in output:
        points = as_numpy(output["keypoints"], chosen).astype(np.float64)
        if "keypoint_scores" in output:
            points[..., 2] = np.where(as_numpy(output["keypoint_scores"], chosen) >= keypoint_threshold, 2.0, 0.0)
        parts["keypoints"] = points
    return Instances(**parts)


def _targets_of(targets: Mapping[str, Any], row: int, size: tuple[int, int]) -> Instances:
    """The objects of one image of a training batch, in pixels of its valid part."""
    parts: dict[str, Any] = {
        name: as_numpy(targets[name][row]) for name in ("boxes", "labels", "masks", "keypoints") if name in targets
    }
    if "masks" in parts:
        parts["masks"] = parts["masks"][:, : size[0], : size[1]]
    return Instances(**parts)


def truth_of(annotations: Any, original: tuple[int, int], size: tuple[int, int]) -> Instances:
    """Ground truth of one picture for a picture of another size; crowds and difficult objects bear a note."""
    notes = tuple(
        "crowd" if crowd else "difficult" if difficult else ""
        for crowd, difficult in zip(annotations.crowd, annotations.difficult, strict=True)
    )
    objects = Instances(annotations.boxes, annotations.labels, keypoints=annotations.keypoints, notes=notes)
    objects = objects.resized(original, size)
    if annotations.masks is None:
        return objects
    masks = annotations.masks.resize(size).to_bitmaps().astype(bool)
    return Instances(objects.boxes, objects.labels, masks=masks, keypoints=objects.keypoints, notes=notes)


def as_numpy(value: Any, rows: NDArray[Any] | None = None) -> NDArray[Any]:
    """A tensor on any device, or an array, as an array; only some rows of it, if given."""
    if isinstance(value, Tensor):
        value = value.detach()
        value = value if rows is None else value[rows.tolist()]
        return cast("NDArray[Any]", value.cpu().numpy())
    array = np.asarray(value)
    return array if rows is None else array[rows]


def _judged(classes: Iterable[Any]) -> list[int]:
    return [int(c) for c in np.unique(np.asarray(classes)) if c != IGNORED]
