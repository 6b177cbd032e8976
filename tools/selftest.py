"""Qualify a machine in some minutes: break small runs on it, and see whether they end as docs/reliability.md promises.

python tools/selftest.py
python tools/selftest.py preempt corrupt --work-dir /scratch/me
The runs are on the CPU, some of them on two processes. They write below --work-dir: name the file system of your checkpoints.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; bitwise comparisons want one thread

from pet import doctor
from pet.engine.command import run_tool, tool_parser
from pet.utils.findings import FAIL, PASS, WARN, Finding
from pet.utils.suggest import did_you_mean

_NETWORK = "ranks meet on 127.0.0.1: check that local TCP connections are allowed, and GLOO_SOCKET_IFNAME=lo"
_FILES = "do not keep checkpoints here: rename, fsync or the content of files cannot be trusted; try a local disk with --work-dir"
_SIGNALS = "signals reach the ranks late or never: raise --grace-period and what the scheduler waits (Slurm: KillWait)"
_ENDING = "processes outlive their job: have the scheduler clean up (a Slurm epilog, cgroups), and tell us what the system is"
# Check: number and trials of its campaign in tests/faults, and what to do when it fails.
CHECKS = {
    "ports": ("F24", 2, _NETWORK),
    "kill": ("F01", 1, _FILES),
    "kill-rank": ("F02", 1, _FILES),
    "orphans": ("F25", 3, _ENDING),
    "exception": ("F21", 1, _ENDING),
    "stopped-rank": ("F22", 1, _NETWORK),
    "preempt": ("F09", 1, _SIGNALS),
    "corrupt": ("F15", 20, _FILES),
    "full-disk": ("F17", 2, _FILES),
}
_MODULES = ("kills", "ranks", "preemption", "files")


def main(args):
    """Run the checks and print a table."""
    unknown = [name for name in args.checks if name not in CHECKS]
    if unknown:
        raise ValueError(f"there is no check '{unknown[0]}'.{did_you_mean(unknown[0], CHECKS)} There are {', '.join(CHECKS)}")
    from tests.faults.catalog import faults_of
    from tests.faults.running import Trials, run_all

    names = {CHECKS[name][0]: name for name in args.checks or CHECKS}
    faults = [fault for fault in faults_of(*_MODULES) if fault.id in names]
    machine = [finding for finding in doctor.examine() if finding.name == "shared memory" or finding.result in (WARN, FAIL)]
    findings, failures = [finding for finding in machine if not finding.name.startswith("extra ")], []
    with tempfile.TemporaryDirectory(prefix="pet_selftest_", dir=args.work_dir) as folder:
        for result in run_all([Trials(f, CHECKS[names[f.id]][1], args.seed, Path(folder, f.id)) for f in faults], jobs=1):
            name, figure = names[result.id], result.figure
            kept, remedy = (PASS, "") if figure.kept else (FAIL, CHECKS[name][2])
            print(f"{name}: {figure}, {result.seconds:.0f} s", flush=True)
            findings.append(Finding(name, kept, f"{result.promise}: {figure}", result.seconds, remedy))
            failures += [f"{name}: {text}" for text in figure.failures[:3]]
    print("\n".join(["", *failures, doctor.report(findings)]))
    return int(any(finding.result == FAIL for finding in findings))


if __name__ == "__main__":
    parser = tool_parser(__doc__, config=False)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"some of {', '.join(CHECKS)}; default: all")
    parser.add_argument("--work-dir", default=".", metavar="DIR", help="where to write, in a temporary folder; default: here")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    run_tool(main, parser)
