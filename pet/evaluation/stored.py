"""Files of predictions read back as the outputs of a model, so that an evaluation takes the way it took in the test.

Every format that the evaluators write is read: the file of ``--out``, COCO results and panoptic, label maps, Cityscapes, VOC.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pet.evaluation.evaluator import short_list
from pet.evaluation.instances import decode_mask
from pet.evaluation.panoptic import colour_ids
from pet.evaluation.predictions import read_plain
from pet.evaluation.semantic import class_ids, picture_stems

Row = dict[str, Any]
_SHAPES = {"bbox": "boxes", "segmentation": "masks", "keypoints": "keypoints"}
_COCO_KINDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


@dataclass(frozen=True)
class StoredInputs:
    """What an evaluator reads of a batch.

    Attributes:
        ids: (N,) int64.
        targets: ground truth by name.
    """

    ids: Tensor
    targets: Mapping[str, Any]


@dataclass
class StoredPredictions:
    """Predictions of a data set.

    Attributes:
        path: what was read.
        truth: the data set.
        has: some of boxes, masks, keypoints, proposals, semseg, panoptic.
        instances, proposals: columns of each image that has any, by index.
        maps: file of the label map of each image, by index.
        segments: file and segments of each image, by index.
    """

    path: Path
    truth: Any
    has: set[str] = field(default_factory=set)
    instances: dict[int, Row] = field(default_factory=dict)
    proposals: dict[int, Row] = field(default_factory=dict)
    maps: dict[int, Path] = field(default_factory=dict)
    segments: dict[int, tuple[Path, list[dict[str, Any]]]] = field(default_factory=dict)

    def output(self, index: int) -> dict[str, Any]:
        """The outputs of a model for a batch of one image."""
        found: dict[str, Any] = {}
        if self.has & set(_SHAPES.values()):
            found["instances"] = [_bitmaps(self.instances.get(index), self)]
        if "proposals" in self.has:
            found["proposals"] = [self.proposals.get(index) or _no_boxes()]
        if "semseg" in self.has:
            found["semseg"] = [_classes_of(read_pixels(self.maps[index]), self.truth, self.maps[index])]
        if "panoptic" in self.has:
            path, segments = self.segments[index]
            found["panoptic"] = [(colour_ids(read_pixels(path)), segments)]
        return found


def read_stored(path: str | Path, truth: Any) -> StoredPredictions:
    """Read predictions of a data set.

    Args:
        path: file of ``--out``, ``P.bbox.json`` (``segm``, ``keypoints``, ``proposal``, ``panoptic``), folder ``P.semseg``,
            ``P.panoptic`` or of Cityscapes texts, one of the text files of VOC, or ``P`` for all JSON files beside one another.
        truth: the data set they belong to.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, in no known format, or belongs to another data set.
    """
    path = Path(path)
    stored = StoredPredictions(path, truth)
    together = sorted(path.parent.glob(f"{glob.escape(path.name)}.*.json")) if not path.exists() else [path]
    if not together:
        raise FileNotFoundError(f"{path} does not exist, and neither does {path}.bbox.json or the like")
    for one in together:
        _read_one(one, stored)
    return stored


def _read_one(path: Path, stored: StoredPredictions) -> None:
    if path.is_dir():
        _read_folder(path, stored)
    elif path.suffix == ".txt":
        _read_voc(path, stored)
    elif path.name.endswith(".panoptic.json"):
        _read_panoptic(path, stored)
    elif path.suffix == ".json" and isinstance(content := _json(path), list):
        _read_coco(path, content, stored)
    else:
        _read_out(path, read_plain(path), stored)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


# -------------------------------------------------------------------------------------------------- our own file


def _read_out(path: Path, content: Mapping[str, Any], stored: StoredPredictions) -> None:
    """The file of a test: objects in itself, or the files whose names it holds."""
    rows = content.get("predictions")
    if rows is not None:
        _check_images(path, [(row["id"], row["file"]) for row in rows], stored.truth)
        for kind in ("instances", "proposals"):
            found = {row["id"]: row[kind] for row in rows if kind in row}
            getattr(stored, kind).update(found)
            columns = {kind} if kind == "proposals" and found else {name for row in found.values() for name in row}
            stored.has |= columns & {"proposals", *_SHAPES.values()}
    files = [path.parent / name for name in content.get("files", ())]
    if rows is None and not files and "classification" not in content:
        raise ValueError(f"{path} holds no predictions, only {short_list(sorted(content))}; write them with --out FILE")
    # What is in the file itself, or in a JSON file, is exact; text files round.
    for file in sorted(files, key=lambda name: name.suffix != ".json"):
        maps = file.suffix == ".semseg" or file.name.endswith(".panoptic.json")
        if maps or (rows is None and file.suffix != ".panoptic" and (file.suffix == ".json" or not stored.has)):
            _read_one(file, stored)


def _other_count(path: str | Path, count: int, dataset: Any) -> str:
    return f"{path} has predictions of {count} images, but {dataset.name} has {len(dataset)}; they belong to another data set"


def _check_images(path: Path, images: Sequence[tuple[int, str]], truth: Any) -> None:
    if len(images) != len(truth):
        raise ValueError(_other_count(path, len(images), truth))
    for place, (index, file) in enumerate(images):
        expected = Path(truth.path(place)).name
        if index != place or file != expected:
            raise ValueError(f"{path}: image {place} is {file}, but {expected} in {truth.name}; it belongs to another data set")


# ------------------------------------------------------------------------------------------------------------- COCO


def _read_coco(path: Path, entries: Sequence[Row], stored: StoredPredictions) -> None:
    """COCO results; the shapes of several files about the same objects are joined."""
    kind = path.name.rpartition(".json")[0].rpartition(".")[2]
    shapes = _check_entries(path, kind, entries)
    index_of = _indices(stored.truth)
    by_image: dict[int, list[Row]] = {}
    for entry in entries:
        image = entry["image_id"]
        if image not in index_of:
            known = short_list(list(index_of), 3)
            raise ValueError(
                f"{path}: image id {image!r} is not in {stored.truth.name}, which has {len(index_of)} images (ids {known}); it "
                "belongs to another data set"
            )
        by_image.setdefault(index_of[image], []).append(entry)
    if kind == "proposal":
        stored.has.add("proposals")
        stored.proposals = {index: _columns(path, found, None) for index, found in by_image.items()}
        return
    label_of = {int(id): label for label, id in enumerate(stored.truth.category_ids)}
    rows = {index: _columns(path, found, label_of) for index, found in by_image.items()}
    joined = bool(stored.has & set(_SHAPES.values()))
    if joined and not _same_objects(stored.instances, rows):
        raise ValueError(f"{path} holds other objects than the files beside it; evaluate one of them by its name")
    for index, row in rows.items():
        kept = stored.instances.setdefault(index, {})
        kept.update({name: value for name, value in row.items() if name != "boxes" or "boxes" in shapes or name not in kept})
    stored.has |= shapes


def _check_entries(path: Path, kind: str, entries: Sequence[Any]) -> set[str]:
    """Refuse entries without the keys of COCO results; which of boxes, masks and keypoints there are.

    Raises:
        ValueError: names the file, the entry, what it lacks and what every entry must have.
    """
    first = entries[0] if entries and isinstance(entries[0], dict) else {}
    shapes = [shape for shape in _SHAPES if shape in first] or [_COCO_KINDS.get(kind, "bbox")]
    keys = ["image_id", *(() if kind == "proposal" else ("category_id",)), "score", *shapes]
    for place, entry in enumerate(entries):
        lacking = [key for key in keys if key not in entry] if isinstance(entry, dict) else keys
        if lacking:
            raise ValueError(
                f"{path}: entry {place} of {len(entries)} (from 0) has no {', '.join(lacking)}; every one must be an object with "
                f"{', '.join(keys)}"
            )
    return {_SHAPES[shape] for shape in shapes}


def _same_objects(first: Mapping[int, Row], second: Mapping[int, Row]) -> bool:
    return first.keys() == second.keys() and all(
        first[index]["scores"] == row["scores"] and first[index]["labels"] == row["labels"] for index, row in second.items()
    )


def _columns(path: Path, entries: Sequence[Row], label_of: Mapping[int, int] | None) -> Row:
    """Entries of one image as columns; without ``label_of`` labels are left out."""
    row: Row = {"scores": [entry["score"] for entry in entries]}
    if label_of is not None:
        unknown = [entry["category_id"] for entry in entries if entry["category_id"] not in label_of]
        if unknown:
            raise ValueError(
                f"{path}: category id {unknown[0]} is none of the data set's ({short_list(list(label_of))}); it is of another"
            )
        row["labels"] = [label_of[entry["category_id"]] for entry in entries]
    if "segmentation" in entries[0]:
        row["masks"] = [entry["segmentation"] for entry in entries]
        row["boxes"] = _mask_boxes(row["masks"])
    if "keypoints" in entries[0]:
        points = np.array([entry["keypoints"] for entry in entries], dtype=np.float64).reshape(len(entries), -1, 3)
        row["keypoints"] = points.tolist()
        row.setdefault("boxes", np.concatenate([points[..., :2].min(axis=1), points[..., :2].max(axis=1)], axis=1).tolist())
    if "bbox" in entries[0]:
        boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64)
        boxes[:, 2:] += boxes[:, :2]
        row["boxes"] = boxes.tolist()
    return row


def _mask_boxes(rles: Sequence[Row]) -> list[list[float]]:
    from pycocotools import mask as coco_mask

    boxes = np.array([coco_mask.toBbox(rle) for rle in rles], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    found: list[list[float]] = boxes.tolist()
    return found


def _indices(truth: Any) -> dict[Any, int]:
    return {truth.image_id(index): index for index in range(len(truth))}


# --------------------------------------------------------------------------------------------------------------- maps


def _read_panoptic(path: Path, stored: StoredPredictions) -> None:
    truth, folder = stored.truth, path.with_suffix("")
    whole = len(truth.is_thing) == len(truth.class_names)
    ids = [*truth.category_ids, *(() if whole else truth.stuff_ids)]
    label_of = {int(id): label for label, id in enumerate(ids)}
    of_image = {entry["image_id"]: entry for entry in _json(path)["annotations"]}
    for image, index in _indices(truth).items():
        if image not in of_image:
            raise ValueError(f"{path}: image {image} of {truth.name} is missing; it belongs to another data set")
        segments = of_image[image]["segments_info"]
        unknown = [segment["category_id"] for segment in segments if segment["category_id"] not in label_of]
        if unknown:
            raise ValueError(f"{path}: category id {unknown[0]} is none of {truth.name}; it belongs to another data set")
        labelled = [{"id": segment["id"], "label": label_of[segment["category_id"]]} for segment in segments]
        stored.segments[index] = folder / of_image[image]["file_name"], labelled
    stored.has.add("panoptic")


def _read_folder(path: Path, stored: StoredPredictions) -> None:
    beside = path.with_name(path.name + ".json")
    if path.suffix == ".panoptic" and beside.is_file():
        _read_panoptic(beside, stored)
        return
    stems = picture_stems(stored.truth)
    if any(path.glob("*_pred.txt")):
        _read_cityscapes(path, stems, stored)
        return
    stored.maps = {index: path / f"{stem}.png" for index, stem in enumerate(stems)}
    missing = [file.name for file in stored.maps.values() if not file.is_file()]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(stems)} label maps of {stored.truth.name} are not there ({short_list(missing, 3)}); "
            "it belongs to another data set, or is no folder of predictions"
        )
    stored.has.add("semseg")


def _classes_of(ids: NDArray[Any], truth: Any, path: Path) -> NDArray[np.int64]:
    """Class of each pixel from its id in files."""
    table = np.full(1 << 16, -1, dtype=np.int64)
    known = class_ids(truth)
    table[known] = np.arange(len(known))
    classes: NDArray[np.int64] = table[ids]
    if (classes < 0).any():
        raise ValueError(f"{path} has pixels of class id {int(ids[classes < 0][0])}, which {truth.name} does not know")
    return classes


def read_pixels(path: Path) -> NDArray[Any]:
    """(H, W) numbers of a grey PNG, or (H, W, 3) RGB of one in colour."""
    import cv2

    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if image is None:
        raise ValueError(f"{path} is no readable PNG file")
    pixels: NDArray[Any] = image if image.ndim == 2 else image[..., 2::-1]
    return pixels


# -------------------------------------------------------------------------------------------------------- text files


def _read_cityscapes(folder: Path, stems: Sequence[str], stored: StoredPredictions) -> None:
    label_of = {int(id): label for label, id in enumerate(stored.truth.category_ids)}
    for index, stem in enumerate(stems):
        path = folder / f"{stem}_pred.txt"
        if not path.is_file():
            raise ValueError(f"{path} is missing; the folder belongs to another data set than {stored.truth.name}")
        lines = [line.rsplit(maxsplit=2) for line in path.read_text(encoding="utf-8").splitlines()]
        unknown = [id for _, id, _ in lines if int(id) not in label_of]
        if unknown:
            raise ValueError(f"{path}: class id {unknown[0]} is none of {stored.truth.name} ({short_list(list(label_of))})")
        masks = [read_pixels(folder / name) > 0 for name, _, _ in lines]
        if lines:
            stored.instances[index] = {
                "masks": np.stack(masks),
                "boxes": [_tight_box(mask) for mask in masks],
                "labels": [label_of[int(id)] for _, id, _ in lines],
                "scores": [float(score) for _, _, score in lines],
            }
    stored.has.add("masks")  # boxes around masks are not the boxes of the model


def _tight_box(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1] if len(rows) else [0, 0, 0, 0]


def _read_voc(path: Path, stored: StoredPredictions) -> None:
    """``<prefix>_<class>.txt`` of all classes; one of them was named."""
    names = list(stored.truth.class_names)
    own = max((name for name in names if path.name.endswith(f"_{name}.txt")), key=len, default=None)
    if own is None:
        raise ValueError(f"{path}: the name must end in _<class>.txt with a class of {stored.truth.name}: {short_list(names)}")
    prefix = path.name.removesuffix(f"_{own}.txt")
    index_of = {Path(stored.truth.path(index)).stem: index for index in range(len(stored.truth))}
    for label, name in enumerate(names):
        file = path.with_name(f"{prefix}_{name}.txt")
        if not file.is_file():
            raise ValueError(f"{file} is missing; there must be one file for each class of {stored.truth.name}")
        for line in file.read_text(encoding="utf-8").splitlines():
            stem, score, *box = line.rsplit(maxsplit=5)
            if stem not in index_of:
                raise ValueError(f"{file}: there is no picture '{stem}' in {stored.truth.name}; it belongs to another data set")
            row = stored.instances.setdefault(index_of[stem], {"boxes": [], "scores": [], "labels": []})
            row["labels"].append(label)
            row["scores"].append(float(score))
            # Pixels of VOC count from 1 and end inclusively.
            row["boxes"].append([float(x) - (place < 2) for place, x in enumerate(box)])
    stored.has.add("boxes")


# ----------------------------------------------------------------------------------------------------------- columns


def _no_boxes() -> Row:
    return {"boxes": [], "scores": [], "labels": []}


def _bitmaps(row: Row | None, stored: StoredPredictions) -> Row:
    """Columns as a model returns them: masks as (K, H, W) pixels, and empty ones where nothing was found."""
    found = dict(row) if row else _no_boxes()
    if "masks" in stored.has and not isinstance(found.get("masks"), np.ndarray):
        masks = [decode_mask(rle) for rle in found.get("masks", ())]
        found["masks"] = np.stack(masks) if masks else np.zeros((0, 1, 1), np.uint8)
    if "keypoints" in stored.has:
        found["keypoints"] = np.asarray(found.get("keypoints") or np.zeros((0, 1, 3)), dtype=np.float32)
    return found


# ---------------------------------------------------------------------------------------------------- classification


def stored_scores(path: str | Path, content: Mapping[str, Any], dataset: Any) -> Tensor:
    """(N, C) float32 scores of all images from what ``class_predictions`` made.

    Args:
        path: where it was read, for messages.
        content: of the file.
        dataset: what it must belong to.

    Raises:
        ValueError: there are no scores of all classes, or they belong to another data set.
    """
    if "class_scores" not in content:
        raise ValueError(
            f"{path} has no class_scores, the scores of all classes, from which metrics are computed; write them with --out FILE"
        )
    names, count = content.get("class_names"), len(content["class_scores"])
    if names != list(dataset.class_names):
        raise ValueError(
            f"{path} has classes {short_list(names or [], 5)}, but {dataset.name} has {short_list(dataset.class_names, 5)}"
        )
    if count != len(dataset):
        raise ValueError(_other_count(path, count, dataset))
    for index, file in enumerate(content.get("path", ())):
        expected = Path(dataset.describe(index)).name
        if Path(file).name != expected:
            raise ValueError(f"{path}: image {index} is {file}, but {expected} in {dataset.name}; it belongs to another data set")
    return torch.tensor(content["class_scores"], dtype=torch.float32)


def stored_inputs(dataset: Any, indices: Sequence[int]) -> StoredInputs:
    """Images of a classification set with their labels, as evaluators read them."""
    labels = torch.as_tensor(np.asarray(dataset.labels())[list(indices)].astype(np.int64))
    return StoredInputs(torch.tensor(list(indices)), {"scores" if labels.ndim == 2 else "label": labels})
