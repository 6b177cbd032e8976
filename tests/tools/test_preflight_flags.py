"""``--check``, ``--dry-run`` and ``--overfit-batch`` as a user types them: what they find, and that they leave a run alone."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers import free_port, run_script_ranks
from tests.shell import Ended, Shell, check
from tests.user_sets import MASK, TINY

_YAML = """
MISC: {DEVICE: cpu, CUDNN: False, DISPLAY_ITER: 1}
ANALYSER: {ENABLED: False}
VIS: {ENABLED: False}
DATA:
  LOADER_THREADS: 0
  CATALOG:
    my_train: {TYPE: shapes_dataset, NUM_IMAGES: 40, IMAGE_SIZE: 20}
    my_val: {TYPE: shapes_dataset, NUM_IMAGES: 20, IMAGE_SIZE: 20}
TRAIN: {DATASETS: [my_train], BATCH_SIZE: 8, TRANSFORMS: [random_horizontal_flip, normalize]}
TEST: {DATASETS: [my_val], TRANSFORMS: [normalize]}
SOLVER:
  OPTIMIZER: {BASE_LR: 0.05, MOMENTUM: 0.9}
  SCHEDULER: {TOTAL_EPOCHS: 1}
MODEL:
  BACKBONE: tests.faults.small_net.SmallNet
  GLOBAL_HEAD: {CLS: {NUM_CLASSES: 10}}
"""
_LINE = re.compile(r"^(\S.*?)  +(pass|warn|fail|skip) +[\d.]+ s", re.MULTILINE)
_ALL = [
    *("processes", "config", "device", "work dir", "classes", "model", "weights", "schedule", "update", "evaluation"),
    *("hooks", "save and load", "disk", "shared memory", "TensorBoard"),
]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Shell]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return lambda text=_YAML, domain="tasks/cls": Shell(tmp_path, monkeypatch, capsys, text, domain)


@pytest.fixture
def shell(make: Callable[..., Shell], tmp_path: Path) -> Iterator[Shell]:
    """Whatever a command does, nothing temporary is left."""
    yield make()
    assert not list((tmp_path / "temporary").glob("pet_*"))


def results(ended: Ended) -> dict[str, str]:
    return dict(_LINE.findall(ended.text))


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder with the times of its last changes."""
    paths = [folder, *folder.rglob("*")] if folder.exists() else []
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in paths}


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [row["total_loss"] for row in rows if "total_loss" in row]


# ------------------------------------------------------------------------------------------------------------ --check


def test_a_good_run_passes_every_check_and_its_folder_is_not_made(shell: Shell) -> None:
    ended = shell.train("--check")
    check(ended, 0, ": ready", "bitwise equal")
    assert results(ended) == dict.fromkeys([*_ALL, "train data my_train", "test data my_val"], "pass")
    assert not shell.run.exists()


def test_a_detector_passes_every_check(make: Callable[..., Shell]) -> None:
    ended = make(TINY, "vision").train("--check", *MASK)
    check(ended, 0, ": ready", "masks", "numbers from one batch")
    assert set(results(ended).values()) == {"pass"}


def test_a_check_of_a_run_that_exists_changes_no_file_of_it_and_says_that_it_continues(shell: Shell) -> None:
    assert shell.train("SOLVER.SCHEDULER.TOTAL_EPOCHS", "2").status == 0
    (shell.run / "model_epoch9.pth.tmp-pet-1").write_bytes(b"left behind")
    before = files(shell.run)
    ended = shell.train("--check", "SOLVER.SCHEDULER.TOTAL_EPOCHS", "4")
    check(ended, 0, f"continues {shell.run}/model_epoch2.pth", "after update 10")
    again = shell.train("--check", "TRAIN.AUTO_RESUME", "False")
    check(again, 0, "would be moved into")
    assert results(again)["work dir"] == "warn"
    assert files(shell.run) == before


