"""Configuration to data of the classification domain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pet.data.build import build_test_transforms, pixel_statistics_rgb255
from pet.tasks.cls.config import get_base_cfg
from pet.tasks.cls.dataset import (
    build_dataset,
    build_train_transforms,
    make_test_data_loader,
    make_train_data_loader,
    report_dataset,
)

SHAPES = {"s": {"TYPE": "shapes_dataset", "NUM_IMAGES": 40, "IMAGE_SIZE": 32}}


def config(**values):
    cfg = get_base_cfg()
    cfg.merge_from_list(
        [
            word
            for key, value in {"MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES": 10, "DATA.LOADER_THREADS": 0, **values}.items()
            for word in (key, str(value))
        ]
    )
    cfg.freeze()
    return cfg


def test_loaders_follow_the_configuration():
    cfg = config(
        **{
            "DATA.CATALOG": SHAPES,
            "TRAIN.DATASETS": ("s",),
            "TEST.DATASETS": ("s",),
            "TRAIN.BATCH_SIZE": 12,
            "SOLVER.ACCUMULATE": 3,
            "TRAIN.TRANSFORMS": ("random_crop", "random_horizontal_flip", "to_tensor", "normalize", "mixup", "cutmix"),
            "TRAIN.RANDOM_CROP.CROP_SCALES": ((24, 20),),
            "TEST.TRANSFORMS": ("resize", "center_crop", "normalize"),
            "TEST.RESIZE.SCALE": 28,
            "TEST.CENTER_CROP.CROP_SCALES": (16, 18),
            "TEST.IMS_PER_GPU": 15,
        }
    )
    train = build_dataset(cfg)
    loader = make_train_data_loader(cfg, train, start_iter=3)
    window = next(iter(loader))
    assert [tuple(b.images.shape) for b in window] == [(4, 3, 24, 20)] * 3
    assert window[0].targets["scores"].shape == (4, 10)
    assert loader.iter_per_epoch == 3
    test = make_test_data_loader(cfg, build_dataset(cfg, is_train=False))
    batches = list(test)
    assert [tuple(b.images.shape) for b in batches] == [(15, 3, 16, 18), (15, 3, 16, 18), (10, 3, 16, 18)]
    assert "s: 40 images, 10 classes" in report_dataset(cfg, train)


@pytest.mark.gpu
def test_batches_are_pinned_where_there_is_a_gpu():
    cfg = config(**{"DATA.CATALOG": SHAPES, "TRAIN.DATASETS": ("s",), "TRAIN.BATCH_SIZE": 4})
    window = next(iter(make_train_data_loader(cfg, build_dataset(cfg))))
    assert window[0].images.is_pinned()


def test_two_data_sets_and_a_chosen_one():
    cfg = config(**{"DATA.CATALOG": {**SHAPES, "t": SHAPES["s"]}, "TRAIN.DATASETS": ("s", "t")})
    assert len(build_dataset(cfg)) == 80
    assert len(build_dataset(cfg, is_train=False, names=["t"])) == 40


def test_a_test_set_that_is_cut_says_so(caplog):
    with caplog.at_level("INFO", logger="pet"):
        assert len(build_dataset(config(**{"DATA.CATALOG": SHAPES, "TEST.LIMIT": 8}), is_train=False, names=["s"])) == 8
    assert "the first 8 of 40 images (TEST.LIMIT)" in caplog.text


@pytest.mark.parametrize(
    ("layout", "mean", "expected"),
    [
        ("rgb", (0.2, 0.4, 0.6), (51, 102, 153)),
        ("bgr", (0.2, 0.4, 0.6), (153, 102, 51)),
        ("rgb255", (10.0, 20.0, 30.0), (10, 20, 30)),
        ("bgr255", (10.0, 20.0, 30.0), (30, 20, 10)),
    ],
)
def test_erasing_uses_the_mean_of_the_configuration_in_rgb(layout, mean, expected):
    cfg = config(
        **{
            "DATA.FORMAT.IMAGE": layout,
            "DATA.PIXEL_MEAN": mean,
            "TRAIN.TRANSFORMS": ("random_erasing",),
            "TRAIN.RANDOM_ERASING.MODE": "mean",
        }
    )
    assert pixel_statistics_rgb255(cfg)[0] == pytest.approx(expected)
    assert build_train_transforms(cfg)[0]._mean == pytest.approx(np.array(expected))


@pytest.mark.parametrize("scale", [32, (20, 30), [20, 30]])
def test_the_test_scale_is_a_side_or_a_size(scale):
    from pet.data.structures import Sample

    cfg = config(**{"TEST.TRANSFORMS": ("resize",), "TEST.RESIZE.SCALE": scale})
    image = build_test_transforms(cfg)[0](Sample(np.zeros((64, 128, 3), np.uint8), {}, 0), np.random.default_rng(0)).image
    assert image.shape[:2] == ((32, 64) if scale == 32 else (20, 30))


def test_unlabelled_images_can_be_predicted_but_not_trained_on(tmp_path):
    import cv2

    assert cv2.imwrite(str(tmp_path / "a b.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "list.txt").write_text("a b.png\n")
    entry = {"u": {"TYPE": "image_folder_dataset", "IMAGES": str(tmp_path), "ANNOTATIONS": str(tmp_path / "list.txt")}}
    cfg = config(**{"DATA.CATALOG": entry, "TRAIN.DATASETS": ("u",), "TEST.DATASETS": ("u",)})
    batch = next(iter(make_test_data_loader(cfg, build_dataset(cfg, False))))
    assert (batch.targets, batch.images.dtype) == ({}, torch.uint8)
    with pytest.raises(ValueError, match="u has 1 images without a label; it can be predicted, not trained on"):
        build_dataset(cfg)


def test_types_and_transforms_of_ones_own_are_named_by_their_import_path(tmp_path, monkeypatch):
    (tmp_path / "my_own_data.py").write_text(
        "from dataclasses import replace\n"
        "from pet.data.datasets import ShapesDataset\n"
        "class Mine(ShapesDataset):\n    pass\n"
        "class Darker:\n    def __call__(self, sample, rng):\n        return replace(sample, image=sample.image // 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    values = {
        "DATA.CATALOG": {"s": {**SHAPES["s"], "TYPE": "my_own_data.Mine"}},
        "TRAIN.DATASETS": ("s",),
        "TRAIN.TRANSFORMS": ("my_own_data.Darker",),
    }
    cfg = config(**values)
    dataset = build_dataset(cfg)
    assert type(dataset).__name__ == "Mine"
    assert next(iter(make_train_data_loader(cfg, dataset)))[0].images.max() <= 127
    with pytest.raises(KeyError, match="the transform 'my_own_data.Drker' cannot be imported"):
        build_train_transforms(config(**{"TRAIN.TRANSFORMS": ("my_own_data.Drker",)}))
