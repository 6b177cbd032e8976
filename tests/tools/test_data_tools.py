"""Checking and browsing the data of an experiment, and the command lines of the converters."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from pet.engine.command import open_config, run_tool
from pet.vision import get_base_cfg
from tests.helpers import REPOSITORY, fork_start, run_cli
from tests.user_sets import MASK, TINY, classes, coco_set, make_sets, use


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), REPOSITORY / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *words: Any) -> int:
    """The status of a tool that runs in this process."""
    module = load_tool(name)
    with pytest.raises(SystemExit) as end:
        run_tool(module.main, module.parser(), list(map(str, words)))
    return end.value.code


@pytest.fixture
def vision(tmp_path):
    """A tiny detector's YAML with two drawn sets; words change it."""
    path = tmp_path / "cfgs" / "vision" / "tiny.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(TINY)
    return path


@pytest.fixture
def cls(tmp_path, shared_data):
    """A YAML of classification on a few real pictures, in folders that a test may damage."""
    for split in ("train", "val"):
        for name in ("ants", "bees"):
            source = shared_data / "classification" / "hymenoptera_224" / split / name
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for picture in sorted(source.iterdir())[:3]:
                shutil.copy(picture, tmp_path / "pets" / split / name)
    content = {
        "DATA": {
            "ROOT": str(tmp_path),
            "LOADER_THREADS": 0,
            "CATALOG": {f"my_{s}": {"TYPE": "image_folder_dataset", "IMAGES": f"pets/{s}"} for s in ("train", "val")},
        },
        "TRAIN": {
            "DATASETS": ["my_train"],
            "BATCH_SIZE": 2,
            "TRANSFORMS": ["random_resized_crop", "random_horizontal_flip", "normalize"],
        },
        "TEST": {"DATASETS": ["my_val"], "TRANSFORMS": ["resize", "center_crop", "normalize"]},
        "MODEL": {"BACKBONE": "cifar_resnet8", "GLOBAL_HEAD": {"CLS": {"NUM_CLASSES": 2}}},
        "SOLVER": {"SCHEDULER": {"TOTAL_EPOCHS": 1}},
    }
    path = tmp_path / "cfgs" / "tasks" / "cls" / "pets.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(content))
    return path


# -------------------------------------------------------------------------------------------------------- check


def test_clean_data_give_status_0_and_numbers(vision, shared_data, tmp_path, capsys):
    sets = make_sets(shared_data, tmp_path)
    words = [*use(train=sets.coco["train"], val=sets.coco["val"]), *classes(boxes=2)]
    assert run("data_check", vision, *words) == 0
    printed = capsys.readouterr().out
    assert "train data 'train': no errors" in printed
    assert "instances a class: my person" in printed
    assert "4 of 4 images can be read" in printed
    assert "2 data sets, 0 errors" in printed


def test_every_kind_of_fault_is_listed_with_its_places_and_gives_status_1(vision, shared_data, tmp_path, capsys):
    entry = coco_set(shared_data, tmp_path / "set", "train", count=6)
    content = json.loads((tmp_path / "set" / "train.json").read_text())
    files = [tmp_path / "set" / "train" / image["file_name"] for image in content["images"]]
    data = files[0].read_bytes()
    for file in files[:2]:
        file.unlink()
        file.write_bytes(data[:2000])  # half a picture
    first, second, third = content["annotations"][-3:]
    first["bbox"][2:] = second["bbox"][2:] = [0, 0]
    third["category_id"] = 77
    content["images"][3]["height"] += 10
    (tmp_path / "set" / "train.json").write_text(json.dumps(content))
    out = tmp_path / "report.json"
    words = [vision, *use(train=entry), *classes(boxes=1), "--split", "train", "--out", out]
    assert run("data_check", *words) == 1
    printed = capsys.readouterr().out
    for text in (
        "zero_size_box: 2",
        f"annotation id {first['id']}",
        f"annotation id {second['id']}",
        "unknown_category: 1",
        "unreadable_image: 2",
        f"cannot read image {files[0]}: truncated JPEG",
        f"cannot read image {files[1]}: truncated JPEG",
        "image_size_mismatch: 1",
    ):
        assert text in printed
    report = json.loads(out.read_text())
    assert report["errors"] == report["datasets"][0]["errors"] == 6
    places = report["datasets"][0]["faults"]["zero_size_box"]["places"]
    assert [f"annotation id {a['id']}" in place for a, place in zip((first, second), places, strict=True)] == [True, True]
    assert run("data_check", *words, "--fast") == 1
    printed = capsys.readouterr().out
    assert "unreadable_image: " not in printed
    assert "not looked for: unreadable_image, image_size_mismatch" in printed


