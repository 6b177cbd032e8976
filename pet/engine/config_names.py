"""Finding the config somebody means, also by the name it has in OpenMMLab's tool boxes."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pet.utils.suggest import nearest

# Ways to write one word of the name of a model or data set.
_SAME = (
    (r"pascal_?voc|voc(0712|2007|2012)?|voc", "voc"),
    (r"ms_?coco", "coco"),
    (r"fashion_?mnist", "fashionmnist"),
    (r"city_?scapes", "cityscapes"),
    (r"ade_?20k", "ade20k"),
    (r"imagenet_?(1k)?|in1k", "imagenet"),
    (r"(?<![a-z0-9])(?:resnet|r)[-_]?(\d+)([a-d]?)(?![0-9a-z])", r"r\1\2"),
    (r"(?<![a-z0-9])(?:resnext|x)[-_]?(\d+)", r"x\1"),
    (r"le_?net_?5?", "lenet"),
    (r"ssd_?(\d+)", r"ssd \1"),
    (r"(?<![a-z])rcnn", "rcnn"),
    (r"mobilenet_?v(\d)", r"mobilenet v\1"),
)
# Words that say nothing about which config is meant.
_EMPTY = frozenset(
    {"configs", "cfgs", "e2e", "py", "yaml", "yml", "vision", "tasks", "cls", "base", "resnet", "mstrain", "mm", "det"}
)
_ENOUGH = 0.45


def words_of(name: str) -> frozenset[str]:
    """The words of a path that say which model, backbone, schedule and data set it is about.

    Example:
        >>> sorted(words_of("configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py"))
        ['1x', 'coco', 'fpn', 'mask', 'r50', 'rcnn']
    """
    text = name.lower()
    for pattern, one in _SAME:
        text = re.sub(pattern, f" {one} ", text)
    return frozenset(re.findall(r"[a-z0-9]+", text)) - _EMPTY


def nearest_configs(name: str, candidates: Sequence[str], count: int = 3) -> list[str]:
    """Configs whose names share the most telling words with ``name``, best first; none if too little of it is shared.

    A word is the more telling the fewer candidates have it.
    """
    words = {candidate: words_of(candidate) for candidate in candidates}
    frequency = Counter(word for of_one in words.values() for word in of_one)
    weight = {word: math.log(1 + len(words) / number) for word, number in frequency.items()}
    wanted = words_of(name)
    total = sum(weight.get(word, 1.0) for word in wanted)

    def score(candidate: str) -> float:
        shared = sum(weight[word] for word in words[candidate] & wanted)
        surplus = sum(weight[word] for word in words[candidate] - wanted)
        return shared / (total + 0.25 * surplus) if total else 0.0

    ranked = sorted(candidates, key=lambda candidate: (-score(candidate), candidate))
    return [candidate for candidate in ranked[:count] if score(candidate) >= _ENOUGH * max(score(ranked[0]), 0.8)]


def missing_config(path: Path, root: Path) -> str:
    """Message for a config that is not there, or no YAML, with the nearest that are.

    Args:
        path: what was asked for.
        root: folder that holds ``cfgs/``.
    """
    places = [p for folder in (root / "cfgs", path.parent) for p in folder.glob("**/*.y*ml") if "_base_" not in p.parts]
    found = list(dict.fromkeys(map(os.path.relpath, places)))
    if path.suffix == ".py":
        what = f"{path}: Pet reads YAML, no Python configs (data, never code)"
        similar = nearest_configs(str(path), found)
    else:
        what = f"{path} {'is not a file' if path.exists() else 'does not exist'} (working folder {os.getcwd()})"
        similar = nearest(os.path.relpath(path), found, cutoff=0.5)
        similar += [name for name in found if Path(name).stem == path.stem and name not in similar]
        similar = similar or nearest_configs(str(path), found)
    if similar:
        return f"{what}. Did you mean:\n" + "\n".join(f"  {name}" for name in similar[:3])
    return f"{what}. No config has a similar name; docs/model_zoo.md lists all of them"
