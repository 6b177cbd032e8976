"""Keys of the vision domain: what is inferred, and what is refused before anything starts."""

from __future__ import annotations

import pytest

from pet.config import ConfigError
from pet.vision.config import annotation_kinds, get_base_cfg, infer_cfg

LEVELS = ["MODEL.FEATURES", "('layer1', 'layer2', 'layer3', 'layer4')"]
LENGTH = ["SOLVER.SCHEDULER.TOTAL_ITERS", "10"]
DETECTOR = ["MODEL.GLOBAL_HEAD.DET.TYPE", "rpn", "MODEL.ROI_HEAD.TYPE", "faster", *LEVELS, *LENGTH]


def config(*words: str):
    cfg = get_base_cfg()
    cfg.merge_from_list(list(words))
    return infer_cfg(cfg)


@pytest.mark.parametrize(
    ("words", "metrics", "kinds"),
    [
        ((), ("bbox",), {"boxes"}),
        (("MODEL.ROI_HEAD.TYPE", "",), ("proposal",), {"boxes"}),
        (("MODEL.ROI_HEAD.MASK.TYPE", "mask_rcnn"), ("bbox", "segm"), {"boxes", "masks"}),
        (("MODEL.ROI_HEAD.KEYPOINT.TYPE", "keypoint_rcnn"), ("bbox", "keypoints"), {"boxes", "keypoints"}),
        (("MODEL.GLOBAL_HEAD.SEMSEG.TYPE", "fcn"), ("bbox", "mIoU"), {"boxes", "semseg"}),
        (
            ("MODEL.GLOBAL_HEAD.SEMSEG.TYPE", "semseg_fpn", "MODEL.ROI_HEAD.MASK.TYPE", "mask_rcnn", "MODEL.GLOBAL_HEAD.PANOSEG.TYPE", "merge"),
            ("bbox", "segm", "PQ"),
            {"boxes", "masks", "semseg"},
        ),
        (("MODEL.GLOBAL_HEAD.CLS.TYPE", "linear"), ("bbox", "accuracy"), {"boxes", "label"}),
        (("TRAIN.TRANSFORMS", "('copy_paste',)"), ("bbox",), {"boxes", "masks"}),
    ],
    ids=["detection", "proposals", "masks", "keypoints", "semantic", "panoptic", "classification", "copy_paste"],
)  # fmt: skip
def test_metrics_and_annotations_follow_from_the_heads(words, metrics, kinds):
    cfg = config(*DETECTOR, *words)
    assert metrics == cfg.EVAL.METRICS
    assert annotation_kinds(cfg) == kinds


def test_transforms_may_have_the_names_of_openmmlab(caplog):
    names = ["TRAIN.TRANSFORMS", "('Resize', 'RandomFlip', 'Normalize', 'DefaultFormatBundle')", "TEST.TRANSFORMS", "('Resize', 'Normalize')"]
    with caplog.at_level("WARNING", logger="pet"):
        cfg = config(*DETECTOR, *names)
    assert cfg.TRAIN.TRANSFORMS == ("resize", "random_horizontal_flip", "normalize", "to_tensor")
    assert cfg.TEST.TRANSFORMS == ("resize", "normalize")
    assert "'RandomFlip' is called 'random_horizontal_flip'" in caplog.text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (LENGTH, "the model has no head"),
        ((*DETECTOR, "MODEL.GLOBAL_HEAD.DET.TYPE", ""), "works on proposals; set MODEL.GLOBAL_HEAD.DET.TYPE rpn"),
        ((*DETECTOR, "MODEL.GLOBAL_HEAD.DET.TYPE", "fcos"), "fcos gives detections"),
        ((*DETECTOR, "MODEL.ROI_HEAD.TYPE", "", "MODEL.ROI_HEAD.MASK.TYPE", "mask_rcnn"), "set MODEL.ROI_HEAD.TYPE faster or cascade"),
        ((*DETECTOR, "MODEL.GLOBAL_HEAD.PANOSEG.TYPE", "merge"), "joins instance masks and a semantic map"),
        ((*DETECTOR, "MODEL.FEATURES", "()"), "need maps, not a pooled vector"),
        ((*DETECTOR, "TEST.TRANSFORMS", "('resize', 'Normaliz')"), "no transform is named 'Normaliz'. Did you mean 'normalize'?"),
        ((*DETECTOR, "EVAL.METRICS", "('segm',)"), "segm cannot be computed from what the heads predict; possible: bbox, proposal"),
        ((*DETECTOR, "EVAL.METRICS", "('lvis',)", "EVAL.BACKEND", "pycocotools"), "lvis is computed by faster_coco_eval alone"),
        ((*DETECTOR, "MODEL.ROI_HEAD.CASCADE.LOSS_WEIGHTS", "(1.0, 0.5)"), "IOU_THRESHOLDS 3, BBOX_REG_WEIGHTS 3, LOSS_WEIGHTS 2"),
    ],
    ids=["no-head", "box-head-alone", "one-stage-and-box-head", "mask-alone", "panoptic-alone", "no-levels", "transform", "metric", "lvis-backend", "cascade"],
)
def test_combinations_that_cannot_work_are_refused(words, told):
    with pytest.raises(ConfigError, match="problem") as error:
        config(*words)
    assert told in str(error.value)
    assert "could not be brought back" not in str(error.value)
