"""Evaluation of the vision domain: evaluators and files of predictions from a config."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pet.config import CfgNode
from pet.data.datasets.base import VisionDataset
from pet.engine.arguments import refuse_unread
from pet.evaluation import (
    CityscapesEvaluator,
    ClassificationEvaluator,
    CocoEvaluator,
    InstanceEvaluator,
    LvisEvaluator,
    PanopticEvaluator,
    ProposalEvaluator,
    SemanticEvaluator,
    VocEvaluator,
    check_output_path,
    class_predictions,
    instance_predictions,
    write_plain,
)
from pet.evaluation.predictions import is_plain_file, read_plain
from pet.evaluation.stored import StoredInputs, read_stored, stored_inputs, stored_scores
from pet.utils import comm
from pet.utils.logger import logging_rank
from pet.vision.config import METRICS, default_metrics, metrics_without_head

__all__ = ["EvaluatorGroup", "build_evaluator", "check_output_path", "evaluate_file", "write_predictions"]

_COCO = ("bbox", "segm", "keypoints")
# Metric -> what the data set must know.
_TRUTH = {
    "mIoU": "semseg", "PQ": "panoptic", "segm": "masks", "cityscapes": "masks", "keypoints": "keypoints", "accuracy": "label",
}  # fmt: skip

# Key of an option of the command line -> the metrics that read it.
_READERS = {
    "EVAL.VOC_IOUS": ("mAP", "recall"),
    "EVAL.PROPOSAL_NUMS": ("proposal", "proposal_fast", "recall"),
    "EVAL.TOPK": ("accuracy",),
}
# Metric -> the evaluator that writes predictions in the format its tools expect.
_WRITERS = {
    "lvis": LvisEvaluator,
    "proposal": ProposalEvaluator,
    "mAP": VocEvaluator,
    "cityscapes": CityscapesEvaluator,
    "mIoU": SemanticEvaluator,
    "PQ": PanopticEvaluator,
}


class EvaluatorGroup:
    """Several evaluators of one data set as one; their results go into one table.

    Args:
        name: the data set.
        evaluators: at least one.
        keep_predictions: ``write_predictions`` writes the objects of each image, too.
    """

    def __init__(self, name: str, evaluators: Sequence[Any], keep_predictions: bool = False) -> None:
        self.name, self.evaluators, self.keep_predictions = name, list(evaluators), keep_predictions
        names = [result for evaluator in self.evaluators for result in evaluator.result_names()]
        twice = sorted({result for result in names if names.count(result) > 1})
        if twice:
            raise ValueError(f"{name}: several metrics of EVAL.METRICS give {', '.join(twice[:4])}; choose one of them")

    def reset(self) -> None:
        """Forget all predictions."""
        for evaluator in self.evaluators:
            evaluator.reset()

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take the outputs of the model for one batch."""
        for evaluator in self.evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, float]:
        """All metrics on rank 0, an empty dict elsewhere. A collective: every process calls it."""
        return {name: value for evaluator in self.evaluators for name, value in evaluator.evaluate().items()}

    @property
    def results(self) -> dict[str, float]:
        """What ``evaluate`` returned."""
        return {name: value for evaluator in self.evaluators for name, value in evaluator.results.items()}

    def result_names(self) -> list[str]:
        """What ``evaluate`` will return."""
        return [name for evaluator in self.evaluators for name in evaluator.result_names()]

    def class_tables(self) -> dict[str, Any]:
        """Numbers of the classes by what is judged, on rank 0 after ``evaluate``."""
        return {kind: numbers for evaluator in self.evaluators for kind, numbers in evaluator.class_tables().items()}

    @property
    def writes_files(self) -> bool:
        """Whether ``write`` leaves any file."""
        return any(hasattr(evaluator, "write") for evaluator in self.evaluators)

    @property
    def writes_text(self) -> bool:
        """Whether the text files of Cityscapes are among what ``write`` leaves."""
        return any(isinstance(evaluator, CityscapesEvaluator) for evaluator in self.evaluators)

    def table(self) -> str:
        """The tables of all evaluators, for rank 0 after ``evaluate``."""
        return "\n".join(dict.fromkeys(evaluator.table() for evaluator in self.evaluators))

    def write(self, prefix: str | Path, folder: str | Path | None = None) -> list[Path]:
        """Files of predictions in the formats of the evaluators, ``<prefix>.bbox.json`` and so on; rank 0, after ``evaluate``.

        Semantic and panoptic maps are large; they are written when the evaluators were built to keep them.

        Args:
            prefix: of the names.
            folder: of the text files of Cityscapes, instead of ``<prefix>.cityscapes``.
        """
        writers = [e for e in self.evaluators if hasattr(e, "write") and getattr(e, "keep_predictions", True)]
        options = [{"folder": folder} if isinstance(e, CityscapesEvaluator) else {} for e in writers]
        return [path for e, more in zip(writers, options, strict=True) for path in e.write(prefix, **more)]


