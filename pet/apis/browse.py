"""Looking at the pictures of a data set: stored, transformed, and step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pet.config import CfgNode
from pet.data.build import build_test_transforms
from pet.data.datasets.annotated import INSTANCE_KINDS, is_annotated
from pet.data.loader import SampleReader
from pet.data.structures import BadImageError, Sample
from pet.data.transforms.build import MARKERS
from pet.utils.files import unique_stems
from pet.utils.logger import LOGGER
from pet.utils.suggest import did_you_mean
from pet.visualization.browse import LARGE, SMALL, Names, draw_sample, sheet
from pet.visualization.canvas import Picture

MODES = ("original", "transformed", "pipeline", "mosaic")
_PER_SHEET = 20


@dataclass
class _Source:
    """A data set and what its samples go through.

    Attributes:
        dataset: the set.
        steps: name and transform, in order.
        reader: reads and transforms as a loader worker does.
        stems: names for the pictures, without suffix.
    """

    dataset: Any
    steps: list[tuple[str, Any]]
    reader: SampleReader
    stems: list[str]


def browse(
    cfg: CfgNode, domain: Any, split: str = "train", mode: str = "transformed", count: int = 0, skip: Sequence[str] = ()
) -> Iterator[tuple[str, Picture]]:
    """Draw the samples of an experiment in stored order.

    Pictures that cannot be read are logged and left out.

    Args:
        cfg: the configuration.
        domain: package with ``build_dataset`` and ``build_train_transforms``.
        split: ``train`` or ``test``.
        mode: ``original``: as stored, with all there is to it; ``transformed``: as the model sees it in the first epoch;
            ``pipeline``: after each transform; ``mosaic``: many transformed ones in a picture.
        count: samples at most; 0: all.
        skip: names of transforms that are left out.

    Yields:
        A name, different for each, and the picture.

    Raises:
        ValueError: an unknown mode or transform.
    """
    if mode not in MODES:
        raise ValueError(f"--mode is '{mode}'; allowed are {', '.join(MODES)}.{did_you_mean(mode, MODES)}")
    if count < 0:
        raise ValueError(f"--show-number is {count}; it must be 0 (all) or above")
    samples = _samples(_open(cfg, domain, split, skip), mode, count)
    if mode != "mosaic":
        yield from samples
        return
    tiles: list[Picture] = []
    number = 0
    for _, tile in samples:
        tiles.append(tile)
        if len(tiles) == _PER_SHEET:
            yield f"mosaic_{number:03d}", sheet(tiles, f"{split} samples as the model sees them")
            tiles, number = [], number + 1
    if tiles:
        yield f"mosaic_{number:03d}", sheet(tiles, f"{split} samples as the model sees them")


def _open(cfg: CfgNode, domain: Any, split: str, skip: Sequence[str]) -> list[_Source]:
    is_train = split == "train"
    names = [name for name in (cfg.TRAIN if is_train else cfg.TEST).TRANSFORMS if name not in MARKERS]
    for name in skip:
        if name not in (*names, *MARKERS):
            raise ValueError(
                f"--skip-type names '{name}', which is not among the transforms of {split}ing: {', '.join(names) or 'none'}."
                f"{did_you_mean(name, names)}"
            )
    sets = [domain.build_dataset(cfg, True)] if is_train else [domain.build_dataset(cfg, False, [n]) for n in cfg.TEST.DATASETS]
    stems = iter(unique_stems([dataset.describe(index) for dataset in sets for index in range(len(dataset))]))
    sources = []
    for dataset in sets:
        if not is_train and is_annotated(dataset):
            dataset.want(dataset.kinds - {"panoptic"})  # a test reads pictures alone
        transforms = domain.build_train_transforms(cfg, dataset) if is_train else build_test_transforms(cfg)
        steps = [(name, transform) for name, transform in zip(names, transforms, strict=True) if name not in skip]
        reader = SampleReader(dataset, [transform for _, transform in steps], cfg.MISC.SEED)
        sources.append(_Source(dataset, steps, reader, [next(stems) for _ in range(len(dataset))]))
    return sources


def _samples(sources: Sequence[_Source], mode: str, count: int) -> Iterator[tuple[str, Picture]]:
    places = [(source, index) for source in sources for index in range(len(source.dataset))]
    for source, index in places[: count or None]:
        try:
            picture = _DRAW[mode](source, index)
        except BadImageError as error:
            LOGGER.warning("left out: %s", error)
            continue
        yield source.stems[index], picture


def _original(source: _Source, index: int) -> Picture:
    sample, name = stored_sample(source.dataset, index), source.stems[index]
    return draw_sample(sample.image, sample.target, Names.of(source.dataset), right=name)


def _transformed(source: _Source, index: int, largest: tuple[int, int] = LARGE) -> Picture:
    *_, sample = source.reader.stages((0, index))
    return draw_sample(sample.image, sample.target, Names.of(source.dataset), right=source.stems[index], largest=largest)


def _pipeline(source: _Source, index: int) -> Picture:
    captions = ["as it is read", *(name for name, _ in source.steps)]
    stages = zip(captions, source.reader.stages((0, index)), strict=True)
    names = Names.of(source.dataset)
    tiles = [draw_sample(one.image, one.target, names, f"{i}. {text}", largest=SMALL) for i, (text, one) in enumerate(stages)]
    return sheet(tiles, source.stems[index])


def _tile(source: _Source, index: int) -> Picture:
    return _transformed(source, index, SMALL)


_DRAW = {"original": _original, "transformed": _transformed, "pipeline": _pipeline, "mosaic": _tile}


def stored_sample(dataset: Any, index: int) -> Sample:
    """Sample ``index`` with everything that the data set knows of it, crowds and difficult objects too."""
    if not is_annotated(dataset):
        sample: Sample = dataset.read(index)
        return sample
    target: dict[str, Any] = {}
    if dataset.kinds & INSTANCE_KINDS:
        truth = dataset.annotations(index)
        notes = ["crowd" if c else "difficult" if d else "" for c, d in zip(truth.crowd, truth.difficult, strict=True)]
        target = {"boxes": truth.boxes, "labels": truth.labels, "notes": notes}
        target |= {key: value for key in ("masks", "keypoints") if (value := getattr(truth, key)) is not None}
    if "semseg" in dataset.kinds:
        target["semseg"] = dataset.semseg(index)
    if "panoptic" in dataset.kinds:
        target["panoptic"] = dataset.panoptic(index)
    return Sample(dataset.picture(index), target, index)
