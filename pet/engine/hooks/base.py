"""Hook, its stages and phases, and the list that checks, orders and calls hooks."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from time import perf_counter
from typing import Any

from pet.engine.events import EventStorage
from pet.engine.heartbeat import PLACE, SINCE, UPDATE, open_pulse
from pet.utils import comm
from pet.utils.suggest import nearest


class Phase(IntEnum):
    """Order inside a stage; hooks of one phase keep their order in the list."""

    TIMING = 0  # clocks
    UPDATE = 1  # what belongs to the update: schedule, averages, checks
    SAVE = 2  # checkpoints, before evaluation so that a crash there loses nothing
    EVALUATE = 3  # evaluation and what depends on its results
    WRITE = 4  # console, JSON, TensorBoard


STAGES = {
    "before_train": (),
    "before_epoch": ("storage",),
    "before_step": ("storage",),
    "after_backward": ("storage",),
    "after_step": ("storage",),
    "after_epoch": ("storage",),
    "after_train": ("storage",),
}


class Hook:
    """Base of all hooks: override the stages you need, give collaborators to the constructor.

    Stages, in the order of a run: ``before_train()``, ``before_epoch(storage)``, ``before_step(storage)``,
    ``after_backward(storage)`` (gradients are complete, unscaled and not yet clipped), ``after_step(storage)``,
    ``after_epoch(storage)``, ``after_train(storage)`` (also after a failure: then ``storage.failed`` is true).

    A checkpoint is taken in phase SAVE. On resume from it, the later phases of that update run again (evaluation, writing),
    so a run that was killed in between continues exactly. What changes during a run belongs into ``state_dict``.
    """

    phase: Phase = Phase.UPDATE

    def before_train(self) -> None:
        """Once, before the first update of this process."""

    def before_epoch(self, storage: EventStorage) -> None:
        """Before the first update of an epoch."""

    def before_step(self, storage: EventStorage) -> None:
        """Before the data of an update are fetched."""

    def after_backward(self, storage: EventStorage) -> None:
        """Between backward and clipping."""

    def after_step(self, storage: EventStorage) -> None:
        """After the optimizer's update."""

    def after_epoch(self, storage: EventStorage) -> None:
        """After the last update of an epoch."""

    def after_train(self, storage: EventStorage) -> None:
        """Once, at the end, whatever ended the run."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


def check_hook(hook: Hook) -> None:
    """Refuse at registration what would fail, or silently never run, in training."""
    name = type(hook).__name__
    if not isinstance(hook, Hook):
        raise TypeError(f"{name} is not a Hook; derive it from pet.engine.hooks.base.Hook")
    if not isinstance(hook.phase, Phase):
        raise TypeError(f"{name}.phase is {hook.phase!r}; expected one of {', '.join(f'Phase.{p.name}' for p in Phase)}")
    known = {*STAGES, "state_dict", "load_state_dict"}
    for attribute in dir(type(hook)):
        if attribute in known or attribute.startswith("_") or not callable(getattr(type(hook), attribute)):
            continue
        close = nearest(attribute, known, count=1, cutoff=0.85)
        if close or attribute.startswith(("before_", "after_")):
            suggestion = (close or nearest(attribute, STAGES, count=1, cutoff=0.0))[0]
            raise TypeError(f"{name}.{attribute} is not a hook stage; did you mean '{suggestion}'? Stages: {', '.join(STAGES)}")
    for stage, parameters in STAGES.items():
        try:
            inspect.signature(getattr(hook, stage)).bind(*parameters)
        except TypeError as error:
            wanted = f"{stage}(self{''.join(', ' + p for p in parameters)})"
            raise TypeError(f"{name}.{stage} cannot be called as {wanted}: {error}") from error


StageMethod = Callable[[EventStorage], None]


class HookList:
    """Hooks in phase order, with their methods bound once, their time measured, and their turn told to the launcher.

    Also Stateful: the state of every hook under a unique name (class, numbered from the second of a kind).
    """

    def __init__(self, hooks: Sequence[Hook]) -> None:
        for hook in hooks:
            check_hook(hook)
        self.hooks = sorted(hooks, key=lambda hook: hook.phase)
        self.names = _unique_names(self.hooks)
        self.seconds = [0.0] * (len(self.hooks) + 1)
        self.pulse = open_pulse([*self.names, "the agreement to stop", "data or step"], comm.timeout_s())
        # Each of these calls a stage on all hooks that override it.
        self.before_epoch = self._join(self._bind("before_epoch"))
        self.before_step = self._join(self._bind("before_step"))
        self.after_backward = self._join(self._bind("after_backward"))
        self.after_epoch = self._join(self._bind("after_epoch"))
        updating = self._bind("after_step", Phase.TIMING, Phase.UPDATE)
        saving = self._bind("after_step", Phase.SAVE, Phase.SAVE)
        rest = self._bind("after_step", Phase.EVALUATE, Phase.WRITE)
        # Whether to stop is settled before anything is saved. Its time goes to a place of its own.
        self.after_step = self._join([*updating, (len(self.hooks), EventStorage.settle_stop), *saving, *rest])
        # What of the last update comes after the point where its checkpoint was taken.
        self.replay = self._join(rest)

    def _bind(self, stage: str, first: Phase = Phase.TIMING, last: Phase = Phase.WRITE) -> list[tuple[int, StageMethod]]:
        """Methods that a hook really overrides, with the hook's position."""
        return [
            (position, getattr(hook, stage))
            for position, hook in enumerate(self.hooks)
            if first <= hook.phase <= last and getattr(type(hook), stage) is not getattr(Hook, stage)
        ]

    def _join(self, methods: Sequence[tuple[int, StageMethod]]) -> StageMethod:
        """One function that calls the methods in turn and adds up their time."""
        seconds, pulse, outside = self.seconds, self.pulse, len(self.hooks) + 1

        def call(storage: EventStorage) -> None:
            start = perf_counter()
            pulse[UPDATE] = storage.iteration
            pulse[SINCE] = start
            for position, method in methods:
                pulse[PLACE] = position
                method(storage)
                now = perf_counter()
                seconds[position] += now - start
                start = now
            pulse[PLACE] = outside
            pulse[SINCE] = start

        return call if methods else _do_nothing

    @contextmanager
    def running(self, storage: EventStorage) -> Iterator[None]:
        """Call ``before_train`` and, whatever happens, every started hook's ``after_train``; the first error is raised."""
        started: list[Hook] = []
        try:
            for hook in self.hooks:
                started.append(hook)
                hook.before_train()
            yield
        except BaseException as error:
            storage.failed = True
            self._close(started, storage, error)
            raise
        else:
            self._close(started, storage, None)

    def _close(self, started: list[Hook], storage: EventStorage, first: BaseException | None) -> None:
        failed_before = first is not None
        for position, hook in enumerate(started):
            self.pulse[PLACE], self.pulse[SINCE] = position, perf_counter()
            try:
                hook.after_train(storage)
            except Exception as error:
                storage.failed = True
                if first is None:
                    first = error
                else:
                    first.add_note(f"then {type(hook).__name__}.after_train failed: {type(error).__name__}: {error}")
        if first is not None and not failed_before:
            raise first

    def state_dict(self) -> dict[str, Any]:
        """Non-empty hook states by unique name."""
        states = {name: hook.state_dict() for name, hook in zip(self.names, self.hooks, strict=True)}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; a hook without a saved state, or a state without a hook, is a ``KeyError``."""
        have = self.state_dict()
        missing, surplus = sorted(have.keys() - state.keys()), sorted(state.keys() - have.keys())
        if missing or surplus:
            raise KeyError(
                f"the checkpoint's hooks differ from this run's: no state for {missing}, no hook for {surplus}. Use the same "
                "hooks to resume, or start from the weights with --load-from"
            )
        for name, hook in zip(self.names, self.hooks, strict=True):
            if name in state:
                hook.load_state_dict(state[name])

    def table(self) -> str:
        """The stage x hook table for the log."""
        lines = [f"{'stage':<15} hooks in order (phase)"]
        for stage in STAGES:
            hooks = [h for h in self.hooks if getattr(type(h), stage) is not getattr(Hook, stage)]
            lines.append(f"{stage:<15} " + ("  ".join(f"{type(h).__name__} ({h.phase.name})" for h in hooks) or "-"))
        return "\n".join(lines)

    def times(self) -> dict[str, float]:
        """Seconds of every hook, longest first."""
        rows = sorted(zip(self.seconds, [*self.names, "stop agreement"], strict=True), reverse=True)
        return {name: seconds for seconds, name in rows}

    def time_table(self, total_s: float) -> str:
        """Seconds and share of every hook, longest first, as text."""
        rows = [f"{name} {s:.2f} s ({s / max(total_s, 1e-9):.1%})" for name, s in self.times().items() if s >= 0.005]
        return ", ".join(rows) or "under 5 ms"


def _do_nothing(storage: EventStorage) -> None:
    pass


def _unique_names(hooks: Sequence[Hook]) -> list[str]:
    seen: Counter[str] = Counter()
    names = []
    for hook in hooks:
        kind = type(hook).__name__
        seen[kind] += 1
        names.append(kind if seen[kind] == 1 else f"{kind}_{seen[kind]}")
    return names
