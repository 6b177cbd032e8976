"""Config keys of image classification, and what must hold between them."""

from __future__ import annotations

from typing import Any

from pet.config import CfgNode, Problem, infer_cfg, key
from pet.config import get_base_cfg as get_shared_cfg
from pet.vision.config import CLS_HEAD

__all__ = ["MULTI_LABEL_METRICS", "SINGLE_LABEL_METRICS", "get_base_cfg", "infer_cfg"]

SINGLE_LABEL_METRICS = ("accuracy", "precision", "recall", "f1_score", "support", "confusion")
MULTI_LABEL_METRICS = ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")

_CLS = "MODEL.GLOBAL_HEAD.CLS"

SECTIONS: dict[str, Any] = {
    "MODEL": {
        "GLOBAL_HEAD": {
            "CLS": {**CLS_HEAD, "TYPE": key("linear", "head: linear, or the import path of a class")}
        }
    },
    "EVAL": {
        "METRICS": key(
            ("accuracy",),
            "metrics; accuracy precision recall f1_score support confusion for one label, mAP CP CR CF1 OP OR OF1 for several",
            element=str,
            choices=SINGLE_LABEL_METRICS + MULTI_LABEL_METRICS,
        ),
        "TOPK": key((1, 5), "the k of accuracy (top1, top5); more than the classes counts all of them", element=int, low=1),
        "AVERAGE": key("macro", "how precision, recall and f1_score join the classes", choices=("macro", "micro", "none")),
        "THRESHOLD": key(
            None, "score a prediction needs to count; None: none for one label, 0.5 for several", type=float, low=0.0, high=1.0
        ),
        "NUM_PREDICTED": key(
            0, "several labels: predict this many for each image instead of those above THRESHOLD; 0: use THRESHOLD", low=0
        ),
    },
}


def get_base_cfg() -> CfgNode:
    """A fresh config of this domain with its defaults."""
    cfg = get_shared_cfg()
    cfg.extend(SECTIONS)
    cfg.add_check(check_cls)
    return cfg


def label_counts(cfg: CfgNode) -> dict[str, int]:
    """How many labels the head tells apart, by the list in ``pet.data.names.LabelNames`` that names them."""
    return {"class_names": cfg.MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES}


def check_cls(cfg: CfgNode) -> list[Problem]:
    """Problems of several keys together."""
    return [problem for check in (_head, _metrics) for problem in check(cfg)]


def _head(cfg: CfgNode) -> list[Problem]:
    head, problems = cfg.MODEL.GLOBAL_HEAD.CLS, []
    if head.NUM_CLASSES < 2 and head.LOSS == "cross_entropy":
        message = "one class cannot be told from another; set at least 2, or LOSS bce for a yes-or-no label"
        problems.append(Problem(f"{_CLS}.NUM_CLASSES", message, related=(f"{_CLS}.LOSS",)))
    if head.TARGET_THRESHOLD is not None and head.LOSS == "cross_entropy":
        problems.append(Problem(f"{_CLS}.TARGET_THRESHOLD", "belongs to the loss bce; leave it None", related=(f"{_CLS}.LOSS",)))
    return problems


def _metrics(cfg: CfgNode) -> list[Problem]:
    several = [name for name in cfg.EVAL.METRICS if name in MULTI_LABEL_METRICS]
    if several and len(several) < len(cfg.EVAL.METRICS):
        return [
            Problem(
                "EVAL.METRICS", f"{', '.join(several)} need several labels for each image, the others need one; choose one kind"
            )
        ]
    if several and cfg.MODEL.GLOBAL_HEAD.CLS.LOSS == "cross_entropy":
        message = "several labels for each image need bce: cross_entropy would treat them as shares of one label"
        return [Problem(f"{_CLS}.LOSS", message, related=("EVAL.METRICS",))]
    return []