def build_evaluator(
    cfg: CfgNode, dataset: VisionDataset, metrics: Sequence[str] | None = None, keep_scores: bool = False
) -> EvaluatorGroup:
    """The evaluators that ``EVAL.METRICS`` names.

    Args:
        cfg: reads the keys of ``EVAL``.
        dataset: knows the truth.
        metrics: instead of ``EVAL.METRICS``. No names: predictions only, so annotations are not needed.
        keep_scores: keep all scores of an image classifier, and semantic and panoptic maps, for ``write_predictions``. Data
            without annotations then need no metrics either, unless ``metrics`` asks for them.

    Raises:
        ValueError: a metric is unknown, or needs a head of the model or annotations of the data set that are not there; or an
            option of the command line is one that no metric reads.
    """
    names = tuple(cfg.EVAL.METRICS if metrics is None else metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"no metric is named '{unknown[0]}'; allowed: {', '.join(METRICS)}")
    impossible = metrics_without_head(cfg, names)
    if impossible:
        raise ValueError(impossible)
    refuse_unread(cfg, names, _READERS)
    has = getattr(dataset, "kinds", frozenset({"label"}))
    unlabelled = not has or (has == {"label"} and bool((dataset.labels() < 0).all()))
    if unlabelled and metrics is None and keep_scores:
        names = ()
    without = "--out FILE without --eval" if unlabelled else 'EVAL.METRICS "()" and --out FILE'
    lacking = [name for name in names if _TRUTH.get(name, "boxes") not in has]
    if lacking:
        raise ValueError(
            f"{dataset.name} has {', '.join(sorted(has)) or 'no annotations'}, so {', '.join(lacking)} cannot be computed. "
            f"Choose other metrics, or write the predictions without any: --format-only, or {without}"
        )
    if names:
        return EvaluatorGroup(dataset.name, _evaluators(cfg, dataset, names, keep_scores), keep_scores)
    logging_rank(f"{dataset.name}{' has no annotations' if unlabelled else ''}: writing predictions without metrics")
    return EvaluatorGroup(dataset.name, _predictions_only(cfg, dataset), keep_scores)


def _evaluators(cfg: CfgNode, dataset: Any, names: Sequence[str], keep_scores: bool) -> list[Any]:
    rules, found, table = cfg.EVAL, [], {"classwise": cfg.EVAL.CLASSWISE}
    coco = [name for name in names if name in _COCO]
    if coco:
        found.append(CocoEvaluator(dataset, coco, backend=rules.BACKEND, max_detections=rules.MAX_DETS, **table))
    if "lvis" in names:
        kinds = ("bbox", "segm") if cfg.MODEL.ROI_HEAD.MASK.TYPE else ("bbox",)
        found.append(LvisEvaluator(dataset, kinds, **table))
    proposals = [name for name in names if name in ("proposal", "proposal_fast")]
    if proposals:
        found.append(ProposalEvaluator(dataset, proposals, numbers=rules.PROPOSAL_NUMS, backend=rules.BACKEND))
    voc = [name for name in names if name in ("mAP", "recall")]
    if voc:
        found.append(
            VocEvaluator(dataset, voc, method=rules.VOC_METHOD, thresholds=rules.VOC_IOUS, numbers=rules.PROPOSAL_NUMS, **table)
        )
    if "cityscapes" in names:
        found.append(CityscapesEvaluator(dataset, **table))
    if "mIoU" in names:
        found.append(SemanticEvaluator(dataset, keep_predictions=keep_scores, **table))
    if "PQ" in names:
        found.append(PanopticEvaluator(dataset, keep_predictions=keep_scores, **table))
    if "accuracy" in names:
        found.append(_image_evaluator(cfg, dataset, ("accuracy",), keep_scores))
    return found


