"""Which process of a run this is, when a cluster's launcher started it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

# Variables that state rank, number of processes and rank on this machine, for each launcher.
_SOURCES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "slurm": (("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),),
    "mpi": (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
        ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ),
}
_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def adopt_launcher(launcher: str) -> None:
    """Translate the environment of ``--launcher`` to torch's variables; ``none`` leaves what torchrun or nobody has set.

    Raises:
        ValueError: the variables of that launcher are not there.
    """
    if launcher == "pytorch":
        _require([_TORCH], launcher)
    if launcher not in _SOURCES:
        return
    names = _require(_SOURCES[launcher], launcher)
    os.environ.update({to: os.environ[source] for to, source in zip(_TORCH, names, strict=True)})
    os.environ.setdefault("MASTER_ADDR", _first_node(os.environ))
    os.environ.setdefault("MASTER_PORT", str(_port(os.environ)))


def _require(sources: tuple[tuple[str, str, str], ...] | list[tuple[str, str, str]], launcher: str) -> tuple[str, str, str]:
    for names in sources:
        if all(name in os.environ for name in names):
            return names
    wanted = " or ".join(", ".join(names) for names in sources)
    started = {"slurm": "srun", "mpi": "mpirun", "pytorch": "torchrun"}[launcher]
    raise ValueError(
        f"--launcher {launcher} needs {wanted} in the environment; start the script with {started}, or leave the flag out"
    )


def _first_node(environment: Mapping[str, str]) -> str:
    """The host where rank 0 runs; this machine if the launcher names none."""
    nodes = environment.get("SLURM_JOB_NODELIST") or environment.get("SLURM_NODELIST")
    if not nodes:
        return "127.0.0.1"
    if not re.search(r"[\[,]", nodes):
        return nodes
    shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=30, check=False)
    if shown.returncode != 0 or not shown.stdout.split():
        reason = shown.stderr.strip() or "scontrol printed nothing"
        raise ValueError(f"cannot tell the first of the nodes {nodes}: {reason}; set MASTER_ADDR")
    return shown.stdout.split()[0]


def _port(environment: Mapping[str, str]) -> int:
    """The same port on every node, another one for every Slurm job."""
    return 20000 + int(environment.get("SLURM_JOB_ID", "9500")) % 10000
