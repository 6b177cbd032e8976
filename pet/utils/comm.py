"""Communication between the processes of a run; the only module that calls ``torch.distributed`` collectives.

Every function works without an initialised group (one process). Objects travel over a gloo group of their own, tensors over
the group's own back end. Before anything is exchanged the ranks compare what they are about to do, so that a rank that makes
another call, or brings a tensor of another shape, is an error on all of them that says who does what, and never a wrong number.
"""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # exported, but not for mypy

from pet.utils.rendezvous import Meeting, MeetingError

# Gloo groups by use: "calls" carries objects, "patient" as well but waits a day, "checkpoint" belongs to a background writer,
# whose calls may come between those of the loop.
_groups: dict[str, Any] = {}
_timeout: timedelta | None = None
# What one rank may compute alone, such as the metrics of a large data set, while the others wait; a rank that ends is noticed
# at once all the same.
_PATIENCE = timedelta(days=1)
_AGENT_S = 15.0  # to connect to the store of an agent
_BUCKET = 1 << 23  # numbers that are exchanged at a time


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


def timeout_s() -> float:
    """Seconds after which a collective that misses a rank fails; infinite in one process."""
    return _timeout.total_seconds() if _timeout is not None else float("inf")


def is_main_process() -> bool:
    """Whether this is rank 0."""
    return get_rank() == 0


def init_distributed(device: torch.device, timeout_s: float, rdzv_timeout_s: float = 300.0) -> None:
    """Join the process group that the launcher announced in the environment; one process joins none.

    Args:
        device: nccl is used for CUDA devices, gloo otherwise.
        timeout_s: seconds after which a collective that misses a rank fails.
        rdzv_timeout_s: seconds to wait for the other ranks.

    Raises:
        MeetingError: some ranks did not come; the text says which.
        ValueError: the environment does not say where to meet.
    """
    global _timeout
    if is_distributed() or int(os.environ.get("WORLD_SIZE", "1") or 1) <= 1:
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ValueError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the environment has no {', '.join(missing)}")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    meeting = Meeting(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), rank, size, rdzv_timeout_s)
    # An elastic agent serves the store of its ranks itself, the same one for every attempt: it is there before them, or gone.
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    place = replace(meeting, timeout_s=min(rdzv_timeout_s, _AGENT_S)) if served else meeting
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"ranks/{attempt}", place.open(serve=rank == 0 and not served))
    meeting.gather(store)
    _timeout = timedelta(seconds=timeout_s)
    store.set_timeout(_timeout)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_timeout)
    except RuntimeError as error:
        raise MeetingError(f"{meeting} met all others at {meeting.place}, but could not connect to them: {error}") from error


def shutdown_distributed() -> None:
    """Leave the process group, if any."""
    global _timeout
    if is_distributed():
        dist.destroy_process_group()
    _groups.clear()
    _timeout = None


def gloo_group(use: str = "calls") -> Any:
    """All ranks as a gloo group for one use, never that of the gradients. The first request is a collective.

    Args:
        use: ``calls``, ``patient`` or ``checkpoint``; exchanges of different uses do not meet, so their order may differ.
    """
    if use not in _groups:
        # A new group does not inherit the timeout of the first one.
        _groups[use] = dist.new_group(backend="gloo", timeout=_PATIENCE if use == "patient" else _timeout)
    return _groups[use]


def _meet_in(call: str, use: str = "calls", value: int = 0) -> int:
    """Check that all ranks are in the same call; returns the largest ``value``.

    Every exchange begins with this one, which has the same form for all of them: a rank that is in another call is found out by
    its number, before tensors of different meaning or size could be mixed.
    """
    number = zlib.crc32(call.encode())
    box = torch.tensor([number, -number, value], dtype=torch.int64)
    with _naming(call):
        dist.all_reduce(box, op=dist.ReduceOp.MAX, group=gloo_group(use))
        largest, smallest = int(box[0]), -int(box[1])
        if largest != smallest:
            places: list[Any] = [None] * get_world_size()
            dist.all_gather_object(places, f"{call} ({_caller()})", group=gloo_group(use))
            told = "; ".join(f"rank {rank}: {place}" for rank, place in enumerate(places))
            raise DivergedRanks(
                f"the ranks are in different calls: {told}. Every rank must make the same calls in the same order with tensors "
                "of the same shape; make them outside of any branch that depends on the rank or on its data"
            )
    return int(box[2])


class DivergedRanks(RuntimeError):
    """The ranks of a run do not do the same."""


