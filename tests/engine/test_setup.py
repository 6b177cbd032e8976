"""What every script does before the first update and after the last one."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import pytest
import torch

from pet.config import get_base_cfg
from pet.data.structures import BadImageError
from pet.engine import events, overfit, setup
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook
from pet.utils import comm
from pet.utils.logger import setup_logging
from tests.faults.toy import train

OPTIONS = ["MISC.DEVICE=cpu", "MISC.CUDNN=False", "SOLVER.SCHEDULER.TOTAL_ITERS=4", "SOLVER.OPTIMIZER.BASE_LR=0.03"]


def prepare(yaml: Path, *options: str) -> Path:
    """Prepare a run as a script does; returns the folder of the run."""
    cfg = get_base_cfg()
    cfg.merge_from_file(yaml)
    cfg.merge_from_list(list(options))
    cfg.freeze()
    args = argparse.Namespace(cfg=str(yaml), launcher="none", local_rank=0, dist_port=0)
    setup.default_setup(cfg, args)
    setup.write_config(cfg, args)
    return Path(cfg.MISC.CKPT)


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "cfgs" / "tasks" / "cls" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"MISC: {{CKPT: {tmp_path / 'run'}}}\n")
    return path


def log_of(folder: Path) -> str:
    return "".join(path.read_text() for path in (folder / "log").glob("train_*.txt"))


def test_first_page_of_the_log_identifies_the_run(yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_COMMAND", "python tools/train_net_all.py --cfg mine.yaml")
    page = log_of(prepare(yaml, *OPTIONS, "SOLVER.AMP.ENABLED=True", "SOLVER.AMP.DTYPE=float16", "MISC.SEED=11"))
    for text in (
        "Command: python tools/train_net_all.py --cfg mine.yaml",
        f"torch {torch.__version__.partition('+')[0]}",
        " on cpu",
        "Precision: float16, loss scaling; seed 11",
        "SOLVER.OPTIMIZER.BASE_LR = 0.03  (command line",
    ):
        assert text in page, text


def test_only_rank_0_writes_a_log_file(yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    folder = prepare(yaml, *OPTIONS)
    logging.getLogger("pet").warning("from rank 1")
    assert list((folder / "log").iterdir()) == []


def test_run_may_start_from_the_config_it_wrote(yaml: Path) -> None:
    first = prepare(yaml, *OPTIONS) / "config.yaml"
    text = first.read_text()
    assert "# " in text.splitlines()[0]
    assert prepare(first) == first.parent
    assert first.read_text().splitlines()[1:] == text.splitlines()[1:]


def test_reason_of_an_early_end_is_the_last_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Enough(Hook):
        def after_step(self, storage: EventStorage) -> None:
            if storage.iteration == 2:
                storage.request_stop("the loss is low enough")

    with caplog.at_level("INFO", "pet"):
        run = train(tmp_path, [Enough()])
    assert (run.status, run.updates) == (0, 2)
    assert caplog.messages[-1].startswith("Finished: the loss is low enough")
    assert (tmp_path / "model_latest.pth").resolve().name == "model_iter2.pth"


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [([], None, 0), (["--local_rank", "3"], None, 3), (["--local-rank=3"], None, 3), (["--local-rank=3"], "1", 1)],
)
def test_local_rank_comes_from_the_environment_or_the_flag(
    words: list[str], environment: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if environment is not None:
        monkeypatch.setenv("LOCAL_RANK", environment)
    assert setup.parse_args(setup.default_argument_parser(), ["--cfg", "x.yaml", *words]).local_rank == expected


def test_running_out_of_memory_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_device(args: argparse.Namespace) -> int:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(sys, "argv", ["train_net.py", "--cfg", "x.yaml"])
    with pytest.raises(torch.OutOfMemoryError) as caught:
        setup.run_main(fill_the_device, setup.default_argument_parser())
    assert "SOLVER.ACCUMULATE" in caught.value.__notes__[0]


def test_a_new_run_shows_nothing_of_the_one_before(yaml: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    old = ["model_epoch1.pth", "metrics.json", "test/metrics.json", "log/train_1.txt", "log/test_1.txt"]
    for name in old:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    prepare(yaml, *OPTIONS, "TRAIN.AUTO_RESUME=True")
    assert all((folder / name).exists() for name in old), "a run that goes on keeps all"
    (folder / "run.json").unlink()
    prepare(yaml, *OPTIONS, "TRAIN.AUTO_RESUME=False")
    (aside,) = folder.glob("previous_*")
    assert all((aside / name).read_text() == "old" for name in old)
    assert {path.name for path in folder.iterdir()} == {aside.name, "log", "config.yaml", "run.json"}
    assert len(list((folder / "log").iterdir())) == 1


def test_a_full_disk_hides_neither_the_first_error_nor_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_in_training(args: argparse.Namespace) -> int:
        setup_logging(tmp_path / "log.txt")
        with EventStorage(1):
            raise ValueError("the first error")

    def write(folder: Path, values: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(setup, "close_record", write)
    monkeypatch.setattr(events, "_started", "")
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--cfg", "x.yaml"])
    with pytest.raises(ValueError, match="the first error"):
        setup.run_main(fail_in_training, setup.default_argument_parser())
    assert "Continue with:" in capsys.readouterr().out
    assert "the first error" in (tmp_path / "log.txt").read_text()


def test_an_unreadable_picture_ends_a_run_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(started: bool) -> None:
        setup_logging(tmp_path / "log.txt")
        events.mark_started("test" if started else "")
        raise BadImageError("a.jpg", "truncated; repair it")

    monkeypatch.setattr(events, "_started", "")
    monkeypatch.setattr(sys, "argv", ["test_net.py", "--cfg", "x.yaml"])
    for started, status in ((True, 1), (False, 2)):
        with pytest.raises(SystemExit) as end:
            setup.run_main(lambda args, started=started: read(started), setup.default_argument_parser())
        assert end.value.code == status
        printed = capsys.readouterr()
        assert "error: cannot read image a.jpg: truncated; repair it\n" in printed.err
        assert f"Traceback: {tmp_path / 'log.txt'}" in printed.err
        assert "Traceback (most" not in printed.out + printed.err
        assert ("Nothing was started" in printed.err) != started
    assert "Traceback (most recent call last)" in (tmp_path / "log.txt").read_text()


def test_only_rank_0_reads_the_losses_that_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = get_base_cfg()
    cfg.merge_from_list(["DATA.OVERFIT_BATCHES", 1, "MISC.CKPT", str(tmp_path)])
    rows = '{"iteration": 1, "total_loss": 2.0}\n{"iteration": 2, "total_loss": 0.1}\n'
    (tmp_path / "metrics.json").write_text(rows + '{"iteration": 3, "tot')
    assert "loss 2 at update 1, 0.1 at update 2 (5.0%). PASSED" in overfit.verdict(cfg)
    for last, words in ((1.1, "2. It falls too little (to 55.0%): give it more updates"), (1.99, "FAILED: it does not fall")):
        (tmp_path / "metrics.json").write_text(rows.replace("0.1", str(last)))
        assert words in overfit.verdict(cfg)
    (tmp_path / "metrics.json").write_text(rows)
    read: list[object] = []
    monkeypatch.setattr(overfit, "verdict", lambda cfg: str(read.append(cfg)))
    for main_process in (False, True):
        monkeypatch.setattr(comm, "is_main_process", lambda main_process=main_process: main_process)
        assert setup.finish(cfg, EventStorage(3), argparse.Namespace(iteration=3, max_iter=2)) == 0
        assert len(read) == int(main_process)


def test_a_run_that_begins_with_the_checkpoint_of_another_folder_keeps_the_one_that_was_there(tmp_path: Path) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    for folder, file in ((here, "model_epoch1.pth"), (other, "model_epoch3.pth")):
        folder.mkdir()
        (folder / file).write_text("x")
    train = argparse.Namespace(AUTO_RESUME=True, RESUME_FROM="")
    assert setup._continues_run_in(here, train)
    assert setup._continues_run_in(here, argparse.Namespace(AUTO_RESUME=False, RESUME_FROM=str(here / "model_epoch1.pth")))
    assert not setup._continues_run_in(here, argparse.Namespace(AUTO_RESUME=True, RESUME_FROM=str(other / "model_epoch3.pth")))


def test_a_gpu_that_slurm_shows_to_one_task_only_is_used_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert setup.choose_device("cuda") == torch.device("cuda", 0)
    assert chosen == [0]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # torchrun shows all GPUs to every process, so there is one too few
    with pytest.raises(ValueError, match="process 1 of this machine has no GPU of its own: 1 are visible"):
        setup.choose_device("cuda")
