"""``dist_*.sh`` and ``slurm_*.sh``: the commands of the guides, recorded by a false Python and a false ``srun``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.compare import rows
from tests.helpers import REPOSITORY, free_port, start_cli

TOOLS = REPOSITORY / "tools"
_RECORDER = "#!/bin/sh\nprintf '%s\\n' \"$@\"\n"
SHELL = ["-c", "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"]


class Recorded:
    """Runs the scripts from another folder, with commands in front of the PATH that print their arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("python", "srun"):
            (folder / name).write_text(_RECORDER)
            (folder / name).chmod(0o755)

    def __call__(self, script: str, *words: str, shell: Sequence[str] = (), **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("PORT", "NNODES", "GPUS", "PYTHON")}
        env = {**kept, "PATH": f"{self.folder}:{os.environ['PATH']}", **variables}
        command = [*shell, str(TOOLS / script), *words]
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=20, check=False)

    def words(self, script: str, *words: str, shell: Sequence[str] = (), **variables: str) -> list[str]:
        """The arguments that the false command got."""
        done = self(script, *words, shell=shell, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


# ------------------------------------------------------------------------------------------------------------- dist


@pytest.mark.parametrize("shell", [(), ("bash",), ("sh",)], ids=["itself", "bash", "sh"])
def test_dist_train_starts_processes_of_one_machine_at_a_free_port(shell: Sequence[str], recorded: Recorded) -> None:
    found = recorded.words("dist_train.sh", "my config.yaml", "4", "--amp", "A.B=1 2", shell=shell)
    assert found[:4] == [str(TOOLS / "train.py"), "my config.yaml", "--nproc", "4"]
    assert found[4:] == ["--nnodes", "1", "--node_rank", "0", "--master_port", "0", "--amp", "A.B=1 2"]


def test_dist_scripts_pass_nodes_address_and_port_on(recorded: Recorded) -> None:
    place = {"NNODES": "2", "NODE_RANK": "1", "PORT": "29501", "MASTER_ADDR": "10.140.0.169"}
    told = ["--nnodes", "2", "--node_rank", "1", "--master_addr", "10.140.0.169", "--master_port", "29501"]
    assert recorded.words("dist_train.sh", "c.yaml", "2", **place)[1:] == ["c.yaml", "--nproc", "2", *told]
    words = ["--out", "results.pkl", "--eval", "bbox", "segm"]
    found = recorded.words("dist_test.sh", "c.yaml", "x.pth", "8", *words, **place)
    assert found == [str(TOOLS / "test.py"), "c.yaml", "x.pth", "--nproc", "8", *told, *words]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param("dist_train.sh", ["c.yaml"], id="train without a number"),
        pytest.param("dist_train.sh", ["c.yaml", "--amp"], id="train with a flag for it"),
        pytest.param("dist_test.sh", ["c.yaml", "8"], id="test without a checkpoint"),
        pytest.param("slurm_train.sh", ["dev", "job"], id="slurm without a config"),
        pytest.param("slurm_test.sh", ["dev", "job", "c.yaml"], id="slurm without a checkpoint"),
    ],
)
def test_missing_words_are_answered_with_the_usage(script: str, words: Sequence[str], recorded: Recorded) -> None:
    done = recorded(script, *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("usage: [")
    assert f"{script} " in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.distributed
def test_second_job_at_one_port_is_refused_at_once_and_the_first_goes_on(tiny: Path, tmp_path: Path) -> None:
    port, python = str(free_port()), {"PYTHON": sys.executable}
    command = [*SHELL, "bash", "tools/dist_train.sh", tiny, "2", "--no-validate"]
    with start_cli([*command, "--work-dir", tmp_path / "one"], {**python, "PORT": port}) as one:
        one.wait_for("iter 1/", 120.0)
        with start_cli([*command, "--work-dir", tmp_path / "two"], {**python, "PORT": port}) as two:
            refused = two.wait(60.0)
        done = one.wait(120.0)
    assert refused.returncode == 2
    assert f"error: --master-port {port} cannot be used here: Address already in use." in refused.stderr
    assert not (tmp_path / "two").exists()
    assert done.returncode == 0, done.stderr
    assert [row["iteration"] for row in rows(tmp_path / "one")][-1] == 4


# ------------------------------------------------------------------------------------------------------------ slurm


def test_slurm_train_asks_for_what_the_guides_say(recorded: Recorded) -> None:
    found = recorded.words("slurm_train.sh", "dev", "mask_r50_1x", "c.yaml", "/nfs/run", "--seed", "1", GPUS="16", shell=["sh"])
    place = ["--partition=dev", "--job-name=mask_r50_1x", "--gres=gpu:8", "--ntasks=16", "--ntasks-per-node=8"]
    assert found[:7] == [*place, "--cpus-per-task=5", "--kill-on-bad-exit=1"]
    words = ["python", "-u", str(TOOLS / "train.py"), "c.yaml", "--work-dir", "/nfs/run", "--seed", "1", "--launcher", "slurm"]
    assert found[7:] == words


def test_slurm_variables_reach_srun_and_the_script(recorded: Recorded) -> None:
    variables = {"GPUS": "1", "CPUS_PER_TASK": "3", "SRUN_ARGS": "--qos=long -t 10", "PY_ARGS": "--amp A.B=1"}
    found = recorded.words("slurm_test.sh", "dev", "db_r50", "c.yaml", "x.pth", "work_dir", **variables)
    assert {"--gres=gpu:1", "--ntasks=1", "--ntasks-per-node=1", "--cpus-per-task=3"} <= set(found)
    at = found.index("--kill-on-bad-exit=1") + 1
    assert found[at : at + 3] == ["--qos=long", "-t", "10"]
    assert found[at + 3 : at + 9] == ["python", "-u", str(TOOLS / "test.py"), "c.yaml", "x.pth", "--work-dir"]
    assert found[at + 9 :] == ["work_dir", "--launcher", "slurm", "--amp", "A.B=1"]


@pytest.mark.parametrize("variables", [{"GPUS": "0"}, {"GPUS_PER_NODE": "0"}], ids=["GPUS", "GPUS_PER_NODE"])
def test_a_cluster_without_gpus_is_asked_for_tasks(variables: dict[str, str], recorded: Recorded) -> None:
    found = recorded.words("slurm_train.sh", "cpu", "job", "c.yaml", NTASKS="2", **variables)
    assert "--ntasks=2" in found
    assert not [word for word in found if "gres" in word or "per-node" in word]
    assert found[-2:] == ["--device", "cpu"]


@pytest.mark.parametrize("word", ["--amp", "A.B=1", "TEST.IMS_PER_GPU", "dist_params.port=29500"])
def test_work_dir_may_be_left_out(word: str, recorded: Recorded) -> None:
    for script, words in (("slurm_train.sh", ["c.yaml"]), ("slurm_test.sh", ["c.yaml", "x.pth"])):
        found = recorded.words(script, "dev", "job", *words, word, "3")
        assert "--work-dir" not in found
        assert found[found.index(words[-1]) + 1 :][:2] == [word, "3"]


def test_the_guide_that_tests_with_the_training_script_is_answered(recorded: Recorded) -> None:
    done = recorded("slurm_train.sh", "dev", "db_r50", "c.yaml", "dbnet_r50.pth", "work_dir", GPUS="1")
    assert done.returncode == 2
    assert "dbnet_r50.pth is a checkpoint" in done.stderr
    assert "slurm_test.sh" in done.stderr
    done = recorded("slurm_train.sh", "dev", "job", "c.yaml", GPUS="many")
    assert (done.returncode, "GPUS is 'many'" in done.stderr) == (2, True)
