"""Checks before a training, one by one: each finding stands for itself, and the small run is the run of the config."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pet.config import CfgNode
from pet.engine import plan
from pet.engine.preflight import Preflight, check_run, small_config, table
from pet.solver.ema import build_ema
from pet.solver.lr_scheduler import LearningRateScheduler
from pet.solver.optimizer import Optimizer
from pet.tasks import cls as domain
from pet.utils.findings import FAIL, PASS, SKIP, WARN, Doubt, Finding, NeedsError, attempt

_SHAPES = {"TYPE": "shapes_dataset", "NUM_IMAGES": 24, "IMAGE_SIZE": 20}


def config(folder: Path, **values: object) -> CfgNode:
    cfg = domain.get_base_cfg()
    own = {
        "MISC.CKPT": str(folder / "run"),
        "MISC.DEVICE": "cpu",
        "DATA.CATALOG": {"a": _SHAPES, "b": {**_SHAPES, "NUM_IMAGES": 8}},
        "TRAIN.DATASETS": ("a",),
        "TEST.DATASETS": ("b",),
        "TRAIN.BATCH_SIZE": 8,
        "SOLVER.SCHEDULER.TOTAL_EPOCHS": 1,
        "MODEL.BACKBONE": "tests.faults.small_net.SmallNet",
        "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES": 10,
        **values,
    }
    for name, value in own.items():
        cfg.set(name, value, "test")
    domain.infer_cfg(cfg)
    cfg.freeze()
    return cfg


def run(cfg: CfgNode, folder: Path) -> dict[str, Finding]:
    (folder / "temporary").mkdir()
    preflight = Preflight(cfg, domain, folder / "temporary", Optimizer, LearningRateScheduler, build_ema)
    return {finding.name: finding for finding in preflight.run()}


# ------------------------------------------------------------------------------------------------------------ findings


def _raise(error: Exception) -> str:
    raise error


def test_a_finding_says_how_a_check_ended() -> None:
    assert attempt("a", lambda: "fine", "do it").result == PASS
    assert attempt("a", lambda: "fine", "do it").remedy == ""
    doubt = attempt("b", lambda: _raise(Doubt("odd")), "look at it")
    assert (doubt.result, doubt.text, doubt.remedy) == (WARN, "odd", "look at it")
    assert attempt("c", lambda: _raise(NeedsError("the model"))).result == SKIP
    for_users = attempt("d", lambda: _raise(KeyError("no such key")))
    assert (for_users.result, for_users.text) == (FAIL, "no such key")
    ours = attempt("e", lambda: _raise(AssertionError("broken")))
    assert "AssertionError: broken" in ours.text
    assert "test_preflight.py:" in ours.text


def test_the_table_keeps_lines_of_a_message_together() -> None:
    text = table([Finding("data", FAIL, "not there\nlook here", 1.25, "fetch it"), Finding("model", PASS, "fits")])
    header, first, second, remedy, last = text.splitlines()
    assert [first.split()[:3], last.split()[:2]] == [["data", "fail", "1.2"], ["model", "pass"]]
    column = header.index("found")
    assert [line[column:] for line in (first, second, remedy)] == ["not there", "look here", "-> fetch it"]


def test_a_failure_is_seen_on_the_process_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(result: str) -> tuple[int, str]:
        monkeypatch.setattr(Preflight, "meet", lambda self: [Finding("processes", result, "met at port 1")])
        status = check_run(cfg, args, domain, Optimizer, LearningRateScheduler, build_ema)
        return status, capsys.readouterr().out

    cfg, args = config(tmp_path), argparse.Namespace(launcher="none")
    monkeypatch.setenv("RANK", "1")
    assert told(PASS) == (0, "")
    status, text = told(FAIL)
    assert status == 1
    assert "[rank 1]" in text
    assert "met at port 1" in text


# ----------------------------------------------------------------------------------------------------------- a small run


def test_the_small_run_differs_in_nothing_that_the_model_sees(tmp_path: Path) -> None:
    cfg = config(tmp_path, **{"SOLVER.ACCUMULATE": 2})
    small = small_config(cfg, tmp_path, torch.device("cpu"))
    changed = {key for key in cfg.known_keys if cfg.value(key) != small.value(key)}
    allowed = {"MISC.CKPT", "DATA.LOADER_THREADS", "TRAIN.BATCH_SIZE", "SOLVER.ACCUMULATE", "TEST.IMS_PER_GPU", "VIS.ENABLED"}
    assert changed == allowed
    assert small.TRAIN.BATCH_SIZE == 2
    assert small_config(cfg, tmp_path, torch.device("meta")).TRAIN.BATCH_SIZE == 4  # all that a device computes at a time


def test_several_sets_are_read_one_by_one_and_together(tmp_path: Path) -> None:
    catalog = {"a": _SHAPES, "b": {**_SHAPES, "NUM_IMAGES": 8}, "c": {"TYPE": "image_folder_dataset", "IMAGES": "nowhere"}}
    found = run(config(tmp_path, **{"TRAIN.DATASETS": ("a", "c", "b"), "DATA.CATALOG": catalog}), tmp_path)
    names = ("train data a", "train data c", "train data b", "classes", "model", "update")
    assert [found[name].result for name in names] == [PASS, FAIL, PASS, FAIL, PASS, SKIP]
    assert "nowhere" in found["train data c"].text


def test_labels_of_a_test_set_are_compared_with_those_of_the_training(tmp_path: Path) -> None:
    def folder(split: str, *names: str, **more: object) -> dict[str, object]:
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            assert cv2.imwrite(str(tmp_path / split / name / "1.png"), np.full((20, 20, 3), 99, np.uint8))
        return {"TYPE": "image_folder_dataset", "IMAGES": str(tmp_path / split), **more}

    catalog = {"a": folder("a", "cat", "dog"), "b": folder("b", "cat", "dog", CLASSES=["dog", "cat"]), "c": folder("c", "1", "2")}
    for name, result, text in (("b", FAIL, "CLASSES: [cat, dog]"), ("c", WARN, "labels are compared by number"), ("a", PASS, "")):
        values = {"DATA.CATALOG": catalog, "TEST.DATASETS": (name,), "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES": 2}
        found = run(config(tmp_path, **values, **{"TRAIN.BATCH_SIZE": 2}), tmp_path)["classes"]
        assert found.result == result
        assert text in found.text
        shutil.rmtree(tmp_path / "temporary")


def test_where_processes_wait_for_every_gradient_a_missing_one_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    forgetful = {"MODEL.BACKBONE": "tests.tools.forgetful_net.ForgetfulNet"}
    found = run(config(tmp_path, **forgetful), tmp_path)["update"]
    assert found.result == FAIL
    assert "forgotten.weight" in found.text
    assert "MISC.FIND_UNUSED_PARAMETERS" in found.text
    shutil.rmtree(tmp_path / "temporary")
    assert run(config(tmp_path, **forgetful, **{"MISC.FIND_UNUSED_PARAMETERS": True}), tmp_path)["update"].result == WARN


def test_a_batch_that_processes_cannot_share_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    found = run(config(tmp_path), tmp_path)["config"]
    assert found.result == FAIL
    assert "multiple of 3" in found.text


def test_shared_memory_is_compared_with_what_the_workers_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage

    def usage(path: object) -> object:
        return real("/")._replace(free=9_000) if str(path) == "/dev/shm" else real("/")

    monkeypatch.setattr(shutil, "disk_usage", usage)
    # Four workers hold three batches each of eight pictures of 3 x 20 x 20 bytes: 115 kB, and labels.
    found = run(config(tmp_path, **{"DATA.LOADER_THREADS": 4}), tmp_path)["shared memory"]
    assert found.result == FAIL
    assert "--shm-size" in found.remedy


# -------------------------------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    ("keep", "epochs", "best", "files"),
    [
        pytest.param(2, 10, "", 3, id="two-and-the-one-being-written"),
        pytest.param(5, 10, "", 6, id="five"),
        pytest.param(5, 3, "", 3, id="fewer-than-kept"),
        pytest.param(0, 10, "", 10, id="all"),
        pytest.param(2, 10, "top1", 4, id="best"),
    ],
)
def test_checkpoints_on_the_disk_are_counted(tmp_path: Path, keep: int, epochs: int, best: str, files: int) -> None:
    cfg = config(tmp_path, **{"SOLVER.SNAPSHOT_KEEP": keep, "EVAL.BEST.METRIC": best})
    assert plan.planned_files(cfg, updates=7 * epochs, iter_per_epoch=7) == files


def test_a_scratch_folder_replaces_the_folder_and_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cfg = config(tmp_path)
    cfg.defrost()
    plan.use_scratch_folder(cfg)
    scratch = Path(cfg.MISC.CKPT)
    assert scratch.is_dir()
    assert "which is left as it is" in cfg.origin("MISC.CKPT")
    plan.remove_scratch_folders()
    assert not scratch.exists()
