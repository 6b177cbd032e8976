from __future__ import annotations

import os

import pytest

from pet.engine.ranks import adopt_launcher, rank_in_environment

SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "gpu07"}
STEP = {"SLURM_STEP_ID": "2", "SLURM_STEP_NODELIST": "gpu08"}
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in (*SLURM, *STEP, *MPI, "OMPI_COMM_WORLD_LOCAL_SIZE", "PMIX_NAMESPACE", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that monkeypatch removes what adopt_launcher sets
        monkeypatch.delenv(name)
    return monkeypatch


def adopt(launcher: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str | None, ...]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    adopt_launcher(launcher)
    return tuple(os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"))


def test_slurm_tells_rank_and_place(monkeypatch):
    *ranks, address, port = adopt("slurm", SLURM, monkeypatch)
    assert (ranks, address) == (["3", "8", "1"], "gpu07")
    assert 20000 <= int(port) < 30000


def test_a_step_of_a_job_has_its_own_nodes_and_port(monkeypatch):
    job = adopt("slurm", SLURM, monkeypatch)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name)
    step = adopt("slurm", {**SLURM, **STEP}, monkeypatch)
    assert step[3] == "gpu08"
    assert step[4] != job[4]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[07-10,12],cpu1", "gpu07"),
        ("cpu1,gpu[07-10]", "cpu1"),
        ("rack[0-1]n[3,5]", "rack0n3"),
        ("n[001-004]-ib", "n001-ib"),
    ],
)
def test_first_node_is_read_without_scontrol(nodes, first, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert adopt("slurm", {**SLURM, "SLURM_JOB_NODELIST": nodes}, monkeypatch)[3] == first


def test_first_node_is_what_scontrol_says(tmp_path, monkeypatch):
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[07-10]" ] && echo gpu07.cluster && echo gpu08.cluster\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert adopt("slurm", {**SLURM, "SLURM_JOB_NODELIST": "gpu[07-10]"}, monkeypatch)[3] == "gpu07.cluster"
    program.write_text("#!/bin/sh\necho Invalid hostlist >&2\nexit 1\n")
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(ValueError, match="Invalid hostlist; set MASTER_ADDR"):
        adopt_launcher("slurm")


def test_a_given_address_wins_and_an_argument_over_the_variable(monkeypatch):
    given = {**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5"}
    assert adopt("slurm", given, monkeypatch)[3:] == ("10.0.0.1", "5")
    adopt_launcher("slurm", port=29501)
    assert os.environ["MASTER_PORT"] == "29501"


@pytest.mark.parametrize(
    "environment",
    [
        MPI,
        {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"},
        {"PMIX_RANK": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"},
    ],
    ids=["Open MPI", "PMI", "PMIx"],
)
def test_mpi_tells_rank_and_place(environment, monkeypatch):
    assert adopt("mpi", environment, monkeypatch) == ("1", "2", "1", "127.0.0.1", "29500")


def test_jobs_of_one_machine_have_ports_of_their_own(monkeypatch):
    ports = set()
    for job in ("prterun-here-11@1", "prterun-here-12@1"):
        ports.add(adopt("mpi", {**MPI, "PMIX_NAMESPACE": job}, monkeypatch)[4])
        monkeypatch.delenv("MASTER_PORT")
    assert len(ports) == 2


def test_mpi_on_several_machines_asks_for_the_address(monkeypatch):
    with pytest.raises(ValueError, match="1 of 2 processes.*set MASTER_ADDR"):
        adopt("mpi", {**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, monkeypatch)
    assert adopt("mpi", {"MASTER_ADDR": "node0"}, monkeypatch)[3] == "node0"


@pytest.mark.parametrize(("environment", "rank"), [(SLURM, 3), (MPI, 1), ({"RANK": "5", **SLURM}, 5), ({}, 0)])
def test_rank_is_known_before_the_group_exists(environment, rank):
    assert rank_in_environment(environment) == rank


def test_none_leaves_the_environment_alone(monkeypatch):
    assert adopt("none", SLURM, monkeypatch) == (None,) * 5


@pytest.mark.parametrize(("launcher", "command"), [("slurm", "srun"), ("mpi", "mpirun"), ("pytorch", "torchrun")])
def test_a_launcher_that_did_not_start_this_process_is_refused(launcher, command):
    with pytest.raises(ValueError, match=f"--launcher {launcher} needs .* start the script with {command}"):
        adopt_launcher(launcher)
