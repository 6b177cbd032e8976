"""Optimizers with few parameter groups, built from ``SOLVER.OPTIMIZER``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pet.config import CfgNode
from pet.utils import comm
from pet.utils.registry import Registry

# Subclasses come along: SyncBatchNorm, and the LayerNorm2d of torchvision and timm.
_NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
# cls_token, class_token, register_tokens, mask_token; pos_embed, position_embedding; rel_pos_h, relative_position_bias_table;
# attention_biases (LeViT).
_EMBEDDING_NAME = re.compile(r"tokens?$|pos(ition)?_embed|relative_position|^rel_pos|^attention_biases$")
_BIAS_NAME = re.compile(r"^bias(_|$)|_bias$")
_START_AFRESH = "or start afresh from the weights alone (TRAIN.WEIGHTS, TRAIN.AUTO_RESUME False)"


@dataclass(frozen=True)
class OptimizerSpec:
    """A torch optimizer and the config keys it takes.

    Attributes:
        cls: the class.
        options: keyword argument of the class to key of ``SOLVER.OPTIMIZER``.
        fused: whether the class has fused kernels for CPU and CUDA.
        fused_shards: whether these kernels take parameters that are sharded over processes.
    """

    cls: type[torch.optim.Optimizer]
    options: Mapping[str, str]
    fused: bool
    fused_shards: bool = False


OPTIMIZERS: Registry[OptimizerSpec] = Registry("optimizer", "pet.solver.optimizer")
_ADAM_OPTIONS = {"betas": "BETAS", "eps": "EPS"}
OPTIMIZERS.register("SGD")(OptimizerSpec(torch.optim.SGD, {"momentum": "MOMENTUM", "nesterov": "NESTEROV"}, fused=True))
OPTIMIZERS.register("ADAM")(OptimizerSpec(torch.optim.Adam, _ADAM_OPTIONS, fused=True, fused_shards=True))
OPTIMIZERS.register("ADAMW")(OptimizerSpec(torch.optim.AdamW, _ADAM_OPTIONS, fused=True, fused_shards=True))
OPTIMIZERS.register("RMSPROP")(
    OptimizerSpec(torch.optim.RMSprop, {"alpha": "ALPHA", "eps": "EPS", "momentum": "MOMENTUM"}, fused=False)
)


def parameter_kind(module: nn.Module, name: str) -> str:
    """``"norm"``, ``"embedding"``, ``"bias"`` or ``"weight"``.

    Args:
        module: the module that holds the parameter itself.
        name: name of the parameter in that module. Everything a normalisation layer holds is ``"norm"``, its bias too.
    """
    if isinstance(module, _NORM_LAYERS) or "Norm" in type(module).__name__:
        return "norm"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) or _EMBEDDING_NAME.search(name):
        return "embedding"
    return "bias" if _BIAS_NAME.search(name) else "weight"


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """``(full name, kind, parameter)`` of each trainable parameter; a shared one comes once, under its first name."""
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield f"{module_name}.{name}" if module_name else name, parameter_kind(module, name), parameter


@dataclass(frozen=True)
class ParamRules:
    """Relative learning rate and weight decay by kind of parameter.

    Attributes:
        weight_decay: kind (see ``parameter_kind``) to weight decay.
        bias_lr_factor: learning rate of biases (not those of normalisation layers), relative.
        backbone_lr_factor: learning rate of parameters named ``backbone.*``, relative.
    """

    weight_decay: Mapping[str, float]
    bias_lr_factor: float = 1.0
    backbone_lr_factor: float = 1.0

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> ParamRules:
        """Read the rules from ``SOLVER.OPTIMIZER``; a weight decay of ``None`` means ``WEIGHT_DECAY``."""
        special = {"bias": cfg.WEIGHT_DECAY_BIAS, "norm": cfg.WEIGHT_DECAY_NORM, "embedding": cfg.WEIGHT_DECAY_EMBED}
        decay = {kind: cfg.WEIGHT_DECAY if value is None else value for kind, value in special.items()}
        return cls({"weight": cfg.WEIGHT_DECAY, **decay}, cfg.BIAS_LR_FACTOR, cfg.BACKBONE_LR_FACTOR)

    def lr_factor(self, name: str, kind: str) -> float:
        """Learning rate of the parameter, relative to the base."""
        factor = self.bias_lr_factor if kind == "bias" else 1.0
        return factor * self.backbone_lr_factor if name.startswith("backbone.") else factor


def build_param_groups(model: nn.Module, base_lr: float, rules: ParamRules) -> list[dict[str, Any]]:
    """Groups of the trainable parameters; those with equal learning rate and weight decay share one.

    Returns:
        Groups for a torch optimizer, in the order of the model. ``params`` holds ``(name, parameter)`` pairs; ``name`` says
        what the group holds; ``lr_factor`` is relative to ``base_lr``; ``initial_lr`` is their product.

    Raises:
        ValueError: nothing is trainable, or a factor for the backbone cannot apply.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, kind, parameter in trainable_parameters(model):
        factor, decay = rules.lr_factor(name, kind), rules.weight_decay[kind]
        lr = base_lr * factor
        new = {"params": [], "name": [], "lr": lr, "initial_lr": lr, "lr_factor": factor, "weight_decay": decay}
        group = groups.setdefault((factor, decay), new)
        group["params"].append((name, parameter))
        label = f"backbone {kind}" if rules.backbone_lr_factor != 1.0 and name.startswith("backbone.") else kind
        if label not in group["name"]:
            group["name"].append(label)
    if not groups:
        raise ValueError(
            f"{type(model).__name__} has no trainable parameter: {sum(1 for _ in model.parameters())} parameters, all of them "
            "frozen. Look at MODEL.FREEZE_BACKBONE, MODEL.FREEZE_NECK and MODEL.FREEZE_AT"
        )
    if rules.backbone_lr_factor != 1.0 and not any(name.startswith("backbone.") for name, _ in model.named_parameters()):
        raise ValueError(
            f"SOLVER.OPTIMIZER.BACKBONE_LR_FACTOR is {rules.backbone_lr_factor}, but no parameter of {type(model).__name__} is "
            f"named backbone.*; its parts are {', '.join(name for name, _ in model.named_children())}. Set it to 1.0"
        )
    return [{**group, "name": ", ".join(group["name"])} for group in groups.values()]


