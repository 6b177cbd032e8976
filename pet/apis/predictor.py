"""One object that turns pictures into predictions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pet.apis.prediction import Prediction
from pet.apis.sources import Channels, Picture, open_source
from pet.config import CfgNode, read_domain_header
from pet.data.datasets import VisionDataset
from pet.data.names import LabelNames, names_of_config
from pet.data.structures import Image, Sample
from pet.engine.checkpointer import get_weights
from pet.engine.command import OpenConfig, open_config
from pet.engine.launch import find_domain
from pet.engine.setup import amp_dtype
from pet.engine.weights import choose_weights, load_weights, read_content
from pet.utils.display import require_display
from pet.utils.images import write_picture
from pet.utils.logger import LOGGER
from pet.visualization.window import show_picture


class Predictor(nn.Module):
    """A model with its weights and the data pipeline of its test, for pictures from anywhere.

    Pictures go through the same transforms, the same batches and the same ``forward_test`` as in ``tools/test.py``, so test-time
    augmentation works (``TEST.TTA.ENABLED True``) and the results are those of a test.

    Args:
        config: path of a YAML, or a config.
        weights: a checkpoint. Empty: TEST.WEIGHTS, else the best or the latest checkpoint of the run (MISC.CKPT), else random
            weights, with a warning.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        cfg_options: overrides, ``["KEY", value, ...]`` or ``["KEY=VALUE", ...]``, or a map from keys to values.
        batch_size: pictures of a batch; default TEST.IMS_PER_GPU.

    Attributes:
        model: the network, in evaluation mode.
        cfg: the config, frozen.
        names: of all labels: from the checkpoint, else of the data sets of the config where these are known without reading a
            file, else numbered.
        saved_names: those of the checkpoint alone.
        weights: the checkpoint that was loaded; ``None``: random weights.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | CfgNode,
        weights: str | os.PathLike[str] = "",
        device: str | torch.device = "auto",
        cfg_options: Sequence[Any] | dict[str, Any] = (),
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        target = _device(device)
        if isinstance(cfg_options, str):
            raise TypeError(f"cfg_options is the text '{cfg_options}'; expected a list of texts such as ['KEY=VALUE'], or a map")
        pairs = [word for pair in cfg_options.items() for word in pair] if isinstance(cfg_options, dict) else list(cfg_options)
        # The loader runs in this process: most calls are about a few pictures.
        own: list[Any] = ["DATA.LOADER_THREADS", 0]
        own += [] if batch_size is None else ["TEST.IMS_PER_GPU", batch_size]
        opened = _open(config, [*pairs, *own])
        self.cfg, self.domain = opened.cfg, opened.domain_module
        self.weights = _find_weights(self.cfg, os.fspath(weights))
        self.model: nn.Module = self.domain.GeneralizedCNN(self.cfg, is_train=False)
        meta = {} if self.weights is None else _load(self.model, self.weights, self.cfg.EVAL.EMA)
        self.saved_names, self.names = LabelNames.of(meta), _names(self.cfg, self.domain, meta)
        self.batch_size = int(self.cfg.TEST.IMS_PER_GPU)
        self.to(target)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    @property
    def CLASSES(self) -> tuple[str, ...]:  # noqa: N802 - as OpenMMLab calls them
        """The class names."""
        return self.names.class_names

    def forward(self, source: Any, channels: Channels = "rgb") -> Prediction | list[Prediction] | Iterator[Prediction]:
        """Predict.

        Args:
            source: see ``pet.apis.sources.open_source``: arrays, paths, lists, folders, patterns, videos, cameras.
            channels: order of the channels of arrays, ``rgb`` or ``bgr``.

        Returns:
            A prediction for one picture, a list for a list, and for everything else an iterator that reads and predicts as it is
            asked for more.
        """
        opened = open_source(source, channels)
        found = self._stream(opened.pictures)
        if opened.kind == "stream":
            return found
        everything = list(found)
        return everything if opened.kind == "list" else everything[0]

    def stream(self, source: Any, channels: Channels = "rgb") -> Iterator[Prediction]:
        """The predictions for any source one after the other; arguments as for a call."""
        return self._stream(open_source(source, channels).pictures)

    def _stream(self, pictures: Iterator[Picture]) -> Iterator[Prediction]:
        for chunk in _chunks(pictures, self.batch_size):
            yield from self.predict(chunk)

    def predict(self, pictures: Sequence[Picture]) -> list[Prediction]:
        """The predictions for pictures that are in memory, in batches of TEST.IMS_PER_GPU."""
        dtype = amp_dtype(self.cfg, self.device)
        autocast = torch.autocast(self.device.type, dtype=dtype) if dtype is not None else nullcontext()
        found: list[Prediction] = []
        with torch.no_grad(), autocast:
            for batch in self.domain.make_test_data_loader(self.cfg, _InMemory(pictures, self.names)):
                outputs = self.domain.forward_test(self.model, batch.to(self.device))
                for row, index in enumerate(batch.ids.tolist()):
                    said = {name: _on_cpu(values[row]) for name, values in outputs.items()}
                    found.append(Prediction(pictures[index].image, pictures[index].source, self.names, said))
        return found

    def show_result(
        self,
        img: Any,
        result: Any,
        score_thr: float = 0.3,
        palette: str = "distinct",
        wait_time: float = 0,
        show: bool = False,
        out_file: str | os.PathLike[str] | None = None,
        channels: Channels = "bgr",
    ) -> Image:
        """Draw a result, as OpenMMLab's models do.

        Args:
            img: path, or an array.
            result: of ``inference_detector`` or ``inference_classifier``, or a ``Prediction``, which also has keypoints and maps.
            score_thr: score that an object needs.
            palette: colours, see ``pet.visualization.palette``.
            wait_time: seconds that the window stays; 0: until a key is pressed.
            show: open a window.
            out_file: picture to write; its folder is made.
            channels: order of the channels of ``img`` and of what is returned, ``bgr`` as OpenMMLab has it, or ``rgb``.

        Returns:
            The drawn picture, (H, W, 3) uint8.

        Raises:
            OSError: ``show`` without a display; the text names ``out_file``.
        """
        if show:
            require_display("write the picture with out_file=FILE")
        image = next(open_source(img, channels).pictures).image
        drawn = self._prediction(image, result).draw(score_thr=score_thr, palette=palette)
        if out_file is not None:
            write_picture(out_file, drawn)
        if show:
            show_picture("result", drawn, round(1000 * wait_time))
        return drawn[..., ::-1].copy() if channels == "bgr" else drawn

    def _prediction(self, image: Image, result: Any) -> Prediction:
        if isinstance(result, Prediction):
            return replace(result, image=image)
        if isinstance(result, dict):
            scores = torch.zeros(len(self.names.class_names))
            scores[result["pred_label"]] = result["pred_score"]
            return Prediction(image, "image", self.names, {"scores": scores})
        return Prediction.from_per_class(image, result, self.names)


