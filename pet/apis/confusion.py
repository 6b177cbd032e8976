"""Confusion matrix of a test: from its file of predictions, or by running it."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pet.apis.offline import offline_evaluator
from pet.apis.predictor import Predictor
from pet.config import CfgNode
from pet.engine.evaluation import run_evaluation
from pet.engine.publish import SUFFIXES
from pet.engine.setup import amp_dtype
from pet.evaluation.confusion import BACKGROUND, detection_confusion
from pet.evaluation.instances import InstanceEvaluator
from pet.utils.files import atomic_json, atomic_text
from pet.utils.images import write_png
from pet.utils.labels import compare_names
from pet.utils.logger import LOGGER
from pet.visualization import draw_confusion


@dataclass(frozen=True)
class Confusion:
    """Counts of one data set.

    Attributes:
        counts: (C, C), rows are the truth, columns the predictions; of detectors the last row and column are background.
        names: of the C rows.
        title: what is counted.
    """

    counts: NDArray[np.integer[Any]]
    names: list[str]
    title: str

    def write(self, folder: Path) -> list[Path]:
        """``confusion.png``, ``confusion.json`` and ``confusion.csv`` in a folder that is made."""
        paths = [folder / f"confusion.{suffix}" for suffix in ("png", "json", "csv")]
        folder.mkdir(parents=True, exist_ok=True)
        write_png(paths[0], draw_confusion(self.counts, self.names, self.title))
        content = {"title": self.title, "rows": "truth", "columns": "predictions", "names": self.names}
        atomic_json(paths[1], {**content, "counts": self.counts.tolist()})
        text = io.StringIO()
        rows = [[name, *row] for name, row in zip(self.names, self.counts.tolist(), strict=True)]
        csv.writer(text).writerows([["truth / prediction", *self.names], *rows])
        atomic_text(paths[2], text.getvalue())
        return paths

    def worst(self, limit: int = 5) -> list[str]:
        """The most frequent mistakes, a line each."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        places = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        cells = [divmod(int(place), len(self.names)) for place in places]
        return [f"{wrong[r, c]:>8} x {self.names[r]} taken for {self.names[c]}" for r, c in cells if wrong[r, c]]


def confusion_of(cfg: CfgNode, domain: Any, source: str | Path, *, iou: float = 0.5, score: float = 0.3) -> Confusion:
    """The confusion matrix of the one data set of TEST.DATASETS.

    Args:
        cfg, domain: the config, and the package of its domain.
        source: a checkpoint, which is tested, or predictions that a test wrote.
        iou, score: overlap and score that a detection needs.

    Raises:
        ValueError: nothing that was evaluated has a confusion matrix.
    """
    if Path(source).suffix in SUFFIXES:
        evaluator = _test(cfg, domain, Predictor(cfg, source, cfg.MISC.DEVICE))
    else:
        evaluator = offline_evaluator(cfg, domain, source, None)
    parts = getattr(evaluator, "evaluators", [evaluator])
    for part in parts:
        if isinstance(part, InstanceEvaluator) and "boxes" in part.truth.kinds:
            counts = detection_confusion(part.truth, part.detections(), iou=iou, score=score)
            names = [*part.truth.class_names, BACKGROUND]
            return Confusion(counts, names, f"{part.name}: boxes, IoU at least {iou:g}, score at least {score:g}")
        if getattr(part, "confusion", None) is not None:
            return Confusion(part.confusion, list(part.class_names), part.name)
    raise ValueError(
        "there is no confusion matrix: it is made of single labels, boxes or semantic maps, of which the truth is known, but "
        f"EVAL.METRICS is {', '.join(cfg.EVAL.METRICS) or 'empty'}"
    )


def _test(cfg: CfgNode, domain: Any, predictor: Predictor) -> Any:
    if len(cfg.TEST.DATASETS) != 1:
        raise ValueError(f"TEST.DATASETS names {len(cfg.TEST.DATASETS)} data sets; choose one with TEST.DATASETS \"('name',)\"")
    dataset = domain.build_dataset(cfg, is_train=False)
    for text in compare_names(predictor.saved_names, dataset, f"the checkpoint {predictor.weights}", cfg.TEST.DATASETS[0]):
        LOGGER.warning(text)
    evaluator = domain.build_evaluator(cfg, dataset)
    loader = domain.make_test_data_loader(cfg, dataset)
    device, precision = predictor.device, amp_dtype(cfg, predictor.device)
    run_evaluation(predictor.model, loader, evaluator, domain.forward_test, device=device, amp_dtype=precision)
    return evaluator
