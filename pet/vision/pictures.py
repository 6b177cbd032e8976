"""Pictures of the vision domain: what the model sees in training, what it predicts, and how the run went."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pet.config import CfgNode
from pet.data.build import first_batches
from pet.data.datasets.base import VisionDataset
from pet.engine.record import read_starts
from pet.evaluation import ClassificationEvaluator, CocoEvaluator, MultiLabelEvaluator, SemanticEvaluator, detection_confusion
from pet.evaluation.confusion import BACKGROUND
from pet.evaluation.instances import InstanceEvaluator
from pet.evaluation.precision_recall import precision_recall, roc
from pet.evaluation.proposals import ProposalEvaluator
from pet.utils import comm
from pet.utils.images import write_png
from pet.vision.dataset import build_train_transforms, train_collate
from pet.visualization import DetectionPictures, Gallery, Picture, draw_confusion, training_mosaic
from pet.visualization.precision_recall import draw_f1, draw_precision_recall, draw_roc
from pet.visualization.report import report_run
from pet.visualization.statistics import draw_statistics

__all__ = [
    "EvaluationPictures",
    "build_gallery",
    "build_visualizer",
    "report_run",
    "write_start_pictures",
    "write_training_samples",
]

FIRST_BATCHES = 3
_MOST_SCORES = 20_000_000  # of all pictures and classes: sorting them takes a few seconds

_WHOLE_PICTURE = (800, 1333)  # (height, width) within which one picture of a gallery is drawn


def write_training_samples(cfg: CfgNode, dataset: VisionDataset) -> None:
    """Draw the first batches of the run after all transforms, with their annotations, and what the data set holds.

    Files in ``<CKPT>/vis``: ``train_samples.png``, ``train_samples_2.png``, ``train_samples_3.png`` and ``labels.png``.
    """
    if not (cfg.VIS.ENABLED and comm.is_main_process()):
        return
    known: Any = dataset
    transforms = build_train_transforms(cfg, dataset)
    batches = first_batches(cfg, dataset, transforms, FIRST_BATCHES, cfg.VIS.NUM_IMAGES, train_collate(cfg))
    mosaics = (
        training_mosaic(
            batch,
            dataset.class_names,
            f"{dataset.name}: training samples as the model sees them",
            show=_shown(cfg),
            skeleton=getattr(known, "skeleton", ()),
            semseg_names=getattr(known, "semseg_names", ()),
        )
        for batch in batches
    )
    write_start_pictures(cfg, dataset, mosaics)


def write_start_pictures(cfg: CfgNode, dataset: VisionDataset, mosaics: Iterable[Picture]) -> None:
    """Write the pictures of first batches and, unless a resumed run has them, the statistics of the data; rank 0 calls it."""
    folder = Path(cfg.MISC.CKPT) / "vis"
    for number, mosaic in enumerate(mosaics, 1):
        write_png(folder / f"train_samples{'' if number == 1 else f'_{number}'}.png", mosaic)
    labels, resumed = folder / "labels.png", len(read_starts(folder.parent)) > 1
    if not (resumed and labels.is_file()):
        write_png(labels, draw_statistics(dataset))


class EvaluationPictures:
    """Pictures of an evaluation: images with their predictions; curves and confusion matrices of what the evaluators measured.

    Args:
        predictions: collects the images.
        evaluators: are asked after ``evaluate``.
        threshold: score that a detection needs to be counted in the confusion matrix.
    """

    def __init__(self, predictions: Any, evaluators: Sequence[Any] = (), threshold: float = 0.5) -> None:
        self.predictions, self.evaluators, self.threshold = predictions, list(evaluators), threshold

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take the outputs of the model for one batch."""
        self.predictions.process(inputs, outputs)

    def pictures(self) -> dict[str, Picture]:
        """Pictures by name on rank 0, an empty dict elsewhere. A collective: every process calls it, after ``evaluate``."""
        found: dict[str, Picture] = self.predictions.pictures()
        for evaluator in self.evaluators if comm.is_main_process() else ():
            for name, picture in self._of(evaluator, found).items():
                found.setdefault(name, picture)
        return found

    def _of(self, evaluator: Any, known: Collection[str]) -> dict[str, Picture]:
        """Pictures of what one evaluator measured; a confusion of boxes, which takes long, only if there is none ``known``."""
        if isinstance(evaluator, ClassificationEvaluator | MultiLabelEvaluator):
            return class_pictures(evaluator)
        pictures: dict[str, Picture] = {}
        if isinstance(evaluator, SemanticEvaluator) and evaluator.confusion is not None:
            pictures["confusion_semseg"] = draw_confusion(
                _per_mille(evaluator.confusion), evaluator.class_names, evaluator.name, "pixels, per mille of each class"
            )
        if isinstance(evaluator, CocoEvaluator):
            pictures |= coco_pictures(evaluator)
        judged = isinstance(evaluator, InstanceEvaluator) and not isinstance(evaluator, ProposalEvaluator) and evaluator.results
        if judged and "boxes" in evaluator.truth.kinds and "confusion" not in known:
            counts = detection_confusion(evaluator.truth, evaluator.detections(), score=self.threshold)
            title = f"{evaluator.name}: boxes, IoU at least 0.5, score at least {self.threshold:g}"
            pictures["confusion"] = draw_confusion(counts, [*evaluator.truth.class_names, BACKGROUND], title)
        return pictures


