"""Published files hold what predicting needs, are named by their content, and name nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from pet.engine.checkpoint_file import DamagedCheckpoint
from pet.engine.publish import publish, split_suffix
from pet.engine.weights import read_content, read_weights


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("depth.pth", "depth", ".pth"),  # OpenMMLab's tool cuts every p, t and h from the end
        ("depth", "depth", ".pth"),
        ("best.pt", "best", ".pt"),
        ("resnet50.v2", "resnet50.v2", ".pth"),
        ("path.safetensors", "path", ".safetensors"),
    ],
)
def test_the_name_is_kept_exactly(name: str, stem: str, suffix: str) -> None:
    assert split_suffix(Path("folder") / name) == (Path("folder") / stem, suffix)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_same_weights_give_the_same_file(tmp_path: Path, suffix: str) -> None:
    weights = {"b": torch.arange(6.0)[::2], "a": torch.ones(2, 3, dtype=torch.bfloat16), "n": torch.tensor(4)}
    torch.save({"model": weights, "meta": {"class_names": ["cat", "dög"], "size": [3, None]}}, tmp_path / "in.pth")
    first = publish(tmp_path / "in.pth", tmp_path / "x" / f"out{suffix}").path
    content = first.read_bytes()
    assert publish(tmp_path / "in.pth", first.with_name(f"out{suffix}")).path == first
    assert first.read_bytes() == content
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    back = read_content(first)
    assert back["meta"]["class_names"] == ["cat", "dög"]
    assert back["meta"]["size"] == [3, None]
    assert {name: tensor.dtype for name, tensor in back["model"].items()} == {name: t.dtype for name, t in weights.items()}
    for name, tensor in read_weights(first).items():
        assert torch.equal(tensor, weights[name])
    if suffix == ".safetensors":
        with safe_open(first, framework="pt") as handle:
            assert handle.metadata()["class_names"] == '["cat", "d\\u00f6g"]'


def test_a_part_of_a_large_tensor_is_published_alone(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1_000_000)[:3]}, tmp_path / "in.pth")
    assert publish(tmp_path / "in.pth", tmp_path / "out").path.stat().st_size < 10_000


def test_a_published_file_that_was_published_again_is_the_same(tmp_path: Path) -> None:
    torch.save({"module.w": torch.ones(3), "module.b": torch.ones(1)}, tmp_path / "in.pth")  # of DistributedDataParallel
    once = publish(tmp_path / "in.pth", tmp_path / "out").path
    assert publish(once, tmp_path / "out").path == once
    assert list(read_weights(once)) == ["w", "b"]


def test_a_cut_safetensors_file_is_damaged(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(300)}, tmp_path / "in.pth")
    path = publish(tmp_path / "in.pth", tmp_path / "out.safetensors").path.rename(tmp_path / "out.safetensors")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DamagedCheckpoint, match="cannot be read as a safetensors file"):
        read_weights(path)


@pytest.mark.parametrize(
    "meta",
    [
        {"config": {"EVAL": {"EMA": True}}},
        {"config": ["a", "list"]},
        {"config": 'model = dict(type="ResNet")'},
        {"config": "a: [cut"},
        {"config": "EVAL: all"},
        "version 3",
    ],
    ids=["mapping", "list", "python", "damaged", "section", "meta"],
)
def test_a_checkpoint_with_a_config_of_others_is_published(tmp_path: Path, meta: object) -> None:
    torch.save({"model": {"w": torch.zeros(2)}, "meta": meta, "ema": {"weights": {"w": torch.ones(2)}}}, tmp_path / "in.pth")
    published = publish(tmp_path / "in.pth", tmp_path / "out")
    assert published.averaged
    assert read_weights(published.path)["w"].tolist() == [1.0, 1.0]


def test_a_folder_is_made_and_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(2)}}, tmp_path / "in.pth")
    assert publish(tmp_path / "in.pth", tmp_path / "new" / "deep" / "out").path.is_file()
    with pytest.raises(NotADirectoryError, match="in.pth is a file, not a folder"):
        publish(tmp_path / "in.pth", tmp_path / "in.pth" / "out")


def test_averages_of_another_form_are_none(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(2)}, "ema": {"module": {"w": torch.ones(2)}}}, tmp_path / "in.pth")
    assert not publish(tmp_path / "in.pth", tmp_path / "out").averaged
    with pytest.raises(ValueError, match="has no averaged weights"):
        publish(tmp_path / "in.pth", tmp_path / "out", ema=True)
