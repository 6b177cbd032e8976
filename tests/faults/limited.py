"""Run a script where memory is short: ``python limited.py shared|address MIB SCRIPT [ARGUMENTS]``.

``shared``: /dev/shm is a file system of this size that nobody else sees. ``address``: the process may take this much more
address space than it has when the script begins.
"""

from __future__ import annotations

import ctypes
import os
import resource
import runpy
import subprocess
import sys
from pathlib import Path

NOT_PERMITTED = 77
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS of sched.h


def limit_shared_memory(mib: int) -> None:
    """Mount a small /dev/shm for this process and its children; leaves with ``NOT_PERMITTED`` if that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    mounts = (["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", "/dev/shm"])
    if libc.unshare(_NEW_MOUNTS) != 0:
        print(f"no mount namespace of its own: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(NOT_PERMITTED)
    for command in mounts:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            sys.exit(NOT_PERMITTED)


def limit_address_space(mib: int) -> None:
    """Allow so much address space beyond what is taken now."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (mib << 20),) * 2)


if __name__ == "__main__":
    kind, size, *words = sys.argv[1:]
    {"shared": limit_shared_memory, "address": limit_address_space}[kind](int(size))
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
