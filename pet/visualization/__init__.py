"""Pictures: (H, W, 3) uint8 RGB arrays from plain values, drawn with OpenCV and NumPy.

``pet.utils.images.write_png`` writes them.
"""

from pet.visualization.canvas import Picture
from pet.visualization.confusion import draw_confusion
from pet.visualization.curves import draw_curves, draw_run, read_metrics
from pet.visualization.predictions import Prediction, PredictionPictures, prediction_grid, sample_mosaic

__all__ = [
    "Picture",
    "Prediction",
    "PredictionPictures",
    "draw_confusion",
    "draw_curves",
    "draw_run",
    "prediction_grid",
    "read_metrics",
    "sample_mosaic",
]