def test_several_processes_find_the_same(cls, tmp_path, capsys):
    next((tmp_path / "pets" / "train" / "bees").iterdir()).write_bytes(b"\xff\xd8\xff\xe0")
    found = []
    for count in (1, 2):
        assert run("data_check", cls, "--nproc", count, "--out", tmp_path / f"{count}.json") == 1
        found.append((tmp_path / f"{count}.json").read_text())
    assert found[0] == found[1]
    assert "unreadable_image: 1" in capsys.readouterr().out


def test_boxes_that_are_cut_at_the_border_are_told_and_are_no_error(vision, shared_data, tmp_path, capsys):
    entry = coco_set(shared_data, tmp_path / "set", "train")
    content = json.loads((tmp_path / "set" / "train.json").read_text())
    content["annotations"][0]["bbox"][2] += 2000
    (tmp_path / "set" / "train.json").write_text(json.dumps(content))
    assert run("data_check", vision, *use(train=entry), *classes(boxes=1), "--split=train") == 0
    assert "box_partly_outside: 1" in capsys.readouterr().out


def test_classes_that_do_not_fit_the_heads_are_an_error_and_the_rest_is_checked_all_the_same(vision, cls, tmp_path, capsys):
    assert run("data_check", "--cfg", vision, *classes(boxes=7), "--split", "train") == 1
    printed = capsys.readouterr().out
    assert "has 10 classes of boxes" in printed
    assert "set MODEL.NUM_CLASSES 10" in printed
    assert "8 of 8 images can be read" in printed
    for name in ("a", "b"):
        shutil.copytree(tmp_path / "pets" / "train" / "ants", tmp_path / "pets" / "train" / name)
    assert run("data_check", cls, "--split", "train") == 1
    printed = capsys.readouterr().out
    assert "6 labels do not fit the head, which has 2 outputs" in printed
    assert "12 of 12 images can be read" in printed


def test_test_sets_are_compared_with_the_training_data(cls, tmp_path, capsys):
    words = [cls, "--fast"]
    options = yaml.safe_load(cls.read_text())["DATA"]["CATALOG"]

    def with_classes(split: str, *names: str) -> str:
        changed = {**options, f"my_{split}": {**options[f"my_{split}"], "CLASSES": list(names)}}
        return f"DATA.CATALOG={json.dumps(changed)}"

    assert run("data_check", *words, with_classes("val", "bees", "ants")) == 1
    printed = capsys.readouterr().out
    assert "test data 'my_val': 1 errors" in printed
    assert "class_names 0 is 'ants' in the training data my_train and 'bees' in my_val: the same names in another order" in printed
    for split in ("ants", "bees"):
        (tmp_path / "pets" / "val" / split).rename(tmp_path / "pets" / "val" / f"my {split}")
    assert run("data_check", *words) == 0
    assert "warning: class_names 0 is 'ants' in the training data my_train and 'my ants' in my_val" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("train", "cats"), r"it lacks cats\. Set CLASSES: \[ants, bees, cats\] in the entry of my_val in DATA.CATALOG, or train"),
        (("val", "cats"), r"it adds cats\. Set CLASSES: \[ants, bees\] .*, and take the pictures of cats out, or train"),
    ],
    ids=["fewer", "more"],
)
def test_a_test_set_of_other_classes_is_told_what_differs(cls, tmp_path, change, words):
    shutil.copytree(tmp_path / "pets" / "train" / "ants", tmp_path / "pets" / Path(*change))
    outputs = 3 if change[0] == "train" else 2
    opened = open_config(cls, [f"MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES={outputs}"])
    dataset = opened.domain_module.build_dataset(opened.cfg, False)
    with pytest.raises(ValueError, match=words):
        opened.domain_module.build_evaluator(opened.cfg, dataset)
    if outputs == 3:  # the remedy helps
        entry = {"TYPE": "image_folder_dataset", "IMAGES": "pets/val", "CLASSES": ["ants", "bees", "cats"]}
        catalog = {**opened.cfg.DATA.CATALOG, "my_val": entry}
        cfg = open_config(cls, [f"DATA.CATALOG={json.dumps(catalog)}", "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES=3"]).cfg
        opened.domain_module.build_evaluator(cfg, opened.domain_module.build_dataset(cfg, False))


