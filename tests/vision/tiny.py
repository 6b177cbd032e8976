"""Tiny networks with every head, random weights that tell things apart, and photographs to run them on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pet.config import CfgNode
from pet.data.structures import Batch
from pet.data.views import ViewBatch
from pet.vision import GeneralizedCNN, build_dataset, forward_test, get_base_cfg, infer_cfg, make_test_data_loader
from tests.user_sets import KEYPOINT, MASK, NO_DET, SEMSEG, TINY

_RETINANET = [
    "MODEL.ROI_HEAD.TYPE=''",
    "MODEL.GLOBAL_HEAD.DET.TYPE=retinanet",
    "MODEL.GLOBAL_HEAD.DET.RETINANET.SCORE_THRESH=0.3",
    "MODEL.GLOBAL_HEAD.DET.RETINANET.ANCHOR_SIZES=[8, 16, 32, 48]",
]
_FCOS = [
    *("MODEL.ROI_HEAD.TYPE=''", "MODEL.GLOBAL_HEAD.DET.TYPE=fcos", "MODEL.NECK_OPTIONS={out_channels: 32}"),
    *("MODEL.GLOBAL_HEAD.DET.FCOS.ANCHOR_SIZES=[4, 8, 16, 32]", "MODEL.GLOBAL_HEAD.DET.FCOS.SCORE_THRESH=0.3"),
]
_SSD = [
    *("MODEL.ROI_HEAD.TYPE=''", "MODEL.GLOBAL_HEAD.DET.TYPE=ssd", "MODEL.NECK=''", "TEST.RESIZE.SCALE=[48, 48]"),
    *("MODEL.GLOBAL_HEAD.DET.SSD.ASPECT_RATIOS=[[2], [2]]", "MODEL.GLOBAL_HEAD.DET.SSD.SCALES=[0.2, 0.5, 0.9]"),
    *("MODEL.GLOBAL_HEAD.DET.SSD.STEPS=[2, 4]", "MODEL.FEATURES=[layer2, layer3]"),
]
_PANOPTIC = [
    *(*MASK, *SEMSEG, "MODEL.GLOBAL_HEAD.PANOSEG.TYPE=merge", "MODEL.GLOBAL_HEAD.PANOSEG.MERGE.STUFF_AREA=16"),
    *("MODEL.GLOBAL_HEAD.PANOSEG.MERGE.SCORE_THRESH=0.3",),
]
HEADS: dict[str, list[str]] = {
    "faster": [],
    "cascade": ["MODEL.ROI_HEAD.TYPE=cascade", "MODEL.ROI_HEAD.CASCADE.FC_DIM=32", "MODEL.ROI_HEAD.CASCADE.SCORE_THRESH=0.0"],
    "mask": MASK,
    "keypoint": [*KEYPOINT, "MODEL.ROI_HEAD.KEYPOINT.NUM_KEYPOINTS=5"],
    "proposals": ["MODEL.ROI_HEAD.TYPE=''"],
    "retinanet": _RETINANET,
    "fcos": _FCOS,
    "ssd": _SSD,
    "semseg": [*NO_DET, *SEMSEG, "MODEL.GLOBAL_HEAD.SEMSEG.NUM_CLASSES=7"],
    "panoptic": [*_PANOPTIC, "MODEL.GLOBAL_HEAD.SEMSEG.NUM_CLASSES=7"],
    "classes": [*NO_DET, "MODEL.GLOBAL_HEAD.CLS.TYPE=linear", "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES=7"],
}
_DETECTORS = ("ROI_HEAD.FASTER", "ROI_HEAD.CASCADE", "GLOBAL_HEAD.DET.RETINANET", "GLOBAL_HEAD.DET.FCOS", "GLOBAL_HEAD.DET.SSD")
# What predicts without a hidden layer behind it.
_LAST = (
    "cls_score",
    "cls_logits",
    "bbox_pred",
    "bbox_reg",
    "bbox_ctrness",
    "mask_fcn_logits",
    "kps_score",
    "classification_head",
    "fc",
)


def make(folder: Path, head: str, *words: str) -> tuple[CfgNode, Any]:
    """Config and network; detections score high and low, so that rounding does not change their order."""
    path = folder / "cfgs" / "vision" / "tiny.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TINY, encoding="utf-8")
    cfg = get_base_cfg()
    cfg.merge_from_file(path)
    few = [f"MODEL.{name}.DETECTIONS_PER_IMG=15" for name in _DETECTORS]
    pairs = [word.split("=", 1) for word in [*few, *HEADS[head], "EVAL.METRICS=()", *words]]
    cfg.merge_from_list([part for pair in pairs for part in pair])
    infer_cfg(cfg)
    cfg.freeze()
    torch.manual_seed(0)
    net = GeneralizedCNN(cfg, is_train=False).eval()
    spread(net)
    return cfg, net


def spread(net: nn.Module) -> None:
    """Give the layers that predict weights of a trained size."""
    for name, part in net.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear) and name.rpartition(".")[2] in _LAST:
            if part.bias is not None:
                nn.init.constant_(part.bias, 1.0 if name.endswith("bbox_reg") else 0.0)  # FCOS: no boxes without extent
            scale = 0.2 if "bbox_" in name else 1.5
            nn.init.normal_(part.weight, std=scale * part.weight[0].numel() ** -0.5)


def photographs(shared_data: Path) -> list[str]:
    """Words that make six photographs of different sizes the test set."""
    folder = shared_data / "detection/coco_mini"
    entry = f"{{TYPE: coco_dataset, IMAGES: {folder}/val2017, ANNOTATIONS: {folder}/annotations/instances_val2017.json}}"
    words = ["TEST.DATASETS=(photographs,)", "MODEL.NUM_CLASSES=80", "TEST.LIMIT=6", "TEST.RESIZE.MAX_SIZE=90"]
    return [f"DATA.CATALOG={{photographs: {entry}}}", "TEST.SIZE_DIVISIBILITY=16", *words]


def batches(cfg: CfgNode) -> Iterator[Batch | ViewBatch]:
    """What the test loader yields."""
    yield from make_test_data_loader(cfg, build_dataset(cfg, is_train=False))


@torch.inference_mode()
def predictions(cfg: CfgNode, net: nn.Module) -> dict[int, dict[str, Any]]:
    """What the network says of each picture of the test set, by id."""
    found = {}
    for batch in batches(cfg):
        outputs = forward_test(net, batch)
        for row, index in enumerate(batch.ids.tolist()):
            assert index not in found
            found[index] = {name: values[row] for name, values in outputs.items()}
    return found


def assert_alike(found: Any, expected: Any, atol: float = 1e-4) -> None:
    """Equal names, kinds, shapes and order; numbers within ``atol`` and the rounding of the largest, a coordinate."""
    if isinstance(expected, Tensor):
        assert found.shape == expected.shape
        if expected.dtype.is_floating_point:
            rounding = 1e-6 * float(expected.abs().max()) if expected.numel() else 0.0
            torch.testing.assert_close(found, expected, atol=atol + rounding, rtol=0)
        else:  # a pixel between two classes may go either way
            assert (found == expected).float().mean() > 0.999 if expected.numel() else True
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_alike(found[name], expected[name], atol)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other, atol)
    else:
        assert found == pytest.approx(expected, abs=atol, rel=1e-3)  # areas in pixels, which may go either way
