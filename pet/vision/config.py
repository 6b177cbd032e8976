"""Config keys of detection, segmentation, keypoints and classification in one network, and what must hold between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pet.config import CfgNode, Problem, key
from pet.config import get_base_cfg as get_shared_cfg
from pet.config import infer_cfg as infer_shared_cfg
from pet.config.node import DEFAULT

METRICS = (
    "bbox", "segm", "keypoints", "proposal", "proposal_fast", "mAP", "recall", "lvis", "cityscapes", "mIoU", "PQ", "accuracy",
)  # fmt: skip

# A table reads best with one key in one line.
# fmt: off
CLS_HEAD: dict[str, Any] = {
    "TYPE": key("", "head of image classification: linear, or the import path of a class; empty: none"),
    "OPTIONS": key({}, "further keyword arguments for the constructor of the head"),
    "NUM_CLASSES": key(1000, "number of classes", low=1),
    "DROPOUT": key(0.0, "probability of dropout before the last layer; the library's own one there is removed", low=0.0, high=1.0),
    "LOSS": key("cross_entropy", "loss: cross_entropy (one label), bce (several labels, or one), or the import path of a class"),
    "LABEL_SMOOTHING": key(0.0, "share of the target spread over all classes", low=0.0, high=1.0),
    "TARGET_THRESHOLD": key(None, "bce: soft targets above it count as 1, others as 0; None: soft", type=float, low=0.0, high=1.0),
}

_TOP_N = {
    "PRE_NMS_TOP_N_TRAIN": key(2000, "best anchors of a level before NMS, in training", low=1),
    "PRE_NMS_TOP_N_TEST": key(1000, "best anchors of a level before NMS, in testing", low=1),
    "POST_NMS_TOP_N_TRAIN": key(1000, "proposals of an image after NMS, in training", low=1),
    "POST_NMS_TOP_N_TEST": key(1000, "proposals of an image after NMS, in testing", low=1),
}


def _detections(score: float, nms: float, count: int) -> dict[str, Any]:
    return {
        "SCORE_THRESH": key(score, "detections below this score are left out", low=0.0, high=1.0),
        "NMS_THRESH": key(nms, "IoU above which the lower of two detections of a class goes", low=0.0, high=1.0),
        "DETECTIONS_PER_IMG": key(count, "best detections of an image that are kept", low=1),
    }


def _candidates(count: int) -> dict[str, Any]:
    return {"TOPK_CANDIDATES": key(count, "best candidates of a level before NMS", low=1)}


def _sampling(images: int, share: float) -> dict[str, Any]:
    return {
        "BATCH_SIZE_PER_IMAGE": key(images, "boxes of an image that the loss looks at", low=1),
        "POSITIVE_FRACTION": key(share, "largest share of positives among them", above=0.0, high=1.0),
    }


def _overlaps(foreground: float, background: float) -> dict[str, Any]:
    return {
        "FG_IOU": key(foreground, "IoU with a ground truth from which a box is positive", low=0.0, high=1.0),
        "BG_IOU": key(background, "IoU below which a box is negative; in between it is ignored", low=0.0, high=1.0),
    }


_ANCHOR_RATIOS = key((0.5, 1.0, 2.0), "height / width of the anchors", element=float, above=0.0)

DET: dict[str, Any] = {
    "TYPE": key("", "detector on the feature levels: rpn (with MODEL.ROI_HEAD, or proposals alone), retinanet, fcos, ssd, or an import path; empty: none"),
    "RPN": {
        "ANCHOR_SIZES": key(((32,), (64,), (128,), (256,), (512,)), "sides of the anchors of each level; one level: one tuple with all sizes", unit="pixels"),
        "ASPECT_RATIOS": _ANCHOR_RATIOS,
        **_overlaps(0.7, 0.3),
        **_sampling(256, 0.5),
        **_TOP_N,
        "NMS_THRESH": key(0.7, "IoU above which the lower of two proposals goes", low=0.0, high=1.0),
        "SCORE_THRESH": key(0.0, "proposals below this score are left out", low=0.0, high=1.0),
        "CONV_DEPTH": key(1, "3x3 convolutions before the predictions", low=1),
    },
    "RETINANET": {
        "ANCHOR_SIZES": key((32, 64, 128, 256, 512), "side of the smallest anchor of each level", element=int, low=1, unit="pixels"),
        "OCTAVES": key(3, "sizes of anchors within an octave", low=1),
        "ASPECT_RATIOS": _ANCHOR_RATIOS,
        "NORM": key("", "normalisation inside the head; GN as in torchvision's retinanet v2", choices=("", "GN")),
        "BOX_LOSS": key("l1", "loss of the boxes", choices=("l1", "smooth_l1", "giou")),
        **_overlaps(0.5, 0.4),
        **_detections(0.05, 0.5, 100),
        **_candidates(1000),
    },
    "FCOS": {
        "ANCHOR_SIZES": key((8, 16, 32, 64, 128), "scale of the boxes of each level", element=int, low=1, unit="pixels"),
        "CENTER_SAMPLING_RADIUS": key(1.5, "radius around a centre in which points are positive, in strides", above=0.0),
        **_detections(0.2, 0.6, 100),
        **_candidates(1000),
    },
    "SSD": {
        "ASPECT_RATIOS": key(((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)), "further width / height ratios of the default boxes of each level"),
        "SCALES": key((0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), "sides of the default boxes of each level as a share of the image, and one more", element=float, above=0.0),
        "STEPS": key((8, 16, 32, 64, 100, 300), "distance of the default boxes of each level", element=int, low=1, unit="pixels"),
        "IOU_THRESH": key(0.5, "IoU with a ground truth from which a default box is positive", low=0.0, high=1.0),
        **_detections(0.01, 0.45, 200),
        **_candidates(400),
        "POSITIVE_FRACTION": key(0.25, "share of positives among the default boxes that the loss looks at", above=0.0, high=1.0),
    },
}

SEMSEG: dict[str, Any] = {
    "TYPE": key("", "head of semantic segmentation: fcn, deeplabv3, pspnet, semseg_fpn, or an import path; empty: none"),
    "NUM_CLASSES": key(150, "classes of the semantic map; for panoptic segmentation the stuff classes and one for all things", low=2),
    "LOSS_WEIGHT": key(1.0, "weight of the loss", low=0.0),
    "IGNORE_LABEL": key(255, "label of pixels that are not judged", low=0, high=255),
    "NORM": key("BN", "normalisation of the heads fcn, deeplabv3 and pspnet, the auxiliary one included", choices=("BN", "SyncBN", "GN")),
    "FCN": {"DROPOUT": key(0.1, "probability of dropout before the last layer", low=0.0, high=1.0)},
    "DEEPLABV3": {
        "RATES": key((12, 24, 36), "atrous rates of the pyramid", element=int, low=1),
        "DROPOUT": key(0.5, "probability of dropout in the pyramid", low=0.0, high=1.0),
    },
    "PSPNET": {
        "CHANNELS": key(512, "channels of the last layer but one", low=1),
        "BINS": key((1, 2, 3, 6), "cells on each side that the pyramid averages to", element=int, low=1),
        "DROPOUT": key(0.1, "probability of dropout before the last layer", low=0.0, high=1.0),
    },
    "SEMSEG_FPN": {
        "CHANNELS": key(128, "channels of the branches", low=1),
        "GROUPS": key(32, "groups of the group normalisation", low=1),
    },
    "AUX": {
        "TYPE": key("", "auxiliary head, in training only; fcn, or another of the heads above; empty: none"),
        "LEVEL": key(-2, "level of the backbone that it sees"),
        "LOSS_WEIGHT": key(0.4, "weight of its loss", low=0.0),
    },
}

PANOSEG: dict[str, Any] = {
    "TYPE": key("", "how instances and the semantic map become one panoptic map: merge, or an import path; empty: not at all"),
    "MERGE": {
        "SCORE_THRESH": key(0.6, "instances below this score are left out", low=0.0, high=1.0),
        "OVERLAP": key(0.5, "share of an instance that others may cover before it goes", low=0.0, high=1.0),
        "STUFF_AREA": key(4096, "smaller regions of stuff become void", low=0, unit="pixels"),
        "NMS_THRESH": key(0.5, "IoU of boxes above which the lower of two instances of any class goes", low=0.0, high=1.0),
    },
}

_BOX_HEAD: dict[str, Any] = {
    "HEAD": key("two_mlp", "layers between the pooled features and the predictions: two_mlp (2 fc), conv_fc (4 conv, 1 fc) or res5 (last stage of the backbone, for C4)", choices=("two_mlp", "conv_fc", "res5")),
    "FC_DIM": key(1024, "width of the fully connected layers", low=1),
    "POOL_RESOLUTION": key(7, "side of the pooled features; 14 for res5", low=1),
    "SAMPLING_RATIO": key(2, "samples of RoIAlign on each side of a cell; 0: as many as fit", low=0),
    **_sampling(512, 0.25),
    **_detections(0.05, 0.5, 100),
}
_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)

ROI_HEAD: dict[str, Any] = {
    "TYPE": key("", "box head on the proposals: faster, cascade, or an import path; empty: none"),
    "FASTER": {
        **_BOX_HEAD,
        **_overlaps(0.5, 0.5),
        "BBOX_REG_WEIGHTS": key(_REG_WEIGHTS, "weights of the box offsets x, y, w, h", element=float, length=4, above=0.0),
    },
    "CASCADE": {
        **_BOX_HEAD,
        "IOU_THRESHOLDS": key((0.5, 0.6, 0.7), "IoU from which a box is positive, of each stage", element=float, low=0.0, high=1.0),
        "BBOX_REG_WEIGHTS": key((_REG_WEIGHTS, (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)), "weights of the box offsets of each stage"),
        "LOSS_WEIGHTS": key((1.0, 0.5, 0.25), "weight of the losses of each stage", element=float, low=0.0),
    },
    "MASK": {
        "TYPE": key("", "mask head: mask_rcnn, or an import path; empty: none"),
        "POOL_RESOLUTION": key(14, "side of the pooled features", low=1),
        "SAMPLING_RATIO": key(2, "samples of RoIAlign on each side of a cell; 0: as many as fit", low=0),
        "CHANNELS": key((256, 256, 256, 256), "channels of the convolutions; none with res5", element=int, low=1),
        "DIM_REDUCED": key(256, "channels of the transposed convolution", low=1),
        "NORM": key("", "normalisation of the convolutions", choices=("", "BN")),
    },
    "KEYPOINT": {
        "TYPE": key("", "keypoint head: keypoint_rcnn, or an import path; empty: none"),
        "POOL_RESOLUTION": key(14, "side of the pooled features", low=1),
        "SAMPLING_RATIO": key(2, "samples of RoIAlign on each side of a cell; 0: as many as fit", low=0),
        "CHANNELS": key((512,) * 8, "channels of the convolutions", element=int, low=1),
        "NUM_KEYPOINTS": key(17, "keypoints of an instance", low=1),
    },
}

_PROBABILITY = {"low": 0.0, "high": 1.0}

SECTIONS: dict[str, Any] = {
    "MODEL": {
        "NUM_CLASSES": key(80, "classes of instances, without background", low=1),
        "GLOBAL_HEAD": {"CLS": CLS_HEAD, "DET": DET, "SEMSEG": SEMSEG, "PANOSEG": PANOSEG},
        "ROI_HEAD": ROI_HEAD,
    },
    "EVAL": {
        "METRICS": key((), "metrics: bbox segm keypoints (COCO), proposal proposal_fast (AR), mAP recall (VOC), lvis, cityscapes, mIoU, PQ, accuracy; by default what the heads predict; (): none", element=str, choices=METRICS),
        "BACKEND": key("faster_coco_eval", "who computes COCO metrics; both give equal numbers", choices=("faster_coco_eval", "pycocotools")),
        "CLASSWISE": key(True, "print a table of the classes after a test"),
        "MAX_DETS": key((1, 10, 100), "detections of an image that AR and, the last, AP count", element=int, low=1),
        "PROPOSAL_NUMS": key((100, 300, 1000), "proposals of an image for proposal, proposal_fast and recall", element=int, low=1),
        "VOC_METHOD": key("area", "AP of Pascal VOC: area below the curve (2010 on), or mean at 11 recalls (2007)", choices=("area", "11points")),
        "VOC_IOUS": key((0.5,), "IoU thresholds of mAP and recall", element=float, above=0.0, high=1.0),
        "TOPK": key((1, 5), "the k of accuracy (top1, top5)", element=int, low=1),
    },
    "VIS": {
        "SCORE_THRESH": key(0.5, "detections below this score are not drawn", **_PROBABILITY),
        **{
            name: {"ENABLED": key(True, f"draw {what}")}
            for name, what in (("BOX", "boxes"), ("CLASS", "names of the classes"), ("MASK", "masks"), ("KEYPOINT", "keypoints"), ("SEMSEG", "semantic maps"), ("PANOSEG", "panoptic maps"))
        },
    },
    "TRAIN": {
        "SIZE_DIVISIBILITY": key(32, "width and height of a batch are padded to a multiple; 0: to the largest image only", low=0, unit="pixels"),
        "RANDOM_CROP": {
            "CAT_MAX_THS": key(0.0, "a crop in which one class covers more than this share is drawn again, up to ten times; 0: off", **_PROBABILITY),
        },
        "CROP_AND_EXPAND": {"PROB": key(0.5, "probability of the expansion of ssd_crop_and_expand", **_PROBABILITY)},
        "PHOTOMETRIC_DISTORT": {"PROB": key(0.5, "probability of each change of photometric_distort", **_PROBABILITY)},
        "COPY_PASTE": {"PROB": key(0.5, "probability of copy_paste", **_PROBABILITY)},
        "MOSAIC": {
            "PROB": key(1.0, "probability of mosaic", **_PROBABILITY),
            "SIZE": key((640, 640), "(height, width) of one of the four parts; the result is twice as large", element=int, length=2, low=1, unit="pixels"),
        },
        "DET_MIXUP": {"PROB": key(1.0, "probability of det_mixup", **_PROBABILITY)},
        "EFFICIENT_DET_RESIZE_CROP": {
            "SIZE": key((1024, 1024), "(height, width) of the result", element=int, length=2, low=1, unit="pixels"),
            "SCALE": key((0.1, 2.0), "range of the scale, relative to the size", element=float, length=2, above=0.0),
        },
    },
    "TEST": {
        "SIZE_DIVISIBILITY": key(32, "as TRAIN.SIZE_DIVISIBILITY", low=0, unit="pixels"),
        "TTA": {"SWAP_KEYPOINTS": key(True, "keypoints that are left and right of each other change names in mirrored views")},
    },
}
# fmt: on


def get_base_cfg() -> CfgNode:
    """A fresh config of this domain with its defaults."""
    cfg = get_shared_cfg()
    cfg.extend(SECTIONS)
    cfg.add_check(check_vision)
    return cfg


def infer_cfg(cfg: CfgNode, cfg_file: str | Path | None = None) -> CfgNode:
    """As ``pet.config.infer_cfg``; ``EVAL.METRICS`` becomes what the heads predict unless it is set, be it to ()."""
    if cfg.origin("EVAL.METRICS") == DEFAULT:
        cfg.set("EVAL.METRICS", default_metrics(cfg), "inferred: from the heads of the model")
    return infer_shared_cfg(cfg, cfg_file)


def default_metrics(cfg: CfgNode) -> tuple[str, ...]:
    """The usual metrics of the heads that are switched on."""
    heads, roi = cfg.MODEL.GLOBAL_HEAD, cfg.MODEL.ROI_HEAD
    proposals_only = heads.DET.TYPE == "rpn" and not roi.TYPE
    chosen = {
        "proposal": proposals_only,
        "bbox": bool(heads.DET.TYPE) and not proposals_only,
        "segm": bool(roi.MASK.TYPE),
        "keypoints": bool(roi.KEYPOINT.TYPE),
        "mIoU": bool(heads.SEMSEG.TYPE) and not heads.PANOSEG.TYPE,
        "PQ": bool(heads.PANOSEG.TYPE),
        "accuracy": bool(heads.CLS.TYPE),
    }
    return tuple(name for name, wanted in chosen.items() if wanted)


def annotation_kinds(cfg: CfgNode) -> frozenset[str]:
    """What the heads learn from: a subset of boxes, masks, keypoints, semseg, panoptic, label (MODEL.HAS_* of Pet v0.7)."""
    heads, roi = cfg.MODEL.GLOBAL_HEAD, cfg.MODEL.ROI_HEAD
    needed = {
        "boxes": heads.DET.TYPE,
        "masks": roi.MASK.TYPE,
        "keypoints": roi.KEYPOINT.TYPE,
        "semseg": heads.SEMSEG.TYPE,
        "label": heads.CLS.TYPE,
    }
    kinds = {name for name, wanted in needed.items() if wanted}
    if "copy_paste" in cfg.TRAIN.TRANSFORMS and "boxes" in kinds:
        kinds.add("masks")
    return frozenset(kinds)


def check_vision(cfg: CfgNode) -> list[Problem]:
    """Problems of several keys together."""
    checks = (
        _heads, _roi_heads, _panoptic, _auxiliary, _levels, _metrics, _cascade, _overlap_order, _number_lists, _transforms,
        _test_transforms, _groups,
    )  # fmt: skip
    return [problem for check in checks for problem in check(cfg)]


def _heads(cfg: CfgNode) -> list[Problem]:
    if annotation_kinds(cfg):
        return []
    return [Problem("MODEL.GLOBAL_HEAD.DET.TYPE", "the model has no head; name one here, or in SEMSEG.TYPE or CLS.TYPE")]


def _roi_heads(cfg: CfgNode) -> list[Problem]:
    roi, det, problems = cfg.MODEL.ROI_HEAD, cfg.MODEL.GLOBAL_HEAD.DET, []
    if roi.TYPE and not det.TYPE:
        message = "works on proposals; set MODEL.GLOBAL_HEAD.DET.TYPE rpn"
        problems.append(Problem("MODEL.ROI_HEAD.TYPE", message, related=("MODEL.GLOBAL_HEAD.DET.TYPE",)))
    if roi.TYPE and det.TYPE in ("retinanet", "fcos", "ssd"):
        message = f"works on proposals, but {det.TYPE} gives detections; set rpn, or leave MODEL.ROI_HEAD.TYPE empty"
        problems.append(Problem("MODEL.GLOBAL_HEAD.DET.TYPE", message, related=("MODEL.ROI_HEAD.TYPE",)))
    for name in ("MASK", "KEYPOINT"):
        if roi[name].TYPE and not roi.TYPE:
            message = "works on the boxes of a box head; set MODEL.ROI_HEAD.TYPE faster or cascade"
            problems.append(Problem(f"MODEL.ROI_HEAD.{name}.TYPE", message, related=("MODEL.ROI_HEAD.TYPE",)))
    return problems


def _panoptic(cfg: CfgNode) -> list[Problem]:
    heads, roi, key_name = cfg.MODEL.GLOBAL_HEAD, cfg.MODEL.ROI_HEAD, "MODEL.GLOBAL_HEAD.PANOSEG.TYPE"
    if not heads.PANOSEG.TYPE or (heads.SEMSEG.TYPE and roi.MASK.TYPE):
        return []
    message = "joins instance masks and a semantic map; it needs both"
    return [Problem(key_name, message, related=("MODEL.GLOBAL_HEAD.SEMSEG.TYPE", "MODEL.ROI_HEAD.MASK.TYPE"))]


def _auxiliary(cfg: CfgNode) -> list[Problem]:
    semseg, name = cfg.MODEL.GLOBAL_HEAD.SEMSEG, "MODEL.GLOBAL_HEAD.SEMSEG"
    if not semseg.AUX.TYPE or semseg.TYPE:
        return []
    message = f"helps a semantic head in training, but there is none; set {name}.TYPE"
    return [Problem(f"{name}.AUX.TYPE", message, related=(f"{name}.TYPE",))]


def _levels(cfg: CfgNode) -> list[Problem]:
    model = cfg.MODEL
    dense = model.GLOBAL_HEAD.DET.TYPE or model.GLOBAL_HEAD.SEMSEG.TYPE
    if not dense or model.FEATURES or not model.BACKBONE.startswith(("torchvision/", "timm/")):
        return []
    message = "is empty, but these heads need maps, not a pooled vector; for a ResNet write [layer1, layer2, layer3, layer4]"
    return [Problem("MODEL.FEATURES", message, related=("MODEL.BACKBONE",))]


def label_counts(cfg: CfgNode) -> dict[str, int]:
    """How many labels of each kind the heads tell apart, by the list in ``pet.data.names.LabelNames`` that names them."""
    model, heads = cfg.MODEL, cfg.MODEL.GLOBAL_HEAD
    semseg = heads.SEMSEG.NUM_CLASSES
    counts = {
        "class_names": (heads.CLS.TYPE or heads.DET.TYPE, model.NUM_CLASSES if heads.DET.TYPE else heads.CLS.NUM_CLASSES),
        "semseg_names": (heads.SEMSEG.TYPE, semseg),
        "stuff_names": (heads.PANOSEG.TYPE, semseg - 1),  # the last class stands for all things
        "keypoint_names": (model.ROI_HEAD.KEYPOINT.TYPE, model.ROI_HEAD.KEYPOINT.NUM_KEYPOINTS),
    }
    return {name: count for name, (there, count) in counts.items() if there}


# Metric -> what the model must predict for it; proposal, proposal_fast and recall work on any boxes.
_NEEDS = {
    "bbox": "boxes", "segm": "masks", "keypoints": "keypoints", "proposal": "boxes", "proposal_fast": "boxes", "mAP": "boxes",
    "recall": "boxes", "lvis": "boxes", "cityscapes": "masks", "mIoU": "semseg", "PQ": "semseg", "accuracy": "label",
}  # fmt: skip


def metrics_without_head(cfg: CfgNode, metrics: Sequence[str]) -> str:
    """Which of ``metrics`` the model makes no predictions for, and which are possible; empty if all are."""
    kinds, panoptic = annotation_kinds(cfg), bool(cfg.MODEL.GLOBAL_HEAD.PANOSEG.TYPE)
    possible = [name for name in METRICS if _NEEDS[name] in kinds and (panoptic or name != "PQ")]
    wrong = [name for name in metrics if name not in possible]
    if not wrong:
        return ""
    return f"{', '.join(wrong)} cannot be computed from what the heads predict; possible: {', '.join(possible) or 'none'}"


def _metrics(cfg: CfgNode) -> list[Problem]:
    message = metrics_without_head(cfg, cfg.EVAL.METRICS)
    if message:
        return [Problem("EVAL.METRICS", message)]
    if set(cfg.EVAL.METRICS) == {"lvis"} and cfg.EVAL.BACKEND == "pycocotools":
        message = "lvis is computed by faster_coco_eval alone; leave the key out"
        return [Problem("EVAL.BACKEND", message, related=("EVAL.METRICS",))]
    return []


def _cascade(cfg: CfgNode) -> list[Problem]:
    cascade, name = cfg.MODEL.ROI_HEAD.CASCADE, "MODEL.ROI_HEAD.CASCADE"
    stages = {key_name: len(cascade[key_name]) for key_name in ("IOU_THRESHOLDS", "BBOX_REG_WEIGHTS", "LOSS_WEIGHTS")}
    if len(set(stages.values())) == 1:
        return []
    counts = ", ".join(f"{key_name} {count}" for key_name, count in stages.items())
    return [Problem(f"{name}.IOU_THRESHOLDS", f"every stage needs one entry in each list; they have {counts}")]


def _overlap_order(cfg: CfgNode) -> list[Problem]:
    """Between both limits boxes are ignored, so the lower one is that of the background."""
    sections = ("MODEL.GLOBAL_HEAD.DET.RPN", "MODEL.GLOBAL_HEAD.DET.RETINANET", "MODEL.ROI_HEAD.FASTER")
    wrong = [name for name in sections if cfg.value(f"{name}.BG_IOU") > cfg.value(f"{name}.FG_IOU")]
    return [Problem(f"{name}.BG_IOU", f"must not be above {name}.FG_IOU", related=(f"{name}.FG_IOU",)) for name in wrong]


# Keys whose entries are lists of numbers themselves: how many numbers (None: at least one), and an example.
_LISTS = {
    "MODEL.GLOBAL_HEAD.DET.RPN.ANCHOR_SIZES": (None, "a tuple of sides for each level, e.g. [[32], [64], [128]]"),
    "MODEL.GLOBAL_HEAD.DET.SSD.ASPECT_RATIOS": (None, "a tuple of ratios for each level, e.g. [[2], [2, 3]]"),
    "MODEL.ROI_HEAD.CASCADE.BBOX_REG_WEIGHTS": (4, "four weights for each stage, e.g. [[10, 10, 5, 5], [20, 20, 10, 10]]"),
}


def _number_lists(cfg: CfgNode) -> list[Problem]:
    def fits(entry: Any, count: int | None) -> bool:
        numbers = isinstance(entry, (tuple, list)) and all(type(value) in (int, float) and value > 0 for value in entry)
        return numbers and (len(entry) == count if count else len(entry) > 0)

    return [
        Problem(name, f"expected {example}; all numbers above 0")
        for name, (count, example) in _LISTS.items()
        if not all(fits(entry, count) for entry in cfg.value(name))
    ]


# Transforms that leave boxes, masks and label maps where they were, though they move or mix the pixels.
_WHOLE_PICTURE = {
    "mixup": "det_mixup, mosaic and copy_paste mix pictures with their objects",
    "cutmix": "det_mixup, mosaic and copy_paste mix pictures with their objects",
    "auto_aug": "color_jitter and photometric_distort change colours alone",
    "rand_aug": "color_jitter and photometric_distort change colours alone",
}


def _transforms(cfg: CfgNode) -> list[Problem]:
    kinds, key_name, problems = annotation_kinds(cfg), "TRAIN.TRANSFORMS", []
    for name in cfg.TRAIN.TRANSFORMS if kinds - {"label"} else ():
        if name in _WHOLE_PICTURE:
            message = f"{name} is for classes of whole pictures and would not move boxes and maps; {_WHOLE_PICTURE[name]}"
            problems.append(Problem(key_name, message))
    if "det_mixup" in cfg.TRAIN.TRANSFORMS and "semseg" in kinds:
        message = "det_mixup cannot mix label maps, from which the semantic head learns; remove it, or use mosaic or copy_paste"
        problems.append(Problem(key_name, message, related=("MODEL.GLOBAL_HEAD.SEMSEG.TYPE",)))
    return problems


# Transforms that a prediction can be taken back through.
_UNDONE = ("resize", "to_tensor", "normalize")


def _test_transforms(cfg: CfgNode) -> list[Problem]:
    """Predictions are scaled back to the size of the picture; what else moved its pixels cannot be undone.

    A transform of one's own, an import path, may leave them in place.
    """
    moved = [name for name in cfg.TEST.TRANSFORMS if name not in _UNDONE and "." not in name]
    if not moved or not annotation_kinds(cfg) - {"label"}:
        return []
    message = f"{', '.join(moved)}: boxes and maps could not be brought back to the picture; allowed are resize and normalize"
    return [Problem("TEST.TRANSFORMS", message)]


def _groups(cfg: CfgNode) -> list[Problem]:
    sampler, images = cfg.DATA.SAMPLER, cfg.TRAIN.BATCH_SIZE // cfg.SOLVER.ACCUMULATE
    if not sampler.ASPECT_RATIO_GROUPING or images % sampler.GROUP_SIZE == 0 or sampler.GROUP_SIZE % images == 0:
        return []
    message = f"does not divide the {images} images of a forward pass, so that groups would mix in it; best what a process has at a time"
    related = ("TRAIN.BATCH_SIZE", "SOLVER.ACCUMULATE")
    return [Problem("DATA.SAMPLER.GROUP_SIZE", message, related=related)]
