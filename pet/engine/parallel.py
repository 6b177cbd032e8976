"""A model on several processes: DistributedDataParallel or fully_shard, chosen and checked before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from pet.config import CfgNode
from pet.utils import comm
from pet.utils.logger import logging_rank
from pet.utils.suggest import did_you_mean

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # they have no forward, so nothing says when their parameters are needed


def distribute(model: nn.Module, cfg: CfgNode, device: torch.device, amp_dtype: torch.dtype | None = None) -> nn.Module:
    """Compile the model if asked to and spread it over the processes; checkpoints keep the names of the bare module.

    Call it before the optimizer is built: ``fully_shard`` puts other parameters into the model.

    Args:
        model: on its device, with its weights; those of rank 0 count.
        cfg: reads MISC.COMPILE, MISC.FIND_UNUSED_PARAMETERS and MISC.PARALLEL.
        device: of this process.
        amp_dtype: of autocast, for MISC.PARALLEL.FSDP.MIXED_PRECISION.

    Raises:
        ValueError: a part of the model cannot be trained in this way; the text names it.
    """
    if cfg.MISC.COMPILE:
        model = torch.compile(model)  # type: ignore[assignment]
    if comm.get_world_size() == 1:
        return model
    if device.type != "cuda" and any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        raise ValueError(f"MODEL.NORM SyncBN joins several processes on GPUs only, not on {device.type}; set MODEL.NORM BN")
    if cfg.MISC.PARALLEL.TYPE == "fsdp":
        return _shard(model, cfg, device, amp_dtype)
    return _replicate(model, cfg, device)


# ------------------------------------------------------------------------------------------------------------ replicas


def _replicate(model: nn.Module, cfg: CfgNode, device: torch.device) -> nn.Module:
    options = cfg.MISC.PARALLEL
    replica = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=cfg.MISC.FIND_UNUSED_PARAMETERS,
        gradient_as_bucket_view=True,
        static_graph=options.STATIC_GRAPH,
        bucket_cap_mb=options.BUCKET_CAP_MB,
        # Training does not read running statistics, and a save or an evaluation brings them together (PARALLEL.BUFFERS).
        forward_sync_buffers=False,
    )
    if options.COMM_HOOK != "none":
        replica.register_comm_hook(*_comm_hook(options))
        logging_rank(f"Gradients travel compressed by {options.COMM_HOOK}, so updates are not those of a run without")
    return replica


def _comm_hook(options: CfgNode) -> tuple[Any, Any]:
    """State and function that exchange a bucket of gradients."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    if options.COMM_HOOK == "fp16":
        return None, default_hooks.fp16_compress_hook
    if options.COMM_HOOK == "bf16":
        return None, default_hooks.bf16_compress_hook
    state = powerSGD_hook.PowerSGDState(
        None,
        matrix_approximation_rank=options.POWERSGD.RANK,
        start_powerSGD_iter=options.POWERSGD.START_ITER,
    )
    return state, powerSGD_hook.powerSGD_hook


# -------------------------------------------------------------------------------------------------------------- shards


@dataclass(frozen=True)
class Sharding:
    """How ``distribute`` has sharded a model; the model's attribute ``sharding``.

    Attributes:
        units: modules whose parameters are gathered together, but for the model itself.
        reshard_after_forward: whether they are let go between forward and backward.
        finds_unused: whether a parameter may have no gradient.
    """

    units: Sequence[Any]
    reshard_after_forward: bool
    finds_unused: bool


def sharding_of(model: nn.Module) -> Sharding | None:
    """How the bare model is sharded; ``None``: every process has all of it."""
    return getattr(model, "sharding", None)


def _shard(model: nn.Module, cfg: CfgNode, device: torch.device, amp_dtype: torch.dtype | None) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    options = cfg.MISC.PARALLEL.FSDP
    units = sharding_units(model, options.SHARD, heads=not cfg.MISC.FIND_UNUSED_PARAMETERS)
    param_dtype = _parameter_type(model, amp_dtype) if options.MIXED_PRECISION else None
    # Ranks draw different first weights; each keeps its part of those of rank 0.
    comm.broadcast_tensors([*model.parameters(), *model.buffers()])
    total = sum(parameter.numel() for parameter in model.parameters())
    shared: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (comm.get_world_size(),)),
        # autocast chooses the types of the computation, as it does without sharding
        "mp_policy": MixedPrecisionPolicy(param_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False),
    }
    for _, unit in units:
        fully_shard(unit, reshard_after_forward=options.RESHARD_AFTER_FORWARD, **shared)
    root: Any = fully_shard(model, **shared)
    root.sharding = Sharding([unit for _, unit in units], options.RESHARD_AFTER_FORWARD, cfg.MISC.FIND_UNUSED_PARAMETERS)
    root.set_reduce_scatter_unused_params(cfg.MISC.FIND_UNUSED_PARAMETERS)
    mine = sum(comm.local(parameter).numel() for parameter in model.parameters())
    logging_rank(
        f"Sharded over {comm.get_world_size()} processes: {mine / 1e6:.2f} of {total / 1e6:.2f} M parameters are here, gathered "
        f"in {len(units) + 1} units: {', '.join(name for name, _ in units) or 'none'}, and the rest"
    )
    return model