@contextmanager
def _naming(call: str) -> Iterator[None]:
    """Say in which call an exchange failed, and what that means."""
    try:
        yield
    except DivergedRanks:
        raise
    except RuntimeError as error:
        raise RuntimeError(
            f"{call} ({_caller()}) failed on rank {get_rank()}: {error}. Another rank has ended, and its own error is the cause; "
            "or it does not make this call, or comes to it later than MISC.DIST_TIMEOUT allows"
        ) from error


def _caller() -> str:
    """File and line outside of this module that made the call."""
    frame, inside = sys._getframe(1), (__file__, contextlib.__file__)
    while frame.f_back is not None and frame.f_code.co_filename in inside:
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def _shapes(tensors: Iterable[torch.Tensor]) -> str:
    """Types and shapes as text; of many tensors their number and a checksum."""
    texts = [f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in tensors]
    return ", ".join(texts) if len(texts) < 4 else f"{len(texts)} tensors, {zlib.crc32(';'.join(texts).encode()):08x}"


def synchronize() -> None:
    """Wait until every process has arrived here."""
    if get_world_size() > 1:
        _meet_in("synchronize")


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
        dist.monitored_barrier(group=gloo_group(), timeout=timeout, wait_all_ranks=True)
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
    use = "patient" if patient else "calls"
    _meet_in(f"gather to rank {dst}", use)
    parts: list[Any] | None = [None] * get_world_size() if get_rank() == dst else None
    with _naming("gather"):
        dist.gather_object(value, parts, dst=dst, group=gloo_group(use))
    return parts or []


def all_gather(value: Any, *, use: str = "calls") -> list[Any]:
    """Values of all ranks, in rank order, on every rank; ``use`` as for ``gloo_group``."""
    if get_world_size() == 1:
        return [value]
    _meet_in("all_gather", use)
    parts: list[Any] = [None] * get_world_size()
    with _naming("all_gather"):
        dist.all_gather_object(parts, value, group=gloo_group(use))
    return parts


def broadcast(value: Any, src: int = 0, *, patient: bool = False) -> Any:
    """The value of rank ``src`` on every rank; ``patient`` as for ``gather``."""
    if get_world_size() == 1:
        return value
    use = "patient" if patient else "calls"
    _meet_in(f"broadcast from rank {src}", use)
    box = [value]
    with _naming("broadcast"):
        dist.broadcast_object_list(box, src=src, group=gloo_group(use))
    return box[0]


def agree_max(value: int) -> int:
    """The largest of the integers that the ranks bring; the way ranks decide together."""
    return value if get_world_size() == 1 else _meet_in("agree_max", value=value)


def broadcast_buffers(model: torch.nn.Module) -> None:
    """Copy rank 0's buffers (BatchNorm statistics) to all ranks, so that what is measured is what is saved."""
    broadcast_tensors(model.buffers())


def broadcast_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Copy the values of rank 0 to all ranks, in place; all tensors of one type travel together."""
    _exchange("broadcast_tensors", tensors, lambda flat: dist.broadcast(flat, src=0))


def average_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each floating-point tensor by its mean over the ranks, in place; all tensors of one type travel together."""

    def average(flat: torch.Tensor) -> None:
        dist.all_reduce(flat)
        flat /= get_world_size()

    _exchange("average_tensors", tensors, average)


@torch.no_grad()
def _exchange(call: str, tensors: Iterable[torch.Tensor], exchange: Callable[[torch.Tensor], Any]) -> None:
    if get_world_size() == 1:
        return
    tensors = list(tensors)
    _meet_in(f"{call} of {_shapes(tensors)}")
    for bucket in _buckets(tensors):
        with _naming(call):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            exchange(flat)
        for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Tensors of one type, so many that a copy of them takes little memory."""
    open_buckets: dict[Any, list[torch.Tensor]] = {}
    buckets: list[list[torch.Tensor]] = []
    for tensor in tensors:
        bucket = open_buckets.get((tensor.dtype, tensor.device))
        if bucket is None or sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET:
            buckets.append(bucket := [])
            open_buckets[tensor.dtype, tensor.device] = bucket
        bucket.append(tensor)
    return buckets


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor, whose parts lie on several ranks (``fully_shard``)."""
    return hasattr(tensor, "to_local")  # isinstance needs an import that takes a second


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor as an ordinary one, which every rank gets and must ask for; an ordinary tensor as it is."""
    full: torch.Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor, in the same memory; an ordinary tensor as it is."""
    part: torch.Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no number is NaN or infinite; of sharded tensors on any rank, so that every rank must ask."""
    found = list(tensors)
    # The largest of no numbers is not defined: a rank may hold nothing of a small tensor.
    parts = [part for part in map(local, found) if part.numel()]
    finite = bool(torch.isfinite(torch.nn.utils.get_total_norm(parts, float("inf"))))
    return not agree_max(int(not finite)) if any(map(is_sharded, found)) else finite


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
