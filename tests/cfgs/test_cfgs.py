"""Every YAML in the repository is loaded, checked and built, and has its line in the model zoo; every key is read somewhere."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from pet.data.build import build_test_transforms
from pet.data.catalog import BUILT_IN
from pet.tasks import cls
from pet.tasks.cls.dataset import build_train_transforms as build_cls_transforms
from pet.vision.dataset import build_train_transforms as build_vision_transforms
from tests.helpers import REPOSITORY
from tools import model_zoo

CFGS = REPOSITORY / "cfgs"
FILES = [str(path.relative_to(CFGS)) for domain in ("tasks/cls", "vision") for path in sorted((CFGS / domain).rglob("*.yaml"))]
TEXT = {str(path.relative_to(CFGS)): path.read_text(encoding="utf-8") for path in CFGS.rglob("*.yaml")}
# Keys for the reader of a YAML: VERSION has one allowed value, which the config itself checks, and RECORD is a notebook.
FOR_THE_READER = {"MISC.VERSION", "EVAL.RECORD"}
# Options of heads: the section of a head is handed over whole, found by the head's name.
HEADS = re.compile(r"MODEL\.(GLOBAL_HEAD\.(DET|SEMSEG|PANOSEG)|ROI_HEAD)\.[A-Z0-9_]+\.[A-Z0-9_]+")
# Parameters of mmdetection's models, millions, counted from its configs; scale and shift of batch normalisation included. Its heads
# have no output for the background where torchvision's have one that is never used.
COUNTED_BY_OTHERS = {
    "vision/COCO/e2e_faster_rcnn_R-50-FPN_1x.yaml": 41.75,
    "vision/COCO/e2e_mask_rcnn_R-50-FPN_1x.yaml": 44.40,
    "vision/COCO/retinanet_R-50-FPN_1x.yaml": 37.97,
    "vision/COCO/panoptic_fpn_R-50_1x.yaml": 46.03,
    "vision/VOC/e2e_faster_rcnn_R-50-FPN_voc0712.yaml": 41.45,
    "vision/Cityscapes/e2e_mask_rcnn_R-50-FPN.yaml": 44.01,
}
SCALE_AND_SHIFT = 53_120  # of the batch normalisation of a ResNet-50, which is constant here
SSD_LEVELS = (
    (38, 4, 512),
    (19, 6, 1024),
    (10, 6, 512),
    (5, 6, 256),
    (3, 4, 256),
    (1, 4, 256),
)  # side, boxes at a place, channels
SMALL_MULTIPLY_ADDS = 3e8  # what one image may cost to be trained here


def test_the_promised_experiments_exist() -> None:
    imagenet = ["resnet18", "resnet50", "resnet50b", "resnet50c", "resnet50d", "resnet101", "mobilenet_v2", "mobilenet_v3_large"]
    imagenet += ["efficientnet_b0", "swin_t", "vit_b16", "convnext_t"]
    promised = [f"tasks/cls/ImageNet/{name}" for name in imagenet] + ["tasks/cls/MNIST/lenet5", "tasks/cls/FashionMNIST/lenet5"]
    promised += [f"tasks/cls/CIFAR{classes}/resnet{depth}" for classes in (10, 100) for depth in (20, 110)]
    fpn = ["R-50-FPN", "R-101-FPN", "X-101-32x4d-FPN"]
    backbones = {
        "faster": ["R-50-C4", *fpn],
        "mask": ["R-50-C4", *fpn],
        "cascade": fpn,
        "cascade_mask": fpn[:1],
        "keypoint": fpn[:2],
    }
    for model, names in backbones.items():
        promised += [f"vision/COCO/e2e_{model}_rcnn_{name}_{schedule}" for name in names for schedule in ("1x", "2x")]
    coco = ["retinanet_R-50-FPN_1x", "retinanet_R-101-FPN_1x", "fcos_R-50-FPN_1x", "ssd300_VGG16", "panoptic_fpn_R-50_1x"]
    promised += [f"vision/COCO/{name}" for name in coco] + [
        "vision/mscoco/e2e_faster_rcnn_R-50-FPN_1x",
        "vision/ADE20K/pspnet_R-50",
    ]
    promised += [f"vision/VOC/{name}_voc0712" for name in ("e2e_faster_rcnn_R-50-FPN", "retinanet_R-50-FPN", "ssd300_VGG16")]
    promised += [f"vision/Cityscapes/{name}" for name in ("e2e_mask_rcnn_R-50-FPN", "pspnet_R-50", "deeplabv3_R-50")]
    promised += [f"vision/LVIS/e2e_mask_rcnn_R-50-FPN_{name}" for name in ("1x", "v05_2x")]
    shapes = ["faster_rcnn_quickstart", "mask_rcnn", "keypoint_rcnn", "semantic_fpn", "panoptic_fpn"]
    promised += [f"vision/shapes/{name}" for name in shapes] + ["tasks/cls/shapes/resnet_quickstart"]
    missing = {f"{name}.yaml" for name in promised} - set(FILES)
    assert not missing, sorted(missing)


@pytest.mark.parametrize("name", FILES)
def test_config_is_valid_and_its_parts_exist(name: str) -> None:
    cfg = model_zoo.load(name)
    assert f"ckpts/{name.removesuffix('.yaml')}" == cfg.MISC.CKPT
    unknown = {*cfg.TRAIN.DATASETS, *cfg.TEST.DATASETS} - {*BUILT_IN, *cfg.DATA.CATALOG}
    assert not unknown
    assert cfg.TRAIN.DATASETS
    assert cfg.TEST.DATASETS
    if name.startswith("vision/"):
        build_vision_transforms(cfg, SimpleNamespace(flip_pairs=()))
    else:
        build_cls_transforms(cfg)
    build_test_transforms(cfg)


@pytest.mark.parametrize("name", FILES)
def test_model_is_built_and_the_zoo_tells_its_size_and_cost(name: str) -> None:
    parameters, cost = model_zoo.measure(name)
    assert parameters > 0
    assert cost
    assert model_zoo.row(name) in model_zoo.PAGE.read_text(encoding="utf-8"), f"run: {model_zoo.COMMAND}"


def test_the_rest_of_the_zoo_is_up_to_date() -> None:
    page = model_zoo.PAGE.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines(keepends=True) if line.startswith("| `")]
    assert len(rows) == len(FILES), f"run: {model_zoo.COMMAND}"
    assert model_zoo.config_files() == FILES
    assert model_zoo.page(dict(zip(FILES, rows, strict=True))) == page, f"run: {model_zoo.COMMAND}"


@pytest.mark.parametrize("name", COUNTED_BY_OTHERS)
def test_others_count_as_many_parameters(name: str) -> None:
    parameters, _ = model_zoo.measure(name)
    assert (parameters + SCALE_AND_SHIFT) / 1e6 == pytest.approx(COUNTED_BY_OTHERS[name], abs=0.01)


def test_others_count_as_many_multiply_adds() -> None:
    """Figures for 800 x 1280 of mmdetection (normalisation and activation functions counted) and of torchvision's SSD (91 classes)."""
    _, retinanet = model_zoo.measure("vision/COCO/retinanet_R-50-FPN_1x.yaml")
    assert retinanet == pytest.approx(239.32e9, rel=0.005)
    _, ssd = model_zoo.measure("vision/COCO/ssd300_VGG16.yaml")
    of_a_class = sum(side**2 * boxes * channels * 9 for side, boxes, channels in SSD_LEVELS)
    assert ssd == 34_858_153_472 - 10 * of_a_class


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("tasks/cls/")])
def test_small_classifiers_learn(name: str) -> None:
    cost = model_zoo.measure(name)[1]
    if cost is None or cost > SMALL_MULTIPLY_ADDS:
        return
    cfg = model_zoo.load(name)
    model, (height, width) = cls.GeneralizedCNN(cfg), cls.input_size(cfg)
    images, classes = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8), cfg.MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES
    loss = model(images, {"label": torch.tensor([0, classes - 1])})["losses"]["loss_cls"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_fragments_are_used_and_comments_name_the_published_number() -> None:
    for fragment in (CFGS / "_base_").glob("*.yaml"):
        users = [name for name, text in TEXT.items() if re.search(rf"[\[ /]{fragment.name}", text)]
        assert users, f"{fragment} is used by no config"
    for name in FILES:
        found = model_zoo.published(TEXT[name])
        if "/ImageNet/" in name:
            assert re.match(r"top-1 \d\d\.\d", found), f"{name} names no published number"
        elif name.startswith("vision/") and not re.search("/(shapes|custom)/", name):
            assert re.match(r"(none for \dx; )?(bbox_AP|mAP|mIoU|PQ) \d\d\.\d.*\(.+\)$", found), (
                f"{name} names no published number"
            )


def code_of(folder: str, skipped: str = "no file") -> str:
    paths = [path for path in (REPOSITORY / folder).rglob("*.py") if not path.match(skipped)]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def test_every_config_key_is_read_somewhere() -> None:
    """A key that nothing reads would be a promise without effect. Sections that are handed over whole count by their name."""
    text = "".join(
        code_of(f"pet/{path.name}") for path in (REPOSITORY / "pet").iterdir() if path.name not in ("config", "tasks", "vision")
    )
    text += (
        code_of("tools")
        + code_of("pet/config", "base.py")
        + code_of("pet/tasks", "config.py")
        + code_of("pet/vision", "config.py")
    )
    # The rules of vision read keys, too; they stand below its table.
    text += (REPOSITORY / "pet/vision/config.py").read_text(encoding="utf-8").partition("\ndef get_base_cfg")[2]
    words = set(re.findall(r"\w+", text))
    sections = set(re.findall(r"\bkeywords\(\w+\.(\w+)\)", text))
    options = set(re.findall(r"^        (\w+): ", code_of("pet/models/heads"), re.MULTILINE))
    unread = set()
    for domain in ("tasks/cls/", "vision/"):
        for full, _, _ in model_zoo.domain_of(domain).get_base_cfg().keys_of():
            *_, section, leaf = ("", *full.split("."))
            taken = HEADS.fullmatch(full) and leaf.lower() in options
            if not (section in sections or taken or leaf in words):
                unread.add(full)
    assert unread <= FOR_THE_READER


def test_paths_in_configs_are_relative() -> None:
    assert not [name for name, text in TEXT.items() if "/work/" in text]
