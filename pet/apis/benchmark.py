"""Speed of the model and of the training data of a config."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pet.config import CfgNode
from pet.engine.benchmark import Timings, endless, time_loader, time_model
from pet.engine.setup import amp_dtype, choose_device
from pet.engine.sizes import size_of_input
from pet.engine.weights import choose_weights, load_weights, read_content


def time_inference(
    cfg: CfgNode,
    domain: Any,
    weights: str | Path = "",
    shape: Sequence[int] | None = None,
    count: int = 50,
    warm_up: int = 5,
    fuse: bool = False,
) -> tuple[Timings, str]:
    """Time the model on the test set, or on noise, in batches of TEST.IMS_PER_GPU.

    Args:
        cfg, domain: the config, and the package of its domain.
        weights: a checkpoint; empty: random weights.
        shape: sides of noise that is used instead of the test set.
        count, warm_up: batches.
        fuse: fold batch normalisation into convolutions.

    Returns:
        Times, and a line that says what was measured.
    """
    device = choose_device(cfg.MISC.DEVICE)
    model: nn.Module = domain.GeneralizedCNN(cfg, is_train=False)
    if weights:
        load_weights(model, choose_weights(read_content(weights), str(weights), cfg.EVAL.EMA)[0], source=str(weights))
    model.eval()
    fused = f", {domain.fuse_conv_bn(model, domain.input_size(cfg))} batch normalisations folded" if fuse else ""
    precision = amp_dtype(cfg, device)
    options: dict[str, Any] = {"device": device, "amp_dtype": precision}
    if shape is not None:
        size = size_of_input(cfg, domain, shape)
        images = torch.randint(0, 256, (cfg.TEST.IMS_PER_GPU, 3, *size), dtype=torch.uint8)
        timings = time_model(model.to(device), _call, repeat(images), count, warm_up, **options)
        source = f"noise of {size[0]} x {size[1]}"
    else:
        dataset = domain.build_dataset(cfg, is_train=False)
        with closing(endless(domain.make_test_data_loader(cfg, dataset))) as batches:
            timings = time_model(model.to(device), domain.forward_test, batches, count, warm_up, **options)
        source = dataset.name
    kind = str(precision or torch.float32).removeprefix("torch.")
    return timings, f"inference of {source} on {device.type}, {kind}, {torch.get_num_threads()} threads{fused}"


def time_training_data(cfg: CfgNode, domain: Any, count: int = 50, warm_up: int = 5) -> tuple[Timings, str]:
    """Time the training loader, whose workers do nothing but load; and a line that says what was measured."""
    dataset = domain.build_dataset(cfg)
    with closing(iter(domain.make_train_data_loader(cfg, dataset))) as windows:
        timings = time_loader(windows, count, warm_up)
    return timings, f"training data of {dataset.name}, DATA.LOADER_THREADS {cfg.DATA.LOADER_THREADS}"


def _call(model: nn.Module, images: Tensor) -> Any:
    return model(images)
