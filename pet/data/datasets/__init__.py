"""Data sets; importing this package registers the built-in types."""

from pet.data.datasets.annotated import AnnotatedDataset, Annotations, is_annotated
from pet.data.datasets.base import DATASETS, VisionDataset
from pet.data.datasets.cifar import CifarDataset
from pet.data.datasets.cityscapes import CityscapesInstances
from pet.data.datasets.coco import CocoDataset
from pet.data.datasets.coco_panoptic import CocoPanopticDataset
from pet.data.datasets.concat import ConcatDataset, Subset
from pet.data.datasets.image_folder import ImageFolderDataset
from pet.data.datasets.lvis import LvisDataset
from pet.data.datasets.mnist import MnistDataset
from pet.data.datasets.multi_label import MultiLabelDataset
from pet.data.datasets.semantic import SemanticDataset
from pet.data.datasets.shapes import ShapesDataset
from pet.data.datasets.voc import VocDataset

__all__ = [
    "DATASETS",
    "AnnotatedDataset",
    "Annotations",
    "CifarDataset",
    "CityscapesInstances",
    "CocoDataset",
    "CocoPanopticDataset",
    "ConcatDataset",
    "ImageFolderDataset",
    "LvisDataset",
    "MnistDataset",
    "MultiLabelDataset",
    "SemanticDataset",
    "ShapesDataset",
    "Subset",
    "VisionDataset",
    "VocDataset",
    "is_annotated",
]