def coco_pictures(evaluator: CocoEvaluator) -> dict[str, Picture]:
    """Precision over recall and F1 over score at IoU 0.5, of each kind of prediction; rank 0, after ``evaluate``."""
    pictures: dict[str, Picture] = {}
    for kind, scores in evaluator.scores.items():
        name, title = "" if kind == "bbox" else f"_{kind}", f"{evaluator.name}, {kind} at IoU 0.5"
        pictures[f"precision_recall{name}"] = draw_precision_recall(scores.curves, evaluator.truth.class_names, title)
        pictures[f"f1{name}"] = draw_f1(scores.curves, evaluator.truth.class_names, title)
    return pictures


def class_pictures(evaluator: ClassificationEvaluator | MultiLabelEvaluator) -> dict[str, Picture]:
    """The confusion matrix and, if all scores were kept, curves of each class; rank 0, after ``evaluate``."""
    pictures: dict[str, Picture] = {}
    names, columns = evaluator.class_names, evaluator.columns
    confusion = getattr(evaluator, "confusion", None)
    if confusion is not None:
        pictures["confusion"] = draw_confusion(confusion, names, evaluator.name)
    scores = columns.get("class_scores")
    if evaluator.per_class is None or scores is None or scores.size > _MOST_SCORES or np.isnan(scores).any():
        return pictures
    targets = columns["target"] if "target" in columns else columns["label"][:, None] == np.arange(len(names))
    targets = targets.astype(np.int8)
    pictures["precision_recall"] = draw_precision_recall(precision_recall(scores, targets), names, evaluator.name)
    rates, found, _ = roc(scores, targets)
    pictures["roc"] = draw_roc(rates, found, names, evaluator.name)
    return pictures


def _per_mille(confusion: Any) -> Any:
    """Rows as whole per mille of their sum: counts of pixels are too long for cells."""
    return np.rint(1000 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)).astype(np.int64)


def build_visualizer(cfg: CfgNode, dataset: VisionDataset, evaluator: Any = None) -> EvaluationPictures:
    """Pictures of ``VIS.NUM_IMAGES`` images spread over the data set, and curves and matrices of what ``evaluator`` measured.

    Truth is on the left, predictions are on the right.
    """
    known: Any = dataset
    predictions = DetectionPictures(known, cfg.VIS.NUM_IMAGES, threshold=cfg.VIS.SCORE_THRESH, show=_shown(cfg))
    return EvaluationPictures(predictions, getattr(evaluator, "evaluators", ()), cfg.VIS.SCORE_THRESH)


def build_gallery(
    cfg: CfgNode, dataset: VisionDataset, threshold: float, folder: Path | None, seconds: float | None = None
) -> Gallery:
    """Every picture by itself, truth on the left and prediction on the right; see ``Gallery``.

    Args:
        cfg: reads the switches of ``VIS``.
        dataset: knows the truth.
        threshold: score that an object needs to be drawn.
        folder: for files; ``None``: none.
        seconds: for a window; ``None``: none.
    """
    known: Any = dataset
    painter = DetectionPictures(known, 1, threshold=threshold, show=_shown(cfg), largest=_WHOLE_PICTURE)
    return Gallery(painter, dataset, folder, seconds)


def _shown(cfg: CfgNode) -> set[str]:
    """What VIS asks for and the heads predict: truth that nothing is compared with would only hide the picture."""
    model = cfg.MODEL
    made = {
        "BOX": model.GLOBAL_HEAD.DET.TYPE,
        "CLASS": True,
        "MASK": model.ROI_HEAD.MASK.TYPE,
        "KEYPOINT": model.ROI_HEAD.KEYPOINT.TYPE,
        "SEMSEG": model.GLOBAL_HEAD.SEMSEG.TYPE,
        "PANOSEG": model.GLOBAL_HEAD.PANOSEG.TYPE,
    }
    return {name.lower() for name, there in made.items() if there and cfg.VIS[name].ENABLED}
