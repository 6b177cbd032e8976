"""Reading COCO-style JSON: pictures, categories, and what all its dialects have in common."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pet.data.datasets.annotation_faults import AnnotationFaults
from pet.data.datasets.label_maps import picture_size
from pet.data.structures import BadImageError
from pet.utils.suggest import did_you_mean

Entry = dict[str, Any]


def read_json(path: Path) -> Entry:
    """The object in a COCO JSON file.

    Raises:
        ValueError: not JSON, or without a list of images.
    """
    collecting = gc.isenabled()
    gc.disable()  # millions of new objects, none of them garbage: looking for some doubles the time
    try:
        content = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    finally:
        if collecting:
            gc.enable()
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        keys = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path} is not a COCO annotation file: an object with 'images', 'categories' and 'annotations' is expected, found "
            f"{keys[:200]}"
        )
    return content


@dataclass
class Categories:
    """The categories that become classes.

    Attributes:
        names: class names; the index is the label.
        ids: category id of each class.
        label_of: category id to label; -1 for a category that CLASSES leaves out.
        entries: the JSON object of each class.
    """

    names: list[str]
    ids: list[int]
    label_of: dict[int, int]
    entries: list[Entry]


def read_categories(path: Path, content: Entry, classes: Sequence[str]) -> Categories:
    """Categories by ascending id, or those that CLASSES names, in its order."""
    listed = content.get("categories", [])
    for entry in listed:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int) or "name" not in entry:
            raise ValueError(f"{path}: a category needs a whole-number 'id' and a 'name'; found {str(entry)[:100]}")
    listed = sorted(listed, key=lambda entry: int(entry["id"]))
    if not listed and content.get("annotations"):
        raise ValueError(f"{path} has annotations but no categories; add 'categories': [{{'id': 1, 'name': ...}}, ...]")
    if not listed:
        names = [str(c) for c in classes]
        return Categories(names, list(range(1, len(names) + 1)), {}, [{} for _ in names])
    by_name = {str(entry["name"]): entry for entry in reversed(listed)}
    for name in classes:
        if str(name) not in by_name:
            raise ValueError(
                f"{path} has no category '{name}', which CLASSES names.{did_you_mean(str(name), by_name)} "
                f"It has {', '.join(list(by_name)[::-1][:20])}{', ...' if len(by_name) > 20 else ''}"
            )
    chosen = [by_name[str(name)] for name in classes] if classes else listed
    label_of = {int(entry["id"]): -1 for entry in listed}
    label_of.update({int(entry["id"]): label for label, entry in enumerate(chosen)})
    return Categories([str(e["name"]) for e in chosen], [int(e["id"]) for e in chosen], label_of, chosen)


@dataclass
class Pictures:
    """The pictures of a file, N.

    Attributes:
        files: path of each.
        sizes: (N, 2) int64 height, width.
        ids: id of each.
        index_of: id to index.
        entries: the JSON objects.
    """

    files: list[str]
    sizes: npt.NDArray[np.int64]
    ids: list[int | str]
    index_of: dict[int | str, int]
    entries: list[Entry]


def read_pictures(path: Path, images: Sequence[Any], source: Path | None, faults: AnnotationFaults) -> Pictures:
    """The usable entries of ``images``; a size that is not given is taken from the header of the file."""
    files: list[str] = []
    sizes: list[tuple[int, int]] = []
    index_of: dict[int | str, int] = {}
    entries: list[Entry] = []
    for position, entry in enumerate(images):
        file, number = picture_file(entry), entry.get("id") if isinstance(entry, dict) else None
        size = _entry_size(entry, file, source)
        if not file or not isinstance(number, (int, str)) or size is None:
            faults.add("missing_field", f"{path}, image {position}: {str(entry)[:100]}")
        elif number in index_of:
            faults.add("duplicate_image_id", f"{path}, image {position}: id {number} ({file})")
        else:
            index_of[number] = len(files)
            files.append(file)
            sizes.append(size)
            entries.append(entry)
    return Pictures(files, np.array(sizes, np.int64).reshape(-1, 2), list(index_of), index_of, entries)


def picture_file(entry: Any) -> str:
    """Path of a picture: ``file_name``, else the split folder and the name at the end of ``coco_url`` (LVIS v1)."""
    if not isinstance(entry, dict):
        return ""
    name = entry.get("file_name")
    if isinstance(name, str) and name:
        return os.path.normpath(name)
    address = entry.get("coco_url")
    return "/".join(address.split("/")[-2:]) if isinstance(address, str) else ""


def _entry_size(entry: Any, file: str, source: Path | None) -> tuple[int, int] | None:
    if not isinstance(entry, dict):
        return None
    height, width = entry.get("height"), entry.get("width")
    if isinstance(height, (int, float)) and isinstance(width, (int, float)) and height > 0 and width > 0:
        return int(height), int(width)
    if source is None or not file:
        return None
    try:
        return picture_size(source / file)
    except BadImageError:
        return None
