"""Commands as the guides of MMOCR, MMDetection and MMClassification print them, and the mistakes in these guides."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from pet.engine import launch
from pet.evaluation import read_plain
from tests.helpers import run_script_ranks
from tests.shell import Ended, Shell, check
from tests.user_sets import MASK, TINY, classes, coco_set, edited, use

RETINANET = "cfgs/vision/COCO/retinanet_R-50-FPN_1x.yaml"
TRAIN, TEST = "tools/train.py", "tools/test.py"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Starts ``tools/train.py`` and ``tools/test.py`` in this process, whose environment they would change."""
    monkeypatch.setattr(launch, "prepare_environment", lambda plan: None)
    monkeypatch.setattr(launch, "visible_gpus", list)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PET_COMMAND", "")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return Shell(tmp_path, monkeypatch, capsys, TINY, "vision")


# --------------------------------------------------------------------------------------------- names of other tool boxes


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("configs/faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py", "cfgs/vision/COCO/e2e_faster_rcnn_R-50-FPN_1x.yaml"),
        ("configs/mask_rcnn_r50_fpn_1x_coco.py", "cfgs/vision/COCO/e2e_mask_rcnn_R-50-FPN_1x.yaml"),
        ("configs/pascal_voc/faster_rcnn_r50_fpn_1x_voc.py", "cfgs/vision/VOC/e2e_faster_rcnn_R-50-FPN_voc0712.yaml"),
        ("configs/cityscapes/mask_rcnn_r50_fpn_1x_cityscapes.py", "cfgs/vision/Cityscapes/e2e_mask_rcnn_R-50-FPN.yaml"),
        ("configs/imagenet/resnet50_batch256.py", "cfgs/tasks/cls/ImageNet/resnet50.yaml"),
        ("configs/resnet/resnet50_8xb32_in1k.py", "cfgs/tasks/cls/ImageNet/resnet50.yaml"),
        ("configs/lenet/lenet5_mnist.py", "cfgs/tasks/cls/MNIST/lenet5.yaml"),
        ("configs/retinanet/retinanet_r101_fpn_1x_coco.yaml", "cfgs/vision/COCO/retinanet_R-101-FPN_1x.yaml"),
    ],
)
def test_config_of_another_tool_box_is_answered_with_ours(name: str, ours: str, shell: Shell) -> None:
    ended = shell.script(TRAIN, name)
    check(ended, 2, "Pet reads YAML" if name.endswith(".py") else "does not exist", "Did you mean:\n  " + ours)


@pytest.mark.parametrize("name", ["configs/textrecog/crnn/crnn_academic_dataset.py", "configs/textdet/dbnet/dbnet_r50dcnv2_x.py"])
def test_config_of_a_model_pet_does_not_have_is_answered_with_no_nonsense(name: str, shell: Shell) -> None:
    ended = shell.script(TEST, name, "x.pth")
    check(ended, 2, "Pet reads YAML", "docs/model_zoo.md")
    assert "Did you mean" not in ended.text


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("data.samples_per_gpu=2", "TRAIN.BATCH_SIZE"),
        ("train_dataloader.batch_size=2", "TRAIN.BATCH_SIZE"),
        ("data.test.samples_per_gpu=2", "TEST.IMS_PER_GPU"),
        ("optimizer.lr=0.01", "SOLVER.OPTIMIZER.BASE_LR"),
        ("optim_wrapper.optimizer.lr=0.01", "SOLVER.OPTIMIZER.BASE_LR"),
        ("runner.max_epochs=12", "SOLVER.SCHEDULER.TOTAL_EPOCHS"),
        ("total_epochs=12", "SOLVER.SCHEDULER.TOTAL_EPOCHS"),
        ("evaluation.interval=12", "EVAL.PERIOD_EPOCHS"),
        ("work_dir=x", "--work-dir"),
        ("load_from=x.pth", "--load-from"),
        ("resume_from=x.pth", "--resume"),
        ("dist_params.backend=gloo", "--master-port"),
        ("model.pretrained=None", "MODEL.PRETRAINED"),
        ("log_config.interval=10", "MISC.DISPLAY_ITER"),
        ("checkpoint_config.interval=1", "SOLVER.SNAPSHOT_EPOCHS"),
        ("auto_scale_lr.base_batch_size=16", "SOLVER.BASE_BATCH_SIZE"),
    ],
)
def test_key_of_another_tool_box_is_answered_with_ours(word: str, ours: str, shell: Shell) -> None:
    for flag in ("--cfg-options", "--options"):
        check(
            shell.script(TRAIN, RETINANET, flag, word),
            2,
            word.partition("=")[0],
            f"OpenMMLab's configs; in Pet: {ours}"[:24],
            ours,
        )


