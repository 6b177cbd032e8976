"""The size of the pictures that a network is measured or exported with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pet.config import CfgNode

Size = tuple[int, int]  # (height, width)


def size_of_input(cfg: CfgNode, domain: Any, shape: Sequence[int] | None = None) -> Size:
    """Height and width of an input, in pixels.

    Args:
        cfg: of the experiment.
        domain: its package.
        shape: what the user asks for: one side, or height and width. ``None``: what the transforms of a test make; where these
            keep the size of the picture, the size of the first picture of TEST.DATASETS.

    Raises:
        ValueError: ``shape`` is no size, or nothing says one.
    """
    if shape is not None:
        if len(shape) not in (1, 2) or min(shape) < 1:
            raise ValueError(f"--shape is {' '.join(map(str, shape))}; allowed: one side, or height and width, in pixels")
        return shape[0], shape[-1]
    fixed: Size | None = domain.input_size(cfg)
    return fixed or _first_picture(cfg, domain)


def _first_picture(cfg: CfgNode, domain: Any) -> Size:
    quick = cfg.clone()
    quick.defrost()
    quick.merge_from_list(["DATA.LOADER_THREADS", 0, "TEST.IMS_PER_GPU", 1])
    try:
        images = next(iter(domain.make_test_data_loader(quick, domain.build_dataset(quick, is_train=False)))).images
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"the transforms of TEST keep the size of the pictures, so give one: --shape HEIGHT WIDTH. Of the test data: {error}"
        ) from error
    return images.shape[2], images.shape[3]