def test_missing_folders_are_shown_as_a_tree(vision, tmp_path, capsys):
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    words = ["TRAIN.DATASETS=[coco_2017_train]", "TEST.DATASETS=[voc_2007_test]", f"DATA.ROOT={tmp_path}"]
    assert run("data_check", vision, *words) == 1
    printed = capsys.readouterr().out
    assert "instances_train2017.json   <- missing" in printed
    assert "train2017/   <- missing" in printed
    assert "JPEGImages/   <- missing" in printed
    assert "download_dataset.py --dataset-name voc2007 --unzip" in printed


def test_training_sets_that_do_not_fit_together_are_an_error(vision, shared_data, tmp_path, capsys):
    people = coco_set(shared_data, tmp_path / "people", "train")
    both = coco_set(shared_data, tmp_path / "both", "train", names=("person", "car"))
    words = [*use(train=people, other=both), "TRAIN.DATASETS=[train,other]", "--split=train", "--fast"]
    assert run("data_check", vision, *words, *classes(boxes=2)) == 1
    assert "has 1 classes of boxes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([], "name one config", id="no config"),
        pytest.param(["nowhere.yaml"], "does not exist", id="no file"),
        pytest.param(["{yaml}", "MODEL.NUM_CLASES=3"], "MODEL.NUM_CLASSES", id="unknown key"),
        pytest.param(["{yaml}", "TRAIN.DATASETS=[drawn_tran]"], "drawn_train", id="unknown set"),
        pytest.param(["{yaml}", "--nproc", "0"], "0 processes", id="no process"),
        pytest.param(["{yaml}", "--spilt", "train"], "Did you mean '--split'?", id="unknown flag"),
    ],
)
def test_a_wrong_command_or_config_gives_status_2(vision, capsys, words, expected):
    assert run("data_check", *(word.format(yaml=vision) for word in words)) == 2
    assert expected in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- browse


def sizes(folder):
    return {path.name: cv2.imread(str(path)).shape[:2] for path in folder.iterdir()}


@pytest.mark.parametrize("mode", ["original", "transformed", "pipeline"])
@pytest.mark.parametrize("domain", ["vision", "cls"])
def test_one_picture_is_written_for_each_image(request, tmp_path, mode, domain, capsys):
    path, out = request.getfixturevalue(domain), tmp_path / "out"
    assert run("browse_dataset", path, "-m", mode, "--not-show", "-o", out, "-p", "test") == 0
    expected = 4 if domain == "vision" else 6
    assert len(sizes(out)) == expected
    assert f"{expected} pictures in {out}" in capsys.readouterr().out


def test_pictures_show_what_belongs_to_them(vision, shared_data, tmp_path):
    """With their labels pictures differ from the plain ones where the objects are."""
    sets = make_sets(shared_data, tmp_path)
    for name, entry, more in (("rooms", sets.rooms, []), ("people", sets.people, []), ("coco", sets.coco, classes(boxes=2))):
        words = ["TRAIN.DATASETS=[train]", *use(train=entry["train"]), "--not-show", "-n", 2]
        plain = [*words, "-m", "original", *(more or classes(boxes={"rooms": 18, "people": 1}[name]))]
        assert run("browse_dataset", vision, *plain, "-o", tmp_path / "out" / name) == 0
        assert len(sizes(tmp_path / "out" / name)) == 2
    widths = {name: max(width for _, width in sizes(tmp_path / "out" / name).values()) for name in ("rooms", "coco")}
    assert widths["rooms"] > 2 * 700  # objects, semantic map and segments beside one another


