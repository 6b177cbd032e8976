"""Publishing: the weights of a checkpoint as a small file that is named after its checksum."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pet.config import ConfigError
from pet.config.loader import load_text
from pet.engine.weights import SAFETENSORS, averages_in, choose_weights, read_content
from pet.utils.files import atomic_write, prepare_file

SUFFIXES = (".pth", ".pt", SAFETENSORS)
# What only the run itself needs.
_NOT_PUBLISHED = {"world_size"}


class Published(NamedTuple):
    """A published file.

    Attributes:
        path: ends in the first eight digits of the SHA-256 of its content.
        averaged: whether it holds the averaged weights (EMA).
        parameters: numbers in its tensors.
        dropped: parts of the checkpoint that were left out.
    """

    path: Path
    averaged: bool
    parameters: int
    dropped: list[str]


def publish(source: str | Path, target: str | Path, ema: bool | None = None) -> Published:
    """Write the weights of a checkpoint, and what predicting needs to know, to ``<target>-<8 hex digits>.pth``.

    Tensors are on the CPU, the optimizer and all state of the run are left out. The same weights give the same bytes, so also the
    same name.

    Args:
        source: a checkpoint, or weights of another framework; it is verified first.
        target: name of the new file; its suffix (.pth, .pt or .safetensors) says the format, none means .pth.
        ema: publish the averaged weights; ``None``: as a test of the run does (EVAL.EMA).

    Raises:
        DamagedCheckpoint: ``source`` cannot be read.
        OSError: the folder of ``target`` cannot be made or written.
        ValueError: averages are asked for and there are none.
    """
    content = read_content(source)
    stem, suffix = split_suffix(Path(target))
    prepare_file(stem.with_name(f"{stem.name}{suffix}"))
    if ema and not averages_in(content):
        raise ValueError(f"{source} has no averaged weights (SOLVER.EMA was not enabled), so --ema cannot be")
    meta = _mapping(content.get("meta"))
    state, averaged = choose_weights(content, str(source), _tests_averages(meta) if ema is None else ema)
    kept = {name: value for name, value in meta.items() if name not in _NOT_PUBLISHED}
    weights = {name: _compact(tensor) for name, tensor in state.items()}
    data = (_safetensors if suffix == SAFETENSORS else _pth)(weights, {**kept, "averaged": averaged})
    path = stem.with_name(f"{stem.name}-{sha256(data).hexdigest()[:8]}{suffix}")
    with atomic_write(path) as handle:
        handle.write(data)
    dropped = sorted(content.keys() - {"model", "meta", "format"}) if "model" in content else []
    return Published(path, averaged, sum(tensor.numel() for tensor in weights.values()), dropped)


def split_suffix(path: Path) -> tuple[Path, str]:
    """The path without its format, and the suffix of the format; anything else behind a dot belongs to the name.

    Example:
        >>> split_suffix(Path("depth.pth"))[0].name, split_suffix(Path("resnet50.v2"))[0].name
        ('depth', 'resnet50.v2')
    """
    if path.suffix in SUFFIXES:
        return path.with_suffix(""), path.suffix
    return path, SUFFIXES[0]


def _tests_averages(meta: Mapping[str, Any]) -> bool:
    """EVAL.EMA of the run; true, its default, where the checkpoint has no config of ours."""
    config = meta.get("config")
    if isinstance(config, str):
        try:
            config = load_text(config, "config").data
        except ConfigError:  # such as the Python text of another framework
            return True
    return bool(_mapping(_mapping(config).get("EVAL")).get("EMA", True))


def _mapping(value: Any) -> dict[str, Any]:
    """A copy of a mapping; anything else, as in a file of others, counts as an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def _compact(tensor: Tensor) -> Tensor:
    """On the CPU, in memory of its own: a part of a larger tensor would be saved with all of it."""
    return tensor.detach().cpu().contiguous().clone()


def _pth(weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": dict(weights), "meta": dict(meta)}, buffer)
    return buffer.getvalue()


def _safetensors(weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    texts = {name: json.dumps(value) for name, value in meta.items()}
    data: bytes = save(dict(weights), {"format": "pt", **texts})
    # The library writes metadata in any order. Behind the length of the header (8 bytes) and the header come the tensors.
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    ordered = json.dumps({**header, "__metadata__": dict(sorted(header["__metadata__"].items()))}).encode()
    padded = ordered.ljust(-(-len(ordered) // 8) * 8)
    return len(padded).to_bytes(8, "little") + padded + data[end:]

