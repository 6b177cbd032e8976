"""Data sets of a user's own train, resume and are tested with nothing but a YAML; every head does so once."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import pet.vision as domain
from pet.config import CfgNode
from pet.data import build
from pet.evaluation import read_plain
from tests.helpers import run_script_ranks
from tests.shell import Shell, check
from tests.user_sets import KEYPOINT, MASK, NO_DET, SEMSEG, TINY, UserSets, classes, edited, make_sets, use

DRAWN = {"TYPE": "shapes_dataset", "LABELS": "all", "NUM_IMAGES": 8, "IMAGE_SIZE": 40}
STUFF = [f"DATA.CATALOG={json.dumps({name: {**DRAWN, 'SEMANTIC': 'stuff'} for name in ('drawn_train', 'drawn_val')})}"]
PLAIN = [f"DATA.CATALOG={json.dumps({name: {**DRAWN, 'LABELS': 'class'} for name in ('drawn_train', 'drawn_val')})}"]
NO_ROI, NO_NECK = ["MODEL.ROI_HEAD.TYPE=''"], ["MODEL.NECK=''", "MODEL.NECK_OPTIONS={}"]
WHOLE = [*NO_DET, *NO_NECK, "MODEL.GLOBAL_HEAD.SEMSEG.PSPNET.CHANNELS=16", *classes(semseg=11)]
FOUR_LEVELS = "ANCHOR_SIZES=[8,16,32,48]"
DET = "MODEL.GLOBAL_HEAD.DET"
C4 = [
    *("MODEL.BACKBONE=torchvision/resnet18", "MODEL.BACKBONE_OPTIONS={}", "MODEL.FEATURES=[layer3]", *NO_NECK),
    *("MODEL.PRETRAINED=False", "MODEL.ROI_HEAD.FASTER.HEAD=res5", "MODEL.ROI_HEAD.FASTER.POOL_RESOLUTION=14"),
    *(f"{DET}.RPN.ANCHOR_SIZES=[[8,16,32]]", *MASK[:1], "MODEL.ROI_HEAD.MASK.CHANNELS=[]"),
    *(
        "MODEL.ROI_HEAD.FASTER.BATCH_SIZE_PER_IMAGE=4",
        f"{DET}.RPN.POST_NMS_TOP_N_TEST=4",
        "MODEL.ROI_HEAD.FASTER.DETECTIONS_PER_IMG=3",
    ),
]
SSD_LEVELS = [
    *NO_ROI,
    *NO_NECK,
    f"{DET}.TYPE=ssd",
    f"{DET}.SSD.ASPECT_RATIOS=[[2],[2,3],[2]]",
    f"{DET}.SSD.SCALES=[0.1,0.3,0.6,0.9]",
    f"{DET}.SSD.STEPS=[1,2,4]",
]


@pytest.fixture(scope="module")
def sets(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> UserSets:
    return make_sets(shared_data, tmp_path_factory.mktemp("sets"))


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys, TINY, "vision")


def check_pictures(folder: Path, *names: str) -> None:
    """The pictures are there and show something."""
    for name in names:
        picture = cv2.imread(str(folder / f"{name}.png"))
        assert picture is not None, f"{folder} holds {sorted(path.name for path in folder.iterdir())}"
        assert picture.std() > 10, name


def coco_ap(truth: str, found: Path, kind: str, sigmas: Sequence[float] = ()) -> float:
    """AP in percent by pycocotools alone, from the user's file and ours."""
    coco = COCO(truth)
    judge = COCOeval(coco, coco.loadRes(str(found)), kind)
    if sigmas:
        judge.params.kpt_oks_sigmas = torch.tensor(sigmas).numpy()
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return float(100 * judge.stats[0])


# --------------------------------------------------------------------------------------------------- one's own data


def test_own_coco_json_trains_resumes_and_its_predictions_give_the_printed_ap(shell: Shell, sets: UserSets) -> None:
    words = [*use(**sets.coco), *classes(boxes=2), *MASK, "SOLVER.OPTIMIZER.BASE_LR=0.02", "VIS.ENABLED=True"]
    check(shell.train(*words, "VIS.SCORE_THRESH=0.05"), 0, "Finished: 2 updates done")
    check_pictures(shell.run / "vis", "train_samples", "val_predictions", "curves")
    check(shell.train(*words, "SOLVER.SCHEDULER.TOTAL_ITERS=4", "--resume"), 0, "(update 2)", "Finished: 4 updates done")
    out = shell.folder / "mine.json"
    check(shell.test(*words, "--out", str(out)), 0, "my person", f"Predictions of val: {out}")
    check_pictures(shell.run / "test" / "vis", "val_predictions")
    content = read_plain(out)
    assert sorted(content["files"]) == ["mine.bbox.json", "mine.segm.json"]
    assert content["metrics"]["bbox_AP"] > 0, "otherwise the comparison says nothing"
    for kind in ("bbox", "segm"):
        ap = coco_ap(sets.coco["val"]["ANNOTATIONS"], out.with_name(f"mine.{kind}.json"), kind)
        assert content["metrics"][f"{kind}_AP"] == pytest.approx(ap, abs=1e-6)


