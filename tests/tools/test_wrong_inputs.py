"""Typical mistakes: each ends with a message that says what is wrong, where, and what to do, and with the right status."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pet.engine import launch
from tests.helpers import fork_start, run_cli, run_script_ranks
from tests.shell import Ended, Shell, check

_YAML = """
MISC: {DEVICE: cpu, CUDNN: False, DISPLAY_ITER: 1}
ANALYSER: {ENABLED: False}
VIS: {ENABLED: False}
DATA:
  LOADER_THREADS: 0
  CATALOG:
    my_train: {TYPE: shapes_dataset, NUM_IMAGES: 40, IMAGE_SIZE: 20}
    my_val: {TYPE: shapes_dataset, NUM_IMAGES: 20, IMAGE_SIZE: 20}
TRAIN: {DATASETS: [my_train], BATCH_SIZE: 10}
TEST: {DATASETS: [my_val]}
SOLVER:
  OPTIMIZER: {BASE_LR: 0.05}
  SCHEDULER: {TOTAL_EPOCHS: 1}
MODEL:
  BACKBONE: tests.faults.small_net.SmallNet
  GLOBAL_HEAD: {CLS: {NUM_CLASSES: 10}}
"""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys, _YAML)


# ----------------------------------------------------------------------------------------------- the config is wrong


@pytest.mark.parametrize(
    ("before", "after", "texts"),
    [
        pytest.param(
            "  OPTIMIZER: {BASE",
            "  OPTIMISER: {BASE",
            ["SOLVER.OPTIMISER", "mine.yaml:13", "SOLVER.OPTIMIZER"],
            id="typo in a section",
        ),
        pytest.param(
            "BASE_LR: 0.05",
            "BASE_RL: 0.05",
            ["SOLVER.OPTIMIZER.BASE_RL", "mine.yaml:13", "SOLVER.OPTIMIZER.BASE_LR"],
            id="typo in a key",
        ),
        pytest.param(
            "BASE_LR: 0.05", "BASE_LR: fast", ["SOLVER.OPTIMIZER.BASE_LR", "mine.yaml:13", "'fast'", "float"], id="wrong type"
        ),
        pytest.param("BASE_LR: 0.05", "BASE_LR: -1", ["SOLVER.OPTIMIZER.BASE_LR", "mine.yaml:13", "above 0"], id="out of range"),
        pytest.param("MODEL:", "SOLVER: {}\nMODEL:", ["SOLVER", "mine.yaml:15", "twice"], id="duplicate key"),
        pytest.param("DISPLAY_ITER: 1}", "DISPLAY_ITER: 1", ["mine.yaml"], id="YAML syntax"),
        pytest.param("BATCH_SIZE: 10}", "BATCH_SIZE: 9}\nSOLVER_: {}", ["SOLVER_", "SOLVER"], id="unknown section"),
        pytest.param(
            "{TOTAL_EPOCHS: 1}",
            "{TOTAL_ITERS: 0}",
            ["SOLVER.SCHEDULER.TOTAL_EPOCHS", "SOLVER.SCHEDULER.TOTAL_ITERS"],
            id="no length",
        ),
        pytest.param("{TYPE: shapes_dataset, NUM_IMAGES: 40", "{NUM_IMAGES: 40", ["DATA.CATALOG.my_train", "TYPE"], id="no TYPE"),
    ],
)
def test_mistake_in_the_yaml_is_named_with_its_line(before: str, after: str, texts: Sequence[str], shell: Shell) -> None:
    assert before in _YAML
    shell.yaml.write_text(_YAML.replace(before, after))
    check(shell.train(), 2, *texts)
    assert not shell.run.exists(), "nothing was started"
    check(shell.launcher("--cfg", str(shell.yaml)), 2, *texts)


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        pytest.param(
            ["SOLVER.OPTIMIZER.BASE_RL", "0.1"],
            ["SOLVER.OPTIMIZER.BASE_RL", "command line", "SOLVER.OPTIMIZER.BASE_LR"],
            id="typo",
        ),
        pytest.param(
            ["SOLVER.OPTIMIZER.BASE_LR"], ["SOLVER.OPTIMIZER.BASE_LR (command line): has no VALUE"], id="KEY without VALUE"
        ),
        pytest.param(["MISC.DISPLAY_ITER=often"], ["MISC.DISPLAY_ITER", "command line", "int"], id="wrong type"),
        pytest.param(["--work_dir", "x"], ["--work_dir"], id="unknown flag"),
        pytest.param(
            ["SOLVER.ACCUMULATE", "3"],
            ["TRAIN.BATCH_SIZE", "SOLVER.ACCUMULATE", "9 or 12"],
            id="batch not divisible by ACCUMULATE",
        ),
        pytest.param(
            ["EVAL.EARLY_STOPPING.ENABLED", "True"], ["EVAL.EARLY_STOPPING", "EVAL.BEST.METRIC"], id="early stopping on nothing"
        ),
        pytest.param(["--auto-scale-lr"], ["SOLVER.BASE_BATCH_SIZE"], id="scaling from an unknown batch"),
        pytest.param(["MISC.DEVICE", "cuda"], ["MISC.DEVICE is cuda", "usable: cpu"], id="no GPU"),
    ],
)
def test_mistake_on_the_command_line_is_named(words: Sequence[str], texts: Sequence[str], shell: Shell) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    check(shell.train(*words), 2, *texts)


def test_all_mistakes_are_reported_at_once(shell: Shell) -> None:
    shell.yaml.write_text(_YAML.replace("BASE_LR: 0.05", "BASE_RL: 0.05").replace("BATCH_SIZE: 10", "BATCH_SIZE: ten"))
    check(shell.train("MISC.SEDE", "3"), 2, "SOLVER.OPTIMIZER.BASE_RL", "TRAIN.BATCH_SIZE", "MISC.SEDE")


def test_yaml_that_does_not_exist_names_the_nearest(shell: Shell) -> None:
    wrong = shell.yaml.with_name("mien.yaml")
    check(shell.script("tools/tasks/cls/train_net.py", "--cfg", str(wrong)), 2, "mien.yaml", "mine.yaml")
    check(shell.launcher("--cfg", str(wrong)), 2, "mien.yaml does not exist", "mine.yaml")


def test_python_file_is_no_config_and_is_not_executed(shell: Shell) -> None:
    code = shell.folder / "cfg.py"
    code.write_text(f"open({str(shell.folder / 'executed')!r}, 'w')")
    check(shell.script("tools/tasks/cls/train_net.py", "--cfg", str(code)), 2, "cfg.py", ".yaml")
    assert not (shell.folder / "executed").exists()


# ------------------------------------------------------------------------------------------------ the launcher refuses


def test_launcher_refuses_what_cannot_run(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "visible_gpus", list)
    cfg = ["--cfg", str(shell.yaml)]
    check(shell.launcher(*cfg, "--gpu_id", "0"), 2, "--gpu_id 0", "--nproc N")
    check(shell.launcher(*cfg, "--gpu_id", "zero"), 2, "--gpu_id is 'zero'", "0,1")
    check(shell.launcher(*cfg, "--nproc", "0"), 2, "--nproc is 0")
    check(shell.launcher(*cfg, "--nproc", "3"), 2, "TRAIN.BATCH_SIZE is 10", "3 processes", "e.g. 12")
    check(shell.launcher(*cfg, "--type", "task"), 2, "--type is 'task'", "Did you mean 'tasks'?")
    loose = shell.folder / "mine.yaml"
    loose.write_text(_YAML)
    check(shell.launcher("--cfg", str(loose)), 2, "tools/tasks/cls/train_net.py", "--type")


def test_port_in_use_is_named_before_anything_starts(shell: Shell) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        ended = shell.launcher("--cfg", str(shell.yaml), "--gpu_id", "cpu", "--nproc", "2", "--master-port", port)
    check(ended, 2, f"--master-port {port} cannot be used", "Address already in use", "free port")


# ------------------------------------------------------------------------------------------------- names and folders


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        pytest.param(
            ["MODEL.BACKBONE", "cifar_resnet_20"], ["'cifar_resnet_20'", "Did you mean 'cifar_resnet20'?"], id="backbone"
        ),
        pytest.param(["MODEL.BACKBONE", "torchvison/resnet18"], ["'torchvison'", "Did you mean 'torchvision'?"], id="library"),
        pytest.param(["TRAIN.DATASETS", "('my_trian',)"], ["my_trian", "Did you mean 'my_train'?"], id="data set"),
        pytest.param(
            ["TRAIN.TRANSFORMS", "('random_flip_horizontal',)"],
            ["random_flip_horizontal", "Known: ", "random_horizontal_flip"],
            id="transform",
        ),
        pytest.param(
            ["MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES", "5"],
            ["my_train", "labels 0 to 4", "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES"],
            id="too few classes",
        ),
        pytest.param(
            ["MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES", "12"],
            ["my_val has 10 classes", "12 outputs", "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES 10"],
            id="too many classes",
        ),
        pytest.param(["EVAL.METRICS", "('acuracy',)"], ["acuracy", "accuracy"], id="metric"),
        pytest.param(["EVAL.BEST.METRIC", "topp1"], ["EVAL.BEST.METRIC", "Did you mean 'top1'?", "my_val/top5"], id="best metric"),
        pytest.param(["EVAL.BEST.METRIC", "f1_score"], ["'f1_score', which no evaluation returns"], id="unmeasured metric"),
        pytest.param(["--autoscale-lr"], ["--autoscale-lr. Did you mean '--auto-scale-lr'?"], id="flag"),
        pytest.param(["SOLVER.OPTIMIZER.TYPE", "SDG"], ["SDG", "SGD"], id="optimizer"),
        pytest.param(["TRAIN.WEIGHTS", "nowhere.pth"], ["nowhere.pth", "does not exist"], id="weights file"),
        pytest.param(["--resume", "nowhere.pth"], ["nowhere.pth does not exist"], id="checkpoint"),
    ],
)
def test_name_that_does_not_exist_is_answered_with_what_does(words: Sequence[str], texts: Sequence[str], shell: Shell) -> None:
    ended = shell.train(*words)
    check(ended, 2, *texts)
    assert not list(shell.run.glob("model_*.pth"))


@pytest.mark.parametrize(
    ("entry", "texts"),
    [
        pytest.param('{"TYPE": "hooks.GradNorm"}', ["MISC.HOOKS[0]", "hooks.GradNorm", "PYTHONPATH"], id="module"),
        pytest.param(
            '{"TYPE": "tests.faults.hooks.RaiseOnLastRnk", "UPDATE": 1}',
            ["'RaiseOnLastRnk'", "Did you mean 'RaiseOnLastRank'?"],
            id="class",
        ),
        pytest.param(
            '{"TYPE": "tests.faults.hooks.RaiseOnLastRank", "UPDAET": 1}',
            ["takes no UPDAET", "Did you mean 'update'?"],
            id="argument",
        ),
        pytest.param('{"TYPE": "tests.faults.hooks.RaiseOnLastRank"}', ["RaiseOnLastRank needs UPDATE"], id="missing argument"),
        pytest.param(
            '{"TYPE": "tests.faults.hooks.MisspeltStage"}',
            ["MisspeltStage.after_stp is not a hook stage", "'after_step'"],
            id="misspelt stage",
        ),
        pytest.param('{"PERIOD": 3}', ["MISC.HOOKS", "has no TYPE"], id="no type"),
    ],
)
def test_wrong_hook_is_refused_before_the_training(entry: str, texts: Sequence[str], shell: Shell) -> None:
    check(shell.train(f"MISC.HOOKS=[{entry}]"), 2, *texts)
    assert not list(shell.run.glob("model_*.pth"))


def test_folder_of_the_run_that_cannot_be_used_is_refused_before_the_model_is_built(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was built")

    monkeypatch.setattr("pet.tasks.cls.model_builder.GeneralizedCNN.__init__", refuse)
    shell.run.write_text("a file, not a folder")
    check(shell.train(), 2, f"the folder of the run cannot be used: {shell.run}", "--work-dir")
    check(shell.train(run="/proc/nothing/here"), 2, "/proc/nothing/here", "--work-dir")
    if os.geteuid() != 0:
        closed = shell.folder / "closed"
        closed.mkdir(mode=0o500)
        check(shell.train(run=closed), 2, "Permission denied", "--work-dir")


# --------------------------------------------------------------------------------------------------------------- data


def picture_folder(root: Path, damage: Callable[[Path], None] = lambda path: None) -> list[str]:
    """Two classes with six pictures each, one of them damaged; the words that train on them."""
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for number in range(6):
            path = root / label / f"{number}.jpg"
            _, data = cv2.imencode(".jpg", np.full((20, 20, 3), 20 * number, np.uint8))
            path.write_bytes(data.tobytes())
    damage(root / "dog" / "3.jpg")
    catalog = {"pictures": {"TYPE": "image_folder_dataset", "IMAGES": str(root)}}
    names = ["TRAIN.DATASETS", "('pictures',)", "TEST.DATASETS", "('pictures',)"]
    return [f"DATA.CATALOG={json.dumps(catalog)}", *names, "TRAIN.BATCH_SIZE", "4", "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES", "2"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_data_folder_that_holds_no_pictures_is_named(kind: str, shell: Shell) -> None:
    root = shell.folder / "pictures"
    if kind == "file":
        root.write_text("not a folder")
    elif kind == "empty":
        root.mkdir()
    catalog = {"pictures": {"TYPE": "image_folder_dataset", "IMAGES": str(root)}}
    check(shell.train(f"DATA.CATALOG={json.dumps(catalog)}", "TRAIN.DATASETS", "('pictures',)"), 2, "pictures", str(root))


def test_corrupt_picture_stops_the_run_or_is_replaced(shell: Shell) -> None:
    words = [*picture_folder(shell.folder / "pictures", cut), "EVAL.ENABLED", "False"]
    ended = shell.train(*words, run=shell.folder / "raise")
    check(ended, 1, "error: cannot read image", "pictures/dog/3.jpg", "DATA.BAD_IMAGE replace", "Continue with: python")
    assert "Traceback (most" not in ended.text
    check(
        shell.train(*words, "DATA.BAD_IMAGE", "replace"),
        0,
        "pictures/dog/3.jpg",
        "another image takes its place",
        "Finished: 3 updates done",
    )


def test_full_check_lists_the_corrupt_picture_at_start(shell: Shell) -> None:
    words = picture_folder(shell.folder / "pictures", cut)
    check(
        shell.train(*words, "DATA.CHECK", "full", "DATA.BAD_IMAGE", "replace", "EVAL.ENABLED", "False"),
        0,
        "1 images cannot be read",
        "pictures/dog/3.jpg",
    )


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_that_do_not_fit_are_refused_with_the_way_out(shell: Shell) -> None:
    check(shell.train("--no-validate"), 0, "Finished: 4 updates done")
    before = (shell.run / "model_epoch1.pth").read_bytes()
    check(
        shell.train("MODEL.BACKBONE", "lenet5"),
        2,
        "model_epoch1.pth is a checkpoint of another architecture",
        "--work-dir",
        "--load-from",
    )
    file, other = str(shell.run / "model_epoch1.pth"), shell.folder / "other"
    few = ["MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES", "12"]
    check(
        shell.train("--load-from", file, *few, run=other),
        2,
        "does not fit the model",
        "global_head.cls.fc.{weight",
        "TRAIN.ALLOW_MISMATCH",
        "global_head.cls.fc.*",
    )
    check(
        shell.train("--load-from", file, *few, "TRAIN.ALLOW_MISMATCH", "('global_head.cls.fc.*',)", "--no-validate", run=other),
        0,
        "skipped 2",
    )
    weights = shell.folder / "weights.pth"
    torch.save(torch.load(file, weights_only=True)["model"], weights)
    check(shell.train("--resume", str(weights)), 2, "weights.pth has no", "--load-from")
    assert (shell.run / "model_epoch1.pth").read_bytes() == before


def test_damaged_checkpoint_is_passed_over_or_refused(shell: Shell) -> None:
    check(shell.train("--no-validate"), 0)
    file = shell.run / "model_epoch1.pth"
    file.write_bytes(file.read_bytes()[:-1])
    check(shell.train(), 2, "no checkpoint in", "does not match its checksum", "TRAIN.AUTO_RESUME False")
    check(shell.train("TRAIN.AUTO_RESUME", "False", "--no-validate"), 0, "held an earlier run", "Finished: 4 updates done")


# ----------------------------------------------------------------------------------------------------- while it trains


def test_loss_that_is_not_finite_ends_the_run_with_its_cause(shell: Shell) -> None:
    ended = shell.train("SOLVER.OPTIMIZER.BASE_LR", "1e30", "SOLVER.SCHEDULER.TOTAL_EPOCHS", "3", "--no-validate")
    check(
        ended,
        1,
        "FloatingPointError",
        "not finite",
        "SOLVER.OPTIMIZER.BASE_LR",
        "SOLVER.NON_FINITE.POLICY skip",
        "Continue with: python",
    )


@pytest.mark.distributed
def test_unusable_folder_on_two_processes_is_said_and_ends_both_with_2(shell: Shell) -> None:
    shell.run.write_text("a file, not a folder")
    first, second = run_script_ranks(2, ["tools/tasks/cls/train_net.py", "--cfg", shell.yaml, "--work-dir", shell.run])
    for rank in (first, second):
        check(Ended(rank.returncode, rank.stderr), 2, "the folder of the run cannot be used")
        assert "Traceback" not in rank.stderr


# ------------------------------------------------------------------------------------------------------------ testing


def test_mistakes_in_testing_are_named(shell: Shell) -> None:
    check(shell.test(), 2, "nothing to test", "model_best.pth", "model_latest.pth", "TEST.WEIGHTS")
    check(shell.train("--no-validate"), 0)
    check(shell.test("TEST.DATASETS", "()"), 2, "TEST.DATASETS is empty")
    check(shell.test("--out", str(shell.folder / "out.csv")), 2, "out.csv", ".json")
    check(shell.test("--metrics", "mAP"), 2, "mAP")
    check(shell.test("--metrics", "top3"), 2, "top3", "accuracy")
    check(shell.test("EVAL.BEST.METRIC", "top1", "EVAL.METRICS", "('precision',)"), 0, "my_val: precision")
    check(shell.test("TEST.WEIGHTS", str(shell.yaml)), 2, "mine.yaml", "cannot be read as a checkpoint")


@pytest.mark.parametrize(
    ("tool", "words", "texts"),
    [
        ("test_net.py", ["--eval", "acuracy"], ["EVAL.METRICS", "--eval", "Did you mean 'accuracy'?"]),
        ("test_net.py", ["--out", "found.jsn"], ["--out found.jsn", "one of .json", "Did you mean '.json'?"]),
        ("test_net.py", ["nowhere.pth"], ["CHECKPOINT: nowhere.pth does not exist"]),
        ("train_net.py", ["--resume-from", "{folder}/model_iter3.pth"], ["model_iter3.pth does not exist", "Did you mean 'model_iter30.pth'?"]),
        ("train_net.py", ["--check", "--dry-run"], ["--check tries every part", "give one of them"]),
    ],
    ids=["metric", "suffix", "checkpoint", "resume", "check and dry run"],
)  # fmt: skip
def test_the_launcher_refuses_by_itself_before_torch_is_needed(tool: str, words: list[str], texts: list[str], shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "launch", lambda *_: pytest.fail("the script was started"))
    (shell.folder / "model_iter30.pth").touch()
    ended = shell._ended(launch.main(["--cfg", str(shell.yaml), *(word.format(folder=shell.folder) for word in words)], tool))
    check(ended, 2, *texts)


def test_options_that_no_metric_reads_are_refused_by_name(shell: Shell) -> None:
    check(shell.train("--no-validate"), 0)
    check(shell.test("--eval", "precision", "--eval-options", "topk=3"), 2, "--eval-options topk changes nothing of precision", "accuracy")
    check(shell.test("--eval-options", "k=3"), 2, "--eval-options k changes nothing of accuracy", "CP")
    check(shell.test("--eval-options", "topk=3"), 0, "top3")
    check(shell.test("--eval-options", "tpk=3"), 2, "no option 'tpk'", "Did you mean 'topk'?")


def test_the_first_page_names_the_files_that_hold_the_config(shell: Shell) -> None:
    told = "config values differ from the defaults; "
    trained = shell.train("--no-validate")
    check(trained, 0)
    assert re.search(rf"{told}they are in \S+/log/train_\S+\.txt and in config\.yaml\n", trained.text)
    tested = shell.test()
    check(tested, 0)
    assert re.search(rf"{told}they are in \S+/log/test_\S+\.txt\n", tested.text)
    check(shell.train("--dry-run", run=shell.folder / "dry"), 0, f"{told}--explain KEY says where one was set")


def test_test_of_unlabelled_data_with_metrics_says_how_to_get_predictions(shell: Shell) -> None:
    pictures = picture_folder(shell.folder / "pictures")
    check(shell.train(*pictures, "--no-validate"), 0)
    names = shell.folder / "unlabelled.txt"
    names.write_text("\n".join(f"dog/{number}.jpg" for number in range(6)) + "\n")
    entry = {
        "TYPE": "image_folder_dataset",
        "IMAGES": str(shell.folder / "pictures"),
        "ANNOTATIONS": str(names),
        "CLASSES": ["cat", "dog"],
    }
    words = [*pictures, f"DATA.CATALOG={json.dumps({'bare': entry})}", "TEST.DATASETS", "('bare',)"]
    out = shell.folder / "out.json"
    check(shell.test(*words), 2, "6 of 6 images have no label", "EVAL.METRICS ()", "--out FILE")
    check(shell.test(*words, "--out", str(out)), 0, "writing predictions without metrics")
    assert len(json.loads(out.read_text())["pred_label"]) == 6


# ------------------------------------------------------------------------------------- the same in real processes


def test_statuses_of_real_processes(shell: Shell) -> None:
    script = ["tools/tasks/cls/train_net.py", "--cfg", shell.yaml, "--work-dir", shell.run, "--no-validate"]
    diverges = ["SOLVER.OPTIMIZER.BASE_LR", "1e30", "SOLVER.SCHEDULER.TOTAL_EPOCHS", "2"]
    assert run_cli([*script, *diverges], start=fork_start).returncode == 1
    refused = run_cli([*script, "MODEL.BACKBONE", "lenet"], start=fork_start)
    check(Ended(refused.returncode, refused.stderr), 2, "lenet", "Did you mean 'lenet5'?", "Nothing was started")
    assert "Traceback (most recent call last)" not in refused.stderr
    assert run_cli(script, start=fork_start).returncode == 0
