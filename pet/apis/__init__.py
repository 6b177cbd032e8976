"""Prediction from Python: ``Predictor`` for anything with pictures, and the functions that users of OpenMMLab know.

Names are imported on first use.
"""

from __future__ import annotations

from pet.utils.exports import lazy_exports

_EXPORTS = {
    "Predictor": "predictor",
    "Prediction": "prediction",
    "init_detector": "inference",
    "inference_detector": "inference",
    "init_classifier": "inference",
    "inference_classifier": "inference",
    "async_call": "streams",
    "async_inference_detector": "streams",
    "concurrent": "streams",
    "stream_queue": "streams",
    "VideoReader": "video",
    "HardwareVideoReader": "video",
    "VideoWriter": "video",
    "annotate_video": "video",
}

__all__ = list(_EXPORTS)  # noqa: PLE0605  # one list of names
__getattr__ = lazy_exports(__name__, _EXPORTS)
