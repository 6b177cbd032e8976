"""Loading weights into a model that need not fit exactly: names matched, differences reported, nothing skipped silently."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pet.engine.checkpoint_file import DamagedCheckpoint, read_checkpoint, verify_digest
from pet.utils.files import file_digest

_WRAPPERS = ("module.", "_orig_mod.")
SAFETENSORS = ".safetensors"
# As torch.hub and tools/publish_model.py name files. Eight decimal digits may be a date.
_NAMED = re.compile(r"-(?!\d{8}\.)([0-9a-f]{8})\.(?:pth|pt|safetensors)")
_FEW_MODULES = 12  # more than the outputs of all heads of a detector
_CONTAINERS = ("model", "state_dict", "model_state_dict", "net")


@dataclass
class LoadReport:
    """What happened to the tensors of a file and of a model."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)

    @property
    def mismatches(self) -> list[str]:
        """All differences, one line each."""
        return [
            *(f"missing in the file: {name}" for name in self.missing),
            *(f"only in the file: {name}" for name in self.surplus),
            *(f"other shape: {text}" for text in self.reshaped),
        ]

    def summary(self) -> str:
        """``loaded 312 of 318 tensors; skipped 6: ...`` with names grouped by module."""
        total = len(self.loaded) + len(self.missing) + len(self.reshaped)
        text = f"loaded {len(self.loaded)} of {total} tensors"
        if self.mismatches:
            skipped = len(self.missing) + len(self.reshaped)
            parts = [("missing in the file", self.missing), ("other shape", self.reshaped), ("only in the file", self.surplus)]
            text += f"; skipped {skipped}: " + "; ".join(f"{title}: {group_names(names)}" for title, names in parts if names)
        return text


def group_names(names: Sequence[str], limit: int = 6) -> str:
    """Names with their common module written once: ``head.{weight, bias}``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        module, _, leaf = name.partition(" ")[0].rpartition(".")
        groups.setdefault(module, []).append(leaf + name[len(name.partition(" ")[0]) :])
    texts = [f"{module}.{{{', '.join(leaves)}}}" if module else ", ".join(leaves) for module, leaves in groups.items()]
    more = f" and {len(texts) - limit} more modules" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def extract_state(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The state dict inside a checkpoint of ours or of another framework, without prefixes of wrappers."""
    for name in _CONTAINERS:
        if isinstance(content.get(name), Mapping):
            content = content[name]
            break
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise ValueError(f"{source} holds no tensors; its keys are {', '.join(map(str, list(content)[:8])) or 'none'}")
    for prefix in _WRAPPERS * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    return state


def read_weights(path: str | Path, named_by: str = "") -> dict[str, Tensor]:
    """Read a state dict from a ``.pth`` / ``.pt`` / ``.safetensors`` file; for ``named_by`` see ``read_content``."""
    path = Path(path)
    return extract_state(read_content(path, named_by), str(path))


def read_content(path: str | Path, named_by: str = "") -> dict[str, Any]:
    """Everything a checkpoint holds; a ``.safetensors`` file as ``{"model": tensors, "meta": values}``.

    Args:
        path: the file.
        named_by: keys or flags that name it, for the message that it does not exist.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an address instead of a file.
        DamagedCheckpoint: it was changed or cut, its name gives another checksum, or it holds more than tensors and plain values.
    """
    if re.match("[a-z][a-z0-9+.-]+:/", str(path)):  # a Path has lost one of the two slashes
        raise ValueError(f"{path}: weights are a file, no address: fetch it over https, compare its checksum, and name the file")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"weights file {path} does not exist{f' ({named_by})' if named_by else ''}")
    if (named := digest_in_name(path)) and not (digest := file_digest(path)).startswith(named):
        raise DamagedCheckpoint(
            f"{path} is not what its name says: its SHA-256 begins with {digest[:8]}, not {named}. Fetch it again, or give it "
            "another name if it was changed on purpose"
        )
    return _read_safetensors(path) if path.suffix == SAFETENSORS else read_checkpoint(path)


def digest_in_name(path: Path) -> str:
    """The first digits of the SHA-256 of a published file, which its name ends in; empty for other names."""
    named = _NAMED.search(path.name)
    return named[1] if named else ""


def choose_weights(content: Mapping[str, Any], source: str, ema: bool = True) -> tuple[dict[str, Tensor], bool]:
    """The weights that a test uses, and whether they are averages.

    Args:
        content: of a checkpoint.
        source: for messages.
        ema: averages instead of weights where the checkpoint has them (EVAL.EMA).
    """
    state = extract_state(content, source)
    averages = averages_in(content) if ema else {}
    return {**state, **averages}, bool(averages)


