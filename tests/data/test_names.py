"""What labels are called: in data sets, in checkpoints, and when nobody said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pet.config import CfgNode
from pet.data.catalog import build_dataset
from pet.data.names import LabelNames, names_for_checkpoint, names_of_config
from pet.engine.checkpoint_file import read_checkpoint
from pet.vision.config import get_base_cfg
from tests.shell import Shell, check
from tests.user_sets import KEYPOINT, TINY, classes


def config(*train: str, catalog: dict[str, Any] | None = None) -> CfgNode:
    cfg = get_base_cfg()
    cfg.merge_from_list(["TRAIN.DATASETS", list(train), "DATA.CATALOG", catalog or {}])
    return cfg


def test_a_training_stores_all_names_of_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, monkeypatch, capsys, TINY, "vision")
    check(shell.train(*KEYPOINT, *classes(keypoints=5), "EVAL.ENABLED=False", "SOLVER.SCHEDULER.TOTAL_ITERS=1"), 0)
    meta = read_checkpoint(shell.run / "model_latest.pth")["meta"]
    dataset: Any = build_dataset(("shapes_det_train",), True)
    for name in ("class_names", "semseg_names", "stuff_names", "is_thing", "keypoint_names"):
        assert meta[name] == getattr(dataset, name), name
    assert meta["skeleton"] == [list(pair) for pair in dataset.skeleton]
    assert LabelNames.of(meta) == LabelNames.of(dataset)


@pytest.mark.parametrize("name", ["shapes_val", "shapes_det_val", "shapes_panoptic_val"])
def test_names_survive_a_text_file(name: str) -> None:
    dataset = build_dataset((name,), False)
    stored = names_for_checkpoint(dataset)
    assert all(stored.values())
    assert LabelNames.of(json.loads(json.dumps(stored))) == LabelNames.of(dataset)


def test_names_of_coco_are_those_of_its_files(shared_data: Path) -> None:
    files = shared_data / "detection" / "coco_mini" / "annotations"
    instances = json.loads((files / "instances_val2017.json").read_text())["categories"]
    person = json.loads((files / "person_keypoints_val2017.json").read_text())["categories"][0]
    known = names_of_config(config("coco_2017_train"))
    assert list(known.class_names) == [category["name"] for category in sorted(instances, key=lambda c: c["id"])]
    known = names_of_config(config("coco_2017_keypoints_train"))
    assert known.class_names == ("person",)
    assert list(known.keypoint_names) == person["keypoints"]
    assert [[a + 1, b + 1] for a, b in known.skeleton] == person["skeleton"]


def test_names_of_imagenet_are_in_the_order_of_its_folders(shared_data: Path) -> None:
    """Real pictures are called ``<folder>_<class>.JPEG``."""
    names = names_of_config(config("imagenet_train")).class_names
    assert len(names) == 1000
    places = {name.lower().replace(" ", "_"): number for number, name in enumerate(names)}
    files = sorted(path.stem.lower() for path in (shared_data / "classification" / "imagenet_samples").glob("*.JPEG"))
    found = [places[words] for words in (file.partition("_")[2] for file in files) if words in places]
    assert len(found) > 20
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("voc_2007_trainval", 20, "aeroplane"),
        ("fashion_mnist_train", 10, "t-shirt/top"),
        ("mnist_test", 10, "0"),
        ("ade20k_val", 150, "wall"),
        ("cityscapes_fine_instance_train", 8, "person"),
        ("cityscapes_fine_semantic_val", 19, "road"),
        ("shapes_train", 10, "circle"),
    ],
)
def test_names_of_public_sets_are_known_without_their_files(name: str, count: int, first: str) -> None:
    names = names_of_config(config(name)).class_names
    assert (len(names), names[0]) == (count, first)


def test_names_of_own_sets_are_known_if_the_config_lists_them() -> None:
    entry = {"TYPE": "voc_dataset", "IMAGES": "nowhere", "CLASSES": ["RBC", "WBC"]}
    assert names_of_config(config("mine", catalog={"mine": entry})).class_names == ("RBC", "WBC")
    assert names_of_config(config("mine", catalog={"mine": {**entry, "CLASSES": "names.txt"}})) == LabelNames()


def test_missing_names_are_made_up_and_those_of_a_map_are_found() -> None:
    names = LabelNames(("road", "sky")).padded({"semseg_names": 2})
    assert names.semseg_names == ("road", "sky")
    names = LabelNames(("cat",)).padded({"class_names": 2, "stuff_names": 1, "keypoint_names": 1})
    assert (names.class_names, names.stuff_names, names.keypoint_names) == (("class_0", "class_1"), ("stuff_0",), ("keypoint_0",))
    assert names.is_thing == (True, True, False)
