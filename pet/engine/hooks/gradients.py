"""DropGradients: chosen parameters stand still for a part of the run."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase
from pet.utils import comm
from pet.utils.logger import LOGGER
from pet.utils.suggest import nearest

_SHOWN_NAMES = 4


class DropGradients(Hook):
    """Takes the gradients of chosen parameters away, so that the optimizer passes them by: no step, no decay, no momentum.

    They are gone before clipping, so the norm of the gradient is that of the other parameters. Setting gradients to zero would
    not do: weight decay and momentum move such parameters all the same. Every process drops the same gradients. With float16 the
    scaler has looked for overflow before: an infinite gradient that would have been dropped still skips the update.

    Unlike ``MODEL.FREEZE_AT`` the parameters take part in the backward pass, their dropout and normalisation are those of
    training, and what feeds them learns from their losses. Nothing is remembered: the update alone decides, so a resumed run
    goes on alike.

    Args:
        model: its parameter names are those without wrappers, e.g. ``global_head.aux.conv.weight``.
        patterns: names of parameters, in the sense of ``fnmatch``: ``global_head.aux.*``.
        until_iter: last update without their gradients.
        from_iter: first update without their gradients.

    Raises:
        ValueError: an empty range of updates, or a pattern that fits no parameter or only frozen ones.
    """

    phase = Phase.UPDATE

    def __init__(
        self,
        model: nn.Module,
        patterns: str | Sequence[str],
        until_iter: int,
        from_iter: int = 1,
    ) -> None:
        if not 1 <= from_iter <= until_iter:
            raise ValueError(
                f"DropGradients: FROM_ITER {from_iter} and UNTIL_ITER {until_iter}; updates count from 1, and the first must not "
                "come after the last"
            )
        self._first, self._last = from_iter, until_iter
        chosen: dict[str, nn.Parameter] = {}
        parameters = dict(comm.unwrap(model).named_parameters())
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            chosen |= _matching(pattern, parameters)
        if not chosen:
            raise ValueError("DropGradients: PATTERNS is empty; name parameters, e.g. [global_head.aux.*]")
        self._chosen = chosen

    def before_train(self) -> None:
        """Say what stands still."""
        names = list(self._chosen)
        more = f", ... ({len(names)} in all)" if len(names) > _SHOWN_NAMES else ""
        LOGGER.info(
            f"DropGradients: updates {self._first} to {self._last} leave as they are: {', '.join(names[:_SHOWN_NAMES])}{more}"
        )

    def after_backward(self, storage: EventStorage) -> None:
        """Drop what this update must not use."""
        if self._first <= storage.iteration <= self._last:
            for parameter in self._chosen.values():
                parameter.grad = None


def _matching(pattern: str, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """The trainable parameters whose names fit the pattern; an error if there are none."""
    found = {name: parameter for name, parameter in parameters.items() if fnmatchcase(name, pattern)}
    trainable = {name: parameter for name, parameter in found.items() if parameter.requires_grad}
    if found and not trainable:
        raise ValueError(
            f"DropGradients: '{pattern}' fits only frozen parameters ({', '.join(list(found)[:_SHOWN_NAMES])}); they have no "
            "gradients. Remove the pattern, or do not freeze them"
        )
    if not found:
        raise ValueError(f"DropGradients: '{pattern}' fits no parameter of the model. {_advice(pattern, parameters)}")
    return trainable


def _advice(pattern: str, parameters: dict[str, nn.Parameter]) -> str:
    """What may have been meant: a whole module, or the nearest names."""
    if any(name.startswith(f"{pattern}.") for name in parameters):
        return f"For the whole module write '{pattern}.*'"
    close = nearest(pattern.rstrip("*").rstrip("."), parameters)
    modules = nearest(pattern, {f"{name.rpartition('.')[0]}.*" for name in parameters if "." in name})
    if close or modules:
        return f"Nearest: {', '.join([*modules, *close])}"
    tops = sorted({name.partition(".")[0] for name in parameters})
    return f"Its names begin with: {', '.join(tops)}"