class Optimizer:
    """Builds the torch optimizer of a model.

    Parameters are told apart by the module that holds them: normalisation layers get WEIGHT_DECAY_NORM, embeddings, class tokens
    and position tables WEIGHT_DECAY_EMBED, other biases WEIGHT_DECAY_BIAS and BIAS_LR_FACTOR, the rest WEIGHT_DECAY;
    ``backbone.*`` also gets BACKBONE_LR_FACTOR. Frozen parameters are left out, so freeze before building.

    SGD, ADAM and ADAMW use torch's fused kernels on CPU and CUDA (SGD not for sharded parameters); elsewhere, and for RMSPROP,
    torch chooses. Measured on CPU
    (torch 2.15, one thread, ResNet-50): SGD 9 ms instead of 18, AdamW 13 instead of 42; foreach is slower than the plain loop
    there. Fused results are the same for any number of threads and any memory placement, but differ in the last bit from
    those of the plain loop.

    States are saved and loaded by parameter name, so that a config that groups parameters differently cannot mix them up. On
    loading, the present options (learning rate, weight decay, momentum, ...) win over the saved ones.

    Args:
        model: bare or wrapped (DistributedDataParallel, compiled).
        cfg: the node ``SOLVER.OPTIMIZER``.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode) -> None:
        self._model = comm.unwrap(model)
        self._type, self._spec = cfg.TYPE, OPTIMIZERS.get(cfg.TYPE)
        if self._spec.options.get("nesterov") and cfg.NESTEROV and not cfg.MOMENTUM:
            raise ValueError("SOLVER.OPTIMIZER.NESTEROV needs SOLVER.OPTIMIZER.MOMENTUM above 0")
        self._options = {keyword: cfg[key] for keyword, key in self._spec.options.items()}
        self._groups = build_param_groups(self._model, cfg.BASE_LR, ParamRules.from_cfg(cfg))
        if all(_has_fused_kernel(self._spec, p) for group in self._groups for _, p in group["params"]):
            self._options["fused"] = True

    def build(self) -> torch.optim.Optimizer:
        """The optimizer; its groups also carry ``name``, ``param_names``, ``lr_factor``, ``initial_lr`` and ``type``."""
        groups = [{**group, "type": self._type} for group in self._groups]
        optimizer = self._spec.cls(groups, **self._options)
        optimizer.register_load_state_dict_pre_hook(_match_by_name)
        if "fused" in self._options and self._options.get("momentum"):
            start_momenta(optimizer)
        return optimizer

    def describe(self) -> str:
        """The groups as a table, for the log."""
        rows = [("lr", "weight decay", "tensors", "parameters", "holds")]
        for group in self._groups:
            sizes = [parameter.numel() for _, parameter in group["params"]]
            rows.append((f"{group['lr']:g}", f"{group['weight_decay']:g}", str(len(sizes)), f"{sum(sizes):,}", group["name"]))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        frozen = [parameter.numel() for parameter in self._model.parameters() if not parameter.requires_grad]
        title = f"{self._type}{' (fused)' if 'fused' in self._options else ''}"
        if frozen:
            title += f", {len(frozen)} frozen tensors ({sum(frozen):,} parameters) left out"
        table = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join([title, *(f"  {line}".rstrip() for line in table)])


def start_momenta(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter a momentum of zero; the first step from there is that of a new parameter.

    The fused SGD takes parameters that all have a momentum, or parameters that are all new: a parameter whose first gradient
    comes later than that of others (a part that is used in turns, ``DropGradients``) would end the run with a TypeError.
    """
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _has_fused_kernel(spec: OptimizerSpec, parameter: nn.Parameter) -> bool:
    taken = spec.fused_shards if comm.is_sharded(parameter) else spec.fused
    return taken and parameter.device.type in ("cpu", "cuda") and parameter.is_floating_point()


