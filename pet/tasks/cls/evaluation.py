"""Evaluation of classification: evaluator, pictures and files of predictions from a config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pet.config import CfgNode
from pet.data.catalog import build_dataset as build_from_catalog
from pet.data.datasets.base import VisionDataset
from pet.engine.arguments import refuse_unread
from pet.evaluation import (
    ClassificationEvaluator,
    MultiLabelEvaluator,
    check_metrics,
    check_output_path,
    class_predictions,
    read_plain,
    write_plain,
)
from pet.evaluation.class_evaluators import MULTI_LABEL_METRICS, SINGLE_LABEL_METRICS
from pet.evaluation.stored import stored_inputs, stored_scores
from pet.utils import comm
from pet.utils.labels import short_names
from pet.utils.logger import logging_rank
from pet.vision.pictures import EvaluationPictures
from pet.visualization import Gallery, PredictionPictures

__all__ = ["build_evaluator", "build_gallery", "build_visualizer", "check_output_path", "evaluate_file", "write_predictions"]

ClassEvaluator = ClassificationEvaluator | MultiLabelEvaluator
DEFAULT_THRESHOLD = 0.5
# Key of an option of the command line -> the metrics that read it.
_READERS = {
    "EVAL.TOPK": ("accuracy",),
    "EVAL.AVERAGE": ("precision", "recall", "f1_score"),
    "EVAL.THRESHOLD": ("accuracy", "precision", "recall", "f1_score", "confusion", *MULTI_LABEL_METRICS),
    "EVAL.NUM_PREDICTED": MULTI_LABEL_METRICS,
}


def build_evaluator(
    cfg: CfgNode, dataset: VisionDataset, metrics: Sequence[str] | None = None, keep_scores: bool = False
) -> ClassEvaluator:
    """The evaluator for a data set: with one label for each image, or with several.

    Args:
        cfg: reads ``EVAL.METRICS``, ``TOPK``, ``AVERAGE``, ``THRESHOLD`` and ``NUM_PREDICTED``.
        dataset: its labels decide on the kind.
        metrics: instead of ``EVAL.METRICS``. No names: predictions only, so labels are not needed.
        keep_scores: keep all scores, for ``write_predictions``. Data without any label then need no metrics either, unless
            ``metrics`` asks for them.

    Raises:
        ValueError: a metric is unknown or does not fit the data, or images have no label.
    """
    labels: NDArray[Any] = dataset.labels()
    several = labels.ndim == 2
    names = tuple(cfg.EVAL.METRICS if metrics is None else metrics)
    if names and metrics is None and keep_scores and (labels < 0).all():
        logging_rank(f"{dataset.name} has no labels: writing predictions without metrics")
        names = ()
    check_metrics(names, MULTI_LABEL_METRICS if several else SINGLE_LABEL_METRICS)
    if names:  # without, the threshold still decides on the labels that are written
        refuse_unread(cfg, names, _READERS)
        _check_labels(dataset, labels, names)
    _check_outputs(cfg, dataset)
    ids, threshold = range(len(dataset)), cfg.EVAL.THRESHOLD
    if several:
        limit = DEFAULT_THRESHOLD if threshold is None else threshold
        count = cfg.EVAL.NUM_PREDICTED or None
        return MultiLabelEvaluator(dataset.name, ids, dataset.class_names, names, limit, count, dataset.describe)
    return ClassificationEvaluator(
        dataset.name,
        ids,
        dataset.class_names,
        names,
        topk=cfg.EVAL.TOPK,
        average=cfg.EVAL.AVERAGE,
        threshold=threshold,
        keep_scores=keep_scores,
        describe=dataset.describe,
    )


def _check_outputs(cfg: CfgNode, dataset: VisionDataset) -> None:
    """Refuse a head of another size. If it fits the training data, the test data are what has to change."""
    names, outputs = dataset.class_names, cfg.MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES
    if outputs == len(names):
        return
    trained = _training_classes(cfg)
    remedy = f"Set MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES {len(names)}"
    if len(trained) == outputs:
        lacks, adds = [n for n in trained if n not in names], [n for n in names if n not in trained]
        differences = [f"{what} {short_names(few)}" for what, few in (("lacks", lacks), ("adds", adds)) if few]
        remedy = (
            f"Compared with the training data it {' and '.join(differences)}. Set CLASSES: [{short_names(trained, 100)}] in "
            f"the entry of {dataset.name} in DATA.CATALOG{f', and take the pictures of {short_names(adds)} out' if adds else ''}"
        )
    raise ValueError(
        f"{dataset.name} has {len(names)} classes ({short_names(names)}), but the head has {outputs} outputs, so its scores "
        f"cannot be evaluated. {remedy}, or train without evaluation (--no-validate)"
    )


def _training_classes(cfg: CfgNode) -> list[str]:
    """Names of the classes of the training data; none if these are not here."""
    try:
        places = {"catalog": cfg.DATA.CATALOG, "root": cfg.DATA.ROOT, "dataset_type": cfg.DATA.DATASET_TYPE}
        return list(build_from_catalog(cfg.TRAIN.DATASETS, True, **places).class_names)
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _check_labels(dataset: VisionDataset, labels: NDArray[Any], metrics: Sequence[str]) -> None:
    unknown = np.flatnonzero((labels < 0).all(axis=1) if labels.ndim == 2 else labels < 0)
    if len(unknown):
        first = dataset.describe(int(unknown[0]))
        raise ValueError(
            f"{dataset.name}: {len(unknown)} of {len(dataset)} images have no label (first: {first}), so {', '.join(metrics)} "
            "cannot be computed. Give the labels, or test without metrics: --format-only, or EVAL.METRICS () and --out FILE for "
            "the predictions"
        )
    last = len(dataset.class_names) - 1
    if labels.ndim == 1 and labels.max(initial=0) > last:
        wrong = int(labels.argmax())
        raise ValueError(f"{dataset.name}: label {labels[wrong]} of {dataset.describe(wrong)} is outside 0 to {last}")


def build_visualizer(cfg: CfgNode, dataset: VisionDataset, evaluator: ClassEvaluator | None = None) -> EvaluationPictures:
    """Pictures of ``VIS.NUM_IMAGES`` images spread over the data set, and curves and matrices of what ``evaluator`` measured."""
    threshold = DEFAULT_THRESHOLD if cfg.EVAL.THRESHOLD is None else cfg.EVAL.THRESHOLD
    pictures = PredictionPictures(dataset.class_names, cfg.VIS.NUM_IMAGES, len(dataset), threshold, dataset.name)
    return EvaluationPictures(pictures, [evaluator] if evaluator is not None else [])


def build_gallery(
    cfg: CfgNode, dataset: VisionDataset, threshold: float, folder: Path | None, seconds: float | None = None
) -> Gallery:
    """Every picture by itself, with its label and prediction; see ``Gallery``.

    Args:
        cfg: not read; for other domains.
        dataset: knows names and files.
        threshold: with several labels for each image, classes of at least this score are shown.
        folder: for files; ``None``: none.
        seconds: for a window; ``None``: none.
    """
    painter = PredictionPictures(dataset.class_names, 1, threshold=threshold, title=dataset.name)
    return Gallery(painter, dataset, folder, seconds)


def write_predictions(
    path: str | Path, evaluator: ClassEvaluator, prefix: str | Path | None = None, folder: str | Path | None = None
) -> list[Path]:
    """Write predictions and metrics to a .json, .yaml, .yml or .pkl file; read it with ``pet.evaluation.read_plain``.

    Call it after ``evaluate``; processes other than rank 0 write nothing. For the content see
    ``pet.evaluation.class_predictions``.

    Args:
        path: the file.
        evaluator: of the data set.
        prefix: ``<prefix>.json`` is written as well.
        folder: for other domains; no text files belong to classification.

    Returns:
        Further files.

    Raises:
        ValueError: there are no predictions yet, or the path cannot be written.
    """
    path = check_output_path(path)
    if not comm.is_main_process():
        return []
    if not evaluator.columns:
        raise ValueError(f"{evaluator.name}: there are no predictions to write to {path}; evaluate first")
    more = [] if prefix is None else [Path(f"{prefix}.json")]
    for file in (path, *more):
        write_plain(file, class_predictions(evaluator))
    return more


def evaluate_file(cfg: CfgNode, dataset: VisionDataset, path: str | Path, metrics: Sequence[str] | None = None) -> ClassEvaluator:
    """Compute metrics from a file that a test wrote, as the test did.

    Args:
        cfg: reads the keys of ``EVAL``.
        dataset: knows the labels.
        path: file of ``--out``.
        metrics: instead of ``EVAL.METRICS``.

    Returns:
        The evaluator, after ``evaluate``.

    Raises:
        ValueError: the file belongs to another data set, or does not hold the scores of all classes.
    """
    scores = stored_scores(path, read_plain(path), dataset)
    evaluator = build_evaluator(cfg, dataset, metrics)
    evaluator.process(stored_inputs(dataset, range(len(dataset))), {"scores": scores})
    evaluator.evaluate()
    return evaluator