def test_transformed_pictures_are_those_of_the_first_epoch(vision, tmp_path):
    from pet import vision as domain
    from pet.apis.browse import browse
    from pet.data.loader import SampleReader

    cfg = get_base_cfg()
    cfg.merge_from_file(vision)
    cfg.merge_from_list(
        ["TRAIN.TRANSFORMS", ["random_horizontal_flip", "photometric_distort", "normalize"], "TRAIN.FLIP.PROB", 1.0]
    )
    domain.infer_cfg(cfg, vision)
    dataset = domain.build_dataset(cfg, True)
    sample = SampleReader(dataset, domain.build_train_transforms(cfg, dataset), cfg.MISC.SEED)[0, 0]
    shown = next(iter(browse(cfg, domain, "train", "transformed", 1)))[1]
    factor = 720 // 40
    pixels = shown[: 40 * factor : factor, : 40 * factor : factor]
    corner = np.s_[:3, :3]  # no object is there
    assert np.array_equal(pixels[corner], sample.image[corner])
    skipped = next(iter(browse(cfg, domain, "train", "transformed", 1, ["photometric_distort"])))[1]
    mirrored = dataset.read(0).image[:, ::-1]
    assert np.array_equal(skipped[: 40 * factor : factor, : 40 * factor : factor][corner], mirrored[corner])


def test_mosaics_and_transforms_that_compose_pictures_are_drawn(vision, tmp_path):
    words = ["TRAIN.TRANSFORMS=[mosaic,copy_paste,resize,normalize]", "TRAIN.MOSAIC.SIZE=[32,32]", *MASK, "--not-show"]
    assert run("browse_dataset", vision, *words, "-m", "mosaic", "-o", tmp_path / "m") == 0
    assert list(sizes(tmp_path / "m")) == ["mosaic_000.png"]
    assert run("browse_dataset", vision, *words, "-m", "pipeline", "-n", "1", "-o", tmp_path / "p") == 0
    (shape,) = sizes(tmp_path / "p").values()
    assert run("browse_dataset", vision, *words, "-m", "pipeline", "-n", "1", "-o", tmp_path / "s", "--skip-type", "mosaic") == 0
    (fewer,) = sizes(tmp_path / "s").values()
    assert fewer[1] < shape[1]


def test_a_picture_that_cannot_be_read_is_left_out_and_told(cls, tmp_path, capsys):
    bad = next((tmp_path / "pets" / "train" / "ants").iterdir())
    bad.write_bytes(b"\xff\xd8\xff\xe0")
    assert run("browse_dataset", cls, "--not-show", "-o", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert f"left out: cannot read image {bad}" in printed
    assert "5 pictures in" in printed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([], "--output-dir DIR", id="no display"),
        pytest.param(["--not-show"], "name a folder with --output-dir", id="nothing to do"),
        pytest.param(["--not-show", "-o", "x", "-m", "pipline"], "Did you mean 'pipeline'?", id="mode"),
        pytest.param(["--not-show", "-o", "x", "--skip-type", "resise"], "Did you mean 'resize'?", id="transform"),
        pytest.param(["--not-show", "-o", "x", "-n", "-1"], "--show-number is -1", id="number"),
    ],
)
def test_a_wrong_way_to_browse_gives_status_2(vision, tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert run("browse_dataset", vision, *words) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


# --------------------------------------------------------------------------------------------------- converters


def test_the_converters_answer_on_the_command_line(shared_data, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("dataset_converters/pascal_voc", shared_data / "detection" / "bccd_voc", "-o", out, "--out-format", "coco") == 0
    assert f"{out}/voc_train.json: 205 images, 2804 instances, 3 categories" in capsys.readouterr().out
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(2):
        assert cv2.imwrite(str(pictures / f"{number}.png"), np.zeros((4, 6, 3), np.uint8))
        assert cv2.imwrite(str(pictures / f"{number}.jpg"), np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    words = [pictures, tmp_path / "classes.txt", "list.json", "--exclude-extensions", "png", "bmp"]
    assert run("dataset_converters/images2coco", *words) == 0
    assert f"{tmp_path}/annotations/list.json: 2 images" in capsys.readouterr().out
    assert run("dataset_converters/images2coco", *words[:2], "list.xml") == 2
    assert "OUT is 'list.xml'; it must end in .json" in capsys.readouterr().err
    assert run("dataset_converters/cityscapes", tmp_path, "--nproc", "8", "--out-dir", out) == 2
    assert "holds none of leftImg8bit/train" in capsys.readouterr().err


def test_the_check_runs_as_users_start_it(vision):
    done = run_cli(["tools/data_check.py", "--cfg", vision, "--fast"], start=fork_start)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 data sets, 0 errors" in done.stdout
