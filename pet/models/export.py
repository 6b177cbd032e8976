"""The network as a file for other runtimes: ONNX, and programs of torch.export.

A file takes ``images``, (N, 3, H, W) uint8 RGB pictures of the size it was made for; normalisation is part of it. It returns the
predictions of the network in pixels of this input, as tensors by name: ``scores`` (N, C) of classifiers, ``semseg`` (N, C, h, w)
logits, and of detectors, which take one picture at a time, ``boxes`` (K, 4), ``scores`` (K,), ``labels`` (K,) from 0, ``masks``
(K, 1, M, M) inside the boxes, ``keypoints`` (K, P, 3) and ``keypoint_scores`` (K, P).
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pet.utils.files import atomic_write, prepare_file
from pet.utils.module import eval_mode

INPUT = "images"
SUFFIXES = (".onnx", ".pt2")
OPSET = 18
_METADATA = "metadata.json"  # beside the program in a .pt2
Arrays = dict[str, NDArray[Any]]


class NamedOutputs(nn.Module):
    """A network that returns its predictions as a tuple of tensors; ``names`` are those of the last call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.names: list[str] = []

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Predictions for (N, 3, H, W) uint8 images."""
        named = name_outputs(self.model(images))
        self.names = list(named)
        return tuple(named.values())


def name_outputs(outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Predictions as tensors by name; what is found in one picture is named without its group, unless the name is taken.

    Raises:
        ValueError: objects of several pictures, which have no common shape.
    """
    named: dict[str, Tensor] = {}
    for group, value in outputs.items():
        if isinstance(value, Tensor):
            named[group] = value
            continue
        if len(value) != 1:
            raise ValueError(f"'{group}' of {len(value)} pictures have no common shape; a detector takes one picture at a time")
        for name, tensor in value[0].items():
            named[name if name not in outputs and name not in named else f"{group}_{name}"] = tensor
    return named


def finds_objects(model: nn.Module, images: Tensor) -> bool:
    """Whether the size of a prediction depends on what is in the picture, as that of detectors does."""
    with eval_mode(model), torch.no_grad():
        return not all(isinstance(value, Tensor) for value in model(images[:1]).values())


def export_model(
    model: nn.Module,
    images: Tensor,
    path: str | Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    dynamic: bool = False,
    opset: int = OPSET,
) -> list[str]:
    """Write the network to ``path``, whole or not at all.

    Args:
        model: on the CPU; its mode stays as it is.
        images: (N, 3, H, W) uint8; their shape is that of the input.
        path: ``.onnx`` or ``.pt2``.
        metadata: plain values to store with it, e.g. class names; each becomes JSON.
        dynamic: let number, height and width of the pictures vary as far as the network can; not possible for detectors.
        opset: of ONNX.

    Returns:
        The names of the outputs.

    Raises:
        ValueError: the format is unknown, or cannot hold this network.
    """
    path = Path(path)
    check_target(path)
    objects = finds_objects(model, images)
    if objects and (dynamic or len(images) != 1 or path.suffix == ".pt2"):
        raise ValueError(
            "this network finds objects, whose number depends on the picture. That works in ONNX only, for one picture of a "
            "fixed shape: torch.export cannot follow non-maximum suppression and RoIAlign. Write an .onnx file, without --dynamic"
        )
    texts = {name: json.dumps(value) for name, value in (metadata or {}).items()}
    wrapped = NamedOutputs(model)
    with eval_mode(wrapped), torch.no_grad(), _quiet():
        wrapped(images[:1])
        names = list(wrapped.names)
        if path.suffix == ".pt2":
            data = _torch_export(wrapped, images, texts, dynamic)
        elif objects:
            data = _onnx_traced(wrapped, images, names, texts, opset)
        else:
            data = _onnx_exported(wrapped, images, names, texts, opset, dynamic)
    with atomic_write(path) as handle:
        handle.write(data)
    return names


def check_target(path: Path) -> None:
    """Refuse a file of another format with a ``ValueError``, one that cannot be written with an ``OSError``; makes its folder."""
    check_suffix(path)
    prepare_file(path)


