"""Communication between the processes of a run; the only module that calls ``torch.distributed`` collectives.

Every function works without an initialised group (one process). Objects travel over a gloo group, tensors over
the group's own back end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_object_group: Any = None
_patient_group: Any = None
_timeout: timedelta | None = None
# What one rank may compute alone, such as the metrics of a large data set, while the others wait; a rank that ends is noticed
# at once all the same.
_PATIENCE = timedelta(days=1)


def is_distributed() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def get_rank() -> int:
    """Rank of this process, 0 to world size - 1."""
    return dist.get_rank() if is_distributed() else 0


def get_local_rank() -> int:
    """Rank on this machine, from the launcher's environment."""
    return int(os.environ.get("LOCAL_RANK", "0") or 0)


def is_main_process() -> bool:
    """Whether this is rank 0."""
    return get_rank() == 0


def init_distributed(device: torch.device, timeout_s: float) -> None:
    """Join the process group that the launcher announced in the environment; one process joins none.

    Args:
        device: nccl is used for CUDA devices, gloo otherwise.
        timeout_s: seconds after which a collective that misses a rank fails.
    """
    global _timeout
    if is_distributed() or int(os.environ.get("WORLD_SIZE", "1") or 1) <= 1:
        return
    _timeout = timedelta(seconds=timeout_s)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, init_method="env://", timeout=_timeout)
    except (ValueError, RuntimeError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RuntimeError(
            f"rank {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} could not join the others at {where}: {error}. "
            "Check that the port is free and that every process was started with the same address"
        ) from error


def shutdown_distributed() -> None:
    """Leave the process group, if any."""
    global _object_group, _patient_group, _timeout
    if is_distributed():
        dist.destroy_process_group()
    _object_group = _patient_group = _timeout = None


def _gloo_group(patient: bool = False) -> Any:
    """A group that can carry pickled objects whatever the main back end is; a ``patient`` one waits a day."""
    global _object_group, _patient_group
    if patient:
        _patient_group = _patient_group or dist.new_group(backend="gloo", timeout=_PATIENCE)
        return _patient_group
    if _object_group is None:
        if dist.get_backend() == "gloo":
            _object_group = dist.group.WORLD
        else:
            # A new group does not inherit the timeout of the first one.
            _object_group = dist.new_group(backend="gloo", timeout=_timeout)
    return _object_group


def synchronize() -> None:
    """Wait until every process has arrived here."""
    if get_world_size() > 1:
        dist.barrier(group=_gloo_group())


def meet(what: str, timeout_s: float | None = None) -> None:
    """Wait for all ranks before something that needs them; ``RuntimeError`` names the ranks that do not come.

    Args:
        what: for the message.
        timeout_s: seconds to wait; ``None``: as long as any collective of this group.
    """
    if get_world_size() == 1:
        return
    timeout = timedelta(seconds=timeout_s) if timeout_s is not None else _timeout
    try:
        dist.monitored_barrier(group=_gloo_group(), timeout=timeout, wait_all_ranks=True)
    except RuntimeError as error:
        raise RuntimeError(
            f"{what} needs every rank, but not all of them came in time: {error}. Call it outside of any branch "
            "on the rank; if a rank ended, its own error comes first"
        ) from error


def gather(value: Any, dst: int = 0, *, patient: bool = False) -> list[Any]:
    """Values of all ranks, in rank order, on rank ``dst``; an empty list elsewhere. Called by every rank.

    Args:
        value: anything that can be pickled.
        dst: the rank.
        patient: a rank may come later than the time limit of the run, because it works alone before or afterwards.
    """
    if get_world_size() == 1:
        return [value]
    parts: list[Any] | None = [None] * get_world_size() if get_rank() == dst else None
    dist.gather_object(value, parts, dst=dst, group=_gloo_group(patient))
    return parts or []


def all_gather(value: Any) -> list[Any]:
    """Values of all ranks, in rank order, on every rank."""
    if get_world_size() == 1:
        return [value]
    parts: list[Any] = [None] * get_world_size()
    dist.all_gather_object(parts, value, group=_gloo_group())
    return parts


def broadcast(value: Any, src: int = 0, *, patient: bool = False) -> Any:
    """The value of rank ``src`` on every rank; ``patient`` as for ``gather``."""
    if get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=src, group=_gloo_group(patient))
    return box[0]


def agree_max(value: int) -> int:
    """The largest of the integers that the ranks bring; the way ranks decide together."""
    if get_world_size() == 1:
        return value
    box = torch.tensor([value], dtype=torch.int64)
    dist.all_reduce(box, op=dist.ReduceOp.MAX, group=_gloo_group())
    return int(box.item())


def broadcast_buffers(model: torch.nn.Module) -> None:
    """Copy rank 0's buffers (BatchNorm statistics) to all ranks, so that what is measured is what is saved."""
    if get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def average_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, in place."""
    if get_world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= get_world_size()


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The bare module inside DistributedDataParallel and torch.compile wrappers, in any order."""
    while True:
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model.get_submodule("_orig_mod")
        else:
            return model


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the body on rank 0 before the other ranks run it, for example to download a data set once."""
    if not is_main_process():
        synchronize()
    try:
        yield
    finally:
        if is_main_process():
            synchronize()
