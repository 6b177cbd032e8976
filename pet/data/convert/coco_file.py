"""Writing COCO JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pet.utils.files import atomic_text


class CocoFile:
    """Collects pictures and instances; ids of both count from 1, because some programs take 0 for "none".

    Args:
        categories: id and name of each.
        labelled: whether there is any truth. A file without the key ``annotations`` is a test set: metrics are not asked of it.
    """

    def __init__(self, categories: Iterable[tuple[int, str]], labelled: bool = True) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories = [{"id": number, "name": name, "supercategory": "none"} for number, name in categories]
        self.labelled = labelled

    def add_image(self, file_name: str, size: tuple[int, int]) -> int:
        """Enter a picture of ``size`` (height, width); its id."""
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, "height": size[0], "width": size[1]})
        return len(self.images)

    def add_instance(self, image_id: int, fields: dict[str, Any]) -> None:
        """Enter an instance; ``fields``: ``category_id``, ``bbox`` (x, y, width, height), ``area``, ``iscrowd``, ..."""
        self.annotations.append({"id": len(self.annotations) + 1, "image_id": image_id, **fields})

    def write(self, path: Path) -> str:
        """Write the file, whole or not at all; a line of text about it."""
        content: dict[str, Any] = {"images": self.images, "categories": self.categories}
        if self.labelled:
            content["annotations"] = self.annotations
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_text(path, json.dumps(content))
        instances = f"{len(self.annotations)} instances" if self.labelled else "no annotations"
        return f"{path}: {len(self.images)} images, {instances}, {len(self.categories)} categories"
