"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from pet.config import CfgNode
from pet.utils import comm


class _Slot(NamedTuple):
    """Where a tensor lives. Modules replace their buffers when they move or when BatchNorm statistics are recomputed."""

    container: dict[str, Any]
    key: str


class ModelEMA:
    """Averages of the parameters and of the floating-point buffers; other buffers are copied.

    The first update copies the weights, update ``n + 1`` moves the averages by ``1 - decay`` towards them. What is averaged is
    what the model's ``state_dict`` holds, under the same names; buffers that are not saved are constants and left out.

    Args:
        model: bare or wrapped (DistributedDataParallel, compiled), already sharded if it will be. It may move to another device
            later.
        decay: in (0, 1]; share of the old average that an update keeps.
        warm_up: start with the smaller decay ``(1 + n) / (10 + n)`` after ``n`` updates, until ``decay`` is reached.
    """

    def __init__(self, model: nn.Module, decay: float, warm_up: bool = True) -> None:
        if not 0.0 < decay <= 1.0:
            raise ValueError(f"SOLVER.EMA.DECAY is {decay}; it must lie above 0 and at most at 1")
        self._model = comm.unwrap(model)
        self._decay, self._warm_up = decay, warm_up
        self._updates = 0
        self._slots, self._names = _find_slots(self._model)
        self._num_floating = sum(tensor.is_floating_point() for tensor in self._live())
        self._average = [tensor.detach().clone() for tensor in self._live()]

    @property
    def updates(self) -> int:
        """Updates done."""
        return self._updates

    def decay(self, updates: int) -> float:
        """Decay of the update that follows ``updates`` (>= 1) updates."""
        return min(self._decay, (1 + updates) / (10 + updates)) if self._warm_up else self._decay

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the averages. Call it after the optimizer's step."""
        live = self._live()
        self._follow(live)
        floating = self._num_floating if self._updates else 0
        if floating:
            torch._foreach_lerp_(_local(self._average[:floating]), _local(live[:floating]), 1.0 - self.decay(self._updates))
        if floating < len(live):
            torch._foreach_copy_(_local(self._average[floating:]), _local(live[floating:]))
        self._updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the averages into the model inside the ``with`` block; afterwards its weights are bitwise what they were.

        Before the first update the model stays as it is.

        Args:
            model: the model given to the constructor, wrapped or not.
        """
        if comm.unwrap(model) is not self._model:
            raise ValueError(f"these are the averages of another model than the {type(comm.unwrap(model)).__name__} given")
        if self._updates == 0:
            yield
            return
        raw = [tensor.detach().clone() for tensor in self._live()]
        try:
            self._write(self._average)
            yield
        finally:
            self._write(raw)

    def state_dict(self) -> dict[str, Any]:
        """``{"updates": int, "weights": {name: tensor}}`` with the names of the model's ``state_dict``; nothing is copied."""
        return {"updates": self._updates, "weights": {name: self._average[index] for name, index in self._names.items()}}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; other names or shapes are a ``ValueError`` that lists them."""
        weights: dict[str, torch.Tensor] = state["weights"]
        missing, surplus = sorted(self._names.keys() - weights.keys()), sorted(weights.keys() - self._names.keys())
        if missing or surplus:
            raise ValueError(f"the saved averages do not fit the model: missing {missing[:5]}, only in the file {surplus[:5]}")
        shapes = {name: (tuple(weights[name].shape), tuple(self._average[index].shape)) for name, index in self._names.items()}
        wrong = [f"{name} is {saved} in the file, {now} in the model" for name, (saved, now) in shapes.items() if saved != now]
        if wrong:
            raise ValueError(f"the saved averages do not fit the model: {'; '.join(wrong[:5])}")
        for name, index in self._names.items():
            self._average[index].copy_(weights[name])
        self._updates = int(state["updates"])

    def _live(self) -> list[torch.Tensor]:
        return [container[key] for container, key in self._slots]

    def _follow(self, live: list[torch.Tensor]) -> None:
        """Move the averages to the device of the model, which moves as a whole."""
        if live and self._average[0].device != live[0].device:
            self._average = [average.to(tensor.device) for average, tensor in zip(self._average, live, strict=True)]

    @torch.no_grad()
    def _write(self, values: list[torch.Tensor]) -> None:
        torch._foreach_copy_(_local(self._live()), _local(values))


def _local(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What this rank holds of each tensor: averaging needs nothing of the other ranks."""
    return [comm.local(tensor) for tensor in tensors]


def _find_slots(model: nn.Module) -> tuple[list[_Slot], dict[str, int]]:
    """Places of the saved tensors, floating-point ones first and each tensor once, and the place of every name."""
    found = dict(_saved_tensors(model))
    unique = {id(slot.container[slot.key]): slot for slot in found.values()}
    ordered = sorted(unique.items(), key=lambda item: not item[1].container[item[1].key].is_floating_point())
    place = {identity: index for index, (identity, _) in enumerate(ordered)}
    return [slot for _, slot in ordered], {name: place[id(slot.container[slot.key])] for name, slot in found.items()}


def _saved_tensors(model: nn.Module) -> Iterator[tuple[str, _Slot]]:
    """Name and place of every tensor in the model's ``state_dict``."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        constants = module._non_persistent_buffers_set
        yield from ((start + key, _Slot(module._parameters, key)) for key, t in module._parameters.items() if t is not None)
        buffers = ((key, t) for key, t in module._buffers.items() if key not in constants)
        yield from ((start + key, _Slot(module._buffers, key)) for key, t in buffers if t is not None)


def build_ema(model: nn.Module, cfg: CfgNode) -> ModelEMA | None:
    """The averages that ``SOLVER.EMA`` asks for; ``None`` when it is not enabled.

    Args:
        model: on its device.
        cfg: the node ``SOLVER.EMA``.
    """
    return ModelEMA(model, cfg.DECAY, cfg.WARM_UP) if cfg.ENABLED else None
