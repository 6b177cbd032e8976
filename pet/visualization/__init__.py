"""Pictures: (H, W, 3) uint8 RGB arrays from plain values, drawn with OpenCV and NumPy.

``pet.utils.images.write_png`` writes them.
"""

from pet.visualization.canvas import Picture
from pet.visualization.confusion import draw_confusion
from pet.visualization.curves import draw_curves, draw_run, read_metrics
from pet.visualization.detections import DetectionPictures, training_mosaic
from pet.visualization.gallery import Gallery
from pet.visualization.instances import Instances, draw_instances, draw_keypoints
from pet.visualization.palette import PALETTES, palette
from pet.visualization.predictions import Prediction, PredictionPictures, prediction_grid, sample_mosaic
from pet.visualization.segments import draw_legend, draw_panoptic, draw_semantic

__all__ = [
    "PALETTES",
    "DetectionPictures",
    "Gallery",
    "Instances",
    "Picture",
    "Prediction",
    "PredictionPictures",
    "draw_confusion",
    "draw_curves",
    "draw_instances",
    "draw_keypoints",
    "draw_legend",
    "draw_panoptic",
    "draw_run",
    "draw_semantic",
    "palette",
    "prediction_grid",
    "read_metrics",
    "sample_mosaic",
    "training_mosaic",
]
