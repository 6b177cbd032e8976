"""Image classification.

Names are imported on first use, so that reading a config does not import torch.
"""

from __future__ import annotations

from pet.utils.exports import lazy_exports

_EXPORTS = {
    "get_base_cfg": "config",
    "infer_cfg": "config",
    "label_counts": "config",
    "GeneralizedCNN": "model_builder",
    "fuse_conv_bn": "model_builder",
    "Analyser": "analyser",
    "RCNNAnalyser": "analyser",
    "input_size": "analyser",
    "build_dataset": "dataset",
    "report_dataset": "dataset",
    "names_for_checkpoint": "dataset",
    "build_train_transforms": "dataset",
    "make_train_data_loader": "dataset",
    "make_test_data_loader": "dataset",
    "write_training_samples": "pictures",
    "report_run": "pictures",
    "forward_train": "forward",
    "forward_test": "forward",
    "build_evaluator": "evaluation",
    "write_predictions": "evaluation",
    "check_output_path": "evaluation",
    "build_visualizer": "evaluation",
    "build_gallery": "evaluation",
    "evaluate_file": "evaluation",
}

__all__ = list(_EXPORTS)  # noqa: PLE0605  # one list of names
__getattr__ = lazy_exports(__name__, _EXPORTS)