def test_own_keypoints_are_trained_and_judged_with_own_sigmas(shell: Shell, sets: UserSets) -> None:
    sigmas = [0.5, 0.9, 0.9, 0.6, 0.6]  # large ones, so that two updates reach something
    words = [*use(train=sets.people["train"], val={**sets.people["val"], "SIGMAS": sigmas}), *KEYPOINT]
    words += [*classes(boxes=1, keypoints=5), "VIS.ENABLED=True"]
    check(shell.train(*words), 0, "5 keypoints, 2 pairs that change places in a mirror", "Finished")
    check_pictures(shell.run / "vis", "train_samples", "val_predictions")
    out = shell.folder / "mine.json"
    check(shell.test(*words, "--out", str(out)), 0, "keypoints_AP")
    ours = read_plain(out)["metrics"]["keypoints_AP"]
    assert ours > 0
    people = sets.people["val"]["ANNOTATIONS"]
    assert ours == pytest.approx(coco_ap(people, out.with_name("mine.keypoints.json"), "keypoints", sigmas), abs=1e-6)


def test_own_voc_folder_trains_and_is_judged_by_all_box_metrics(shell: Shell, sets: UserSets) -> None:
    metrics = ["bbox", "mAP", "recall", "proposal_fast"]
    words = [*use(**sets.cells), *classes(boxes=2), f"EVAL.METRICS={json.dumps(metrics)}", "VIS.ENABLED=True"]
    check(shell.train(*words), 0, "2 classes: RBC, WBC", "Finished: 2 updates done")
    check_pictures(shell.run / "vis", "train_samples", "val_predictions")
    out = shell.folder / "mine.json"
    check(shell.test(*words, "--out", str(out)), 0, "mAP", "recall@100@0.5", "bbox_AP", "AR100")
    content = read_plain(out)
    assert content["files"], "every evaluator left its files"
    assert all((shell.folder / name).exists() for name in content["files"])


def test_own_panoptic_set_trains_and_its_predictions_are_written(shell: Shell, sets: UserSets) -> None:
    words = [*use(**sets.rooms), *MASK, *SEMSEG, "MODEL.GLOBAL_HEAD.PANOSEG.TYPE=merge", *classes(boxes=18, semseg=18)]
    words += ["VIS.ENABLED=True"]
    check(shell.train(*words), 0, "PQ_things", "Finished")
    check_pictures(shell.run / "vis", "train_samples", "val_predictions", "val_panoptic", "val_semseg")
    check(shell.test(*words, "--eval-options", f"jsonfile_prefix={shell.folder / 'asked'}"), 0, "PQ_things")
    assert len(json.loads((shell.folder / "asked.panoptic.json").read_text())["annotations"]) == 4, "without --out, too"
    without = edited(sets.rooms["val"], shell.folder, lambda content: content.pop("annotations"))
    blind = [*words, *use(train=sets.rooms["train"], val={**without, "SEGMENTS": ""})]
    out = shell.folder / "mine.json"
    check(shell.test(*blind), 2, "val has no annotations", "PQ")
    check(shell.test(*blind, "EVAL.METRICS=()", "--out", str(out)), 0, "no metrics asked for")
    file = json.loads(out.with_name("mine.panoptic.json").read_text())
    assert len(file["annotations"]) == 4
    assert all((shell.folder / "mine.panoptic" / entry["file_name"]).exists() for entry in file["annotations"])


