"""Evaluators and metrics."""

from pet.evaluation.cityscapes import CityscapesEvaluator
from pet.evaluation.class_evaluators import ClassificationEvaluator, MultiLabelEvaluator, check_metrics
from pet.evaluation.class_predictions import class_predictions
from pet.evaluation.coco import CocoEvaluator
from pet.evaluation.evaluator import DatasetEvaluator, Evaluator
from pet.evaluation.lvis import LvisEvaluator
from pet.evaluation.panoptic import PanopticEvaluator
from pet.evaluation.predictions import check_output_path, read_plain, write_plain
from pet.evaluation.proposals import ProposalEvaluator
from pet.evaluation.report import class_table_lines, confusion_lines
from pet.evaluation.semantic import SemanticEvaluator
from pet.evaluation.truth import InstanceTruth, PanopticTruth, SemanticTruth
from pet.evaluation.voc import VocEvaluator

__all__ = [
    "CityscapesEvaluator",
    "ClassificationEvaluator",
    "CocoEvaluator",
    "DatasetEvaluator",
    "Evaluator",
    "InstanceTruth",
    "LvisEvaluator",
    "MultiLabelEvaluator",
    "PanopticEvaluator",
    "PanopticTruth",
    "ProposalEvaluator",
    "SemanticEvaluator",
    "SemanticTruth",
    "VocEvaluator",
    "check_metrics",
    "check_output_path",
    "class_predictions",
    "class_table_lines",
    "confusion_lines",
    "read_plain",
    "write_plain",
]
