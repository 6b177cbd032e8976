"""Functions with the names, arguments and results that users of MMDetection and MMClassification know."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pet.apis.predictor import Predictor
from pet.config import CfgNode


def init_detector(
    config: str | os.PathLike[str] | CfgNode,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    cfg_options: Mapping[str, Any] | Sequence[Any] | None = None,
) -> Predictor:
    """A detector, ready for ``inference_detector``.

    Args:
        config: path of a YAML, or a config.
        checkpoint: weights; ``None``: those of the run, else random ones, with a warning.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:0``, ...
        cfg_options: overrides, ``{"KEY": value}``.

    Returns:
        The ``Predictor``; its ``cfg``, ``CLASSES`` and ``show_result`` are what a model of MMDetection has.
    """
    return Predictor(config, checkpoint or "", device, cfg_options or ())


def inference_detector(model: Predictor, imgs: Any) -> Any:
    """Detect objects.

    Args:
        model: of ``init_detector``.
        imgs: path of a picture, an array (H, W, 3) uint8 in BGR as ``cv2.imread`` returns it, or a list of such.

    Returns:
        For one picture what ``Prediction.per_class`` returns, for a list a list of it: for each class (n, 5) x1, y1, x2, y2,
        score; with masks a pair of that and of run lengths. For keypoints and maps call the model itself.
    """
    found = model(list(imgs) if isinstance(imgs, list | tuple) else [imgs], channels="bgr")
    results = [one.per_class() for one in found]
    return results if isinstance(imgs, list | tuple) else results[0]


def init_classifier(
    config: str | os.PathLike[str] | CfgNode,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    options: Mapping[str, Any] | Sequence[Any] | None = None,
) -> Predictor:
    """A classifier, ready for ``inference_classifier``; arguments as for ``init_detector``, with overrides in ``options``."""
    return init_detector(config, checkpoint, device, options)


def inference_classifier(model: Predictor, img: Any) -> Any:
    """Classify a picture.

    Args:
        model: of ``init_classifier``.
        img: as for ``inference_detector``.

    Returns:
        ``{"pred_label": index, "pred_score": probability, "pred_class": name}``; for a list a list of it.
    """
    names = ("pred_label", "pred_score", "pred_class")
    found = model(list(img) if isinstance(img, list | tuple) else [img], channels="bgr")
    results = [{name: getattr(one, name) for name in names} for one in found]
    return results if isinstance(img, list | tuple) else results[0]
