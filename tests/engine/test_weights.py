from __future__ import annotations

import ast
import re

import pytest
import torch
from torch import nn

from pet.engine.checkpoint_file import DamagedCheckpoint
from pet.engine.checkpointer import CheckPointer
from pet.engine.publish import publish
from pet.engine.weights import choose_weights, extract_state, group_names, load_weights, match_names, read_weights


def make_net(out: int = 3, prefix: str = "") -> nn.Module:
    torch.manual_seed(out)
    inner = nn.Sequential()
    inner.add_module("conv1", nn.Conv2d(3, 4, 3))
    inner.add_module("fc", nn.Linear(4, out))
    if not prefix:
        return inner
    outer = nn.Module()
    outer.add_module(prefix, inner)
    return outer


def test_everything_fits_and_is_loaded():
    source, target = make_net(), make_net()
    nn.init.zeros_(target.fc.weight)
    report = load_weights(target, source.state_dict())
    assert report.summary() == "loaded 4 of 4 tensors"
    assert torch.equal(target.fc.weight, source.fc.weight)


def test_names_below_a_module_are_found_by_their_ending():
    source, target = make_net(), make_net(prefix="backbone")
    load_weights(target, source.state_dict())
    assert torch.equal(target.backbone.conv1.weight, source.conv1.weight)


def test_a_tensor_is_used_once():
    matched = match_names(["a.x.weight", "b.x.weight"], ["x.weight"])
    assert list(matched.values()) == ["x.weight"]
    assert match_names(["a.x.w", "x.w"], ["x.w"]) == {"x.w": "x.w"}


def test_another_shape_is_refused_with_both_shapes_and_the_way_out():
    target = make_net(5)
    before = target.fc.weight.clone()
    with pytest.raises(ValueError, match=r"\(3, 4\) in the file, \(5, 4\) in the model.*ALLOW_MISMATCH \"\('fc\.\*',\)\""):
        load_weights(target, make_net(3).state_dict(), ())
    assert torch.equal(target.fc.weight, before)


@pytest.mark.parametrize("heads", [2, 20])
def test_the_error_names_the_very_allow_list_that_a_transfer_needs(heads):
    """As for a detector of torchvision, whose 91 classes are in the outputs of several heads."""
    source, target = make_net(), make_net(5)
    for number in range(heads):
        source.add_module(f"head{number}", nn.ModuleDict({"out": nn.Linear(4, 91)}))
        target.add_module(f"head{number}", nn.ModuleDict({"out": nn.Linear(4, 80)}))
    with pytest.raises(ValueError, match="TRAIN.ALLOW_MISMATCH") as caught:
        load_weights(target, source.state_dict(), ())
    allow = ast.literal_eval(re.search(r'ALLOW_MISMATCH "(.*)"', str(caught.value))[1])
    assert len(load_weights(target, source.state_dict(), allow).loaded) == 2
    with pytest.raises(ValueError, match="Test with the config of its run") as caught:
        load_weights(target, source.state_dict())
    assert "ALLOW_MISMATCH" not in str(caught.value)


def test_the_allow_list_lets_a_head_differ_and_the_report_says_so():
    report = load_weights(make_net(5), make_net(3).state_dict(), allow=("fc.*",))
    assert report.summary().startswith("loaded 2 of 4 tensors; skipped 2: other shape: fc.{weight")
    assert len(report.mismatches) == 2


def test_missing_and_surplus_tensors_are_refused():
    state = make_net().state_dict()
    state["extra.weight"] = state.pop("fc.bias")
    with pytest.raises(ValueError, match="missing in the file: fc.*only in the file: extra"):
        load_weights(make_net(), state)


def test_a_file_of_something_else_is_refused_even_with_a_broad_allow_list():
    with pytest.raises(ValueError, match="no tensor of x fits"):
        load_weights(make_net(), {"other.weight": torch.zeros(1)}, allow=("*",), source="x")


def test_the_first_convolution_is_flipped_whatever_its_name():
    source, target = make_net(), make_net(prefix="backbone")
    load_weights(target, source.state_dict(), flip_conv1=True)
    assert torch.equal(target.backbone.conv1.weight, source.conv1.weight.flip(1))
    stem = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1))
    weight = stem[0].weight.detach().clone()
    load_weights(stem, {name: tensor.clone() for name, tensor in stem.state_dict().items()}, flip_conv1=True)
    assert torch.equal(stem[0].weight, weight.flip(1))


def test_flipping_without_such_a_convolution_is_an_error():
    with pytest.raises(ValueError, match="three input channels"):
        load_weights(nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), flip_conv1=True)


@pytest.mark.parametrize("container", ["model", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_containers_and_wrappers_of_other_tools_are_taken_off(container, prefix):
    state = {prefix + name: tensor for name, tensor in make_net().state_dict().items()}
    found = extract_state({container: state, "epoch": 3} if container else state, "f")
    assert found.keys() == make_net().state_dict().keys()


def test_a_file_without_tensors_lists_its_keys():
    with pytest.raises(ValueError, match="holds no tensors; its keys are epoch"):
        extract_state({"epoch": 1}, "f.pth")


def test_a_missing_file_names_the_keys_that_point_to_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth does not exist \(TRAIN\.WEIGHTS or --load-from\)"):
        CheckPointer(tmp_path, weights_path=str(tmp_path / "nothing.pth"), auto_resume=False).load_model(make_net())
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth does not exist$"):
        read_weights(tmp_path / "nothing.pth")


def test_safetensors_files_are_read(tmp_path):
    from safetensors.torch import save_file

    save_file(make_net().state_dict(), tmp_path / "w.safetensors")
    assert load_weights(make_net(), read_weights(tmp_path / "w.safetensors")).summary() == "loaded 4 of 4 tensors"


def test_names_of_one_module_are_grouped():
    assert group_names(["a.weight", "a.bias", "b.c.weight"]) == "a.{weight, bias}, b.c.{weight}"


@pytest.mark.parametrize("kept", [None, {"module": {"w": torch.ones(1)}}, {"weights": None}, torch.ones(1)])
def test_what_other_tools_keep_as_ema_is_not_taken_for_averages(kept):
    state, averaged = choose_weights({"model": {"w": torch.zeros(1)}, "ema": kept}, "x.pth")
    assert (state["w"].item(), averaged) == (0.0, False)


def test_averages_replace_the_weights_they_belong_to():
    content = {"model": {"w": torch.zeros(1), "n": torch.ones(1)}, "ema": {"weights": {"w": torch.full((1,), 3.0)}}}
    assert {name: tensor.item() for name, tensor in choose_weights(content, "x.pth")[0].items()} == {"w": 3.0, "n": 1.0}
    assert choose_weights(content, "x.pth", ema=False)[0]["w"].item() == 0.0


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, suffix):
    paths = []
    for number in (0.0, 1.0):
        torch.save({"model": {"w": torch.full((1,), number)}}, tmp_path / "net.pth")
        paths.append(publish(tmp_path / "net.pth", tmp_path / f"net{suffix}").path)
    one, other = paths
    assert read_weights(one)["w"].item() == 0.0
    one.write_bytes(other.read_bytes())  # whole, but another file
    with pytest.raises(DamagedCheckpoint, match=r"net-\w{8}.* is not what its name says: its SHA-256 begins with .*Fetch it again"):
        read_weights(one)
    assert read_weights(one.rename(tmp_path / f"net-20240131{suffix}"))["w"].item() == 1.0, "a date is no checksum"
