from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from pet.engine.hooks.build import build_custom_hooks

SOURCE = '''
from pet.engine.hooks.base import Hook

class GradNorm(Hook):
    def __init__(self, model, period=10, name="grad"):
        self.model, self.period, self.name = model, period, name

class NotAHook:
    pass
'''


@pytest.fixture
def my_hooks(tmp_path, monkeypatch):
    (tmp_path / "my_own_hooks.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_own_hooks", None)


def build(entry):
    parts = SimpleNamespace(cfg=SimpleNamespace(MISC=SimpleNamespace(HOOKS=[entry])), model="the model", loader="the loader")
    return build_custom_hooks(parts)[0]


def test_yaml_keys_and_collaborators_reach_the_constructor(my_hooks):
    hook = build({"TYPE": "my_own_hooks.GradNorm", "PERIOD": 20})
    assert (hook.model, hook.period, hook.name) == ("the model", 20, "grad")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"PERIOD": 1}, r"MISC\.HOOKS\[0\] needs TYPE"),
        ({"TYPE": "GradNorm"}, "full name of a class"),
        ({"TYPE": "my_own_hooks.GradNorn"}, "Did you mean 'GradNorm'"),
        ({"TYPE": "my_own_hooks.NotAHook"}, "no hook class 'NotAHook'"),
        ({"TYPE": "my_own_hoks.GradNorm"}, "No module named 'my_own_hoks'.*PYTHONPATH"),
        ({"TYPE": "my_own_hooks.GradNorm", "PERIODE": 1}, "takes no PERIODE. Did you mean 'period'"),
    ],
)
def test_mistakes_are_named(my_hooks, entry, message):
    with pytest.raises(ValueError, match=message):
        build(entry)