def _match_by_name(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Bring a saved state into the order of the present groups; torch alone would go by position."""
    saved: dict[str, Any] = {}
    for group in state_dict["param_groups"]:
        if "param_names" not in group:
            raise ValueError("the saved optimizer state has no parameter names: it was not written by pet.solver.Optimizer")
        for name, index in zip(group["param_names"], group["params"], strict=True):
            saved[name] = state_dict["state"].get(index)
    groups = optimizer.state_dict()["param_groups"]
    before, now = state_dict["param_groups"][0].get("type"), groups[0]["type"]
    if before != now:
        message = f"the saved optimizer state is of {before}, SOLVER.OPTIMIZER.TYPE is {now}; set it to {before}"
        raise ValueError(f"{message}, {_START_AFRESH}")
    present = {name: index for group in groups for name, index in zip(group["param_names"], group["params"], strict=True)}
    if present.keys() != saved.keys():
        raise ValueError(
            "the saved optimizer state does not fit the trainable parameters: "
            f"{_names('without a saved state', present.keys() - saved.keys())}; "
            f"{_names('only in the file', saved.keys() - present.keys())}. Freeze the same parts as before, {_START_AFRESH}"
        )
    _check_complete(optimizer, {name: values or {} for name, values in saved.items()})
    state = {index: saved[name] for name, index in present.items() if saved[name] is not None}
    return {**state_dict, "state": state, "param_groups": groups}


def _check_complete(optimizer: torch.optim.Optimizer, saved: dict[str, dict[str, Any]]) -> None:
    """Refuse a parameter that has fewer values than others; torch would begin with new ones.

    A parameter that got no gradient yet has none, unless all were given their momentum at the start.
    """
    everything = set().union(*saved.values())
    for group in optimizer.param_groups:
        all_have_state = bool(group.get("fused") and group.get("momentum"))
        for name in group["param_names"]:
            lost = sorted(everything - saved[name].keys())
            if lost and (saved[name] or all_have_state):
                message = f"the saved optimizer state has no {', '.join(lost)} for {name}; use another checkpoint"
                raise ValueError(f"{message}, {_START_AFRESH}")


def _names(title: str, names: set[str]) -> str:
    """``"3 only in the file (a, b, c)"``, at most five names."""
    shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {title}" + (f" ({shown})" if names else "")
