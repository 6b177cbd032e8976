from __future__ import annotations

import pytest

from pet.utils.registry import Registry
from pet.utils.suggest import did_you_mean, nearest


def make() -> Registry[type]:
    registry: Registry[type] = Registry("colour", "pet.colours")
    registry.register("red")(int)
    registry.register("green")(str)
    return registry


def test_registered_objects_are_found_and_listed():
    registry = make()
    assert registry.get("red") is int
    assert "green" in registry
    assert list(registry) == ["green", "red"]


def test_a_miss_names_the_nearest_all_known_and_the_package():
    with pytest.raises(KeyError, match=r"no colour is named 'gren'. Did you mean 'green'\? Known: green, red \(registered by pet.colours\)"):
        make().get("gren")


def test_a_name_is_registered_once():
    with pytest.raises(KeyError, match="registered twice"):
        make().register("red")(float)


def test_suggestions_ignore_case_and_stay_silent_when_nothing_is_near():
    assert nearest("BASE_lr", ["base_lr", "momentum"]) == ["base_lr"]
    assert did_you_mean("xyz", ["momentum"]) == ""
