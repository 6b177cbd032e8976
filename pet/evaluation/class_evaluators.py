"""Evaluators of image classification: one label for each image, or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pet.evaluation import classification as metrics
from pet.evaluation.evaluator import Columns, DatasetEvaluator, Inputs, short_list
from pet.evaluation.report import class_table_lines, confusion_lines
from pet.evaluation.tables import ClassNumbers
from pet.utils.logger import LOGGER, log_once
from pet.utils.suggest import did_you_mean

SINGLE_LABEL_METRICS = ("accuracy", "precision", "recall", "f1_score", "support", "confusion")
MULTI_LABEL_METRICS = ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")

_RESULT = {"f1_score": "f1"}  # a metric's name among the results, where it has another there


class _ClassEvaluator(DatasetEvaluator):
    """What both kinds share: names, the choice of metrics, reading of scores, the table of classes.

    Attributes:
        per_class: after ``evaluate`` on rank 0, precision, recall, F1 and support of every class; ``None`` without metrics.
    """

    allowed: tuple[str, ...]

    def __init__(
        self,
        name: str,
        ids: Collection[int],
        class_names: Sequence[str],
        chosen: Sequence[str],
        keep_scores: bool,
        describe: Callable[[int], str] | None,
    ) -> None:
        check_metrics(chosen, self.allowed)
        if not class_names:
            raise ValueError(f"data set '{name}' names no classes: classification needs at least one")
        self.class_names = list(class_names)
        self.metrics = tuple(chosen)
        self.keep_scores = keep_scores
        self.describe = describe
        super().__init__(name, ids)

    def reset(self) -> None:
        """Forget all predictions and results."""
        super().reset()
        self.per_class: metrics.ClassTable | None = None

    def class_tables(self) -> dict[str, ClassNumbers]:
        """Precision, recall, F1 and support of each class."""
        if self.per_class is None:
            return {}
        numbers = self.per_class
        columns = {"F1": numbers.f1, "precision": numbers.precision, "recall": numbers.recall, "support": numbers.support}
        return {"label": ClassNumbers(self.class_names, columns)}

    def table(self) -> str:
        """Numbers of the classes as lines of text, for rank 0 after ``evaluate``."""
        if self.per_class is None:
            return self.no_metrics()
        return "\n".join(class_table_lines(self.per_class, self.class_names))

    def _scores(self, outputs: Any) -> NDArray[np.float32]:
        scores = cast(Tensor, outputs["scores"]).detach().float().cpu().numpy()
        if scores.ndim != 2 or scores.shape[1] != len(self.class_names):
            raise ValueError(
                f"{self.name}: the model returns scores of shape {scores.shape} for {len(self.class_names)} classes "
                f"({short_list(self.class_names, 3)}); they must be (images, classes): set MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES"
            )
        return cast(NDArray[np.float32], scores)

    def _tell_empty_classes(self, support: metrics.Ints) -> None:
        empty = [self.class_names[c] for c in np.flatnonzero(support == 0)]
        if empty:
            log_once(
                f"{self.name}: no ground truth for {len(empty)} of {len(self.class_names)} classes ({short_list(empty)}); their "
                "numbers are NaN and means over classes leave them out"
            )


class ClassificationEvaluator(_ClassEvaluator):
    """Top-k accuracy, precision, recall, F1, support and confusion matrix; one label for each image.

    Reads ``outputs["scores"]`` (N, C) and ``inputs.targets["label"]`` (N,). Keeps a few numbers for each image unless
    ``keep_scores``.

    Args:
        name, ids: see ``DatasetEvaluator``.
        class_names: C names.
        chosen: some of ``SINGLE_LABEL_METRICS``; empty: predictions only, labels are not read.
        topk: the k of ``accuracy``; results are named ``top<k>``. A k above C counts all classes, with one notice.
        average: how ``precision``, ``recall`` and ``f1_score`` join classes; ``none`` gives ``precision/<class>`` and so on.
        threshold: a prediction counts only when its score is strictly greater; ``None``: always.
        keep_scores: keep all scores, for a file of predictions.
        describe: id to a text, usually the path of the image, for a file of predictions.

    Attributes:
        confusion: after ``evaluate`` on rank 0, (C, C) counts, row = ground truth; ``None`` without metrics.
    """

    allowed = SINGLE_LABEL_METRICS

    def __init__(
        self,
        name: str,
        ids: Collection[int],
        class_names: Sequence[str],
        chosen: Sequence[str] = ("accuracy",),
        topk: Sequence[int] = (1, 5),
        average: metrics.Average = "macro",
        threshold: float | None = None,
        keep_scores: bool = False,
        describe: Callable[[int], str] | None = None,
    ) -> None:
        if not topk or min(topk) < 1:
            raise ValueError(f"topk is {tuple(topk)}; it must name one or more numbers of at least 1, e.g. (1, 5)")
        if average not in get_args(metrics.Average):
            raise ValueError(f"average is '{average}'; it must be one of {', '.join(get_args(metrics.Average))}")
        self.topk, self.average, self.threshold = tuple(topk), average, threshold
        super().__init__(name, ids, class_names, chosen, keep_scores, describe)

    def reset(self) -> None:
        """Forget all predictions and results."""
        super().reset()
        self.confusion: metrics.Ints | None = None

    def collect(self, inputs: Inputs, outputs: Any) -> Columns:
        """Prediction, its score, and the place and score of the label."""
        scores = self._scores(outputs)
        predictions = scores.argmax(axis=1)
        kept: Columns = {"pred_label": predictions, "pred_score": np.take_along_axis(scores, predictions[:, None], 1)[:, 0]}
        if self.metrics:
            labels = self._labels(inputs)
            kept["label"] = labels
            kept["label_rank"] = metrics.label_ranks(scores, labels)
            kept["label_score"] = np.take_along_axis(scores, labels[:, None], 1)[:, 0]
        if self.keep_scores:
            kept["class_scores"] = scores
        return kept

    def compute(self) -> dict[str, float]:
        """The chosen metrics; fills the attributes."""
        if not self.metrics:
            return {}
        classes, rows = len(self.class_names), self.columns
        # NaN > limit is false: a broken score predicts nothing.
        limit = -math.inf if self.threshold is None else self.threshold
        predictions = np.where(rows["pred_score"] > limit, rows["pred_label"], -1)
        self._tell_broken_scores(rows["pred_score"], rows["id"])
        self.confusion = metrics.confusion_matrix(predictions, rows["label"], classes)
        support = np.bincount(rows["label"], minlength=classes)
        self._tell_empty_classes(support)
        counts = self.confusion.diagonal(), self.confusion.sum(axis=0), support
        self.per_class = metrics.class_table(*counts)
        results: dict[str, float] = {}
        for metric in self.metrics:
            results |= self._accuracies() if metric == "accuracy" else self._per_class(metric, counts)
        return results

    def table(self) -> str:
        """Numbers of the classes and the most frequent mistakes, as lines of text, for rank 0 after ``evaluate``."""
        mistakes = confusion_lines(self.confusion, self.class_names) if self.confusion is not None else []
        return "\n".join([super().table(), *(["most frequent mistakes:", *mistakes] if mistakes else [])])

    def _labels(self, inputs: Inputs) -> NDArray[np.int64]:
        if "label" not in inputs.targets:
            raise ValueError(
                f"{self.name} has no labels, so {', '.join(self.metrics)} cannot be computed; ask for predictions only"
            )
        labels = cast(Tensor, inputs.targets["label"]).cpu().numpy()
        wrong = (labels < 0) | (labels >= len(self.class_names))
        if wrong.any():
            raise ValueError(
                f"{self.name}: image {inputs.ids[int(wrong.argmax())]} has label {labels[wrong][0]}; labels are 0 to "
                f"{len(self.class_names) - 1}"
            )
        return cast(NDArray[np.int64], labels)

    def _accuracies(self) -> dict[str, float]:
        rows, classes = self.columns, len(self.class_names)
        if max(self.topk) > classes:
            clipped = ", ".join(f"top{k}" for k in self.topk if k > classes)
            log_once(f"{self.name} has {classes} classes: {clipped} counts all of them and is always right")
        return {
            f"top{k}": metrics.topk_accuracy(rows["label_rank"], min(k, classes), rows["label_score"], self.threshold)
            for k in self.topk
        }

    def result_names(self) -> list[str]:
        """What ``evaluate`` returns, known before."""
        names: list[str] = []
        for metric in self.metrics:
            if metric == "accuracy":
                names += [f"top{k}" for k in self.topk]
            elif metric != "confusion":
                name = _RESULT.get(metric, metric)
                names += [f"{name}/{c}" for c in self.class_names] if self.average == "none" else [name]
        return names

    def _per_class(self, metric: str, counts: tuple[metrics.Ints, metrics.Ints, metrics.Ints]) -> dict[str, float]:
        if metric == "confusion":
            return {}  # an attribute: it is not a number
        name = _RESULT.get(metric, metric)
        if self.average == "none":
            values = getattr(self.per_class, name)
            return {f"{name}/{c}": float(value) for c, value in zip(self.class_names, values, strict=True)}
        if name == "support":
            return {name: float(counts[2].sum())}
        precision, recall, f1 = metrics.averages(*counts, self.average)
        return {name: {"precision": precision, "recall": recall, "f1": f1}[name]}

    def _tell_broken_scores(self, scores: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
        broken = ids[np.isnan(scores)]
        if len(broken):
            LOGGER.warning(
                f"{self.name}: the scores of {len(broken)} images are NaN (ids {short_list(broken.tolist())}); they count as "
                "wrong. The model has diverged or overflows: see SOLVER.NON_FINITE, or evaluate without --amp"
            )


class MultiLabelEvaluator(_ClassEvaluator):
    """mAP, CP, CR, CF1, OP, OR, OF1; any number of labels for each image.

    Reads ``outputs["scores"]`` (N, C) and ``inputs.targets["scores"]`` (N, C): 1 present, 0 absent, negative: not judged.

    Args:
        name, ids, class_names, describe: see ``ClassificationEvaluator``.
        chosen: some of ``MULTI_LABEL_METRICS``; empty: predictions only, labels are not read.
        threshold: classes with at least this score are predicted.
        topk: predict the k highest scores of each image instead; ``None``: use the threshold.

    Attributes:
        average_precisions: after ``evaluate`` on rank 0, (C,) percent; ``None`` unless mAP is chosen.
    """

    allowed = MULTI_LABEL_METRICS

    def __init__(
        self,
        name: str,
        ids: Collection[int],
        class_names: Sequence[str],
        chosen: Sequence[str] = ("mAP",),
        threshold: float = 0.5,
        topk: int | None = None,
        describe: Callable[[int], str] | None = None,
    ) -> None:
        if topk is not None and topk < 1:
            raise ValueError(f"topk is {topk}; it must be at least 1, or None to use the threshold")
        self.threshold, self.topk = threshold, topk
        super().__init__(name, ids, class_names, chosen, keep_scores=True, describe=describe)

    def reset(self) -> None:
        """Forget all predictions and results."""
        super().reset()
        self.average_precisions: metrics.Floats | None = None

    def collect(self, inputs: Inputs, outputs: Any) -> Columns:
        """All scores and the ground truth: average precision needs both."""
        kept: Columns = {"class_scores": self._scores(outputs)}
        if self.metrics:
            if "scores" not in inputs.targets:
                raise ValueError(f"{self.name} has no multi-label targets, so {', '.join(self.metrics)} cannot be computed")
            kept["target"] = inputs.targets["scores"].cpu().numpy().astype(np.int8)
        return kept

    def compute(self) -> dict[str, float]:
        """The chosen metrics; fills the attributes."""
        if not self.metrics:
            return {}
        scores, targets = self.columns["class_scores"], self.columns["target"]
        counts = metrics.multi_label_counts(self.predicted(), targets)
        self._tell_empty_classes(counts[2])
        self.per_class = metrics.class_table(*counts)
        values = metrics.multi_label_averages(*counts)
        if "mAP" in self.metrics:
            values["mAP"], self.average_precisions = metrics.mean_average_precision(scores, targets)
        return {name: values[name] for name in self.metrics}

    def result_names(self) -> list[str]:
        """What ``evaluate`` returns, known before."""
        return list(self.metrics)

    def predicted(self) -> metrics.Bools:
        """(N, C) bool on rank 0 after ``evaluate``: the classes predicted for each image, in the order of ids."""
        return metrics.positive_predictions(self.columns["class_scores"], self.threshold, self.topk)


def check_metrics(chosen: Sequence[str], allowed: Sequence[str]) -> None:
    """Refuse metrics that are unknown or do not apply, before anything is computed.

    Raises:
        ValueError: names the metric, the nearest name and those allowed.
    """
    other = set(SINGLE_LABEL_METRICS + MULTI_LABEL_METRICS) - set(allowed)
    for metric in chosen:
        if metric in other:
            kind = "several labels" if metric in MULTI_LABEL_METRICS else "one label"
            raise ValueError(
                f"metric '{metric}' is for data with {kind} for each image. Metrics of this data: {', '.join(allowed)}"
            )
        if metric not in allowed:
            raise ValueError(f"no metric is named '{metric}'.{did_you_mean(metric, allowed)} Allowed: {', '.join(allowed)}")
