"""Tables of the pages about data and detection say what the program has: every name, every key, every file that loads."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torchvision
from torch import Tensor

from pet.config import ConfigError
from pet.data.catalog import BUILT_IN
from pet.data.datasets import DATASETS
from pet.data.datasets.annotation_faults import FAULTS
from pet.data.transforms.base import TRANSFORMS
from pet.data.transforms.build import MARKERS
from pet.engine.weights import load_weights
from pet.models import registry
from pet.models.torchvision_names import ONE_STAGE, SEMANTIC, TWO_STAGE
from pet.vision.config import METRICS, get_base_cfg, infer_cfg
from pet.vision.dataset import check_classes
from pet.vision.model_builder import GeneralizedCNN
from tests.docs.pages import DOCS
from tests.helpers import REPOSITORY

DATA, DETECTION, MODELS = DOCS / "data.md", DOCS / "detection.md", DOCS / "models.md"
_CODE = re.compile(r"`([^`]+)`")
_FIXED = {"name", "images", "annotations", "is_train", "root"}  # what every entry of the catalog has
_ALIASES = {"coco_instance_dataset"}
CONSTANT, STATISTICS = "FrozenBN", ".num_batches_tracked"


def tables(page, heading: str) -> list[list[str]]:
    """Cells of all rows of all tables below a heading, up to the next one of its level."""
    level = heading.partition(" ")[0]
    text = page.read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    assert text, f"{page} has no '{heading}'"
    text = re.split(rf"(?m)^#{{1,{len(level)}}} ", text)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(cell: str) -> list[str]:
    return _CODE.findall(cell)


def full_names(cell: str) -> Iterator[str]:
    """``coco_train``, ``_val`` stands for coco_train and coco_val."""
    first = ""
    for name in names(cell):
        first = first or name
        yield first.rpartition("_")[0] + name if name.startswith("_") else name


def test_types_of_data_sets_and_their_keys() -> None:
    documented = {name: set(names(row[3])) for row in tables(DATA, "## Types") if len(row) == 4 for name in names(row[0])}
    assert set(documented) == set(DATASETS.names()) - _ALIASES
    for name, keys in documented.items():
        parameters = set(inspect.signature(DATASETS.get(name)).parameters) - _FIXED
        # The second table has the row of drawn shapes again, without its keys.
        if name != "shapes_dataset":
            assert keys == {key.upper() for key in parameters}, name
    first = next(row for row in tables(DATA, "### One class for each picture, or several") if "shapes_dataset" in row[0])
    shapes = set(inspect.signature(DATASETS.get("shapes_dataset")).parameters) - _FIXED
    assert set(names(first[3])) == {key.upper() for key in shapes}


def test_built_in_names() -> None:
    documented = {name for row in tables(DATA, "## Built-in names")[1:] for name in full_names(row[0])}
    assert documented == set(BUILT_IN)


def test_faults_in_annotations() -> None:
    documented = [names(row[0])[0] for row in tables(DATA, "### Faults in annotations")[1:]]
    assert documented == list(FAULTS)


def test_transforms() -> None:
    documented = {name for row in tables(DATA, "## Transforms") for name in names(row[0])}
    assert documented == {*TRANSFORMS.names(), *MARKERS}


def test_metrics() -> None:
    rows = tables(DETECTION, "## Evaluation")
    documented = {name for row in rows if len(row) == 4 for name in names(row[0])} - {"EVAL.METRICS"}
    assert documented == set(METRICS)


def test_registries_of_model_parts() -> None:
    rows = tables(MODELS, "## Parts of your own")
    documented = {names(row[1])[0]: names(row[2])[0] for row in rows if len(row) == 4 and names(row[1])}
    known = {name: part.where.replace(".", "/") for name, part in vars(registry).items() if isinstance(part, registry.Registry)}
    assert documented == known


def test_names_in_files_of_torchvision() -> None:
    rows = [row for row in tables(DETECTION, "## Weights of torchvision") if len(row) == 2]
    pairs = {pair for row in rows for pair in zip(names(row[0]), names(row[1]), strict=False)}
    assert {*TWO_STAGE.items(), *ONE_STAGE.items(), *SEMANTIC.items()} <= pairs


def files() -> Iterator[tuple[str, str, list[str]]]:
    """Torchvision's name of a model, the config and the words that make the same one here."""
    before: list[str] = []
    for row in tables(DETECTION, "## Weights of torchvision"):
        if len(row) != 3 or not names(row[1]):
            continue
        words = [shlex.split(text) for text in names(row[2])] or [[]]
        if row[2].startswith("the same and "):
            words[0] = before + words[0]
        before = words[0]
        for place, name in enumerate(names(row[0])):  # a second name has further words
            yield name, names(row[1])[0], [word for part in words[: place + 1] for word in part]


@pytest.mark.parametrize(("name", "config", "words"), [pytest.param(*row, id=row[0]) for row in files()])
def test_every_tensor_of_a_file_of_torchvision_has_a_place(name: str, config: str, words: list[str]) -> None:
    cfg = get_base_cfg()
    cfg.merge_from_file(REPOSITORY / "cfgs/vision" / f"{config}.yaml")
    cfg.merge_from_list(words)
    infer_cfg(cfg)
    report = load_weights(GeneralizedCNN(cfg, is_train=False), published(name, cfg.MODEL.NORM))
    assert not report.mismatches


def published(name: str, norm: str) -> dict[str, Tensor]:
    """Tensors as in the published file: random, and without counters where the backbone's normalisation is constant."""
    options = {"aux_loss": True} if name.startswith(("fcn_", "deeplab")) else {}
    state = torchvision.models.get_model(name, weights=None, weights_backbone=None, **options).state_dict()
    return {key: tensor for key, tensor in state.items() if not (norm == CONSTANT and key.endswith(STATISTICS))}


def test_messages_of_common_mistakes_are_the_real_ones() -> None:
    page, cfg = DETECTION.read_text(encoding="utf-8"), get_base_cfg()
    cells = SimpleNamespace(name="cells_train", class_names=["Platelets", "RBC", "WBC"])
    with pytest.raises(ValueError, match="cells_train") as refused:
        check_classes(cfg, cells, frozenset({"boxes"}))
    quoted = next(line for line in page.splitlines() if line.startswith("cells_train has 3 classes"))
    assert str(refused.value).startswith(quoted)  # the page leaves out further advice
    words = ["MODEL.FEATURES", "()", "MODEL.BACKBONE", "torchvision/resnet50", "MODEL.GLOBAL_HEAD.DET.TYPE", "retinanet"]
    cfg.merge_from_file(REPOSITORY / "cfgs/_base_/faster_rcnn.yaml")
    cfg.merge_from_list([*words, "SOLVER.SCHEDULER.TOTAL_ITERS", "1"])
    with pytest.raises(ConfigError) as problems:
        infer_cfg(cfg)
    told = [re.sub(r"^\d+\. ", "", line.strip()) for line in str(problems.value).splitlines()]
    told = [line.replace(f"{REPOSITORY}/", "") for line in told if line.startswith(("MODEL.FEATURES is", "MODEL.GLOBAL_HEAD"))]
    assert len(told) == 2
    assert not [line for line in told if line not in page]
