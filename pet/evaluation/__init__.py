"""Evaluators and metrics."""

from pet.evaluation.class_evaluators import ClassificationEvaluator, MultiLabelEvaluator, check_metrics
from pet.evaluation.evaluator import DatasetEvaluator, Evaluator
from pet.evaluation.predictions import check_output_path, read_plain, write_plain
from pet.evaluation.report import class_table_lines, confusion_lines

__all__ = [
    "ClassificationEvaluator",
    "DatasetEvaluator",
    "Evaluator",
    "MultiLabelEvaluator",
    "check_metrics",
    "check_output_path",
    "class_table_lines",
    "confusion_lines",
    "read_plain",
    "write_plain",
]