@pytest.mark.parametrize("script", [TRAIN, TEST])
@pytest.mark.parametrize("word", ["dist_params.port=29500", "env_cfg.dist_cfg.port=29500"])
def test_port_of_a_slurm_guide_is_that_of_the_launcher(
    script: str, word: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = shell.folder / "x.pth"
    checkpoint.touch()
    words = [str(checkpoint)] if script == TEST else []
    plans: list[launch.Plan] = []
    monkeypatch.setattr(launch, "launch", lambda script, arguments, plan: plans.append(plan) or 0)
    monkeypatch.setattr(launch, "check_port", lambda plan: None)
    for flag in ("--options", "--cfg-options"):
        check(shell.script(script, RETINANET, *words, "--nproc", "2", flag, word), 0)
    assert [plan.master_port for plan in plans] == [29500] * 2


# ----------------------------------------------------------------------------------------------------- wrong commands


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        pytest.param([RETINANET, "4", "--resume"], ["'4' after the config", "--nproc 4", "--gpu_id 0,1,2,3"], id="4 --resume"),
        pytest.param([RETINANET, "4", "--amp"], ["'4' after the config", "dist_train.sh"], id="4 --amp"),
        pytest.param([RETINANET, "4", "--auto-scale-lr"], ["'4' after the config"], id="4 --auto-scale-lr"),
        pytest.param([], ["CONFIG is missing"], id="no config"),
        pytest.param([RETINANET, "--auto-scale-rl"], ["Did you mean '--auto-scale-lr'?"], id="flag"),
        pytest.param([RETINANET, "--launcher", "slrum"], ["--launcher", "'slrum'", "slurm"], id="launcher"),
        pytest.param([RETINANET, "--gpus", "2", "--device", "cpu"], ["--gpus and --device exclude one another"], id="devices"),
        pytest.param([RETINANET, "--gpus", "0"], ["--gpus is 0"], id="no GPU"),
        pytest.param(
            [RETINANET, "--gpu-ids", "0", "SOLVER.X", "1"], ["SOLVER.X", "no such key"], id="overrides behind --gpu-ids"
        ),
        pytest.param([RETINANET, "--gpu-id", "0"], ["no GPU here", "--nproc N"], id="GPU on a machine without"),
        pytest.param([RETINANET, "--launcher", "slurm", "--nproc", "2"], ["another launcher started"], id="two launchers"),
        pytest.param([RETINANET, "--nproc", "2", "--master-port", "70000"], ["--master-port is 70000", "1 to 65535"], id="port"),
        pytest.param([RETINANET, "--resume-from", "a.pth", "--load-from", "b.pth"], ["a.pth", "b.pth", "leave one"], id="two starts"),
        pytest.param([RETINANET, "--auto-scale-lr", "SOLVER.BASE_BATCH_SIZE", "x"], ["SOLVER.BASE_BATCH_SIZE"], id="base batch"),
    ],
)
def test_wrong_training_command_is_answered_with_the_right_one(words: Sequence[str], texts: Sequence[str], shell: Shell) -> None:
    if "--auto-scale-rl" in words:  # the script of a domain may have flags of its own, so it decides
        words = ["--cfg", *words]
        check(shell.script("tools/vision/train_net.py", *words), 2, *texts)
    else:
        check(shell.script(TRAIN, *words), 2, *texts)


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        pytest.param(["8"], ["'8' after the config"], id="8"),
        pytest.param(["x.pth", "8", "--eval", "bbox"], ["'8' after the config"], id="x.pth 8"),
        pytest.param(
            ["x.pth", "--format-only", "--options", "prefix"],
            ["takes KEY=VALUE, not 'prefix'", "jsonfile_prefix=prefix"],
            id="bare value",
        ),
        pytest.param(
            ["x.pth", "--eval-options", "clswise=True"],
            ["no option 'clswise'", "Did you mean 'classwise'?", "proposal_nums"],
            id="typo",
        ),
        pytest.param(
            ["x.pth", "--options", "classwise=True", "--eval-options", "topk=1"], ["give --eval-options only"], id="both options"
        ),
        pytest.param(["x.pth", "--eval-options", "average_mode=none"], ["average_mode", "Allowed here"], id="of classification"),
        pytest.param(["x.pth", "--eval-options", "iou_thrs=2"], ["EVAL.VOC_IOUS", "--eval-options iou_thrs"], id="value"),
        pytest.param(["x.pth", "--eval", "bbox", "--format-only"], ["--format-only computes no metrics"], id="eval and format"),
        pytest.param(["x.pth", "--show"], ["--show: no window", "--show-dir DIR"], id="no display"),
        pytest.param(["x.pth", "--out", "a.pkl", "--save-preds"], ["--save-preds and --out a.pkl", "leave one"], id="two files"),
        pytest.param(["x.pth", "--wait-time", "-1"], ["--wait-time is -1", "at least 0"], id="wait"),
        pytest.param(["x.pth", "--show-score-thr", "30"], ["--show-score-thr is 30", "between 0 and 1"], id="threshold"),
    ],
)
def test_wrong_test_command_is_answered_with_the_right_one(words: Sequence[str], texts: Sequence[str], shell: Shell) -> None:
    check(shell.script(TEST, RETINANET, *words), 2, *texts)