def _parameter_type(model: nn.Module, amp_dtype: torch.dtype | None) -> torch.dtype | None:
    """The type of gathered parameters; batch normalisation takes none but that of its running statistics."""
    norm = next((name for name, module in model.named_modules() if isinstance(module, _BatchNorm)), None)
    if norm is not None:
        raise ValueError(
            f"MISC.PARALLEL.FSDP.MIXED_PRECISION does not work with batch normalisation, which the model has in {norm}; set it "
            "False (autocast still computes in SOLVER.AMP.DTYPE), or set MODEL.NORM GN"
        )
    return amp_dtype


def sharding_units(model: nn.Module, names: Sequence[str] = (), heads: bool = True) -> list[tuple[str, nn.Module]]:
    """Modules whose parameters are gathered together and let go together, by name, inner ones first; the model is one more.

    All processes must call a unit equally often, because they gather it together.

    Args:
        model: the bare model.
        names: patterns (fnmatch) of module names, or names of classes. Without: the blocks of the backbone (the elements of its
            innermost lists of modules that have parts of their own).
        heads: without names, the neck and each head, too.

    Raises:
        ValueError: a name fits no module, or one that cannot be a unit.
    """
    chosen = _named_units(model, names) if names else _default_units(model, heads)
    return sorted(chosen.items(), key=lambda item: -item[0].count("."))


def _default_units(model: nn.Module, heads: bool) -> dict[str, nn.Module]:
    backbone = model.get_submodule("backbone") if hasattr(model, "backbone") else model
    units = dict(_blocks(backbone, "backbone" if backbone is not model else ""))
    for name, child in model.named_children():
        if heads and backbone is not model and child is not backbone:
            parts = child.named_children() if isinstance(child, _CONTAINERS) else [("", child)]
            units |= {f"{name}.{part}".rstrip("."): module for part, module in parts}
    return {name: module for name, module in units.items() if next(module.parameters(), None) is not None}


def _blocks(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The elements of lists of modules below ``module`` that have parts, and no such elements below them."""
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        inner = list(_blocks(child, path))
        yield from inner
        in_list = isinstance(module, nn.Sequential | nn.ModuleList)
        if in_list and not inner and not isinstance(child, _CONTAINERS) and next(child.children(), None) is not None:
            yield path, child


def _named_units(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    modules = {name: module for name, module in model.named_modules() if name}
    units: dict[str, nn.Module] = {}
    for wanted in names:
        found = {n: m for n, m in modules.items() if fnmatchcase(n, wanted) or type(m).__name__ == wanted}
        known = {*modules, *(type(module).__name__ for module in modules.values())}
        if not found:
            raise ValueError(
                f"MISC.PARALLEL.FSDP.SHARD: '{wanted}' is neither a module of the model nor the class of one."
                f"{did_you_mean(wanted, known)} "
                f"The model has {', '.join(name for name, _ in model.named_children())}, and parts of them"
            )
        units |= found
    bad = next((name for name, module in units.items() if isinstance(module, _CONTAINERS)), None)
    if bad is not None:
        raise ValueError(
            f"MISC.PARALLEL.FSDP.SHARD: {bad} is a {type(units[bad]).__name__}, which has no forward of its own; name its parts: "
            f"{bad}.*"
        )
    return {name: module for name, module in units.items() if next(module.parameters(), None) is not None}


# ------------------------------------------------------------------------------------------------------- while it runs


@contextmanager
def no_sync(model: Any) -> Iterator[None]:
    """Inside, gradients stay on their rank and add up; the first backward outside exchanges the sum."""
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    elif sharding_of(model) is not None:
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    else:
        yield


def drop_gradients(model: Any) -> None:
    """Forget what micro-batches of a window have added up that ends without an update."""
    if sharding_of(model) is not None:
        model.reset_iter_state()


def needs_all_gradients(model: nn.Module) -> bool:
    """Whether ranks wait for the gradient of every parameter in every update."""
    if isinstance(model, DistributedDataParallel):
        return not model.find_unused_parameters and not model.static_graph
    sharding = sharding_of(model)
    return sharding is not None and not sharding.finds_unused


@contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Inside, a sharded model has all its parameters on every rank, so that the ranks may call it differently often.

    Entering is a collective. A model that is not sharded stays as it is.
    """
    sharding = sharding_of(model)
    if sharding is None:
        yield
        return
    for unit in (model, *sharding.units):
        unit.unshard()
        unit.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for unit in (model, *sharding.units):
            unit.reshard()
        for unit in sharding.units:
            unit.set_reshard_after_forward(sharding.reshard_after_forward, recurse=False)