def _predictions_only(cfg: CfgNode, dataset: Any) -> list[Any]:
    """What ``EVAL.METRICS`` would judge is only kept, for files in the same formats; without any, what the heads predict."""
    names = cfg.EVAL.METRICS or default_metrics(cfg)
    found: list[Any] = []
    coco = [name for name in names if name in _COCO]
    if coco:
        found.append(CocoEvaluator(dataset, coco, predictions_only=True))
    for name, kind in _WRITERS.items():
        if name in names:
            found.append(kind(dataset, predictions_only=True))
    if "accuracy" in names:
        found.append(_image_evaluator(cfg, dataset, (), keep_scores=True))
    return found


def _image_evaluator(cfg: CfgNode, dataset: Any, metrics: Sequence[str], keep_scores: bool) -> ClassificationEvaluator:
    return ClassificationEvaluator(
        dataset.name,
        range(len(dataset)),
        dataset.class_names,
        metrics,
        topk=cfg.EVAL.TOPK,
        keep_scores=keep_scores,
        describe=dataset.describe,
    )


def write_predictions(
    path: str | Path, evaluator: EvaluatorGroup, prefix: str | Path | None = None, folder: str | Path | None = None
) -> list[Path]:
    """Write metrics, predictions and the names of files of predictions to ``path``, and these files.

    The files have the official formats: ``<prefix>.bbox.json``, ``<prefix>.segm.json`` and so on. In ``path`` itself are, where
    the group was built to keep all, the objects of each image under ``predictions`` (see ``instance_predictions``), and
    predictions of an image classifier under ``classification`` (see ``class_predictions``). Call it after ``evaluate``;
    processes other than rank 0 write nothing.

    Args:
        path: .json, .yaml or .pkl file.
        evaluator: of the data set.
        prefix: of the further files; default: ``path`` without its suffix.
        folder: see ``EvaluatorGroup.write``.

    Returns:
        The further files and folders.
    """
    path = check_output_path(path)
    if not comm.is_main_process():
        return []
    files = evaluator.write(path.with_suffix("") if prefix is None else prefix, folder)
    names = [os.path.relpath(file, path.resolve().parent) for file in files]
    content: dict[str, Any] = {"dataset": evaluator.name, "metrics": evaluator.results, "files": names}
    parts = [part for part in evaluator.evaluators if isinstance(part, InstanceEvaluator)]
    if evaluator.keep_predictions and parts:
        content["predictions"] = instance_predictions(parts)
    for part in evaluator.evaluators:
        if isinstance(part, ClassificationEvaluator):
            content["classification"] = class_predictions(part)
    write_plain(path, content)
    return files


def evaluate_file(cfg: CfgNode, dataset: VisionDataset, path: str | Path, metrics: Sequence[str] | None = None) -> EvaluatorGroup:
    """Compute metrics from files that a test wrote, as the test did.

    Args:
        cfg: reads the keys of ``EVAL``.
        dataset: knows the truth.
        path: see ``pet.evaluation.stored.read_stored``.
        metrics: instead of those of ``EVAL.METRICS`` that the files allow.

    Returns:
        The evaluators, after ``evaluate``.

    Raises:
        ValueError: the files belong to another data set, or do not hold what a metric needs.
    """
    content = read_plain(path) if is_plain_file(path) else {}
    whole = content.get("classification")
    scores = stored_scores(path, whole, dataset) if whole and "accuracy" in (metrics or cfg.EVAL.METRICS) else None
    stored = read_stored(path, dataset)
    has = stored.has | ({"label"} if scores is not None else set())
    names = [name for name in cfg.EVAL.METRICS if _needs(cfg, name) & has] if metrics is None else list(metrics)
    for name in names or cfg.EVAL.METRICS:
        if not _needs(cfg, name) & has:
            raise ValueError(
                f"{path} has {', '.join(sorted(has)) or 'nothing'}, from which {name} cannot be computed; it needs "
                f"{' or '.join(sorted(_needs(cfg, name)))}"
            )
    evaluator = build_evaluator(cfg, dataset, names)
    for index in range(len(dataset)):
        inputs = StoredInputs(torch.tensor([index]), {})
        output = stored.output(index)
        if scores is not None:
            inputs, output["scores"] = stored_inputs(dataset, [index]), scores[index : index + 1]
        evaluator.process(inputs, output)
    evaluator.evaluate()
    return evaluator


def _needs(cfg: CfgNode, metric: str) -> set[str]:
    """Any of these kinds of predictions is enough for a metric."""
    if metric in ("proposal", "proposal_fast", "recall"):
        return {"proposals", "boxes"}
    if metric == "lvis":
        return {"masks"} if cfg.MODEL.ROI_HEAD.MASK.TYPE else {"boxes"}
    return {_TRUTH.get(metric, "boxes")}
