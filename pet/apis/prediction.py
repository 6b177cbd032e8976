"""What a model says about one picture."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pet.data.masks import InstanceMasks
from pet.data.names import LabelNames
from pet.data.structures import Image
from pet.utils.files import atomic_json
from pet.utils.images import write_picture
from pet.visualization import draw_instances, draw_panoptic, draw_semantic, palette
from pet.visualization.detections import instances_of
from pet.visualization.instances import INSTANCE_PARTS
from pet.visualization.labels import MIN_SIDE, Tag, draw_tags, enlarged, style_of
from pet.visualization.segments import IGNORED, colour_of

Boxes = list[NDArray[np.float32]]
PerClass = Boxes | tuple[Boxes, list[list[dict[str, Any]]]]

_MOST_CLASSES = 5  # named on a picture


@dataclass(frozen=True)
class Prediction:
    """What a model says about one picture; everything is on the CPU, in pixels of the picture as it was given.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        source: the file, or another description of the picture.
        names: of all labels.
        outputs: of ``forward_test`` for this picture; the properties below name what is in it.
    """

    image: Image
    source: str
    names: LabelNames
    outputs: Mapping[str, Any]

    @property
    def instances(self) -> dict[str, Tensor] | None:
        """Boxes (K, 4) xyxy, scores (K,), labels (K,), and where the model has them masks (K, H, W) bool, keypoints (K, P, 3)."""
        return self.outputs.get("instances")

    @property
    def proposals(self) -> dict[str, Tensor] | None:
        """Boxes (K, 4) and scores (K,) of a model that predicts where something is and not what."""
        return self.outputs.get("proposals")

    @property
    def semseg(self) -> Tensor | None:
        """Class of every pixel (H, W)."""
        return self.outputs.get("semseg")

    @property
    def panoptic(self) -> tuple[Tensor, list[dict[str, Any]]] | None:
        """Segment ids (H, W), 0 where there is none, and ``id``, ``label`` and more of each segment."""
        return self.outputs.get("panoptic")

    @property
    def scores(self) -> Tensor | None:
        """Probability of each class for the whole picture (C,)."""
        return self.outputs.get("scores")

    # ------------------------------------------------------------------------------------------------ whole pictures

    @property
    def pred_label(self) -> int:
        """The most probable class of the picture."""
        if self.scores is None:
            raise ValueError(f"the model does not classify whole pictures; it predicts {', '.join(self.outputs)}")
        return int(self.scores.argmax())

    @property
    def pred_class(self) -> str:
        """Name of the most probable class."""
        return self.names.class_names[self.pred_label]

    @property
    def pred_score(self) -> float:
        """Probability of the most probable class."""
        label = self.pred_label
        return float(self.outputs["scores"][label])

    # ------------------------------------------------------------------------------------------------------- objects

    def per_class(self) -> PerClass:
        """Objects by class, as OpenMMLab returns them.

        Returns:
            For each class (n, 5) float32: x1, y1, x2, y2, score. A model with masks: a pair of that and, for each class, the
            masks of these objects as COCO run lengths. Proposals are one class.
        """
        found = self.instances or self.proposals
        if found is None:
            raise ValueError(f"the model predicts no boxes; it predicts {', '.join(self.outputs)}")
        rows = torch.cat([found["boxes"], found["scores"][:, None]], dim=1).float().numpy()
        labels = found["labels"].numpy() if "labels" in found else np.zeros(len(rows), np.int64)
        classes = range(len(self.names.class_names) if "labels" in found else 1)
        boxes = [rows[labels == label] for label in classes]
        if "masks" not in found:
            return boxes
        lengths = InstanceMasks.from_bitmaps(found["masks"].numpy()).to_rles()
        return boxes, [[lengths[row] for row in np.flatnonzero(labels == label)] for label in classes]

    @classmethod
    def from_per_class(cls, image: Image, result: PerClass, names: LabelNames, source: str = "image") -> Prediction:
        """The prediction that ``per_class`` describes."""
        boxes, lengths = result if isinstance(result, tuple) else (result, None)
        rows = torch.from_numpy(np.concatenate([np.asarray(part, np.float32).reshape(-1, 5) for part in boxes]))
        labels = torch.tensor([label for label, part in enumerate(boxes) for _ in range(len(part))], dtype=torch.int64)
        instances = {"boxes": rows[:, :4], "scores": rows[:, 4]}
        if len(boxes) == 1 != len(names.class_names):
            return cls(image, source, names, {"proposals": instances})
        instances["labels"] = labels
        if lengths is not None:
            size = (image.shape[0], image.shape[1])
            bitmaps = InstanceMasks.from_rles([rle for part in lengths for rle in part], size).to_bitmaps()
            instances["masks"] = torch.from_numpy(bitmaps).bool()
        return cls(image, source, names, {"instances": instances})

    # ------------------------------------------------------------------------------------------------------- pictures

    def draw(
        self,
        score_thr: float = 0.3,
        palette: str = "distinct",
        show: Collection[str] = INSTANCE_PARTS,
        keep_size: bool = True,
    ) -> Image:
        """The picture with everything that was found.

        Args:
            score_thr: score that an object, or a second class of a picture, needs.
            palette: colours, see ``pet.visualization.palette``.
            show: of objects: ``box``, ``class``, ``mask``, ``keypoint``.
            keep_size: the result has the size of the picture. Otherwise small pictures are enlarged, and the classes of a
                semantic map are listed below.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        picture, side = self.image, 0 if keep_size else MIN_SIDE
        names, options = self.names, {"colours": palette, "min_side": side}
        if self.panoptic is not None:
            ids, segments = self.panoptic
            classes = (*names.class_names, *names.stuff_names)
            picture = draw_panoptic(picture, ids.numpy(), segments, classes, names.is_thing, **options)
        elif self.semseg is not None:
            # A legend below would move nothing, but objects are drawn in pixels of the picture alone.
            legend = not keep_size and self.instances is None
            picture = draw_semantic(picture, self.semseg.numpy(), names.semseg_names, legend=legend, **options)
        if self.panoptic is None and (self.instances or self.proposals):
            found = instances_of(self.instances or self.proposals, score_thr).resized(self.image.shape[:2], picture.shape[:2])
            options |= {"show": show, "skeleton": names.skeleton}
            picture = draw_instances(picture, found, names.class_names, **options)
        return self._name_classes(picture, score_thr, palette, side) if self.scores is not None else picture

    def _name_classes(self, picture: Image, score_thr: float, colours: str, side: int) -> Image:
        """The classes of the whole picture written at its top."""
        scores: Any = self.scores
        best = scores.argsort(descending=True)[:_MOST_CLASSES].tolist()
        said = [label for rank, label in enumerate(best) if rank == 0 or scores[label] >= score_thr]
        table, names = palette(colours, len(scores)), self.names.class_names
        picture = enlarged(picture, side)
        style = style_of(picture)
        texts = [f"{names[label]} {float(scores[label]):.2f}" for label in said]
        # A name goes above the corner of its box, so boxes that begin lower and lower put the names below one another.
        tops = [rank * style.tag(text)[1] for rank, text in enumerate(texts, start=1)]
        tags = [Tag(text, colour_of(table, label), (0, top, 0, top)) for text, label, top in zip(texts, said, tops, strict=True)]
        draw_tags(picture, tags, style)
        return picture

    # ----------------------------------------------------------------------------------------------------------- text

    def summary(self, score_thr: float = 0.3) -> str:
        """One line: the class of the picture with its score, objects of each class, the shares of the classes of a map."""
        parts = []
        if self.scores is not None:
            parts.append(f"{self.pred_class} {self.pred_score:.4f}")
        if self.instances is not None:
            labels = self.instances["labels"][self.instances["scores"] >= score_thr]
            parts.append(f"{len(labels)} objects of score at least {score_thr:g}{self._counted(labels)}")
        if self.proposals is not None:
            parts.append(f"{len(self.proposals['boxes'])} proposals")
        if self.panoptic is not None:
            names = (*self.names.class_names, *self.names.stuff_names)
            parts.append("segments: " + ", ".join(names[int(segment["label"])] for segment in self.panoptic[1]))
        elif self.semseg is not None:
            judged = self.semseg[self.semseg != IGNORED]
            labels, counts = judged.unique(return_counts=True)
            shares = sorted(zip((counts / max(len(judged), 1)).tolist(), labels.tolist(), strict=True), reverse=True)
            parts.append("pixels: " + ", ".join(f"{self.names.semseg_names[label]} {share:.1%}" for share, label in shares))
        return f"{self.source}: {'; '.join(parts)}"

    def _counted(self, labels: Tensor) -> str:
        found = Counter(self.names.class_names[label] for label in labels.tolist())
        return ": " + ", ".join(f"{count} {name}" for name, count in found.most_common()) if found else ""

    # ---------------------------------------------------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write the drawn picture, or with the suffix ``.json`` what ``to_dict`` returns; the folder is made.

        Args:
            path: the suffix says the format.
            options: of ``draw``; by default small pictures are enlarged.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_json(path, self.to_dict())
        else:
            write_picture(path, self.draw(**{"keep_size": False, **options}))
        return path

    def to_json(self) -> str:
        """``to_dict`` as text."""
        return json.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values: boxes as [x1, y1, x2, y2] in pixels, masks and the parts of maps as COCO run lengths."""
        content: dict[str, Any] = {"source": self.source, "height": self.image.shape[0], "width": self.image.shape[1]}
        if self.scores is not None:
            content |= {name: getattr(self, name) for name in ("pred_label", "pred_class", "pred_score")}
            content["scores"] = self.scores.tolist()
        for kind in ("instances", "proposals"):
            if kind in self.outputs:
                content[kind] = self._objects(self.outputs[kind])
        if self.semseg is not None:
            labels = [label for label in self.semseg.unique().tolist() if label != IGNORED]
            masks = _run_lengths(self.semseg, labels)
            content["semseg"] = [
                {**_label(label, self.names.semseg_names), "segmentation": rle} for label, rle in zip(labels, masks, strict=True)
            ]
        if self.panoptic is not None:
            ids, segments = self.panoptic
            names, masks = (*self.names.class_names, *self.names.stuff_names), _run_lengths(ids, [s["id"] for s in segments])
            content["panoptic"] = [
                {**_plain(segment), **_label(int(segment["label"]), names), "segmentation": rle}
                for segment, rle in zip(segments, masks, strict=True)
            ]
        return content

    def _objects(self, found: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        columns: dict[str, Sequence[Any]] = {"bbox": found["boxes"].tolist(), "score": found["scores"].tolist()}
        if "labels" in found:
            columns["label"] = found["labels"].tolist()
            columns["class"] = [self.names.class_names[label] for label in columns["label"]]
        columns |= {name: found[name].tolist() for name in ("keypoints", "keypoint_scores") if name in found}
        if "masks" in found:
            columns["segmentation"] = InstanceMasks.from_bitmaps(found["masks"].numpy()).to_rles()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _label(label: int, names: Sequence[str]) -> dict[str, Any]:
    return {"label": label, "class": names[label]}


def _run_lengths(values: Tensor, wanted: Sequence[int]) -> list[dict[str, Any]]:
    """The pixels (H, W) of each wanted value as COCO run lengths."""
    return InstanceMasks.from_bitmaps(np.stack([values.numpy() == value for value in wanted])).to_rles() if wanted else []


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of torch and NumPy as those of Python."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
