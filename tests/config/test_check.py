"""Completing and checking a config: what is inferred, and the rules between keys."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pet.config import CfgNode, ConfigError, Problem, check_cfg, get_base_cfg, infer_cfg
from pet.config.check import path_under_cfgs


def finished(*words: str) -> CfgNode:
    """A config of ten epochs, with overrides."""
    cfg = get_base_cfg()
    cfg.merge_from_list(["SOLVER.SCHEDULER.TOTAL_EPOCHS", "10", *words])
    return infer_cfg(cfg)


def problems(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        finished(*words)
    return [problem.key for problem in caught.value.problems]


# ---- what is inferred


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("cfgs/tasks/cls/MNIST/lenet5.yaml", "ckpts/tasks/cls/MNIST/lenet5"),
        ("/some/where/cfgs/vision/COCO/r50.v2.yaml", "ckpts/vision/COCO/r50.v2"),
        ("/cfgs/vision/repository/cfgs/tasks/cls/x.yml", "ckpts/tasks/cls/x"),
        ("cfgs/projects/p/cfgs/x.yaml", "ckpts/projects/p/cfgs/x"),
        ("somewhere/../cfgs/tasks/cls/x.yaml", "ckpts/tasks/cls/x"),
        ("my_cfgs/x.yaml", "ckpts/x"),
        ("x.yaml", "ckpts/x"),
    ],
)
def test_the_folder_of_the_run_follows_from_the_path(path, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = get_base_cfg()
    cfg.merge_from_list(["SOLVER.SCHEDULER.TOTAL_EPOCHS=1"])
    assert infer_cfg(cfg, path).value("MISC.CKPT") == folder
    assert cfg.origin("MISC.CKPT") == f"inferred: from the name of {path}"


def test_a_given_folder_stays_and_inferring_twice_changes_nothing(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("MISC: {CKPT: here}\nSOLVER: {SCHEDULER: {TOTAL_EPOCHS: 1}}")
    cfg = get_base_cfg()
    cfg.merge_from_file(path)
    before = infer_cfg(cfg).clone()
    assert infer_cfg(cfg) == before
    assert cfg.MISC.CKPT == "here"


def test_the_file_merged_last_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("SOLVER: {SCHEDULER: {TOTAL_EPOCHS: 1}}")
    cfg = get_base_cfg()
    cfg.merge_from_file("run.yaml")
    assert infer_cfg(cfg).MISC.CKPT == "ckpts/run"


def test_a_path_without_cfgs_lies_under_none():
    assert path_under_cfgs("/a/b/c.yaml") is None


def test_a_period_in_updates_replaces_the_default_one_in_epochs():
    cfg = finished("EVAL.PERIOD_ITERS", "50", "SOLVER.SNAPSHOT_ITER", "100")
    assert (cfg.EVAL.PERIOD_EPOCHS, cfg.SOLVER.SNAPSHOT_EPOCHS) == (None, None)
    assert cfg.origin("EVAL.PERIOD_EPOCHS") == "inferred: EVAL.PERIOD_ITERS is set"
    assert finished().EVAL.PERIOD_EPOCHS == 1


def test_a_length_in_updates_without_effect_is_a_problem():
    assert problems("SOLVER.SCHEDULER.TOTAL_ITERS", "20") == ["SOLVER.SCHEDULER.TOTAL_ITERS"]
    assert problems("EVAL.PERIOD_EPOCHS", "2", "EVAL.PERIOD_ITERS", "20") == ["EVAL.PERIOD_ITERS"]
    finished("SOLVER.SCHEDULER.TOTAL_ITERS", "20", "SOLVER.SCHEDULER.TOTAL_EPOCHS", "None")


# ---- rules between keys


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("SOLVER.SCHEDULER.TOTAL_EPOCHS None", "SOLVER.SCHEDULER.TOTAL_EPOCHS"),
        ("TRAIN.BATCH_SIZE 32 SOLVER.ACCUMULATE 3", "TRAIN.BATCH_SIZE"),
        ("SOLVER.SCHEDULER.STEPS 5,10", "SOLVER.SCHEDULER.STEPS"),
        ("SOLVER.SCHEDULER.STEPS 5,12", "SOLVER.SCHEDULER.STEPS"),
        ("SOLVER.SCHEDULER.STEPS 8,5", "SOLVER.SCHEDULER.STEPS"),
        ("SOLVER.SCHEDULER.STEPS 0,5", "SOLVER.SCHEDULER.STEPS"),
        ("SOLVER.SCHEDULER.POLICY STEP_COSINE SOLVER.SCHEDULER.STEPS 10,", "SOLVER.SCHEDULER.STEPS"),
        (
            "SOLVER.SCHEDULER.TOTAL_EPOCHS None SOLVER.SCHEDULER.TOTAL_ITERS 100 SOLVER.SCHEDULER.STEPS 50,100",
            "SOLVER.SCHEDULER.STEPS",
        ),
        ("SOLVER.SCHEDULER.WARM_UP_EPOCHS 10", "SOLVER.SCHEDULER.WARM_UP_EPOCHS"),
        (
            "SOLVER.SCHEDULER.TOTAL_EPOCHS None SOLVER.SCHEDULER.TOTAL_ITERS 100 SOLVER.SCHEDULER.WARM_UP_ITERS 500",
            "SOLVER.SCHEDULER.WARM_UP_ITERS",
        ),
        ("EVAL.EARLY_STOPPING.ENABLED true", "EVAL.EARLY_STOPPING.ENABLED"),
        ("EVAL.EARLY_STOPPING.ENABLED true EVAL.BEST.METRIC top1 EVAL.ENABLED false", "EVAL.EARLY_STOPPING.ENABLED"),
        ("DATA.FORMAT.IMAGE bgr255", "DATA.PIXEL_MEAN"),
        ("DATA.PIXEL_MEAN (123.7,116.3,103.5)", "DATA.PIXEL_MEAN"),
        ("TRAIN.RANDOM_RESIZED_CROP.SCALE (1.0,0.5)", "TRAIN.RANDOM_RESIZED_CROP.SCALE"),
        ("TRAIN.RESIZE.SCALES ()", "TRAIN.RESIZE.SCALES"),
        ("TRAIN.RESIZE.SCALES ((32,32),)", "TRAIN.RESIZE.SCALES"),
        ("TRAIN.RESIZE.SCALES_SAMPLING force_size", "TRAIN.RESIZE.SCALES"),
        ("TRAIN.RESIZE.SCALES_SAMPLING range", "TRAIN.RESIZE.SCALES"),
        ("DATA.CATALOG.mine.IMAGES dir", "DATA.CATALOG.mine"),
        ("DATA.CATALOG {mine:[1]}", "DATA.CATALOG.mine"),
        ("MISC.HOOKS [{PERIOD:3}]", "MISC.HOOKS"),
    ],
)
def test_values_that_do_not_fit_one_another(words, key):
    assert problems(*words.replace("{mine:", "{mine: ").replace("PERIOD:", "PERIOD: ").split(" ", 1 if "{" in words else -1)) == [
        key
    ]


@pytest.mark.parametrize(
    "words",
    [
        "TRAIN.BATCH_SIZE 33 SOLVER.ACCUMULATE 3",
        "SOLVER.SCHEDULER.STEPS 5,9.5",
        "SOLVER.SCHEDULER.POLICY COSINE SOLVER.SCHEDULER.STEPS 5,12",
        "SOLVER.SCHEDULER.WARM_UP_ITERS 500",
        "EVAL.EARLY_STOPPING.ENABLED true EVAL.BEST.METRIC top1",
        "EVAL.BEST.METRIC top1 EVAL.ENABLED false",
        "DATA.FORMAT.IMAGE bgr255 DATA.PIXEL_MEAN (123.7,116.3,103.5) DATA.PIXEL_STD 1,1,1",
        "DATA.FORMAT.IMAGE rgb255 DATA.PIXEL_MEAN (0,0,0)",
        "TRAIN.RESIZE.SCALES_SAMPLING force_size TRAIN.RESIZE.SCALES ((32,32),)",
        "TRAIN.RESIZE.SCALES_SAMPLING range TRAIN.RESIZE.SCALES 256,320",
        "DATA.CATALOG.mine.IMAGES dir DATA.DATASET_TYPE image_folder_dataset",
    ],
)
def test_values_that_fit(words):
    finished(*words.split())


def test_a_rule_shows_all_values_it_looked_at():
    with pytest.raises(ConfigError) as caught:
        finished("SOLVER.ACCUMULATE", "3")
    assert str(caught.value) == (
        "the config has 1 problem:\n"
        "  1. TRAIN.BATCH_SIZE is 32 (default); must be a multiple of SOLVER.ACCUMULATE, e.g. 30 or 33\n"
        "       SOLVER.ACCUMULATE is 3 (command line)"
    )


def test_rules_and_wrong_values_are_in_one_report():
    assert problems("SOLVER.GAMA", "1", "MISC.SEED", "x", "SOLVER.ACCUMULATE", "3") == [
        "SOLVER.GAMA",
        "MISC.SEED",
        "TRAIN.BATCH_SIZE",
    ]


def test_a_rule_about_a_wrong_value_is_left_out():
    assert problems("SOLVER.SCHEDULER.TOTAL_EPOCHS", "None", "SOLVER.SCHEDULER.TOTAL_EPOCHS", "ten") == [
        "SOLVER.SCHEDULER.TOTAL_EPOCHS"
    ]
    assert problems("TRAIN.BATCH_SIZE", "33", "SOLVER.ACCUMULATE", "two", "TRAIN.BATCH_SIZE", "31") == ["SOLVER.ACCUMULATE"]


def _no_seed_13(cfg: CfgNode) -> list[Problem]:
    return [Problem("MISC.SEED", "is unlucky")] if cfg.MISC.SEED == 13 else []


def test_a_domain_adds_its_own_rule():
    cfg = get_base_cfg()
    cfg.add_check(_no_seed_13)
    cfg.merge_from_list(["SOLVER.SCHEDULER.TOTAL_EPOCHS", "1", "MISC.SEED", "13"])
    with pytest.raises(ConfigError, match=r"MISC\.SEED is 13 \(command line\); is unlucky"):
        check_cfg(cfg)
    cfg.MISC.SEED = 12
    check_cfg(cfg)


# ---- cost


def test_base_merge_and_check_take_less_than_50_ms(tmp_path):
    text = finished().dump_resolved()
    path = tmp_path / "x.yaml"
    path.write_text(text)

    def once() -> float:
        start = time.perf_counter()
        cfg = get_base_cfg()
        cfg.merge_from_file(path)
        infer_cfg(cfg)
        cfg.freeze()
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 0.05


def test_importing_the_config_loads_nothing_heavy():
    code = "import sys, pet.config, pet.config.explain, pet.config.resolved; print(sorted(set(sys.modules) & {'torch', 'numpy', 'cv2'}))"
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
