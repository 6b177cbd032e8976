from __future__ import annotations

from typing import Any

import pytest

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, HookList, Phase
from pet.engine.hooks.timer import IterationTimer


class Counter(Hook):
    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def test_a_misspelt_stage_is_refused_with_a_suggestion():
    class Wrong(Hook):
        def after_steps(self, storage: EventStorage) -> None: ...

    with pytest.raises(TypeError, match=r"Wrong\.after_steps is not a hook stage; did you mean 'after_step'\?"):
        HookList([Wrong()])


def test_an_invented_stage_is_refused():
    class Wrong(Hook):
        def before_evaluation(self) -> None: ...

    with pytest.raises(TypeError, match="is not a hook stage"):
        HookList([Wrong()])


def test_an_own_method_with_another_name_is_fine():
    class Fine(Hook):
        def compute_norm(self) -> None: ...

    HookList([Fine()])


def test_a_signature_that_cannot_take_the_storage_is_refused():
    class Wrong(Hook):
        def after_step(self) -> None: ...  # type: ignore[override]

    with pytest.raises(TypeError, match=r"after_step cannot be called as after_step\(self, storage\)"):
        HookList([Wrong()])


def test_an_object_that_is_no_hook_is_refused():
    with pytest.raises(TypeError, match="object is not a Hook"):
        HookList([object()])  # type: ignore[list-item]


def test_a_phase_that_does_not_exist_is_refused():
    hook = Counter()
    hook.phase = 7  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"Phase\.TIMING"):
        HookList([hook])


def test_the_table_lists_stage_hook_and_phase():
    table = HookList([IterationTimer()]).table()
    assert "after_step      IterationTimer (TIMING)" in table
    assert "after_epoch     -" in table


def test_states_of_two_hooks_of_one_class_are_kept_apart():
    hooks = HookList([Counter(1), Counter(2)])
    assert hooks.state_dict() == {"Counter": {"count": 1}, "Counter_2": {"count": 2}}
    other = HookList([Counter(), Counter()])
    other.load_state_dict(hooks.state_dict())
    assert [hook.count for hook in other.hooks] == [1, 2]


@pytest.mark.parametrize("state", [{}, {"Counter": {"count": 1}, "Gone": {}}])
def test_missing_and_surplus_states_are_refused(state):
    with pytest.raises(KeyError, match="differ from this run"):
        HookList([Counter()]).load_state_dict(state)


def test_the_phases_are_ordered_timing_update_save_evaluate_write():
    assert [phase.name for phase in sorted(Phase)] == ["TIMING", "UPDATE", "SAVE", "EVALUATE", "WRITE"]