class _InMemory(VisionDataset):
    """Pictures without labels, and the names of a data set."""

    def __init__(self, pictures: Sequence[Picture], names: LabelNames) -> None:
        super().__init__("pictures", names.class_names, None)
        self.pictures, self.flip_pairs = pictures, list(names.flip_pairs)
        self.keypoint_names, self.semseg_names = list(names.keypoint_names), list(names.semseg_names)

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, index: int) -> Sample:
        image = self.pictures[index].image
        return Sample(image, {"original_size": (image.shape[0], image.shape[1])}, index)

    def labels(self) -> np.ndarray:
        return np.full(len(self), -1, np.int64)

    def describe(self, index: int) -> str:
        return self.pictures[index].source


def _chunks(pictures: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    """Up to ``size`` pictures at a time; those before a damaged one come before its error."""
    chunk: list[Picture] = []
    try:
        for picture in pictures:
            chunk.append(picture)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except Exception:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _open(config: str | os.PathLike[str] | CfgNode, options: Sequence[Any]) -> OpenConfig:
    """Route and check a config; one in memory is copied."""
    if not isinstance(config, CfgNode):
        return open_config(os.fspath(config), options)
    name = find_domain(config.file) or read_domain_header(config.file)
    if name is None:
        raise ValueError(f"'{config.file}', the file of the config, is not below cfgs/, so its domain is unknown; give a path")
    domain = open_config(config.file).domain_module
    cfg = config.clone()
    cfg.defrost()
    cfg.merge_from_list(list(options))
    cfg = domain.infer_cfg(cfg, config.file)
    cfg.freeze()
    return OpenConfig(cfg, name, domain)


def _device(name: str | torch.device) -> torch.device:
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind, _, number = str(name).partition(":")
    if kind == "auto":
        kind = next(kind for kind, usable in kinds.items() if usable)
    usable = ", ".join(kind for kind, here in kinds.items() if here)
    if kind not in kinds or (number and not number.isdecimal()):
        raise ValueError(f"the device is '{name}'; expected auto, cpu, cuda, cuda:<number> or mps. Usable here: {usable}")
    if not kinds[kind] or int(number or 0) >= max(torch.cuda.device_count() if kind == "cuda" else 1, 1):
        raise ValueError(f"the device {name} cannot be used on this machine; usable: {usable}")
    return torch.device(kind, int(number)) if number else torch.device(kind)


def _find_weights(cfg: CfgNode, weights: str) -> Path | None:
    """The checkpoint to load; ``None`` if none is named and the run has none."""
    named = weights or cfg.TEST.WEIGHTS
    try:
        return get_weights(cfg.MISC.CKPT, named)
    except FileNotFoundError:
        if named:
            raise FileNotFoundError(f"the checkpoint {named} does not exist (working folder {os.getcwd()})") from None
    LOGGER.warning(f"no weights are named and {cfg.MISC.CKPT} holds none: the model is random and its predictions mean nothing")
    return None


def _load(model: nn.Module, path: Path, ema: bool) -> dict[str, Any]:
    """Load what a test would load; the ``meta`` of the file."""
    content = read_content(path)
    state, _ = choose_weights(content, str(path), ema)
    load_weights(model, state, source=str(path))
    meta = content.get("meta", {})
    return dict(meta) if isinstance(meta, dict) else {}


def _names(cfg: CfgNode, domain: Any, meta: dict[str, Any]) -> LabelNames:
    """Names for everything the model predicts; says where they had to be guessed."""
    saved, counts = LabelNames.of(meta), domain.label_counts(cfg)
    known = saved.completed(names_of_config(cfg))
    names = known.padded(counts)
    invented = sorted(name for name in counts if getattr(names, name) != getattr(known, name))
    guessed = sorted(name for name in counts if name not in invented and not getattr(saved, name))
    if invented:
        LOGGER.warning(f"the checkpoint does not say what the labels mean: {', '.join(invented)} are numbered")
    elif guessed and meta:
        LOGGER.warning(f"the checkpoint holds no {', '.join(guessed)}; those of the data sets in the config are used")
    return names


def _on_cpu(value: Any) -> Any:
    """Tensors in dicts, lists and tuples on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: _on_cpu(item) for name, item in value.items()}
    return type(value)(_on_cpu(item) for item in value) if isinstance(value, list | tuple) else value
