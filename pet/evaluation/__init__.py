"""Evaluators and metrics."""

from pet.evaluation.cityscapes import CityscapesEvaluator
from pet.evaluation.class_evaluators import ClassificationEvaluator, MultiLabelEvaluator, check_metrics
from pet.evaluation.class_predictions import class_predictions
from pet.evaluation.coco import CocoEvaluator
from pet.evaluation.confusion import detection_confusion
from pet.evaluation.evaluator import DatasetEvaluator, Evaluator
from pet.evaluation.instance_predictions import instance_predictions
from pet.evaluation.instances import InstanceEvaluator
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
    "InstanceEvaluator",
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
    "detection_confusion",
    "instance_predictions",
    "read_plain",
    "write_plain",
]
