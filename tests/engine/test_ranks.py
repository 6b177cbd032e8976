from __future__ import annotations

import os

import pytest

from pet.engine.ranks import adopt_launcher

SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "gpu07"}
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in (*SLURM, *MPI, "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that monkeypatch removes what adopt_launcher sets
        monkeypatch.delenv(name)
    return monkeypatch


def adopt(launcher: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str | None, ...]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    adopt_launcher(launcher)
    return tuple(os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"))


def test_slurm_tells_rank_and_place(monkeypatch):
    assert adopt("slurm", SLURM, monkeypatch) == ("3", "8", "1", "gpu07", "22345")


def test_a_given_address_wins(monkeypatch):
    assert adopt("slurm", {**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5"}, monkeypatch)[3:] == ("10.0.0.1", "5")


@pytest.mark.parametrize("environment", [MPI, {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}])
def test_mpi_tells_rank_and_place(environment, monkeypatch):
    assert adopt("mpi", environment, monkeypatch) == ("1", "2", "1", "127.0.0.1", "29500")


def test_none_leaves_the_environment_alone(monkeypatch):
    assert adopt("none", SLURM, monkeypatch) == (None,) * 5


@pytest.mark.parametrize(("launcher", "command"), [("slurm", "srun"), ("mpi", "mpirun"), ("pytorch", "torchrun")])
def test_a_launcher_that_did_not_start_this_process_is_refused(launcher, command):
    with pytest.raises(ValueError, match=f"--launcher {launcher} needs .* start the script with {command}"):
        adopt_launcher(launcher)
