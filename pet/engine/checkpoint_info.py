"""What a checkpoint holds, whether it is whole, and how two of them differ. Reading one runs no code of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from pet.engine.checkpoint_file import DIGESTS, digest_path, write_checkpoint
from pet.engine.weights import digest_in_name, extract_state, read_content
from pet.utils.files import disk_size, file_digest, prepare_file
from pet.utils.suggest import did_you_mean

_TEXT_WIDTH = 100


def verify(path: Path) -> str:
    """By what a file was found to be whole; it is read completely.

    Raises:
        DamagedCheckpoint: it is not, or its name gives another checksum.
    """
    read_content(path)
    if path.is_dir():
        return f"all of its files match {DIGESTS}"
    if digest_path(path.resolve()).is_file():
        return f"matches {digest_path(path.resolve()).name}"
    return "matches its name" if digest_in_name(path) else "readable, but without a checksum beside it or in its name"


def tensors_of(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside plain containers, under its place: ``optimizer.state.0.exp_avg``."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from tensors_of(item, f"{name}.{key}" if name else str(key))


def show(path: Path, tree: bool = False, name: str = "") -> str:
    """Size, checksum, parts, meta and weights of a checkpoint, as lines.

    Args:
        path: the file.
        tree: modules with their numbers of parameters instead of a list of tensors.
        name: of a value of meta, which is returned whole instead.

    Raises:
        KeyError: meta has no such value; the text lists those that are there.
    """
    content = read_content(path)
    if name:
        return _whole(path, content.get("meta"), name)
    state = extract_state(content, str(path))
    bare = all(isinstance(value, Tensor) for value in content.values())
    parts = {"weights": state} if bare else {name: part for name, part in content.items() if name != "meta"}
    digest = f"SHA-256 {file_digest(path)}" if path.is_file() else f"sharded, see {DIGESTS} in it"
    lines = [f"{path}: {disk_size(path) / 2**20:.2f} MiB, {digest}"]
    lines += [f"{'part':<14}{'tensors':>9}{'numbers':>15}{'MiB':>10}", *(_part_line(name, part) for name, part in parts.items())]
    meta = content.get("meta")
    if isinstance(meta, Mapping):
        lines += ["meta (one of them whole: --meta NAME):", *(f"  {name}: {_brief(value)}" for name, value in meta.items())]
    lines += ["weights:", *(_tree_lines(state) if tree else _tensor_lines(state))]
    return "\n".join(lines)


def merge(source: Path, target: Path) -> None:
    """Write a sharded checkpoint, a folder, as one file that holds the same; both fit in memory together.

    Raises:
        ValueError: ``source`` is a file already, or ``target`` has another suffix than .pth.
        DamagedCheckpoint: the folder is not whole.
        OSError: ``target`` cannot be written.
    """
    if source.is_file():
        raise ValueError(f"{source} is one file already; merge takes the folder of a sharded checkpoint, model_iter<N>.dcp")
    if target.suffix != ".pth":
        raise ValueError(f"{target}: the new file must end in .pth")
    prepare_file(target)
    write_checkpoint(read_content(source), target)


def _part_line(name: str, part: Any) -> str:
    found = [tensor for _, tensor in tensors_of(part)]
    if not found:
        return f"{name:<14}  {_brief(part)}"
    size = sum(tensor.nbytes for tensor in found) / 2**20
    return f"{name:<14}{len(found):>9}{sum(t.numel() for t in found):>15,}{size:>10.2f}"


def _whole(path: Path, meta: Any, name: str) -> str:
    values = meta if isinstance(meta, Mapping) else {}
    if name not in values:
        raise KeyError(f"{path}: meta has no {name}.{did_you_mean(name, values)} It has: {', '.join(values) or 'nothing'}")
    value = values[name]
    return value.rstrip("\n") if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False).rstrip("\n")


def _brief(value: Any) -> str:
    """A value on a line: of a long text its length, of a container as much as fits."""
    if isinstance(value, str) and "\n" in value:
        return f"text of {len(value.splitlines())} lines"
    if isinstance(value, Mapping):
        return _listed([f"{name} {_brief(item)}" for name, item in value.items()])
    if isinstance(value, list | tuple):
        return _listed([_brief(item) for item in value])
    text = str(value)
    return text if len(text) <= _TEXT_WIDTH else f"{text[:_TEXT_WIDTH]} ..."


def _listed(texts: list[str]) -> str:
    shown = 0
    while shown < len(texts) and len(", ".join(texts[: shown + 1])) <= _TEXT_WIDTH:
        shown += 1
    left = len(texts) - shown
    return ", ".join([*texts[:shown], *([f"{left} more" if shown else f"{left} values"] if left else [])]) or "none"


def _tensor_lines(state: Mapping[str, Tensor]) -> list[str]:
    width = max(map(len, state))
    return [f"  {name:<{width}}  {_type(tensor):<10}{tuple(tensor.shape)}" for name, tensor in state.items()]


def _tree_lines(state: Mapping[str, Tensor]) -> list[str]:
    """A line for each module, with the numbers in all tensors below it."""
    counts: dict[str, int] = {}
    for name, tensor in state.items():
        modules = name.split(".")[:-1]
        for depth in range(len(modules) + 1):
            module = ".".join(modules[:depth])
            counts[module] = counts.get(module, 0) + tensor.numel()
    named = ((module, module.split(".") if module else [], count) for module, count in counts.items())
    return [f"{'  ' * (len(path) + 1)}{path[-1] if path else '(all)'}  {count:,}" for _, path, count in named]


@dataclass(frozen=True)
class Difference:
    """How the weights of two files differ, by the names of tensors.

    Attributes:
        only_first, only_second: names in one file alone.
        shape: lines of tensors whose shapes differ.
        values: largest absolute difference of tensors whose values differ; infinite where NaN or infinity is in one of them only.
        equal: number of tensors that are the same.
    """

    only_first: list[str]
    only_second: list[str]
    shape: list[str]
    values: dict[str, float]
    equal: int

    def __bool__(self) -> bool:
        return bool(self.only_first or self.only_second or self.shape or self.values)

    def describe(self) -> str:
        """The differences as lines, the largest of the values first."""
        lines = [f"only in the first: {name}" for name in self.only_first]
        lines += [f"only in the second: {name}" for name in self.only_second]
        lines += [f"other shape: {text}" for text in self.shape]
        order = sorted(self.values, key=lambda name: -self.values[name])
        lines += [f"other values: {name}, largest difference {self.values[name]:.3g}" for name in order]
        counts = f"{len(self.only_first)} and {len(self.only_second)} only in one file, {len(self.shape)} of other shape"
        return "\n".join([*lines, f"{self.equal} tensors are equal, {len(self.values)} have other values, {counts}"])


def diff(first: Path, second: Path, *, everything: bool = False, tolerance: float = 0.0) -> Difference:
    """Compare the weights of two checkpoints.

    Args:
        first, second: the files.
        everything: compare all tensors (optimizer, averages, ...), not only the weights.
        tolerance: absolute differences up to it do not count.
    """
    one, other = (_weights(path, everything) for path in (first, second))
    both = [name for name in one if name in other]
    shape = [
        f"{name} {tuple(one[name].shape)} and {tuple(other[name].shape)}" for name in both if one[name].shape != other[name].shape
    ]
    distances = {name: _distance(one[name], other[name]) for name in both if one[name].shape == other[name].shape}
    values = {name: distance for name, distance in distances.items() if distance > tolerance}
    return Difference(
        [name for name in one if name not in other],
        [name for name in other if name not in one],
        shape,
        values,
        len(distances) - len(values),
    )


def _weights(path: Path, everything: bool) -> dict[str, Tensor]:
    content = read_content(path)
    return dict(tensors_of(content)) if everything else extract_state(content, str(path))


def _distance(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference; NaN equals NaN, and infinity itself."""
    one, other = (tensor.to(torch.complex128 if tensor.is_complex() else torch.float64) for tensor in (one, other))
    differs = (one != other) & ~(one.isnan() & other.isnan())
    if not differs.any():
        return 0.0
    return float((one - other)[differs].abs().nan_to_num(nan=float("inf")).max())


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