def test_each_mistake_is_a_line_of_its_own_and_hides_no_other(shell: Shell) -> None:
    catalog = {
        "my_train": {"TYPE": "shapes_dataset", "NUM_IMAGES": 40, "IMAGE_SIZE": 20},
        "my_val": {"TYPE": "image_folder_dataset", "IMAGES": str(shell.folder / "nowhere")},
    }
    words = [f"DATA.CATALOG={json.dumps(catalog)}", "TRAIN.WEIGHTS=lost.pth", "MISC.HOOKS=[{TYPE: no.such.Hook}]"]
    ended = shell.train("--check", *words)
    check(ended, 1, "nowhere does not exist", "lost.pth does not exist", "no.such.Hook", "not ready", "-> Correct MISC.HOOKS")
    found = results(ended)
    failed = {name for name, result in found.items() if result == "fail"}
    assert failed == {"test data my_val", "weights", "hooks"}
    assert {name for name, result in found.items() if result == "skip"} == {"evaluation"}
    assert not shell.run.exists()


@pytest.mark.parametrize(
    ("words", "line", "result", "text"),
    [
        pytest.param(["MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES=7"], "classes", "fail", "NUM_CLASSES", id="classes"),
        pytest.param(["TRAIN.BATCH_SIZE=9", "SOLVER.ACCUMULATE=3"], "update", "pass", "2 images", id="accumulation"),
        pytest.param(["MODEL.BACKBONE=tests.tools.forgetful_net.NanNet"], "update", "fail", "not finite", id="nan"),
        pytest.param(["EVAL.BEST.METRIC=top7"], "evaluation", "fail", "top7", id="metric"),
        pytest.param(["SOLVER.EMA.ENABLED=True", "SOLVER.AMP.ENABLED=True"], "save and load", "pass", "bitwise", id="ema-amp"),
        pytest.param(["DATA.LOADER_THREADS=3"], "shared memory", "pass", "3 workers with 2 batches", id="workers"),
        pytest.param(["--no-validate"], "evaluation", "pass", "none in this run", id="no-validate"),
    ],
)
def test_what_a_check_finds(shell: Shell, words: list[str], line: str, result: str, text: str) -> None:
    ended = shell.train("--check", *words)
    check(ended, int(result == "fail"), text)
    assert results(ended)[line] == result


def test_parameters_without_a_gradient_are_named(shell: Shell) -> None:
    ended = shell.train("--check", "MODEL.BACKBONE=tests.tools.forgetful_net.ForgetfulNet")
    check(ended, 0, "2 trainable tensors got no gradient", "forgotten.weight")
    assert results(ended)["update"] == "warn"


