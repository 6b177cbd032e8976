"""What every script does before the first update and after the last one."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import pytest
import torch

from pet.config import get_base_cfg
from pet.engine import setup
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook
from tests.faults.toy import train

OPTIONS = ["MISC.DEVICE=cpu", "MISC.CUDNN=False", "SOLVER.SCHEDULER.TOTAL_ITERS=4", "SOLVER.OPTIMIZER.BASE_LR=0.03"]


def prepare(yaml: Path, *options: str) -> Path:
    """Prepare a run as a script does; returns the folder of the run."""
    cfg = get_base_cfg()
    cfg.merge_from_file(yaml)
    cfg.merge_from_list(list(options))
    cfg.freeze()
    args = argparse.Namespace(cfg=str(yaml), launcher="none", local_rank=0)
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
