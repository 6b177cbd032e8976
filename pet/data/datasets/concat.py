"""Several data sets as one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pet.data.datasets.annotated import AnnotatedDataset, Annotations, Panoptic, SemanticMap
from pet.data.datasets.annotation_faults import AnnotationFaults
from pet.data.datasets.base import VisionDataset, class_difference
from pet.data.structures import Image, Sample

# What describes the classes of a set; the same for all members, so the first one's are taken.
_SHARED = (
    *("semseg_names", "semseg_labels", "semseg_ids", "stuff_names", "stuff_ids", "is_thing", "category_ids"),
    *("keypoint_names", "skeleton", "flip_pairs", "sigmas", "frequency", "keep_difficult"),
)


class ConcatDataset(AnnotatedDataset):
    """Several data sets with the same classes, one after the other.

    Of annotated sets it has the kinds that all of them have. Image ids stay as they are unless two sets share one; then
    a picture's id is its index in the whole. Instance ids of later sets are moved behind those of earlier ones.
    """

    def __init__(self, datasets: Sequence[VisionDataset]) -> None:
        first = datasets[0]
        for other in datasets[1:]:
            if other.class_names != first.class_names:
                raise ValueError(class_difference(first, other))
        annotated = [d for d in datasets if isinstance(d, AnnotatedDataset)]
        whole = len(annotated) == len(datasets)
        kinds = frozenset.intersection(*(d.kinds for d in annotated)) if whole else frozenset({"label"})
        super().__init__("+".join(d.name for d in datasets), first.class_names, None, kinds)
        self.datasets = list(datasets)
        self._ends = np.cumsum([len(d) for d in datasets])
        self._shared_ids: bool | None = None
        self._first_id = [0] * len(datasets)
        if whole:
            self._join(annotated)

    def _join(self, datasets: Sequence[AnnotatedDataset]) -> None:
        for other in datasets[1:]:
            for attribute in ("semseg_names", "stuff_names", "keypoint_names"):
                ours, theirs = getattr(datasets[0], attribute), getattr(other, attribute)
                if ours != theirs:
                    raise ValueError(
                        f"data sets trained together must have the same {attribute}, but {datasets[0].name} has {ours[:8]} and "
                        f"{other.name} has {theirs[:8]} ({len(ours)} and {len(theirs)})"
                    )
        for attribute in _SHARED:
            setattr(self, attribute, getattr(datasets[0], attribute))
        faults = AnnotationFaults()
        for dataset in datasets:
            faults.update(dataset.faults, dataset.fault_places)
        self.take_faults(faults)
        bounds = np.cumsum([d.id_bound for d in datasets])
        self._first_id, self.id_bound = [0, *bounds[:-1].tolist()], int(bounds[-1])
        self.want(self.kinds)

    def want(self, kinds: Collection[str]) -> None:
        super().want(kinds)
        for dataset in self.datasets:
            if isinstance(dataset, AnnotatedDataset):
                dataset.want(kinds)

    def locate(self, index: int) -> tuple[VisionDataset, int]:
        """The data set that holds sample ``index``, and the index there."""
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.datasets[which], index - int(self._ends[which - 1] if which else 0)

    def _annotated(self, index: int) -> tuple[AnnotatedDataset, int]:
        dataset, inner = self.locate(index)
        if not isinstance(dataset, AnnotatedDataset):
            raise TypeError(f"{dataset.name} has a class for each picture and no other annotations")
        return dataset, inner

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int) -> Sample:
        dataset, inner = self.locate(index)
        sample = dataset.read(inner)
        sample.id = index
        return sample

    def picture(self, index: int) -> Image:
        dataset, inner = self._annotated(index)
        return dataset.picture(inner)

    def annotations(self, index: int) -> Annotations:
        dataset, inner = self._annotated(index)
        truth = dataset.annotations(inner)
        which = int(np.searchsorted(self._ends, index, side="right"))
        image_id = index if self._ids_collide() else truth.image_id
        return replace(truth, ids=truth.ids + self._first_id[which], image_id=image_id)

    def path(self, index: int) -> str:
        dataset, inner = self._annotated(index)
        return dataset.path(inner)

    def _ids_collide(self) -> bool:
        if self._shared_ids is None:
            seen: set[int | str] = set()
            for index in range(len(self)):
                dataset, inner = self._annotated(index)
                seen.add(dataset.image_id(inner))
            self._shared_ids = len(seen) < len(self)
        return self._shared_ids

    def image_id(self, index: int) -> int | str:
        dataset, inner = self._annotated(index)
        return index if self._ids_collide() else dataset.image_id(inner)

    def sizes(self) -> npt.NDArray[np.int64]:
        return np.concatenate([d.sizes() for d in self.datasets if isinstance(d, AnnotatedDataset)])

    def semseg(self, index: int) -> SemanticMap:
        dataset, inner = self._annotated(index)
        return dataset.semseg(inner)

    def panoptic(self, index: int) -> Panoptic:
        dataset, inner = self._annotated(index)
        return dataset.panoptic(inner)

    def missing_segments(self, index: int) -> list[str]:
        dataset, inner = self._annotated(index)
        return dataset.missing_segments(inner)

    def labels(self) -> npt.NDArray[np.generic]:
        return np.concatenate([d.labels() for d in self.datasets])

    def instance_counts(self) -> dict[str, npt.NDArray[np.int64]]:
        parts = [d.instance_counts() for d in self.datasets if isinstance(d, AnnotatedDataset)]
        return {key: np.sum([part[key] for part in parts], axis=0) for key in parts[0]}

    def describe(self, index: int) -> str:
        dataset, inner = self.locate(index)
        return dataset.describe(inner)


class Subset(ConcatDataset):
    """Some pictures of a data set: for a quick look, or to see whether a model can learn a few by heart.

    Args:
        dataset: any set.
        indices: which pictures, in the order they shall have.
    """

    def __init__(self, dataset: VisionDataset, indices: Sequence[int]) -> None:
        super().__init__([dataset])
        self.source = dataset.source
        self._indices = np.asarray(indices, np.int64)
        self._ends = np.asarray([len(indices)])

    def locate(self, index: int) -> tuple[VisionDataset, int]:
        return self.datasets[0], int(self._indices[index])

    def sizes(self) -> npt.NDArray[np.int64]:
        return super().sizes()[self._indices]

    def labels(self) -> npt.NDArray[np.generic]:
        return super().labels()[self._indices]

    def instance_counts(self) -> dict[str, npt.NDArray[np.int64]]:
        return AnnotatedDataset.instance_counts(self)
