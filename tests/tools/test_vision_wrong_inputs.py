"""Typical mistakes with detectors and their data: nothing is started, and the message says what, where, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.shell import Shell, check
from tests.user_sets import KEYPOINT, MASK, NO_DET, SEMSEG, TINY, UserSets, classes, edited, make_sets, use

DET, ROI, SEM = "MODEL.GLOBAL_HEAD.DET", "MODEL.ROI_HEAD", "MODEL.GLOBAL_HEAD.SEMSEG"
NO_ROI, NO_NECK = [f"{ROI}.TYPE=''"], ["MODEL.NECK=''", "MODEL.NECK_OPTIONS={}"]
MERGE = [*MASK, *SEMSEG, "MODEL.GLOBAL_HEAD.PANOSEG.TYPE=merge"]
DRAWN = {"TYPE": "shapes_dataset", "LABELS": "all", "NUM_IMAGES": 8, "IMAGE_SIZE": 40}


@pytest.fixture(scope="module")
def sets(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> UserSets:
    return make_sets(shared_data, tmp_path_factory.mktemp("sets"))


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys, TINY, "vision")


def refuse(shell: Shell, words: Sequence[str], *texts: str) -> None:
    """Training ends with status 2, these texts, no traceback and no checkpoint."""
    ended = shell.train(*words)
    check(ended, 2, "Nothing was started", *texts)
    assert "Traceback (most recent" not in ended.text
    assert not list(shell.run.glob("model_*.pth"))


# ------------------------------------------------------------------------------------------ numbers that do not agree


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        pytest.param(classes(boxes=7), ["10 classes of boxes", "7 outputs", "set MODEL.NUM_CLASSES 10"], id="boxes"),
        pytest.param(
            [*NO_DET, *SEMSEG, *classes(semseg=12)],
            ["11 classes of semseg", "12 outputs", f"set {SEM}.NUM_CLASSES 11"],
            id="semseg",
        ),
        pytest.param(
            [*KEYPOINT, *classes(keypoints=17)],
            ["5 keypoints (center, top", "17 outputs", f"set {ROI}.KEYPOINT.NUM_KEYPOINTS 5"],
            id="keypoints",
        ),
        pytest.param(
            ["MODEL.GLOBAL_HEAD.CLS.TYPE=linear", *classes(image=9)],
            ["10 classes of label", "9 outputs", "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES 10"],
            id="class of the picture",
        ),
        pytest.param([*MERGE, *classes(semseg=11)], ["SEMANTIC stuff", f"{SEM}.NUM_CLASSES 2"], id="all classes for panoptic"),
        pytest.param(
            [*MERGE, *classes(semseg=3), f"DATA.CATALOG={json.dumps({'drawn_train': {**DRAWN, 'SEMANTIC': 'stuff'}})}"],
            ["2 classes of semseg (background, things)", "3 outputs", f"{SEM}.NUM_CLASSES 2"],
            id="stuff",
        ),
        pytest.param(
            [f"{DET}.RPN.ANCHOR_SIZES=[[8],[16]]"],
            [f"{DET}.RPN.ANCHOR_SIZES", "2 tuples", "4 feature levels"],
            id="anchors of rpn",
        ),
        pytest.param(
            [*NO_ROI, f"{DET}.TYPE=retinanet"], ["retinanet", "5 levels", "gets 4 levels", "p6p7"], id="anchors of retinanet"
        ),
        pytest.param([*NO_ROI, f"{DET}.TYPE=ssd"], ["ssd gets 4 levels", "ASPECT_RATIOS (has 6)", "SCALES (has 7)"], id="ssd"),
        pytest.param(
            [*NO_ROI, f"{DET}.TYPE=fcos", f"{DET}.FCOS.ANCHOR_SIZES=[8,16,32,48]"],
            ["fcos", "32 groups", "16 channels", "MODEL.NECK_OPTIONS"],
            id="channels of fcos",
        ),
        pytest.param(
            [*NO_ROI, f"{DET}.TYPE=retinanet", f"{DET}.RETINANET.ANCHOR_SIZES=[8,16,32,48]", f"{DET}.RETINANET.NORM=GN"],
            ["retinanet with NORM GN", "32 groups", "16 channels"],
            id="channels of retinanet",
        ),
        pytest.param([*NO_DET, *SEMSEG[:2], *classes(semseg=11)], ["CHANNELS 16", "GROUPS 32"], id="groups of semseg_fpn"),
        pytest.param(
            [*NO_NECK, f"{DET}.RPN.ANCHOR_SIZES=[[8],[16],[32]]"],
            ["equal channels", "(8, 16, 32)", "MODEL.NECK fpn"],
            id="neck missing",
        ),
        pytest.param(["TRAIN.BATCH_SIZE=3", "SOLVER.ACCUMULATE=2"], ["TRAIN.BATCH_SIZE is 3", "2 or 4"], id="parts of a batch"),
        pytest.param(
            ["DATA.SAMPLER.ASPECT_RATIO_GROUPING=[1.0]", "DATA.SAMPLER.GROUP_SIZE=3"],
            ["DATA.SAMPLER.GROUP_SIZE is 3", "2 images of a forward pass", "TRAIN.BATCH_SIZE"],
            id="groups of pictures",
        ),
        pytest.param(
            [*NO_DET, *NO_NECK, f"{SEM}.TYPE=deeplabv3", *classes(semseg=11), "TRAIN.BATCH_SIZE=1"],
            ["deeplabv3", "TRAIN.BATCH_SIZE is 1", f"{SEM}.NORM GN"],
            id="one picture for deeplabv3",
        ),
        pytest.param(
            [*NO_DET, *SEMSEG, *classes(semseg=11), f"{SEM}.AUX.TYPE=fcn", f"{SEM}.AUX.LEVEL=3"],
            [f"{SEM}.AUX.LEVEL is 3", "3 levels", "-3 to 2"],
            id="level of the auxiliary head",
        ),
        pytest.param([f"{DET}.RPN.FG_IOU=0.2"], [f"{DET}.RPN.BG_IOU is 0.3", f"{DET}.RPN.FG_IOU is 0.2"], id="overlaps of rpn"),
        pytest.param([f"{ROI}.FASTER.FG_IOU=0.2"], [f"{ROI}.FASTER.BG_IOU is 0.5"], id="overlaps of faster"),
    ],
)
def test_numbers_that_do_not_agree_are_both_told(words: Sequence[str], texts: Sequence[str], shell: Shell) -> None:
    refuse(shell, words, *texts)


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        pytest.param(["MODEL.FEATURES=[layer1,layer5]"], ["MODEL.FEATURES", "'layer5'", "layer1, layer2, layer3"], id="level"),
        pytest.param(["MODEL.NECK=fpm"], ["'fpm'", "Did you mean 'fpn'?"], id="neck"),
        pytest.param(["MODEL.NECK_OPTIONS={outchannels: 16}"], ["MODEL.NECK_OPTIONS", "outchannels"], id="option of the neck"),
        pytest.param([f"{DET}.TYPE=rpm"], ["'rpm'", "Did you mean 'rpn'?", "retinanet"], id="detector"),
        pytest.param([f"{ROI}.TYPE=fastr"], ["'fastr'", "Did you mean 'faster'?"], id="box head"),
        pytest.param(["EVAL.METRICS=[bbx]"], ["EVAL.METRICS", "'bbx'", "Did you mean 'bbox'?"], id="metric"),
        pytest.param(["EVAL.METRICS=[segm]"], ["segm cannot be computed", "possible: bbox"], id="metric without a head"),
        pytest.param(["EVAL.METRICS=[lvis]"], ["drawn_val", "rare, common or frequent", "COCO"], id="metric of other data"),
        pytest.param(["EVAL.BEST.METRIC=segm_AP"], ["EVAL.BEST.METRIC is 'segm_AP'", "bbox_AP"], id="best metric"),
        pytest.param([f"{DET}.RPN.ANCHOR_SIZES=[8,16,32,64]"], ["a tuple of sides for each level", "[[32], [64]"], id="flat list"),
        pytest.param(
            [f"{ROI}.TYPE=cascade", f"{ROI}.CASCADE.BBOX_REG_WEIGHTS=[[1,1],[1,1],[1,1]]"], ["four weights for each"], id="weights"
        ),
        pytest.param([f"{ROI}.FASTER.HEAD=res5"], ["'res5'", "no stage 'layer4'", "ResNet"], id="res5 on another backbone"),
        pytest.param([f"{DET}.TYPE=retinanet"], ["works on proposals", "retinanet gives detections"], id="box head on detections"),
        pytest.param([*NO_ROI, *MASK], [f"{ROI}.MASK.TYPE", f"set {ROI}.TYPE faster or cascade"], id="mask head alone"),
        pytest.param([f"{SEM}.AUX.TYPE=fcn"], [f"{SEM}.AUX.TYPE is 'fcn'", f"set {SEM}.TYPE"], id="auxiliary head alone"),
        pytest.param(
            [*MASK, *SEMSEG, *classes(semseg=11), "TRAIN.TRANSFORMS=[resize,det_mixup,normalize]"],
            ["det_mixup cannot mix label maps", "mosaic or copy_paste"],
            id="det_mixup with maps",
        ),
        *(
            pytest.param([f"TRAIN.TRANSFORMS=[resize,{name},normalize]"], [name, "would not move boxes", other], id=f"{name} on boxes")
            for name, other in (("mixup", "det_mixup"), ("cutmix", "mosaic"), ("auto_aug", "color_jitter"), ("rand_aug", "color_jitter"))
        ),
        pytest.param(
            ["TEST.TRANSFORMS=[resize,center_crop,normalize]"], ["TEST.TRANSFORMS", "center_crop", "resize and normalize"], id="test crop"
        ),
        pytest.param(["TRAIN.DATASETS=[coco_2017_train]"], ["instances_train2017.json   <- missing", "Found in", "PET_DATA"], id="layout"),
        pytest.param(["TRAIN.DATASETS=[voc_2007_train]"], ["JPEGImages/   <- missing", "ImageSets/"], id="layout of VOC"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_answered_with_what_can(words: Sequence[str], texts: Sequence[str], shell: Shell) -> None:
    refuse(shell, words, *texts)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        pytest.param("[20, 20, 20]", ["TRAIN.RANDOM_CROP.CROP_SCALES"], id="three numbers"),
        pytest.param("[[0, 20]]", ["TRAIN.RANDOM_CROP.CROP_SCALES"], id="no pixels"),
    ],
)
def test_wrong_crop_is_refused(option: str, words: Sequence[str], shell: Shell) -> None:
    refuse(shell, ["TRAIN.TRANSFORMS=[resize,random_crop,normalize]", f"TRAIN.RANDOM_CROP.CROP_SCALES={option}"], *words)


def test_test_metric_without_a_head_is_refused_before_inference(shell: Shell) -> None:
    check(shell.train("EVAL.ENABLED=False"), 0)
    ended = shell.test("--metrics", "segm")
    check(ended, 2, "segm cannot be computed from what the heads predict", "bbox")
    check(shell.test("--metrics", "bbxo"), 2, "'bbxo'", "bbox")


def test_more_pictures_a_step_than_there_are_is_no_mistake(shell: Shell) -> None:
    check(shell.train("TEST.IMS_PER_GPU=50", "TRAIN.BATCH_SIZE=10", "SOLVER.SCHEDULER.TOTAL_ITERS=1"), 0, "Finished: 1 updates")


# ------------------------------------------------------------------------------------------------- one's own COCO json


def no_annotations(content: dict[str, Any]) -> None:
    content.pop("annotations")


def no_categories(content: dict[str, Any]) -> None:
    content.pop("categories")


def one_category(content: dict[str, Any]) -> None:
    content["categories"].pop()


def no_images(content: dict[str, Any]) -> None:
    content["images"] = []


def all_crowd(content: dict[str, Any]) -> None:
    for entry in content["annotations"]:
        entry["iscrowd"] = 1


def nothing_labelled(content: dict[str, Any]) -> None:
    content["annotations"] = []


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        pytest.param(no_annotations, ["train has no annotations", "boxes", "MODEL.GLOBAL_HEAD.DET.TYPE"], id="no annotations"),
        pytest.param(no_categories, ["train.json", "annotations but no categories"], id="no categories"),
        pytest.param(
            one_category, ["1 classes of boxes (my person)", "2 outputs", "CLASSES in DATA.CATALOG"], id="category missing"
        ),
        pytest.param(no_images, ["list no pictures", "unknown_image"], id="no pictures"),
        pytest.param(
            all_crowd, ["none of 4 pictures", "0 are neither crowd nor difficult", "FILTER_EMPTY False"], id="all crowd"
        ),
        pytest.param(nothing_labelled, ["none of 4 pictures", "of 0 instances", "FILTER_EMPTY False"], id="nothing labelled"),
    ],
)
def test_coco_json_that_cannot_be_trained_on(
    change: Callable[[dict[str, Any]], None], texts: Sequence[str], shell: Shell, sets: UserSets
) -> None:
    wrong = edited(sets.coco["train"], shell.folder, change)
    refuse(shell, [*use(train=wrong, val=sets.coco["val"]), *classes(boxes=2)], *texts)


def test_pictures_of_crowds_alone_train_when_they_are_kept(shell: Shell, sets: UserSets) -> None:
    crowd = {**edited(sets.coco["train"], shell.folder, all_crowd), "FILTER_EMPTY": False}
    check(shell.train(*use(train=crowd, val=sets.coco["val"]), *classes(boxes=2)), 0, "Finished: 2 updates done")


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        pytest.param(b"[1, 2]", ["is not a COCO annotation file", "found list"], id="list"),
        pytest.param(b'{"version": 1, "shapes": []}', ["is not a COCO annotation file", "version, shapes"], id="labelme"),
        pytest.param(b'{"images": [{"id": 1, "file_na', ["is not JSON", "line 1 column"], id="truncated"),
        pytest.param(b"\xff\xd8\xff", ["is not JSON"], id="picture"),
        pytest.param(b"", ["is not JSON"], id="empty"),
    ],
)
def test_file_that_is_no_coco_json(content: bytes, texts: Sequence[str], shell: Shell, sets: UserSets) -> None:
    file = shell.folder / "labels.json"
    file.write_bytes(content)
    wrong = {**sets.coco["train"], "ANNOTATIONS": str(file)}
    refuse(shell, [*use(train=wrong, val=sets.coco["val"]), *classes(boxes=2)], str(file), *texts)


@pytest.mark.parametrize(
    ("option", "value", "texts"),
    [
        pytest.param("CLASSES", ["my person", "my crr"], ["'my crr'", "Did you mean 'my car'?"], id="class"),
        pytest.param("KINDS", ["mask"], ["KINDS", "'mask'", "Did you mean 'masks'?"], id="kind"),
        pytest.param("IMAGES", "trian", ["DATA.CATALOG.train.IMAGES", "trian", "DATA.ROOT"], id="folder that is not there"),
        pytest.param("ANNOTATIONS", "trian.json", ["DATA.CATALOG.train.ANNOTATIONS", "trian.json"], id="file that is not there"),
        pytest.param("MASKS", True, ["DATA.CATALOG.train has the key MASKS", "KINDS"], id="option"),
        pytest.param("TYPE", "coco_datset", ["coco_datset", "Did you mean 'coco_dataset'?"], id="type"),
        pytest.param("SIGMAS", [0.1], ["SIGMAS is [0.1]", "0 keypoints"], id="sigmas without keypoints"),
    ],
)
def test_entry_of_the_catalog_that_is_wrong(option: str, value: Any, texts: Sequence[str], shell: Shell, sets: UserSets) -> None:
    wrong = {**sets.coco["train"], option: value}
    refuse(shell, [*use(train=wrong, val=sets.coco["val"]), *classes(boxes=2)], *texts)


def test_folder_of_other_pictures_is_named(shell: Shell, sets: UserSets) -> None:
    wrong = {**sets.coco["train"], "IMAGES": sets.coco["val"]["IMAGES"]}
    words = [*use(train=wrong, val=sets.coco["val"]), *classes(boxes=2)]
    refuse(shell, words, "none of the 4 pictures", sets.coco["val"]["IMAGES"], "It holds 0000")


def test_missing_picture_is_left_out_of_training_and_refused_for_a_test(shell: Shell, sets: UserSets) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["images"][0]["file_name"] = "nowhere.jpg"

    wrong = {split: edited(sets.coco[split], shell.folder, rename) for split in ("train", "val")}
    count = classes(boxes=2)
    refuse(shell, [*use(train=sets.coco["train"], val=wrong["val"]), *count], "val: 1 of 4 pictures are not there", "nowhere.jpg")
    missing = {name: value for name, value in sets.coco["val"].items() if name != "IMAGES"}
    refuse(shell, [*use(train=sets.coco["train"], val=missing), *count], "val: a test needs pictures; set IMAGES")
    words = [*use(train=wrong["train"], val=sets.coco["val"]), *count]
    check(shell.train(*words), 0, "missing_image_file: 1", "nowhere.jpg", "Finished: 2 updates done")


def test_picture_of_another_size_stops_the_run_or_is_replaced(shell: Shell, sets: UserSets) -> None:
    def grow(content: dict[str, Any]) -> None:
        content["images"][0]["height"] += 5

    wrong = edited(sets.coco["train"], shell.folder, grow)
    words = [*use(train=wrong, val=sets.coco["val"]), *classes(boxes=2), "TRAIN.BATCH_SIZE=4", "EVAL.ENABLED=False"]
    sizes = ("422x640", "427x640")
    check(shell.train(*words, run=shell.folder / "raise"), 1, *sizes, "DATA.BAD_IMAGE replace", "Continue with: python")
    check(shell.train(*words, "DATA.BAD_IMAGE=replace"), 0, *sizes, "another image takes its place", "Finished")
    check(
        shell.train(*words, "DATA.BAD_IMAGE=replace", "DATA.CHECK=full", run=shell.folder / "full"), 0, "image_size_mismatch: 1"
    )


# ------------------------------------------------------------------------------------------------- data without labels


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        pytest.param([*MASK, *classes(boxes=2)], ["train has boxes, but no masks", f"{ROI}.MASK.TYPE"], id="masks"),
        pytest.param(
            ["TRAIN.TRANSFORMS=[copy_paste,resize,normalize]", *classes(boxes=2)], ["no masks", "copy_paste"], id="copy_paste"
        ),
        pytest.param(
            [*NO_DET, *SEMSEG, *classes(semseg=3)], ["train has boxes, but no semseg", f"{SEM}.TYPE"], id="semantic map"
        ),
        pytest.param([*KEYPOINT, *classes(boxes=2)], ["train has boxes, but no keypoints"], id="keypoints"),
        pytest.param(["IMAGE_SET"], ["IMAGE_SET is 'trian'", "Did you mean 'train'?"], id="image set"),
    ],
)
def test_boxes_alone_do_not_train_other_heads(words: Sequence[str], texts: Sequence[str], shell: Shell, sets: UserSets) -> None:
    cells = dict(sets.cells)
    if words == ["IMAGE_SET"]:
        cells["train"], words = {**cells["train"], "IMAGE_SET": "trian"}, []
    refuse(shell, [*use(**cells), *words], *texts)


@pytest.mark.parametrize("sigmas", [None, [0.1] * 4, [0.1, 0.1, 0.1, 0.1, 0], ["a"] * 5, "abc"], ids=str)
def test_keypoints_cannot_be_judged_without_a_sigma_each(sigmas: Any, shell: Shell, sets: UserSets) -> None:
    val = sets.people["val"] if sigmas is None else {**sets.people["val"], "SIGMAS": sigmas}
    words = [*use(train=sets.people["train"], val=val), *KEYPOINT, *classes(boxes=1, keypoints=5)]
    refuse(shell, words, "SIGMAS", "DATA.CATALOG" if sigmas is None else "5 keypoints of the annotations (head, left_hand")


def test_panoptic_test_set_must_have_all_its_segments(shell: Shell, sets: UserSets) -> None:
    def words(segments: Path) -> list[str]:
        val = {**sets.rooms["val"], "SEGMENTS": str(segments)}
        return [*use(train=sets.rooms["train"], val=val), *MERGE, *classes(boxes=18, semseg=18)]

    folder = shell.folder / "segments"
    refuse(shell, words(folder), str(folder), "does not exist; set SEGMENTS")
    folder.mkdir()
    refuse(shell, words(folder), "4 of 4 pictures have no segments", str(folder))
    first = sorted(Path(sets.rooms["val"]["SEGMENTS"]).iterdir())[0]
    shutil.copy(first, folder / first.name)
    refuse(shell, words(folder), "3 of 4 pictures have no segments")
    train = {**sets.rooms["train"], "SEGMENTS": str(folder)}
    refuse(
        shell,
        [*use(train=train, val=sets.rooms["val"]), *MERGE, *classes(boxes=18, semseg=18)],
        "train: the annotations list no pictures that can be used",
        "missing_annotation_file 8",
    )


def test_ssd_on_pictures_of_another_size_is_told_what_fits(shell: Shell) -> None:
    ssd = [*NO_ROI, *NO_NECK, f"{DET}.TYPE=ssd", f"{DET}.SSD.ASPECT_RATIOS=[[2],[2],[2]]", f"{DET}.SSD.SCALES=[0.1,0.3,0.6,0.9]"]
    check(shell.train(*ssd, f"{DET}.SSD.STEPS=[8,16,32]"), 1, f"{DET}.SSD.STEPS (8, 16, 32)", "(64, 64)", "need about [1, 2, 4]")
