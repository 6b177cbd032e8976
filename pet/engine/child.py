"""One process of a run under torch's elastic agent: ``python -m pet.engine.child SCRIPT ARGUMENTS``, started by ``elastic``.

Before anything slow is imported it ties its life to that of the launcher, and says on a signal that nothing was lost.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from pet.engine import heartbeat, interruption
from pet.engine.launch import EXIT_FAILED, run_script

# The environment variable with the process id of the launcher.
LAUNCHER = "PET_LAUNCHER_PID"
_PR_SET_PDEATHSIG = 1


def _die_with_launcher() -> None:
    """Ask the kernel to kill this process when the launcher dies, however it dies (Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The launcher may have died before the request was made.
    if os.getppid() != int(os.environ[LAUNCHER]):
        os._exit(EXIT_FAILED)


def main() -> None:
    """Run the script; an exception is recorded for the launcher, which prints it last."""
    _die_with_launcher()
    heartbeat.print_stack_on_quit()
    interruption.watch_start()
    from torch.distributed.elastic.multiprocessing.errors import record

    interruption.release()  # the script knows whether a signal can lose anything
    try:
        record(run_script)(sys.argv[1], sys.argv[2:])
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        # Collectives that this rank has begun end with their timeout, and an orderly end of the interpreter would wait for them.
        os._exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
