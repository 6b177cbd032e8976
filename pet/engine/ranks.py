"""Which process of a run this is, when a cluster's launcher started it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Mapping

_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
# Variables that state rank, number of processes and rank on this machine, for each launcher.
_SOURCES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "slurm": (_SLURM,),
    "mpi": (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),  # Open MPI
        ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),  # MPICH, Intel MPI
        ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),  # MVAPICH2
        ("PMI_RANK", "PMI_SIZE", "SLURM_LOCALID"),  # srun --mpi=pmi2
        ("PMIX_RANK", "SLURM_NTASKS", "SLURM_LOCALID"),  # srun --mpi=pmix; PMIx itself tells no number of processes
    ),
}
_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# How many processes a machine has, by the MPI that says so.
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE")
# What tells two jobs that run on one machine at the same time apart.
_JOBS = ("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
_FIXED_PORT = 29500


def adopt_launcher(launcher: str, port: int = 0) -> None:
    """Translate the environment of ``--launcher`` to torch's variables; ``none`` leaves what torchrun or nobody has set.

    Args:
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        port: where the processes meet; 0: ``MASTER_PORT``, else one that depends on the job. Only for ``slurm`` and ``mpi``.

    Raises:
        ValueError: the variables of that launcher are not there, or do not tell where rank 0 is.
    """
    if launcher == "pytorch":
        _require([_TORCH], launcher)
    if launcher not in _SOURCES:
        return
    names = _require(_SOURCES[launcher], launcher)
    os.environ.update({to: os.environ[source] for to, source in zip(_TORCH, names, strict=True)})
    if not os.environ.get("MASTER_ADDR"):
        os.environ["MASTER_ADDR"] = _first_node(os.environ)
    if port or not os.environ.get("MASTER_PORT"):
        os.environ["MASTER_PORT"] = str(port or _port(os.environ))


def rank_in_environment(environment: Mapping[str, str] = os.environ) -> int:
    """Rank of this process as whoever started it says, before a group exists; 0 if nobody does."""
    names = (_TORCH[0], *(source[0] for sources in _SOURCES.values() for source in sources))
    return next((int(environment[name]) for name in names if environment.get(name, "").isdecimal()), 0)


def _require(sources: tuple[tuple[str, str, str], ...] | list[tuple[str, str, str]], launcher: str) -> tuple[str, str, str]:
    for names in sources:
        if all(name in os.environ for name in names):
            return names
    wanted = " or ".join(dict.fromkeys(", ".join(names) for names in sources))
    started = {"slurm": "srun", "mpi": "mpirun", "pytorch": "torchrun"}[launcher]
    instead = "or let Pet start the processes: --nproc N" if launcher == "pytorch" else "or leave the flag out"
    raise ValueError(f"--launcher {launcher} needs {wanted} in the environment; start the script with {started}, {instead}")


def _first_node(environment: Mapping[str, str]) -> str:
    """The host where rank 0 runs; this machine if all processes run here."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or environment.get("SLURM_NODELIST")
    if nodes:
        return _first_host(nodes)
    here = next((environment[name] for name in _LOCAL_SIZES if name in environment), environment["WORLD_SIZE"])
    if here != environment["WORLD_SIZE"]:
        raise ValueError(
            f"this machine has {here} of {environment['WORLD_SIZE']} processes, and MPI does not say where rank 0 runs: set "
            "MASTER_ADDR for all processes, with Open MPI mpirun -x MASTER_ADDR=HOST, with MPICH mpirun -genv MASTER_ADDR HOST"
        )
    return "127.0.0.1"


def _first_host(nodes: str) -> str:
    """The first host of a list such as ``gpu[07-10,12],cpu1``, as Slurm reads it."""
    if not re.search(r"[\[,]", nodes):
        return nodes
    if shutil.which("scontrol") is None:  # in a container, say
        first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
        return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0] if first else nodes)
    shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=30, check=False)
    if shown.returncode != 0 or not shown.stdout.split():
        reason = shown.stderr.strip() or "scontrol printed nothing"
        raise ValueError(f"cannot tell the first of the nodes {nodes}: {reason}; set MASTER_ADDR")
    return shown.stdout.split()[0]


def _port(environment: Mapping[str, str]) -> int:
    """The same port for all processes, another one for every job and step; below those that systems hand out."""
    job = ".".join(environment[name] for name in _JOBS if name in environment)
    return 20000 + zlib.crc32(job.encode()) % 10000 if job else _FIXED_PORT
