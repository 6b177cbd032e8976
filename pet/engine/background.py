"""Work beside the training loop: a copy of the state in host memory, and a thread that handles it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from copy import deepcopy
from threading import Lock, Thread
from typing import Any, TypeVar

import torch

from pet.engine.checkpoint_file import tensors_in

S = TypeVar("S")
Job = Callable[[], None]


class Background:
    """Runs jobs in order in a thread of its own, which lives only while there is work.

    A job builds on those before it: after one that failed, the rest is dropped, until ``wait`` has raised its error.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: deque[Job] = deque()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._error: Exception | None = None

    @property
    def failed(self) -> bool:
        """Whether ``wait`` would raise at once."""
        return self._error is not None

    def submit(self, job: Job) -> None:
        """Run ``job`` after those submitted before, and return at once."""
        with self._lock:
            self._jobs.append(job)
            if self._thread is None:
                # No daemon: a process that leaves in order waits for it. One that is killed, or leaves by os._exit, does not.
                self._thread = Thread(target=self._work, name=self._name)
                self._thread.start()

    def follow(self, job: Job) -> None:
        """Run ``job`` after those submitted before: here and now if they are done, else in their thread."""
        with self._lock:
            if self._thread is not None or self._error is not None:
                self._jobs.append(job)
                return
        job()

    def wait(self) -> None:
        """Return when all jobs are done; the error of one that failed is raised."""
        thread = self._thread
        if thread is not None:
            thread.join()
        error, self._error = self._error, None
        self._jobs.clear()
        if error is not None:
            raise error

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs or self._error is not None:
                    self._thread = None
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception as error:
                self._error = error


class HostCopy:
    """Copies states of tensors and plain values into host memory, which is kept and filled again by the next copy.

    The memory is page-locked for tensors of a CUDA device. Tensors on the CPU are copied as well: the optimizer changes them in
    place. Tensors that are the same memory (tied weights) stay one.
    """

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []

    @torch.no_grad()
    def __call__(self, state: S) -> S:
        """A copy that shares nothing with ``state``; what an earlier call returned must not be used any more."""
        free = defaultdict(list)
        for buffer in self._kept:
            free[_layout(buffer)].append(buffer)
        copies: dict[Any, torch.Tensor] = {}
        memo: dict[int, Any] = {}
        for tensor in tensors_in(state):
            if tensor.is_meta:
                continue  # its data lie elsewhere (sharded.split)
            place = tensor.device, tensor.data_ptr(), _layout(tensor)
            if place not in copies:
                fitting = free[_layout(tensor)]
                copies[place] = fitting.pop() if fitting else torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
                copies[place].copy_(tensor, non_blocking=tensor.is_cuda)
            memo[id(tensor)] = copies[place]
        for device in {device for device, *_ in copies if device.type == "cuda"}:
            torch.cuda.synchronize(device)
        self._kept = list(copies.values())
        return deepcopy(state, memo)


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.stride()
