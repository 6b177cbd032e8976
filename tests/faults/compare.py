"""What two folders of runs must have in common: everything but the clock."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pet.engine.checkpoint_file import read_checkpoint

# Wall-clock times, and the length in bytes of a file that holds them.
CLOCKS = frozenset({"time", "data_time", "offset"})
# The config names the folder and the number of workers, which may differ.
_SKIPPED = frozenset({"meta.config"})


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested maps and lists with their dotted names; empty containers are leaves, too."""
    if name in _SKIPPED or name.rpartition(".")[2] in CLOCKS:
        return
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from flatten(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)) and value:
        for place, part in enumerate(value):
            yield from flatten(part, f"{name}.{place}")
    else:
        yield name, value


def same(one: Any, other: Any) -> bool:
    """Whether two leaves are bitwise equal (NaN equals itself, 0.0 does not equal -0.0)."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return bool(torch.equal(one.contiguous().reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8)))
    if isinstance(one, float) and isinstance(other, float):
        return (math.isnan(one) and math.isnan(other)) or (one == other and math.copysign(1, one) == math.copysign(1, other))
    return type(one) is type(other) and one == other


def state_differences(one: Any, other: Any) -> list[str]:
    """Names of the leaves that differ between two states."""
    ours, theirs = dict(flatten(one)), dict(flatten(other))
    only = [f"{name} (in one only)" for name in sorted(ours.keys() ^ theirs.keys())]
    return only + [name for name in ours if name in theirs and not same(ours[name], theirs[name])]


def checkpoint_differences(one: Path, other: Path) -> list[str]:
    """Names of the parts that differ between two checkpoints, files or folders."""
    return state_differences(*(read_checkpoint(path) for path in (one, other)))


def rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.json`` without times; every line must be a whole JSON object."""
    text = (folder / "metrics.json").read_text(encoding="utf-8")
    assert text.endswith("\n"), "the last line of metrics.json is not whole"
    return [{name: value for name, value in json.loads(line).items() if name not in CLOCKS} for line in text.splitlines()]


def tensorboard_rows(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars by name as TensorBoard would show them: ``(update, value)``."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns about every purge
    events = EventAccumulator(str(folder / "tensorboard_log"), size_guidance={"scalars": 0})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name.rpartition("/")[2] not in CLOCKS]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


def same_rows(ours: Sequence[tuple[int, float]], theirs: Sequence[tuple[int, float]]) -> bool:
    """Whether two lists of (update, value) are equal; NaN (a metric without ground truth) equals itself."""
    return len(ours) == len(theirs) and all(a[0] == b[0] and same(a[1], b[1]) for a, b in zip(ours, theirs, strict=True))


def run_differences(one: Path, other: Path, tensorboard: bool = True) -> list[str]:
    """What differs between two finished runs: checkpoints, best, metric rows; empty if they are equal."""
    found: list[str] = []
    for name in ("model_latest.pth", "model_best.pth"):
        found += [f"{name}: {difference}" for difference in checkpoint_differences(one / name, other / name)]
    found += [f"metrics.json: {text}" for text in _row_differences(rows(one), rows(other))]
    for name in ("best.json", "finished.json"):
        if json.loads((one / name).read_text()) != json.loads((other / name).read_text()):
            found.append(name)
    if tensorboard:
        ours, theirs = tensorboard_rows(one), tensorboard_rows(other)
        found += [
            f"TensorBoard {name}: {len(theirs.get(name, ()))} rows instead of {len(ours.get(name, ()))}, or other values"
            for name in ours.keys() | theirs.keys()
            if not same_rows(ours.get(name, []), theirs.get(name, []))
        ]
    return found


def _row_differences(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> list[str]:
    if len(ours) != len(theirs):
        return [f"{len(theirs)} rows instead of {len(ours)}"]
    return [f"row {place} is {b} instead of {a}" for place, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
