"""Data sets; importing this package registers the built-in types."""

from pet.data.datasets.base import DATASETS, ConcatDataset, VisionDataset
from pet.data.datasets.cifar import CifarDataset
from pet.data.datasets.image_folder import ImageFolderDataset
from pet.data.datasets.mnist import MnistDataset
from pet.data.datasets.multi_label import MultiLabelDataset
from pet.data.datasets.shapes import ShapesDataset

__all__ = [
    "DATASETS",
    "CifarDataset",
    "ConcatDataset",
    "ImageFolderDataset",
    "MnistDataset",
    "MultiLabelDataset",
    "ShapesDataset",
    "VisionDataset",
]
