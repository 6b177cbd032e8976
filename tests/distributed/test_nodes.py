"""Two machines, played by two launchers on this one; and groups of processes that are started again."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook
from pet.utils import comm
from tests.faults.compare import run_differences
from tests.faults.experiment import write_experiment
from tests.helpers import fork_start, free_port, run_cli, run_script_ranks, start_cli

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

LIMIT_S = 150.0
LAUNCHER, SCRIPT = "tools/train_net_all.py", "tools/tasks/cls/train_net.py"
HOST = socket.gethostname()
# As start_cli starts Python: become a shell script.
SHELL = ["-c", "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"]


class DieOnce(Hook):
    """Kills the last rank in an update, but only the first attempt of a group that may be restarted."""

    def __init__(self, update: int) -> None:
        self._update = update

    def after_step(self, storage: EventStorage) -> None:
        first = (os.environ.get("TORCHELASTIC_RESTART_COUNT"), os.environ.get("TORCHELASTIC_MAX_RESTARTS")) == ("0", "1")
        if first and storage.iteration == self._update and comm.get_rank() == comm.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)


# The kill comes after the evaluation of update 10 and before the checkpoint of update 12.
OPTIONS = [
    *("TRAIN.AUTO_RESUME", "False", "SOLVER.SCHEDULER.TOTAL_EPOCHS", "2", "DATA.LOADER_THREADS", "0"),
    'MISC.HOOKS=[{"TYPE": "tests.distributed.test_nodes.DieOnce", "UPDATE": 11}]',
]


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("nodes"))


@pytest.fixture(scope="module")
def undisturbed(cfg: Path) -> Path:
    """Folder of a run on two processes that nobody killed."""
    folder = cfg.parents[4] / "undisturbed"
    ranks = run_script_ranks(2, [SCRIPT, "--cfg", cfg, "--work-dir", folder, *OPTIONS])
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr
    return folder


def test_killed_rank_is_restarted_from_the_last_checkpoint_and_the_end_is_bitwise_equal(
    cfg: Path, undisturbed: Path, tmp_path: Path
) -> None:
    words = [LAUNCHER, "--cfg", cfg, "--nproc", "2", "--max_restarts", "1", "--work-dir", tmp_path, *OPTIONS]
    done = run_cli(words, timeout=LIMIT_S, start=fork_start)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rank 1 was killed by SIGKILL" in done.stderr
    assert "Restart 1 of 1: all processes, from the last checkpoint." in done.stderr
    assert f"Resuming from {tmp_path}/model_iter10.pth (update 10)" in done.stdout, "the best one so far, saved after the evaluation"
    assert not list(tmp_path.glob("previous_*"))
    assert run_differences(undisturbed, tmp_path, tensorboard=False) == []


def test_two_nodes_restart_together_and_equal_two_processes_of_one(cfg: Path, undisturbed: Path, tmp_path: Path) -> None:
    command = [*SHELL, "bash", "tools/dist_train.sh", cfg, "1", "--max_restarts", "1", "--work-dir", tmp_path, *OPTIONS]
    place = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "PORT": str(free_port()), "PYTHON": sys.executable}
    with ExitStack() as stack:
        nodes = [stack.enter_context(start_cli(command, {**place, "NODE_RANK": str(rank)})) for rank in (1, 0)]
        other, first = [node.wait(LIMIT_S) for node in nodes]
    assert (first.returncode, other.returncode) == (0, 0), first.stderr + other.stderr
    assert "2 processes on cpu" in first.stdout
    assert "rank 1 was killed by SIGKILL" in other.stderr, "the rank of the whole run, not of the node"
    assert "Restart 1 of 1" in first.stderr
    assert run_differences(undisturbed, tmp_path, tensorboard=False) == []


def test_wrong_port_on_one_node_ends_both_in_time_with_who_where_and_whom(cfg: Path, tmp_path: Path) -> None:
    ports = free_port(), free_port()
    words = [LAUNCHER, "--cfg", cfg, "--nproc", "1", "--nnodes", "2", "--master_addr", "127.0.0.1", "--work-dir", tmp_path]
    with ExitStack() as stack:
        nodes = []
        for rank, port in enumerate(ports):
            own = ["--node-rank", str(rank), "--master-port", str(port), "MISC.RDZV_TIMEOUT", "2"]
            nodes.append(stack.enter_context(start_cli([*words, *own], start=fork_start)))
        first, other = [node.wait(30.0) for node in nodes]
    assert (first.returncode, other.returncode) == (1, 1)
    assert f"error: node 0 of 2 ({HOST}) waited 2 s at 127.0.0.1:{ports[0]}; arrived: 0 ({HOST}); missing: 1." in first.stderr
    assert f"error: node 1 of 2 ({HOST}) found no node 0 at 127.0.0.1:{ports[1]} within 2 s: Connection refused" in other.stderr
    assert "Traceback" not in first.stderr + other.stderr
    assert not list(tmp_path.iterdir()), "nothing was started"


def test_missing_rank_of_another_launcher_is_named(cfg: Path, tmp_path: Path) -> None:
    alone = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "MASTER_ADDR": "127.0.0.1"}
    port = str(free_port())
    words = [SCRIPT, "--cfg", cfg, "--launcher", "slurm", "--options", f"dist_params.port={port}", "--work-dir", tmp_path]
    done = run_cli([*words, "MISC.RDZV_TIMEOUT=1"], {**alone, "MASTER_PORT": "1"}, start=fork_start)
    assert done.returncode == 1
    assert f"error: rank 0 of 2 ({HOST}) waited 1 s at 127.0.0.1:{port}; arrived: 0 ({HOST}); missing: 1." in done.stderr
    assert "Traceback" not in done.stderr