def test_flag_with_one_dash_is_answered_with_two(shell: Shell) -> None:
    ended = shell.script("tools/vision/test_net.py", RETINANET, "x.pth", "-format-only", "--options", "jsonfile_prefix=x")
    check(ended, 2, "-format-only", "Did you mean '--format-only'?")


def test_checkpoint_that_is_not_there_is_named(shell: Shell) -> None:
    check(shell.script(TEST, str(shell.yaml), "nowhere.pth"), 2, "CHECKPOINT: nowhere.pth does not exist")
    assert not shell.run.exists()


def test_windows_are_of_one_process(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pet.engine.arguments.require_display", lambda instead: None)
    (shell.folder / "x.pth").touch()
    check(shell.script(TEST, RETINANET, str(shell.folder / "x.pth"), "--show", "--nproc", "2"), 2, "--show is for one process", "--show-dir DIR")


@pytest.mark.parametrize("words", [["--gpus", "2"], ["--gpu-ids", "0", "1"], ["--gpu_id", "0,1"], ["--gpu-id=0,1"]])
def test_all_spellings_choose_the_same_gpus(words: Sequence[str], shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[launch.Plan] = []
    monkeypatch.setattr(launch, "visible_gpus", lambda: ["0", "1", "2"])
    monkeypatch.setattr(launch, "launch", lambda script, arguments, plan: plans.append(plan) or 0)
    for place in (0, 1):
        check(shell.script(TRAIN, *words[: place * len(words)], RETINANET, *words[place * len(words) :]), 0)
    assert [(plan.nproc, plan.gpus) for plan in plans] == [(2, ("0", "1"))] * 2


def test_process_of_another_launcher_starts_no_others(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[launch.Plan] = []
    monkeypatch.setattr(launch, "visible_gpus", lambda: ["0", "1"])
    monkeypatch.setattr(launch, "launch", lambda script, arguments, plan: plans.append(plan) or 0)
    check(shell.script(TRAIN, "--local-rank=1", RETINANET, "--launcher", "slurm"), 0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check(shell.script(TEST, RETINANET), 0)
    assert plans == [launch.Plan(), launch.Plan()]


@pytest.mark.parametrize(("script", "flags"), [(TRAIN, ["--auto-scale-lr", "--gpu_id"]), (TEST, ["--show-dir", "--gpu_id"])])
def test_help_explains_all_flags(script: str, flags: Sequence[str], shell: Shell) -> None:
    check(shell.script(script, "--help"), 0, "CONFIG", "KEY VALUE", "--cfg-options", "Exit status", *flags)


# ------------------------------------------------------------------------------------------------------ learning rate


@pytest.mark.parametrize(
    ("batch", "accumulate", "told"),
    [
        pytest.param(64, 1, "BASE_LR 0.01 x 64 / 16 = 0.04", id="four times"),
        pytest.param(64, 4, "BASE_LR 0.01 x 64 / 16 = 0.04", id="the same in four parts"),
        pytest.param(4, 1, "BASE_LR 0.01 x 4 / 16 = 0.0025", id="a quarter"),
    ],
)
def test_auto_scale_lr_prints_its_arithmetic(batch: int, accumulate: int, told: str, shell: Shell) -> None:
    base = ["SOLVER.OPTIMIZER.BASE_LR=0.01", f"TRAIN.BATCH_SIZE={batch}", f"SOLVER.ACCUMULATE={accumulate}"]
    words = [*base, "SOLVER.BASE_BATCH_SIZE=16", "--auto-scale-lr", "--explain", "SOLVER.OPTIMIZER.BASE_LR"]
    ended = shell.script("tools/vision/train_net.py", str(shell.yaml), *words)
    check(ended, 0, f"SOLVER.OPTIMIZER.BASE_LR = {told.rpartition(' ')[2]}", told)


def test_scaled_rate_is_on_the_first_page_of_the_log_and_needs_a_base(shell: Shell) -> None:
    words = [str(shell.yaml), "--auto-scale-lr", "--work-dir", str(shell.run), "--no-validate"]
    check(shell.script(TRAIN, *words), 2, "--auto-scale-lr needs SOLVER.BASE_BATCH_SIZE")
    check(shell.script(TRAIN, *words, "SOLVER.BASE_BATCH_SIZE", "8"), 0, "BASE_LR 0.005 x 2 / 8 = 0.00125", "lr 0.00125")


# -------------------------------------------------------------------------------------------------------------- a run


class Guide:
    """A user who follows a guide: one config, one checkpoint, words that name the data."""

    def __init__(self, shell: Shell, data: dict[str, dict[str, Any]]) -> None:
        self.shell, self.data = shell, data
        self.words = [*use(**data), *classes(boxes=2), *MASK]
        self.checkpoint = shell.run / "model_latest.pth"

    def train(self, *words: str) -> Ended:
        return self.shell.script(TRAIN, str(self.shell.yaml), "--work-dir", str(self.shell.run), *words, "--options", *self.words)

    def test(self, *words: str) -> Ended:
        head = [str(self.shell.yaml), str(self.checkpoint), "--work-dir", str(self.shell.run), "--cfg-options", *self.words]
        return self.shell.script(TEST, *head, *words)

    def offline(self, *words: str) -> Ended:
        return self.shell.script("tools/offline_eval.py", str(self.shell.yaml), *words, "--cfg-options", *self.words)


def nested(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same pictures, all called 1.jpg, in sub-folders."""

    def move(content: dict[str, Any]) -> None:
        for image in content["images"]:
            (folder / str(image["id"])).mkdir(parents=True)
            (folder / str(image["id"]) / "1.jpg").symlink_to(Path(entry["IMAGES"]) / image["file_name"])
            image["file_name"] = f"{image['id']}/1.jpg"

    return {**edited(entry, folder, move), "IMAGES": str(folder)}


@pytest.fixture
def guide(shell: Shell, shared_data: Path) -> Guide:
    """A detector that learnt its four pictures a little."""
    folder = shell.folder / "coco"
    data = {split: coco_set(shared_data, folder, split, names=("person", "car")) for split in ("train", "val")}
    (shell.folder / "nested").mkdir()
    data["val"] = nested(data["val"], shell.folder / "nested")
    guide = Guide(shell, data)
    check(guide.train("--no-validate", "--seed", "1", "SOLVER.OPTIMIZER.BASE_LR=0.02"), 0, "Finished: 2 updates done")
    return guide


def printed(ended: Ended) -> str:
    """The line of results."""
    return re.findall(r"^(?:\d\d:\d\d:\d\d )?(val: .*)$", ended.text, re.MULTILINE)[-1]


def test_guide_of_mmdetection_from_training_to_offline_evaluation(guide: Guide) -> None:
    out, pictures = guide.shell.folder / "results.pkl", guide.shell.folder / "pictures"
    ended = guide.test(
        *("--out", str(out), "--eval", "bbox", "segm", "mAP", "--options", "classwise=True", "iou_thrs=0.1"),
        *("--show-dir", str(pictures), "--show-score-thr", "0.0", "--gpu-collect", "--tmpdir", "x"),
    )
    check(ended, 0, "bbox_AP", "segm_AP", "AP10", "my person", "results.segm.json")
    metrics = json.loads((guide.shell.run / "test" / "metrics.json").read_text())
    assert metrics["weights"] == str(guide.checkpoint)
    assert metrics["eval"]["val/AP10"] > 0, "otherwise the comparison says nothing"
    assert len(read_plain(out)["predictions"]) == 4

    unread = guide.test("--eval", "bbox", "--eval-options", "iou_thrs=0.1", "proposal_nums=7")
    check(unread, 2, "--eval-options iou_thrs changes nothing of bbox; it is for mAP, recall")
    again = guide.offline(str(out), "--metrics", "bbox", "segm", "mAP", "--eval-options", "iou_thrs=0.1")
    check(again, 0, printed(ended))
    check(guide.offline(str(out), "--eval-options", "metric_items=[mAP_50]"), 0, "val: bbox_AP50", "segm_AP50")
    found = COCO(guide.data["val"]["ANNOTATIONS"]).loadRes(str(out.with_name("results.segm.json")))
    assert len(found.getImgIds()) == 4

    files = sorted(pictures.iterdir())
    assert len(files) == 4, "one picture for each image, though all are called 1.jpg"
    all_shown, none_shown = cv2.imread(str(files[0])), guide.shell.folder / "none"
    check(guide.test("--show-dir", str(none_shown), "--show-score-thr", "1.0", "--eval", "bbox"), 0)
    half = all_shown.shape[1] // 2
    difference = np.abs(all_shown.astype(int) - cv2.imread(str(none_shown / files[0].name)))
    assert not difference[:, : half - 4].any(), "the truth is the same"
    assert difference[:, half + 4 :].any(), "predictions below the threshold are not drawn"


def test_images_without_annotations_are_only_formatted(guide: Guide) -> None:
    hidden = edited(guide.data["val"], guide.shell.folder, lambda content: content.pop("annotations"))
    guide.words = [*use(train=guide.data["train"], val=hidden), *guide.words[3:]]
    ended = guide.test("--eval", "bbox")
    check(ended, 2, "val has no annotations, so bbox cannot be computed", "--format-only")
    assert "Testing the weights" not in ended.text, "refused before the model was loaded"
    prefix = guide.shell.folder / "sub" / "test-dev"
    check(guide.test("--format-only", "--options", f"jsonfile_prefix={prefix}"), 0, "no metrics asked for", "test-dev.bbox.json")
    assert sorted(path.name for path in prefix.parent.iterdir()) == ["test-dev.bbox.json", "test-dev.segm.json"]
    ended = guide.test("--format-only", "--options", f"txtfile_prefix={guide.shell.folder / 'texts'}")
    check(ended, 2, "txtfile_prefix", "only the metric cityscapes writes")
    assert "Testing the weights" not in ended.text, "refused before the model was loaded"
    written = guide.test(
        "--format-only", "--eval-options", f"txtfile_prefix={guide.shell.folder / 'texts'}", "EVAL.METRICS=[bbox,cityscapes]"
    )
    check(written, 0, "4 images, predictions only", "predictions.bbox.json")
    assert written.text.count("predictions only") == 1
    assert len(list((guide.shell.folder / "texts").glob("*_pred.txt"))) == 4
    assert not list(guide.shell.folder.glob("texts.*")), "other files are where they are without the option"
    assert not (guide.shell.run / "test" / "metrics.json").exists()


def test_save_preds_takes_the_name_of_the_checkpoint_and_fusing_changes_nothing(guide: Guide) -> None:
    plain = guide.test("--save-preds")
    file = guide.shell.run / "test" / "model_latest_predictions.pkl"
    before = read_plain(file)["predictions"]
    fused = guide.test("--save-preds", "--fuse-conv-bn")
    check(fused, 0, "batch normalisations folded into convolutions")
    after = read_plain(file)["predictions"]
    assert [len(row["instances"]["scores"]) for row in after] == [len(row["instances"]["scores"]) for row in before]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one["instances"]["scores"], other["instances"]["scores"], atol=1e-4)
    check(plain, 0, "model_latest_predictions.pkl")


def test_windows_show_every_picture_until_q(guide: Guide, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[np.ndarray, int]] = []
    answers = iter([False, True])

    def show(title: str, picture: np.ndarray, wait_ms: int) -> bool:
        shown.append((picture, wait_ms))
        return next(answers)

    monkeypatch.setattr("pet.engine.arguments.require_display", lambda instead: None)
    monkeypatch.setattr("pet.visualization.gallery.show_picture", show)
    monkeypatch.setattr("pet.visualization.gallery.close_windows", lambda: None)
    check(guide.test("--show", "--wait-time", "0.5", "--eval", "bbox"), 0, "bbox_AP")
    assert [wait for _, wait in shown] == [500, 500], "q in the second window ends it"
    assert all(picture.std() > 10 for picture, _ in shown)


@pytest.mark.distributed
def test_two_processes_write_one_picture_for_each_image(guide: Guide) -> None:
    folder = guide.shell.folder / "two"
    words = [str(guide.shell.yaml), str(guide.checkpoint), "--work-dir", str(guide.shell.run), *guide.words]
    first, second = run_script_ranks(2, ["tools/vision/test_net.py", *words, "--show-dir", str(folder), "--eval", "bbox"])
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "2 processes on cpu" in first.stdout
    assert len(list(folder.iterdir())) == 4