def averages_in(content: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The averaged weights of a checkpoint of ours, empty without; what others keep under ``ema`` has another form."""
    kept = content.get("ema")
    weights = kept.get("weights") if isinstance(kept, Mapping) else None
    return weights if isinstance(weights, Mapping) else {}


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Tensors and metadata; metadata are texts, of which Pet's are JSON."""
    from safetensors import SafetensorError, safe_open  # a dependency of timm

    verify_digest(path)
    try:
        with safe_open(path, framework="pt") as handle:
            texts = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{path} cannot be read as a safetensors file: {error}") from error
    return {"model": tensors, "meta": {name: _plain(text) for name, text in texts.items()}}


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # written by others
        return text


def match_names(model_names: Sequence[str], file_names: Sequence[str]) -> dict[str, str]:
    """For each model tensor the file's tensor: the same name, else the longest file name that ends the model's name.

    Every file tensor is used at most once: the model name that is closest in length gets it.
    """
    files = set(file_names)
    matched = {name: name for name in model_names if name in files}
    free = files - set(matched.values())
    wanted: list[tuple[int, str, str]] = []
    for name in model_names:
        if name in matched:
            continue
        parts = name.split(".")
        tails = (".".join(parts[i:]) for i in range(1, len(parts)))
        tail = next((t for t in tails if t in free), None)
        if tail is not None:
            wanted.append((len(name) - len(tail), name, tail))
    for _, name, tail in sorted(wanted):
        if tail in free:
            matched[name] = tail
            free.discard(tail)
    return matched


@runtime_checkable
class NamesLibraryWeights(Protocol):
    """A model that knows how the library of its parts names the tensors; weights in our names come back as they are."""

    def from_library(self, weights: dict[str, Tensor]) -> dict[str, Tensor]: ...


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    allow: Sequence[str] | None = None,
    source: str = "the weights file",
    flip_conv1: bool = False,
) -> LoadReport:
    """Load what fits; a difference that no pattern of ``allow`` covers is a ``ValueError`` and changes nothing.

    Args:
        model: the bare module; one with ``from_library`` also takes files that use the names of its backbone's library.
        state: tensors by name.
        allow: fnmatch patterns of model or file names that may be missing, surplus or of another shape; ``None``: nothing may,
            as in a test, so the error does not name the key that would allow it.
        source: for messages.
        flip_conv1: reverse the input channels of the first convolution (RGB weights for a BGR model and back).
    """
    own = model.state_dict()
    if isinstance(model, NamesLibraryWeights):
        state = model.from_library(dict(state))
    matched = match_names(list(own), list(state))
    report = LoadReport(surplus=sorted(set(state) - set(matched.values())))
    chosen: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if name not in matched:
            report.missing.append(name)
        elif state[matched[name]].shape != tensor.shape:
            report.reshaped.append(f"{name} {tuple(state[matched[name]].shape)} in the file, {tuple(tensor.shape)} in the model")
        else:
            chosen[name] = state[matched[name]]
            report.loaded.append(name)
    _refuse(report, allow, source)
    if flip_conv1:
        _flip_first_convolution(chosen, own)
    model.load_state_dict({**own, **chosen})
    return report


def _refuse(report: LoadReport, allow: Sequence[str] | None, source: str) -> None:
    everything = [*report.missing, *report.surplus, *report.reshaped]
    refused = [n for n in everything if not any(fnmatchcase(n.partition(" ")[0], pattern) for pattern in allow or ())]
    if not report.loaded:
        raise ValueError(f"no tensor of {source} fits the model: {report.summary()}")
    if refused:
        raise ValueError(f"{source} does not fit the model: {report.summary()}. {_remedy(refused, allow)}")


def _remedy(refused: Sequence[str], allow: Sequence[str] | None) -> str:
    """What to do about tensors that do not fit."""
    if allow is None:
        return "Test with the config of its run, config.yaml beside it, or with one that builds the same model"
    modules = list(dict.fromkeys(name.partition(" ")[0].rpartition(".")[0] for name in refused))
    many = f"{len(modules)} modules differ, so this looks like another architecture. " if len(modules) > _FEW_MODULES else ""
    if many:
        modules = list(dict.fromkeys(module.partition(".")[0] for module in modules))
    words = ", ".join(f"'{pattern}'" for pattern in [*allow, *(f"{module}.*" if module else "*" for module in modules)])
    return f"{many}For a transfer, which starts them anew, allow it: TRAIN.ALLOW_MISMATCH \"({words},)\""


def _flip_first_convolution(chosen: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    first = next((n for n, t in own.items() if t.ndim == 4 and t.shape[1] == 3), None)
    if first is None or first not in chosen:
        raise ValueError("MISC.CONV1_RGB2BGR: no loaded convolution has three input channels to flip")
    chosen[first] = torch.flip(chosen[first], (1,))
