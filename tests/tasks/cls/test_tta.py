"""Test-time augmentation of image classification: the mean of the probabilities of the views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from pet.config import ConfigError
from pet.data.views import ViewBatch
from pet.tasks.cls import GeneralizedCNN, build_dataset, forward_test, get_base_cfg, infer_cfg, make_test_data_loader


def make(shared_data: Path, *words: str) -> tuple[Any, Any, Any]:
    """Config, network and data set of 77 photographs."""
    cfg = get_base_cfg()
    catalog = {"ants": {"TYPE": "image_folder_dataset", "IMAGES": str(shared_data / "classification/hymenoptera_224/val")}}
    pairs = [("DATA.CATALOG", catalog), ("TEST.DATASETS", ("ants",)), ("DATA.LOADER_THREADS", 0), ("MODEL.NORM", "")]
    pairs += [("TEST.TRANSFORMS", ("resize", "center_crop", "to_tensor", "normalize")), ("TEST.RESIZE.SCALE", 56)]
    pairs += [("TEST.CENTER_CROP.CROP_SCALES", (48, 48)), ("TEST.LIMIT", 6), ("MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES", 2)]
    pairs += [("MODEL.BACKBONE", "cifar_resnet8"), ("SOLVER.SCHEDULER.TOTAL_EPOCHS", 1)]
    cfg.merge_from_list([part for pair in pairs for part in pair])
    cfg.merge_from_list([part for word in words for part in word.split("=", 1)])
    infer_cfg(cfg, "cfgs/tasks/cls/x.yaml")
    cfg.freeze()
    torch.manual_seed(0)
    net = GeneralizedCNN(cfg, is_train=False).eval()
    torch.nn.init.normal_(net.global_head["cls"].fc.weight, std=0.1)
    return cfg, net, build_dataset(cfg, is_train=False)


@torch.inference_mode()
def scores(cfg: Any, net: Any, dataset: Any) -> torch.Tensor:
    return torch.cat([forward_test(net, batch)["scores"] for batch in make_test_data_loader(cfg, dataset)])


def test_scores_are_the_mean_over_the_views(shared_data: Path) -> None:
    """Against views that OpenCV makes here."""
    words = ["TEST.TTA.ENABLED=True", "TEST.TTA.SCALES=(56, 72)", "TEST.TTA.FLIP=(horizontal, vertical)", "TEST.IMS_PER_GPU=1"]
    cfg, net, dataset = make(shared_data, *words)
    batch = next(iter(make_test_data_loader(cfg, dataset)))
    assert isinstance(batch, ViewBatch)
    assert len(batch.views) == 6
    image, expected = dataset.read(0).image, []
    with torch.inference_mode():
        for short in (56, 72):
            scale = short / min(image.shape[:2])
            size = (int(image.shape[1] * scale + 1e-6), int(image.shape[0] * scale + 1e-6))
            resized = cv2.resize(image, size)
            top, left = round((resized.shape[0] - 48) / 2), round((resized.shape[1] - 48) / 2)
            crop = resized[top : top + 48, left : left + 48]
            for view in (crop, cv2.flip(crop, 1), cv2.flip(crop, 0)):
                images = torch.from_numpy(view.transpose(2, 0, 1).copy())[None]
                expected.append(torch.softmax(net.logits(images), 1))
        found = forward_test(net, batch)["scores"]
    assert torch.stack(expected).std(0).max() > 0.01
    torch.testing.assert_close(found, torch.stack(expected).mean(0))


def test_one_view_is_the_plain_result_and_batches_change_nothing(shared_data: Path) -> None:
    plain = scores(*make(shared_data))
    on = "TEST.TTA.ENABLED=True"
    assert torch.equal(scores(*make(shared_data, on, "TEST.TTA.FLIP=()")), plain)
    flipped = scores(*make(shared_data, on, "TEST.IMS_PER_GPU=1"))
    assert (flipped - plain).abs().max() > 0.01
    torch.testing.assert_close(scores(*make(shared_data, on, "TEST.IMS_PER_GPU=4", "DATA.LOADER_THREADS=2")), flipped)


def test_scales_without_a_resize_are_refused(shared_data: Path) -> None:
    with pytest.raises(ConfigError, match="transform resize"):
        make(shared_data, "TEST.TTA.ENABLED=True", "TEST.TTA.SCALES=(64,)", "TEST.TRANSFORMS=(center_crop, to_tensor, normalize)")
