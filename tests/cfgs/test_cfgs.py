"""Every YAML in the repository is loaded, checked and built; every key is read somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pet.config import CfgNode
from pet.data.catalog import BUILT_IN
from pet.tasks.cls import Analyser, GeneralizedCNN, get_base_cfg, infer_cfg, input_size
from pet.tasks.cls.dataset import build_test_transforms, build_train_transforms
from tests.helpers import REPOSITORY

CFGS = REPOSITORY / "cfgs"
FILES = sorted(str(path.relative_to(CFGS)) for path in (CFGS / "tasks/cls").rglob("*.yaml"))
# Keys for the reader of a YAML: VERSION has one allowed value, which the config itself checks, and RECORD is a notebook.
FOR_THE_READER = {"MISC.VERSION", "EVAL.RECORD"}
SMALL_MULTIPLY_ADDS = 300  # millions; what one image may cost to be trained here


def load(name: str) -> CfgNode:
    cfg = get_base_cfg()
    cfg.merge_from_file(CFGS / name)
    infer_cfg(cfg, CFGS / name)
    cfg.freeze()
    return cfg


def test_the_promised_experiments_exist() -> None:
    imagenet = ["resnet18", "resnet50", "resnet50b", "resnet50c", "resnet50d", "resnet101", "mobilenet_v2", "mobilenet_v3_large"]
    imagenet += ["efficientnet_b0", "swin_t", "vit_b16", "convnext_t"]
    promised = [f"ImageNet/{name}" for name in imagenet] + ["MNIST/lenet5", "FashionMNIST/lenet5", "shapes/resnet_quickstart"]
    promised += [f"CIFAR{classes}/resnet{depth}" for classes in (10, 100) for depth in (20, 110)]
    assert {f"tasks/cls/{name}.yaml" for name in promised} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_config_is_valid_and_its_parts_exist(name: str) -> None:
    cfg = load(name)
    assert f"ckpts/{name.removesuffix('.yaml')}" == cfg.MISC.CKPT
    assert {*cfg.TRAIN.DATASETS, *cfg.TEST.DATASETS} <= {*BUILT_IN, *cfg.DATA.CATALOG}
    assert cfg.TRAIN.DATASETS
    assert cfg.TEST.DATASETS
    build_train_transforms(cfg)
    build_test_transforms(cfg)


@pytest.mark.parametrize("name", FILES)
def test_model_is_built_and_small_ones_learn(name: str) -> None:
    cfg = load(name)
    height, width = input_size(cfg)
    with torch.device("meta"):
        shape_only = GeneralizedCNN(cfg)
    analyser = Analyser(cfg, shape_only)
    _, cost = analyser.get_flops_activs(height, width)
    assert cost > 0
    if cost > SMALL_MULTIPLY_ADDS:
        return
    model = GeneralizedCNN(cfg)
    images, classes = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8), cfg.MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES
    loss = model(images, {"label": torch.tensor([0, classes - 1])})["losses"]["loss_cls"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_fragments_are_used_and_comments_name_the_published_number() -> None:
    text = {name: (CFGS / name).read_text() for name in FILES}
    for fragment in (CFGS / "_base_").glob("*.yaml"):
        assert any(f"_base_/{fragment.name}" in content for content in text.values()), f"{fragment} is used by no config"
    for name, content in text.items():
        if "/ImageNet/" in name:
            assert re.search(r"# Published: top-1 \d\d\.\d", content), f"{name} names no published number"


def sources() -> str:
    folders = [REPOSITORY / "pet", REPOSITORY / "tools"]
    skipped = {REPOSITORY / "pet/config/base.py", REPOSITORY / "pet/tasks/cls/config.py"}
    return "\n".join(path.read_text() for folder in folders for path in folder.rglob("*.py") if path not in skipped)


def test_every_config_key_is_read_somewhere() -> None:
    """A key that nothing reads would be a promise without effect. Sections that are handed over whole count by their name."""
    text = sources()
    unread = []
    for full, _, _ in get_base_cfg().keys_of():
        section, _, leaf = full.rpartition(".")
        whole = re.search(rf"_keywords\(\w+\.{section.rpartition('.')[2]}\)", text)
        if not whole and not re.search(rf"\b{leaf}\b", text):
            unread.append(full)
    assert set(unread) <= FOR_THE_READER


def test_paths_in_configs_are_relative() -> None:
    for path in Path(CFGS).rglob("*.yaml"):
        assert "/work/" not in path.read_text()
