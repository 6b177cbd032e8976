"""Slurm jobs that go on by themselves: requeued once after a warning, and continued when they start again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pet.config import CfgNode
from pet.engine.events import StopRequest
from pet.engine.hooks.signals import warning_signal
from pet.engine.interruption import HANDLED
from pet.engine.record import read_starts
from pet.utils import comm
from pet.utils.logger import LOGGER

# Slurm answers within seconds; a controller that does not must not hold the process until it is killed.
_TIMEOUT_S = 20.0


def slurm_job(environment: Mapping[str, str] = os.environ) -> str:
    """The id of the Slurm job this process belongs to, ``123`` or ``123_4`` for a task of an array; empty outside of Slurm.

    Raises:
        ValueError: the environment holds something else.
    """
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    id = f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID", "")
    if id and not re.fullmatch(r"[0-9]+(_[0-9]+)?", id):
        raise ValueError(f"the id of the Slurm job is {id!r}, expected a number such as 123 or, for an array, 123_4")
    return id


def starters(environment: Mapping[str, str] = os.environ) -> dict[str, int]:
    """Who started this process and would start it again, and how often they have done so: ``{"slurm 123": 1}``.

    A Slurm job counts its requeues, torch's elastic agent the restarts of its group after a failure.
    """
    counts = {}
    if job := slurm_job(environment):
        counts[f"slurm {job}"] = int(environment.get("SLURM_RESTART_COUNT") or 0)
    if group := environment.get("TORCHELASTIC_RUN_ID"):
        counts[f"elastic {group}"] = int(environment.get("TORCHELASTIC_RESTART_COUNT") or 0)
    return counts


def continue_own_run(cfg: CfgNode) -> None:
    """In a process that was started again, continue the run that the first start began, whatever the config says about resuming.

    Without this, ``TRAIN.AUTO_RESUME False`` and ``--resume PATH`` would begin anew at every requeue.
    """
    folder, again = Path(cfg.MISC.CKPT), [name for name, count in starters().items() if count]
    own = [name for name in again for start in read_starts(folder) if name in start.get("starters", ())]
    if own and any(folder.glob("model_*")):
        cfg.set("TRAIN.AUTO_RESUME", True, f"started again by {own[0]}")
        cfg.set("TRAIN.RESUME_FROM", "", f"started again by {own[0]}")


def describe_requeue(cfg: CfgNode) -> str:
    """What the warning signal will do to this Slurm job; empty outside of Slurm.

    Raises:
        ValueError: ``MISC.PREEMPT.REQUEUE True`` where nothing can be requeued, which would otherwise show when it is too late.
    """
    job, wanted, scontrol = slurm_job(), cfg.MISC.PREEMPT.REQUEUE, shutil.which("scontrol")
    if wanted is True and not (job and scontrol):
        missing = "scontrol is not on the PATH" if job else "this is no Slurm job (SLURM_JOB_ID is not set)"
        raise ValueError(f"MISC.PREEMPT.REQUEUE is True, but {missing}; with auto only Slurm jobs are requeued")
    if not job:
        return ""
    answer = "saves and requeues it" if scontrol else "saves; it cannot be requeued, because scontrol is not on the PATH"
    answer = answer if wanted else "saves (MISC.PREEMPT.REQUEUE is False)"
    return f"Slurm job {job}, start {starters()[f'slurm {job}'] + 1}: SIG{cfg.MISC.PREEMPT.SIGNAL} {answer}"


def requeue_after(stop: StopRequest, cfg: CfgNode) -> None:
    """Requeue the Slurm job if the run ended by the warning signal; called on every rank, done by rank 0.

    The checkpoint is durable by then: Slurm ends the processes of the job as soon as it agrees.
    """
    job, number = slurm_job(), warning_signal(cfg.MISC.PREEMPT.SIGNAL)
    if not comm.is_main_process() or not job or not cfg.MISC.PREEMPT.REQUEUE or stop.status != 128 + number:
        return
    problem = _scontrol_requeue(job)
    if problem:
        LOGGER.error(f"Slurm job {job} was not requeued: {problem}. The checkpoint is complete; submit the job again to continue")
    else:
        LOGGER.info(f"Slurm job {job} is requeued and will continue by itself")


def _scontrol_requeue(job: str) -> str:
    """Ask Slurm once; what went wrong, or an empty string."""
    # Slurm answers the request with SIGTERM for every process of the job, scontrol included; blocked signals are inherited.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        command = ["scontrol", "requeue", job]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except OSError as error:
        return f"scontrol cannot be run: {error}"
    except subprocess.TimeoutExpired:
        return f"scontrol did not answer within {_TIMEOUT_S:.0f} s"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if asked.returncode:
        return f"scontrol requeue {job} ended with status {asked.returncode}: {(asked.stderr or asked.stdout).strip()}"
    return ""