def test_test_set_without_annotations_gives_predictions_alone(shell: Shell, sets: UserSets) -> None:
    check(shell.train(*use(**sets.coco), *classes(boxes=2), "EVAL.ENABLED=False"), 0)
    hidden = edited(sets.coco["val"], shell.folder, lambda content: content.pop("annotations"))
    words = [*use(train=sets.coco["train"], val=hidden), *classes(boxes=2)]
    out = shell.folder / "mine.json"
    check(shell.test(*words), 2, "val has no annotations, so bbox cannot be computed", "--out FILE without --eval")
    check(shell.test(*words, "--out", str(out), "--eval", "bbox"), 2, "val has no annotations, so bbox cannot be computed")
    assert not out.exists()
    done = shell.test(*words, "--out", str(out))
    check(done, 0, "val has no annotations: writing predictions without metrics", "4 images, predictions only")
    assert read_plain(out)["metrics"] == {}
    found = COCO(sets.coco["val"]["ANNOTATIONS"]).loadRes(str(out.with_name("mine.bbox.json")))
    assert len(found.getImgIds()) == 4


# -------------------------------------------------------------------------------------------------------- every head


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param([], ["loss_cls", "bbox_AP"], id="faster"),
        pytest.param(["--amp"], ["Precision: bfloat16", "bbox_AP"], id="faster in bfloat16"),
        pytest.param(
            ["MODEL.ROI_HEAD.TYPE=cascade", "MODEL.ROI_HEAD.CASCADE.FC_DIM=32", *MASK],
            ["stage2_loss_cls", "segm_AP"],
            id="cascade",
        ),
        pytest.param(
            [*MASK, *KEYPOINT, *classes(keypoints=5)], ["loss_mask", "loss_keypoint", "keypoints_AP"], id="mask, keypoint"
        ),
        pytest.param(C4, ["loss_mask", "segm_AP"], id="C4 of resnet18"),
        pytest.param(NO_ROI, ["loss_objectness", "proposal_AR100"], id="rpn alone"),
        pytest.param(
            [*NO_ROI, f"{DET}.TYPE=retinanet", f"{DET}.RETINANET.{FOUR_LEVELS}"], ["loss_cls", "bbox_AP"], id="retinanet"
        ),
        pytest.param(
            [*NO_ROI, f"{DET}.TYPE=fcos", f"{DET}.FCOS.{FOUR_LEVELS}", "MODEL.NECK_OPTIONS={out_channels: 32}"],
            ["loss_ctrness", "bbox_AP"],
            id="fcos",
        ),
        pytest.param(SSD_LEVELS, ["loss_box_reg", "bbox_AP"], id="ssd"),
        pytest.param([*NO_DET, *SEMSEG, *classes(semseg=11)], ["mIoU"], id="semseg_fpn"),
        pytest.param([*WHOLE, "MODEL.GLOBAL_HEAD.SEMSEG.TYPE=fcn"], ["mIoU"], id="fcn"),
        pytest.param([*WHOLE, "MODEL.GLOBAL_HEAD.SEMSEG.TYPE=deeplabv3"], ["mIoU"], id="deeplabv3"),
        pytest.param(
            [*WHOLE, "MODEL.GLOBAL_HEAD.SEMSEG.TYPE=pspnet", "MODEL.GLOBAL_HEAD.SEMSEG.AUX.TYPE=fcn"],
            ["loss_aux", "mIoU"],
            id="pspnet, auxiliary head",
        ),
        pytest.param(
            [*STUFF, *MASK, *SEMSEG, "MODEL.GLOBAL_HEAD.PANOSEG.TYPE=merge", *classes(semseg=2)], ["PQ_stuff"], id="panoptic"
        ),
        pytest.param(["MODEL.GLOBAL_HEAD.CLS.TYPE=linear", *classes(image=10)], ["loss_image", "top1"], id="boxes and class"),
        pytest.param(
            [*PLAIN, *NO_DET, *NO_NECK, "MODEL.FEATURES=[]", "MODEL.GLOBAL_HEAD.CLS.TYPE=linear", *classes(image=10)],
            ["acc1", "top1", "top5"],
            id="class alone",
        ),
    ],
)
def test_every_head_trains_and_is_tested(words: Sequence[str], told: Sequence[str], shell: Shell) -> None:
    check(shell.train(*words), 0, *told, "Finished: 2 updates done")
    first = json.loads((shell.run / "metrics.json").read_text().splitlines()[0])
    losses = [value for name, value in first.items() if "loss" in name]
    assert losses
    assert all(map(math.isfinite, losses))
    check(shell.test(*[word for word in words if word != "--amp"]), 0, told[-1], "Results and pictures")