def check_suffix(path: Path) -> None:
    """Refuse a file of another format with a ``ValueError``."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: the suffix says the format and must be one of {', '.join(SUFFIXES)}, not '{path.suffix}'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of the exporters: what they fear is checked with numbers, see ``compare``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _shapes(dynamic: bool) -> dict[str, Any] | None:
    auto = torch.export.Dim.AUTO
    return {INPUT: {0: auto, 2: auto, 3: auto}} if dynamic else None


def _varied(images: Tensor, dynamic: bool) -> Tensor:
    """Two pictures where their number may vary: torch.export takes a size of one for a constant."""
    return images.expand(2, -1, -1, -1).contiguous() if dynamic and len(images) == 1 else images


def _torch_export(model: nn.Module, images: Tensor, texts: Mapping[str, str], dynamic: bool) -> bytes:
    program = torch.export.export(model, (_varied(images, dynamic),), dynamic_shapes=_shapes(dynamic), strict=False)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={_METADATA: json.dumps(dict(texts))})
    return buffer.getvalue()


def _onnx_exported(
    model: nn.Module, images: Tensor, names: Sequence[str], texts: Mapping[str, str], opset: int, dynamic: bool
) -> bytes:
    _need_onnx()
    program = torch.onnx.export(
        model,
        (_varied(images, dynamic),),
        input_names=[INPUT],
        output_names=list(names),
        opset_version=opset,
        dynamic_shapes=_shapes(dynamic),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return _with_metadata(program.model_proto, texts)


def _onnx_traced(model: nn.Module, images: Tensor, names: Sequence[str], texts: Mapping[str, str], opset: int) -> bytes:
    """By tracing: torchvision knows what NMS and RoIAlign are in ONNX, and numbers of objects stay open."""
    _need_onnx()
    import onnx

    buffer = io.BytesIO()
    torch.onnx.export(
        model, (images,), buffer, input_names=[INPUT], output_names=list(names), opset_version=opset, dynamo=False, verbose=False
    )
    return _with_metadata(onnx.load_model_from_string(buffer.getvalue()), texts)


def _with_metadata(proto: Any, texts: Mapping[str, str]) -> bytes:
    import onnx

    onnx.helper.set_model_props(proto, dict(texts))
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString()
    return data


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"ONNX files need {error.name}; install it with: pip install -e .[export]") from error


class ExportedModel:
    """A file of ``export_model``, ready to run on the CPU.

    Args:
        path: ``.onnx`` (run by onnxruntime) or ``.pt2``.

    Attributes:
        metadata: the plain values stored with it.
        shape: of the input; texts or ``None`` stand for what may vary.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        check_suffix(path)
        if path.suffix == ".onnx":
            self._open_onnx(path)
        else:
            self._open_program(path)

    def _open_onnx(self, path: Path) -> None:
        _need_onnx()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # it warns of empty levels of RoIAlign
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.shape = list(session.get_inputs()[0].shape)
        self.metadata = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
        names = [output.name for output in session.get_outputs()]
        self._run = lambda images: dict(zip(names, session.run(None, {INPUT: images.numpy()}), strict=True))

    def _open_program(self, path: Path) -> None:
        extra = {_METADATA: ""}
        program = torch.export.load(str(path), extra_files=extra)
        placeholder = next(node for node in program.graph.nodes if node.name == INPUT)
        self.shape = [size if isinstance(size, int) else str(size) for size in placeholder.meta["val"].shape]
        self.metadata = {name: json.loads(text) for name, text in json.loads(extra[_METADATA]).items()}
        model = program.module()
        self._run = lambda images: {str(i): value.numpy() for i, value in enumerate(model(images))}

    def __call__(self, images: Tensor) -> Arrays:
        """Outputs for (N, 3, H, W) uint8 images, by name; those of a ``.pt2`` are numbered."""
        with torch.no_grad():
            return self._run(images)


def compare(model: nn.Module, exported: ExportedModel, images: Tensor) -> tuple[dict[str, float], int | None]:
    """Largest differences of the outputs, by name, relative to values above 1; and the number of objects that were found.

    Objects with almost equal scores may change places, so each is compared with the most similar one of the other side.

    Args:
        model: the network, on the CPU.
        exported: what was made of it.
        images: (N, 3, H, W) uint8.
    """
    wrapped = NamedOutputs(model)
    with eval_mode(wrapped), torch.no_grad():
        expected = [value.numpy() for value in wrapped(images)]
        named = dict(zip(wrapped.names, expected, strict=True))
    got = dict(zip(wrapped.names, exported(images).values(), strict=True))
    objects = len(named["boxes"]) if "boxes" in named else None
    if not objects or named["boxes"].shape != got["boxes"].shape:
        return {name: _difference(named[name], got[name]) for name in named}, objects
    there, back = _reordered(got, named), _reordered(named, got)
    return {name: max(_difference(named[name], there[name]), _difference(got[name], back[name])) for name in named}, objects


def _reordered(found: Arrays, wanted: Arrays) -> Arrays:
    """``found`` with its objects, for each of ``wanted`` the most similar one by box, score and label."""
    rows = [np.concatenate([part["boxes"], part["scores"][:, None], part["labels"][:, None]], 1) for part in (wanted, found)]
    order = np.abs(rows[0][:, None] - rows[1][None]).max(axis=2).argmin(axis=1)
    return {name: value if name == "semseg" else value[order] for name, value in found.items()}


def _difference(expected: NDArray[Any], got: NDArray[Any]) -> float:
    if expected.shape != got.shape:
        return float("inf")
    distance = np.abs(expected.astype(np.float64) - got) / np.maximum(np.abs(expected), 1)
    return float(distance.max(initial=0.0))
