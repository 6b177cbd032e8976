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


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "tests.utils.test_registry.make"])
def test_an_import_path_names_a_class_of_the_right_kind_and_nothing_else(name):
    registry: Registry[type] = Registry("shape", "pet.shapes", Registry)
    assert registry.find("pet.utils.registry.Registry") is Registry
    with pytest.raises(TypeError, match="a config may name a class that derives from pet.utils.registry.Registry, this is"):
        registry.find(name)


def test_suggestions_ignore_case_and_stay_silent_when_nothing_is_near():
    assert nearest("BASE_lr", ["base_lr", "momentum"]) == ["base_lr"]
    assert did_you_mean("xyz", ["momentum"]) == ""