def test_ssd300_trains_at_its_size(shell: Shell) -> None:
    words = [*SSD_LEVELS[:4], "MODEL.BACKBONE=ssd_vgg16", "MODEL.BACKBONE_OPTIONS={}", "MODEL.FEATURES=[]"]
    words += ["TRAIN.RESIZE.SCALES=[[300,300]]", "TRAIN.RESIZE.SCALES_SAMPLING=force_size", "TRAIN.SIZE_DIVISIBILITY=0"]
    words += ["MODEL.PRETRAINED=False", "EVAL.ENABLED=False", "TRAIN.BATCH_SIZE=1", "SOLVER.SCHEDULER.TOTAL_ITERS=1"]
    check(shell.train(*words, "SOLVER.SNAPSHOT_EPOCHS=null"), 0, "loss_box_reg", "Finished: 1 updates done")


def test_pictures_of_a_classifier_tell_what_is_wrong(shell: Shell, shared_data: Path) -> None:
    root = shared_data / "classification" / "hymenoptera_224"
    mine = {"TYPE": "image_folder_dataset", "LIMIT": 6}
    words = use(train={**mine, "IMAGES": str(root / "train")}, val={**mine, "IMAGES": str(root / "val"), "SPLIT": "test"})
    words += [*NO_DET, *NO_NECK, "MODEL.FEATURES=[]", "MODEL.GLOBAL_HEAD.CLS.TYPE=linear", *classes(image=2)]
    check(shell.train(*words, "VIS.ENABLED=True"), 0, "top1", "Finished")
    check_pictures(shell.run / "vis", "train_samples", "val_classes")
    check(shell.test(*words, "--eval-options", "jsonfile_prefix=x"), 2, "jsonfile_prefix names files", "--out FILE")


# ----------------------------------------------------------------------------------------------------- two processes


@pytest.mark.distributed
def test_two_processes_train_and_their_test_is_that_of_one(shell: Shell, sets: UserSets) -> None:
    words = ["--cfg", str(shell.yaml), "--work-dir", str(shell.run), *use(**sets.coco), *classes(boxes=2), *MASK]
    first, second = run_script_ranks(2, ["tools/vision/train_net.py", *words])
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "2 processes on cpu" in first.stdout
    assert "Finished: 2 updates done" in first.stdout
    out = shell.folder / "two.json"
    first, second = run_script_ranks(2, ["tools/vision/test_net.py", *words, "--out", str(out)])
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    alone = shell.folder / "one.json"
    check(shell.test(*use(**sets.coco), *classes(boxes=2), *MASK, "--out", str(alone)), 0)
    one, two = read_plain(alone)["metrics"], read_plain(out)["metrics"]
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name


def experiment(sets: UserSets) -> CfgNode:
    """Every sample drawn in a way that could depend on the processes."""
    cfg = domain.get_base_cfg()
    cfg.merge_from_list(
        [
            *use(**sets.coco),
            "TRAIN.BATCH_SIZE=4",
            "TRAIN.TRANSFORMS=[mosaic,copy_paste,det_mixup,resize,random_horizontal_flip]",
            "TRAIN.MOSAIC.SIZE=[32,32]",
            "TRAIN.RESIZE.SCALES=[40,48]",
            "DATA.SAMPLER.TYPE=repeat_factor",
            "DATA.SAMPLER.ASPECT_RATIO_GROUPING=[1.0]",
            "DATA.LOADER_THREADS=0",
            "MODEL.NUM_CLASSES=2",
            f"{DET}.TYPE=rpn",
            "MODEL.FEATURES=[layer1]",
            "SOLVER.SCHEDULER.TOTAL_ITERS=5",
        ]
    )
    return domain.infer_cfg(cfg)


def samples(cfg: CfgNode, processes: int, monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Ids, boxes and masks of five updates, in the order of the whole batch."""
    updates: list[list[Any]] = [[] for _ in range(5)]
    for rank in range(processes):
        monkeypatch.setattr(build, "get_world_size", lambda: processes)
        monkeypatch.setattr(build, "get_rank", lambda rank=rank: rank)
        loader = domain.make_train_data_loader(cfg, domain.build_dataset(cfg))
        for update, (micro, *_) in zip(updates, loader, strict=False):
            for row, (height, width) in enumerate(micro.targets["sizes"]):
                masks = micro.targets["masks"][row][:, :height, :width]
                pixels = micro.images[row, :, :height, :width]
                update.append(
                    [int(micro.ids[row]), micro.targets["boxes"][row].tolist(), masks.sum().item(), pixels.sum().item()]
                )
    return updates


def test_two_processes_see_the_pictures_of_one(sets: UserSets, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = experiment(sets)
    alone, shared = samples(cfg, 1, monkeypatch), samples(cfg, 2, monkeypatch)
    assert alone == shared
    assert len({row[0] for update in alone for row in update}) == 4
