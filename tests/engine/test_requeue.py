"""Slurm jobs that are requeued, with a ``scontrol`` of the test; tests/cluster has the real one."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from pet.config import CfgNode
from pet.engine import requeue
from pet.engine.events import StopRequest
from pet.engine.record import open_record
from tests.faults.toy import toy_cfg

WARNED = StopRequest("stopped by SIGUSR1", 128 + signal.SIGUSR1)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that notes its arguments and does what ``answer`` beside it says; inside job 17."""
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$*" >> "$0.calls"\n[ -f "$0.answer" ] && . "$0.answer"\nexit 0\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    return program


def calls(scontrol: Path) -> list[str]:
    made = scontrol.with_suffix(".calls")
    return made.read_text().splitlines() if made.exists() else []


def unfrozen(folder: Path, **options: Any) -> CfgNode:
    cfg = toy_cfg(folder, **options)
    cfg.defrost()
    return cfg


@pytest.mark.parametrize(
    ("variables", "id"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "17"}, "17"),
        ({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "4"}, "17_4"),
    ],
    ids=["none", "job", "array"],
)
def test_job_id_is_that_of_the_job_or_of_the_task_of_an_array(variables: dict[str, str], id: str) -> None:
    assert requeue.slurm_job(variables) == id


@pytest.mark.parametrize("id", ["17; rm -rf /", "17\n", "-17", "１７", "all"], ids=["shell", "newline", "flag", "wide", "word"])
def test_job_id_that_is_no_number_is_refused(id: str) -> None:
    with pytest.raises(ValueError, match="the id of the Slurm job is"):
        requeue.slurm_job({"SLURM_JOB_ID": id})


def test_only_the_warning_signal_requeues_and_only_once(scontrol: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = toy_cfg(tmp_path / "run")
    requeue.requeue_after(StopRequest("stopped by SIGTERM", 128 + signal.SIGTERM), cfg)
    requeue.requeue_after(WARNED, toy_cfg(tmp_path / "run", MISC__PREEMPT__REQUEUE=False))
    assert calls(scontrol) == []
    with caplog.at_level("INFO", "pet"):
        requeue.requeue_after(WARNED, cfg)
    assert calls(scontrol) == ["requeue 17"]
    assert "Slurm job 17 is requeued" in caplog.text


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("echo 'Requested operation is presently disabled' >&2; exit 1", "status 1: Requested operation is presently disabled"),
        ("exec sleep 60", "scontrol did not answer within 0 s"),
    ],
    ids=["refused", "no answer"],
)
def test_refused_requeue_says_that_nothing_is_lost(
    answer: str, said: str, scontrol: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requeue, "_TIMEOUT_S", 0.4)
    scontrol.with_suffix(".answer").write_text(answer)
    requeue.requeue_after(WARNED, toy_cfg(tmp_path / "run"))
    assert calls(scontrol) == ["requeue 17"]
    assert said in caplog.text
    assert "The checkpoint is complete; submit the job again to continue" in caplog.text


def test_requeue_outlives_the_signals_that_it_causes(scontrol: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scontrol.with_suffix(".answer").write_text("kill -TERM $$")
    with caplog.at_level("INFO", "pet"):
        requeue.requeue_after(WARNED, toy_cfg(tmp_path / "run"))
    assert "Slurm job 17 is requeued" in caplog.text


def test_requeue_that_cannot_work_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    always = toy_cfg(tmp_path, MISC__PREEMPT__REQUEUE=True)
    with pytest.raises(ValueError, match=r"this is no Slurm job \(SLURM_JOB_ID is not set\)"):
        requeue.describe_requeue(always)
    assert requeue.describe_requeue(toy_cfg(tmp_path)) == ""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="scontrol is not on the PATH"):
        requeue.describe_requeue(always)
    assert "it cannot be requeued, because scontrol is not on the PATH" in requeue.describe_requeue(toy_cfg(tmp_path))


def test_start_says_what_the_warning_will_do(scontrol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    cfg = toy_cfg(tmp_path, MISC__PREEMPT__SIGNAL="USR2")
    assert requeue.describe_requeue(cfg) == "Slurm job 17, start 3: SIGUSR2 saves and requeues it"


@pytest.mark.parametrize(
    ("variables", "again"),
    [
        ({"SLURM_JOB_ID": "17"}, {"SLURM_RESTART_COUNT": "1"}),
        ({"TORCHELASTIC_RUN_ID": "pet-1"}, {"TORCHELASTIC_RESTART_COUNT": "1"}),
    ],
    ids=["slurm", "elastic"],
)
def test_process_started_again_continues_its_own_run_whatever_the_config_says(
    variables: dict[str, str], again: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"TRAIN__AUTO_RESUME": False, "TRAIN__RESUME_FROM": "elsewhere.pth"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def resumes(*, begun_here: bool) -> bool:
        starters = [*requeue.starters()] if begun_here else ["slurm 16"]
        open_record(tmp_path, {"starters": starters})
        cfg = unfrozen(tmp_path, **options)
        requeue.continue_own_run(cfg)
        assert bool(cfg.TRAIN.RESUME_FROM) is not cfg.TRAIN.AUTO_RESUME
        return bool(cfg.TRAIN.AUTO_RESUME)

    (tmp_path / "model_iter3.pth").touch()
    assert not resumes(begun_here=True), "the first start"
    for name, value in again.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "run.json").unlink()
    assert not resumes(begun_here=False), "the folder holds the run of another job"
    assert resumes(begun_here=True)
    (tmp_path / "model_iter3.pth").unlink()
    assert not resumes(begun_here=True), "nothing was saved before"
