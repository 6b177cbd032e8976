"""Pet: a hook-centric PyTorch training engine for computer vision."""

__version__ = "1.0.0"