def test_a_disk_that_cannot_hold_the_checkpoints_is_told(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage("/")._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    ended = shell.train("--check", "SOLVER.SNAPSHOT_KEEP=0")
    check(ended, 1, "0 MiB are free", "SOLVER.SNAPSHOT_KEEP")
    assert results(ended)["disk"] == "fail"


def test_a_work_dir_below_a_file_is_told(shell: Shell) -> None:
    (shell.folder / "file").write_text("")
    ended = shell.train("--check", run=shell.folder / "file" / "run")
    check(ended, 1, "is a file", "--work-dir")
    assert results(ended)["work dir"] == "fail"


def test_a_resumed_checkpoint_of_another_architecture_is_told(shell: Shell) -> None:
    assert shell.train().status == 0
    ended = shell.train("--check", "MODEL.BACKBONE=tests.tools.forgetful_net.ForgetfulNet")
    check(ended, 1, "another architecture")
    assert results(ended)["weights"] == "fail"


@pytest.mark.distributed
def test_several_processes_check_and_end_together(tmp_path: Path) -> None:
    yaml = tmp_path / "cfgs" / "tasks" / "cls" / "mine.yaml"
    yaml.parent.mkdir(parents=True)
    yaml.write_text(_YAML)
    command = ["tools/tasks/cls/train_net.py", "--cfg", yaml, "--work-dir", tmp_path / "run", "--check"]
    done = run_script_ranks(2, command)
    assert [rank.returncode for rank in done] == [0, 0], done[0].stderr + done[1].stderr
    assert "2 met at 127.0.0.1" in done[0].stdout
    assert sum(rank.stdout.count("Check of") for rank in done) == 1
    assert not (tmp_path / "run").exists()


def test_a_port_that_is_taken_is_refused_before_anything_starts(shell: Shell) -> None:
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        ended = shell.launcher("--cfg", str(shell.yaml), "--nproc", "2", "--master-port", str(port), "--check")
    check(ended, 2, f"--master-port {port}", "Leave the option out")


def test_a_wrong_config_ends_like_without_check(shell: Shell) -> None:
    check(shell.train("--check", "SOLVER.OPTIMISER.BASE_LR", "1"), 2, "SOLVER.OPTIMIZER", "Nothing was started")


# ---------------------------------------------------------------------------------------------------------- --dry-run


def test_a_dry_run_prints_the_plan_and_writes_nothing(shell: Shell) -> None:
    ended = shell.train("--dry-run", "SOLVER.SCHEDULER.TOTAL_EPOCHS", "3")
    check(
        ended,
        0,
        "Hooks",
        "PeriodicWriter",
        "updates 1 to 15, 5 in an epoch",
        "evaluations: 3",
        f"nothing was written to {shell.run}",
    )
    assert not shell.run.exists()
    parameters = sum(p.numel() for p in _small_model().parameters())
    momenta = 2 * 4 * parameters / 2**20
    told = float(re.search(r"checkpoints of ([\d.]+) MiB", ended.text)[1])
    assert told == pytest.approx(momenta, abs=0.1)


def _small_model() -> torch.nn.Module:
    from tests.faults.small_net import SmallNet

    return torch.nn.Sequential(SmallNet(), torch.nn.Linear(32, 10))


def test_a_dry_run_of_a_run_that_exists_continues_it_and_changes_no_file(shell: Shell) -> None:
    assert shell.train().status == 0
    before = files(shell.run)
    check(shell.train("--dry-run", "SOLVER.SCHEDULER.TOTAL_EPOCHS", "2"), 0, "updates 6 to 10", "Resuming from")
    check(shell.train("--dry-run"), 0, "nothing is left to do")
    assert files(shell.run) == before
    check(shell.train("SOLVER.SCHEDULER.TOTAL_EPOCHS", "2"), 0, "Finished: 10 updates done")


def test_a_dry_run_of_a_detector(make: Callable[..., Shell]) -> None:
    check(make(TINY, "vision").train("--dry-run"), 0, "updates 1 to 2", "the first batch was read")


def test_a_dry_run_of_what_cannot_start_ends_like_the_run(shell: Shell) -> None:
    check(shell.train("--dry-run", "TRAIN.DATASETS=[nothing]"), 2, "no data set is named 'nothing'")
    assert not shell.run.exists()


# ---------------------------------------------------------------------------------------------------- --overfit-batch


def test_a_classifier_learns_one_batch_by_heart_and_is_measured_on_its_pictures(shell: Shell) -> None:
    ended = shell.train("--overfit-batch", "SOLVER.SCHEDULER.TOTAL_ITERS=60")
    check(ended, 0, "Overfit 1 batch: loss", "PASSED", "overfit: top1 100")
    seen = losses(shell.run)
    assert len(seen) == 60
    assert seen[-1] < 0.1 * seen[0]


def test_the_pictures_that_are_measured_are_those_that_are_trained_on(shell: Shell) -> None:
    from itertools import islice

    from pet.engine.setup import add_train_arguments, default_argument_parser, load_cfg, parse_args
    from pet.tasks import cls as domain

    words = ["--cfg", str(shell.yaml), "--overfit-batch", "2", "DATA.SAMPLER.TYPE=shuffle"]
    cfg = load_cfg(parse_args(add_train_arguments(default_argument_parser()), words), domain.get_base_cfg, domain.infer_cfg)
    assert cfg.MISC.CKPT.endswith("mine_overfit")
    loader = domain.make_train_data_loader(cfg, domain.build_dataset(cfg))
    windows = [window[0] for window in islice(loader, 5)]
    assert [w.ids.tolist() for w in windows] == [windows[i % 2].ids.tolist() for i in range(5)]
    assert torch.equal(windows[4].images, windows[0].images)  # the augmentation does not change either
    assert not torch.equal(windows[1].images, windows[0].images)
    tested = domain.build_dataset(cfg, is_train=False)
    trained = domain.build_dataset(cfg)
    chosen = sorted({index for window in windows for index in window.ids.tolist()})
    assert len(tested) == len(chosen) == 16
    for place, index in enumerate(chosen):
        assert (tested.read(place).image == trained.read(index).image).all()
    assert (tested.labels() == trained.labels()[chosen]).all()


def test_it_begins_like_the_run_itself(shell: Shell) -> None:
    same = ["SOLVER.SCHEDULER.TOTAL_ITERS=2", "SOLVER.SCHEDULER.POLICY=CONSTANT", "SOLVER.SCHEDULER.TOTAL_EPOCHS=None"]
    assert shell.train(*same, run=shell.folder / "real").status == 0
    assert shell.train("--overfit-batch", "2", *same, run=shell.folder / "overfit").status == 0
    assert losses(shell.folder / "overfit") == losses(shell.folder / "real")


def test_it_resumes_exactly(shell: Shell) -> None:
    words = ["--overfit-batch", "2"]
    whole, parts = shell.folder / "whole", shell.folder / "parts"
    assert shell.train(*words, "SOLVER.SCHEDULER.TOTAL_ITERS=7", run=whole).status == 0
    assert shell.train(*words, "SOLVER.SCHEDULER.TOTAL_ITERS=3", run=parts).status == 0
    assert shell.train(*words, "SOLVER.SCHEDULER.TOTAL_ITERS=7", "--resume", run=parts).status == 0
    assert losses(parts) == losses(whole)
    models = [torch.load(folder / "model_latest.pth", weights_only=True)["model"] for folder in (whole, parts)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


@pytest.mark.parametrize("first", [[], ["--overfit-batch", "2"]], ids=["real-run", "other-number"])
def test_it_continues_no_other_run(shell: Shell, first: list[str]) -> None:
    assert shell.train(*first, "SOLVER.SCHEDULER.TOTAL_ITERS=2", "SOLVER.SCHEDULER.TOTAL_EPOCHS=None").status == 0
    ended = shell.train("--overfit-batch", "1", "--resume", "SOLVER.SCHEDULER.TOTAL_ITERS=4")
    check(ended, 2, "--overfit-batch 1", "Choose another --work-dir", "Nothing was started")


def test_a_real_run_does_not_continue_it(shell: Shell) -> None:
    assert shell.train("--overfit-batch", "SOLVER.SCHEDULER.TOTAL_ITERS=2").status == 0
    check(shell.train(), 2, "trained --overfit-batch 1, this run is without --overfit-batch")


def test_a_model_that_cannot_learn_is_told(shell: Shell) -> None:
    ended = shell.train("--overfit-batch", "SOLVER.SCHEDULER.TOTAL_ITERS=4", "SOLVER.OPTIMIZER.BASE_LR=1e-9")
    check(ended, 0, "FAILED: it does not fall")


def test_a_detector_learns_a_batch_by_heart(make: Callable[..., Shell]) -> None:
    shell = make(TINY, "vision")
    words = ["SOLVER.SCHEDULER.TOTAL_ITERS=40", "SOLVER.OPTIMIZER.TYPE=ADAM", "SOLVER.OPTIMIZER.BASE_LR=0.002"]
    ended = shell.train("--overfit-batch", "1", *words)
    check(ended, 0, "Overfit 1 batch", "overfit: bbox_AP")
    seen = losses(shell.run)
    assert seen[-1] < 0.6 * seen[0]


@pytest.mark.parametrize("count", ["0", "-3"])
def test_a_number_below_one_is_refused(shell: Shell, count: str) -> None:
    check(shell.train(f"--overfit-batch={count}"), 2, "at least 1", "Nothing was started")
    check(shell.launcher("--cfg", str(shell.yaml), f"--overfit-batch={count}"), 2, "at least 1")
