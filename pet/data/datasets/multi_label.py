"""Image files with any number of classes each."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pet.data.datasets.base import DATASETS, PackedStrings, VisionDataset
from pet.data.datasets.image_folder import parse_label, read_class_names, read_lines
from pet.data.image import read_image
from pet.data.structures import Sample

Entry = tuple[str, list[str]]  # path, labels


@DATASETS.register("multi_label_dataset")
class MultiLabelDataset(VisionDataset):
    """Image files with any number of classes each; ``target["scores"]`` is (C,) float32 of zeros and ones.

    ANNOTATIONS is a text file of lines ``path label,label,...`` (paths may contain spaces, labels not;
    ``-`` stands for none), or a JSON file:
    ``{"path": ["label", ...], ...}``, or ``[{"image": "path", "labels": [...]}, ...]`` where labels may be indices or names.

    Args:
        name: name in the catalog.
        images: folder that the paths start from.
        annotations: the list.
        is_train: not used.
        classes: class names, see ``ImageFolderDataset``; default: the sorted names, or "0", "1", ... for indices.
        root: where a relative ``classes`` path starts; filled in by the catalog.
    """

    def __init__(
        self,
        name: str,
        images: Path | None,
        annotations: Path | None,
        is_train: bool = True,
        *,
        classes: Sequence[str] | str = (),
        root: str = "",
    ) -> None:
        if images is None or not images.is_dir() or annotations is None:
            raise FileNotFoundError(
                f"{name}: multi_label_dataset needs IMAGES, an existing folder, and ANNOTATIONS, a list; got {images} and "
                f"{annotations}"
            )
        entries = _read_json(annotations) if annotations.suffix == ".json" else _read_text(annotations)
        if not entries:
            raise ValueError(f"{name}: {annotations} lists no image")
        names = read_class_names(name, classes, Path(root)) if classes else _collect_names(entries)
        super().__init__(name, names, images)
        number = {c: i for i, c in enumerate(names)}
        self._folder, self._files = images, PackedStrings(path for path, _ in entries)
        self._targets = np.zeros((len(entries), len(names)), np.bool_)
        for row, (path, labels) in enumerate(entries):
            for text in labels:
                label = parse_label(text, number, f"{annotations} ({path})")
                if label >= len(names):
                    raise ValueError(
                        f"{annotations} ({path}): label {label} is outside 0 to {len(names) - 1}; CLASSES names {len(names)} "
                        "classes"
                    )
                self._targets[row, label] = True

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Sample:
        return Sample(read_image(self.describe(index)), {"scores": self._targets[index].astype(np.float32)}, index)

    def labels(self) -> npt.NDArray[np.generic]:
        return self._targets

    def describe(self, index: int) -> str:
        return os.path.join(self._folder, self._files[index])


def _collect_names(entries: Sequence[Entry]) -> list[str]:
    texts = {text for _, labels in entries for text in labels}
    if texts and all(text.isdecimal() for text in texts):
        return [str(i) for i in range(max(map(int, texts)) + 1)]
    return sorted(texts)


def _read_text(path: Path) -> list[Entry]:
    entries = []
    for number, line in enumerate(read_lines(path), start=1):
        parts = line.strip().rsplit(None, 1)
        if len(parts) < 2:
            raise ValueError(f"{path}, line {number}: expected 'path label,label,...' ('-' for no label), found '{line}'")
        labels = [] if parts[1] == "-" else [label for label in parts[1].split(",") if label]
        entries.append((parts[0], labels))
    return entries


def _read_json(path: Path) -> list[Entry]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    items = content.items() if isinstance(content, dict) else [_json_item(path, n, item) for n, item in enumerate(content)]
    entries = []
    for image, labels in items:
        if not isinstance(labels, list):
            raise ValueError(f"{path}: the labels of '{image}' are {labels!r}; expected a list")
        entries.append((str(image), [str(label) for label in labels]))
    return entries


def _json_item(path: Path, number: int, item: Any) -> tuple[Any, Any]:
    if not isinstance(item, dict) or not {"image", "labels"} <= item.keys():
        raise ValueError(f"{path}, entry {number}: expected an object with 'image' and 'labels', found {str(item)[:80]}")
    return item["image"], item["labels"]
