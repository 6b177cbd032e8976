"""Training under a real Slurm on this machine; ``make cluster`` installs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm import Slurm, missing_programs, slurm_cluster
from tests.faults.compare import run_differences
from tests.faults.experiment import reference, write_experiment
from tests.helpers import REPOSITORY

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_programs()), reason=f"{', '.join(missing_programs())} not installed; make cluster does that"),
]

LIMIT_S = 300.0
# A job that is requeued: the warning goes to the processes of the step, and Slurm may start the job again.
JOB = """#!/bin/bash
#SBATCH --job-name=pet
#SBATCH --ntasks=2
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120
srun {command}
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with slurm_cluster() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def no_job_is_left(slurm: Slurm) -> Iterator[None]:
    yield
    slurm.cancel_all()


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def expected(cfg: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on two processes of Pet's own launcher."""
    folder = tmp_path_factory.mktemp("expected") / "run"
    reference(cfg, folder, nproc=2)
    return folder


def training(cfg: Path, folder: Path, *options: str) -> list[str]:
    script = [sys.executable, "-u", "tools/tasks/cls/train_net.py", "--launcher", "slurm", "--cfg", str(cfg)]
    return [*script, "--work-dir", str(folder), "MISC.DEVICE", "cpu", *options]


def submit(slurm: Slurm, folder: Path, command: list[str]) -> tuple[str, Path]:
    """The id of the job, and the file with its output."""
    script, log = folder / "job.sh", folder / "job.log"
    script.write_text(JOB.format(command=" ".join(command)))
    return slurm.run("sbatch", "--parsable", f"--chdir={REPOSITORY}", f"--output={log}", str(script)), log


def wait_until(what: str, reached: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not reached():
        said = log.read_text() if log.exists() else "nothing"
        assert time.monotonic() < deadline, f"{what} did not happen within {LIMIT_S:.0f} s; the job said:\n{said}"
        time.sleep(0.1)


def wait_for(text: str, log: Path) -> None:
    wait_until(f"'{text}'", lambda: log.exists() and text in log.read_text(), log)


def saved_update(log: Path) -> int:
    return int(log.read_text().rpartition("Saved update ")[2].partition(".")[0])  # of the newest start


def test_two_tasks_of_srun_are_the_run_of_two_processes(slurm: Slurm, cfg: Path, expected: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ["srun", "--ntasks=2", f"--chdir={REPOSITORY}", *training(cfg, folder)]
    printed = slurm.run(*command, timeout=LIMIT_S)
    assert "Finished: 80 updates done" in printed
    assert run_differences(expected, folder) == []


def test_warned_job_is_requeued_once_after_its_checkpoint_and_continues(
    slurm: Slurm, cfg: Path, expected: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job, log = submit(slurm, tmp_path, training(cfg, folder, "MISC.STOP_CHECK_ITER", "1", "TRAIN.AUTO_RESUME", "False"))
    wait_for(" iter 20/", log)
    slurm.run("scancel", "--signal=USR1", job)  # what Slurm does 120 s before the time limit
    wait_for("Not finished: stopped by SIGUSR1", log)
    stopped = saved_update(log)
    assert (folder / "model_latest.pth").resolve().name == f"model_iter{stopped}.pth"
    wait_for("Finished: 80 updates done", log)
    wait_until("the end of the job", lambda: slurm.job(job)["JobState"] == "COMPLETED", log)
    text = log.read_text()
    assert f"Slurm job {job}, start 1: SIGUSR1 saves and requeues it" in text
    assert f"Slurm job {job}, start 2: SIGUSR1 saves and requeues it" in text
    assert text.count("is requeued") == 1
    assert f"model_iter{stopped}.pth (update {stopped})" in text, "continues from its own checkpoint, though AUTO_RESUME is False"
    assert slurm.job(job)["Restarts"] == "1"
    assert run_differences(expected, folder) == []


def test_cancelled_job_ends_with_a_checkpoint_and_is_not_requeued(slurm: Slurm, cfg: Path, expected: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job, log = submit(slurm, tmp_path, training(cfg, folder, "MISC.STOP_CHECK_ITER", "1", "DATA.LOADER_THREADS", "1"))
    wait_for(" iter 12/", log)
    slurm.run("scancel", job)
    wait_until("the end of the job", lambda: slurm.job(job)["JobState"] == "CANCELLED", log)
    wait_for("Not finished: stopped by SIGTERM", log)
    text = log.read_text()
    assert (folder / "model_latest.pth").resolve().name == f"model_iter{saved_update(log)}.pth"
    assert "requeued and" not in text
    assert "Traceback" not in text
    slurm.run("srun", "--ntasks=2", f"--chdir={REPOSITORY}", *training(cfg, folder), timeout=LIMIT_S)
    assert run_differences(expected, folder) == []


def test_slurm_train_script_trains_on_a_partition_of_cpus(slurm: Slurm, cfg: Path, expected: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    variables = {"GPUS": "0", "NTASKS": "2", "CPUS_PER_TASK": "1", "PYTHON": sys.executable}
    done = subprocess.run(
        ["tools/slurm_train.sh", "debug", "pet", str(cfg), str(folder)],
        env={**os.environ, **slurm.environment, **variables},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert run_differences(expected, folder) == []
