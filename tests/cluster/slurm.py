"""Slurm on this machine: one controller and one node, started without systemd in a temporary folder, and gone afterwards.

python -m tests.cluster.slurm install               Debian's Slurm, munge and Open MPI, by apt (as root)
python -m tests.cluster.slurm run sbatch job.sh     a command with a cluster around it, until its jobs have ended
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import free_port

PACKAGES = ("slurm-wlm", "munge", "openmpi-bin")
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "setpriv")
_START_S, _STOP_S = 30.0, 60.0
NODE = platform.node().partition(".")[0]
# A requeued job waits until its old credential has expired: two minutes, or cred_expire if that is at least 5 s.
_CONFIG = f"""
ClusterName=pet
SlurmctldHost={NODE}(127.0.0.1)
SlurmctldPort={{controller_port}}
SlurmdPort={{node_port}}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={{folder}}/munge.socket,cred_expire=5
StateSaveLocation={{folder}}/state
SlurmdSpoolDir={{folder}}/spool
SlurmctldPidFile={{folder}}/slurmctld.pid
SlurmdPidFile={{folder}}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
JobRequeue=1
KillWait=30
NodeName={NODE} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=debug Nodes={NODE} Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """What ``install`` would bring and is not here."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def install() -> None:
    """Install the packages; their services are not started, ``slurm_cluster`` starts its own."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", "--quiet", *words], env=environment, check=True)


@dataclass(frozen=True)
class Slurm:
    """A running cluster.

    Attributes:
        folder: everything it writes.
        environment: variables with which ``srun``, ``sbatch`` and the other commands find it.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, *words: str, timeout: float = 60.0) -> str:
        """Standard output of a Slurm command; a failure is a ``RuntimeError`` with what it said."""
        done = subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def job(self, id: str) -> dict[str, str]:
        """What ``scontrol show job`` tells, by name."""
        return dict(word.partition("=")[::2] for word in self.run("scontrol", "--oneliner", "show", "job", id).split())

    def wait_until_idle(self, timeout: float) -> None:
        """Return when no job waits, runs or ends."""
        deadline = time.monotonic() + timeout
        while jobs := self.run("squeue", "--noheader", "--states=all", "--format=%i %T"):
            if not any(word in jobs for word in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"jobs are left after {timeout:.0f} s:\n{jobs}")
            time.sleep(0.2)

    def cancel_all(self) -> None:
        """End what runs at once, its steps and its shell, and take back what waits or would be requeued."""
        for how in (["--signal=KILL"], ["--signal=KILL", "--full"], []):
            self.run("scancel", *how, "--user=root")
        self.wait_until_idle(_STOP_S)

    def log(self) -> str:
        """What the daemons said."""
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')}" for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def slurm_cluster() -> Iterator[Slurm]:
    """A cluster with one node, 2 CPUs and the partition ``debug``; jobs that still run at the end are cancelled."""
    with tempfile.TemporaryDirectory(prefix="pet_slurm_") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # munge wants its socket where everybody may look
        for part in ("state", "spool"):
            (folder / part).mkdir()
        config = folder / "slurm.conf"
        config.write_text(_CONFIG.format(folder=folder, controller_port=free_port(), node_port=free_port()))
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        slurm = Slurm(folder, {"SLURM_CONF": str(config)})
        munge = [f"--{part}={folder}/munge.{end}" for part, end in (("key-file", "key"), ("socket", "socket"))]
        munge += [f"--{part}={folder}/munge.{end}" for part, end in (("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))]
        stack.enter_context(_daemon(slurm, ["munged", "--foreground", "--force", *munge]))
        _wait_for(slurm, lambda: (folder / "munge.socket").exists())
        stack.enter_context(_daemon(slurm, ["slurmctld", "-D", "-c", "-f", str(config)]))
        stack.enter_context(_daemon(slurm, ["slurmd", "-D", "-c", "-f", str(config)]))
        _wait_for(slurm, lambda: "idle" in slurm.run("sinfo", "--noheader", "--format=%T"))
        try:
            yield slurm
        finally:
            slurm.cancel_all()


@contextlib.contextmanager
def _daemon(slurm: Slurm, words: Sequence[str]) -> Iterator[None]:
    """A daemon in the foreground; it ends with this process, however that ends."""
    with open(slurm.folder / f"{words[0]}.log", "ab") as log:
        command = ["setpriv", "--pdeathsig", "TERM", *words]
        process = subprocess.Popen(
            command, env={**os.environ, **slurm.environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(slurm: Slurm, ready: Callable[[], bool]) -> None:
    deadline, why = time.monotonic() + _START_S, ""
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            why = str(error)
        time.sleep(0.1)
    raise TimeoutError(f"Slurm did not start within {_START_S:.0f} s: {why}\n{slurm.log()}")


def main(words: Sequence[str]) -> int:
    """``install``, or ``run COMMAND``."""
    if words == ["install"]:
        install()
        return 0
    if len(words) < 2 or words[0] != "run":
        print(__doc__, file=sys.stderr)
        return 2
    if absent := missing_programs():
        print(f"error: {', '.join(absent)} not found; python -m tests.cluster.slurm install brings them", file=sys.stderr)
        return 2
    with slurm_cluster() as slurm:
        status = subprocess.run(words[1:], env={**os.environ, **slurm.environment}, check=False).returncode
        slurm.wait_until_idle(24 * 3600.0)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
