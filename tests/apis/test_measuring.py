"""Tools that run a model as a test does it, precision and sizes included."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pet.apis import confusion
from pet.apis.benchmark import time_inference
from pet.config import get_base_cfg
from pet.data.names import LabelNames


@pytest.mark.parametrize(("enabled", "expected"), [(True, torch.bfloat16), (False, None)], ids=["amp", "float32"])
def test_a_confusion_matrix_is_computed_in_the_precision_of_a_test(
    enabled: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Any] = []

    def run(*args: Any, device: torch.device, amp_dtype: torch.dtype | None = None) -> None:
        used.append(amp_dtype)

    cfg = get_base_cfg()
    cfg.merge_from_list(["SOLVER.AMP.ENABLED", enabled, "SOLVER.AMP.DTYPE", "bfloat16", "TEST.DATASETS", "('mine',)"])
    evaluator = SimpleNamespace(confusion=np.eye(2, dtype=int), class_names=["a", "b"], name="mine")
    domain = SimpleNamespace(
        build_dataset=lambda cfg, is_train: None,
        build_evaluator=lambda cfg, dataset: evaluator,
        make_test_data_loader=lambda cfg, dataset: [],
        forward_test=None,
    )
    predictor = SimpleNamespace(model=None, device=torch.device("cpu"), saved_names=LabelNames(("a", "b")), weights="x.pth")
    monkeypatch.setattr(confusion, "Predictor", lambda *args: predictor)
    monkeypatch.setattr(confusion, "run_evaluation", run)
    assert confusion.confusion_of(cfg, domain, Path("x.pth")).counts.trace() == 2
    assert used == [expected]
    domain.build_dataset = lambda cfg, is_train: SimpleNamespace(class_names=["b", "a"])
    with pytest.raises(ValueError, match=r"'a' in the checkpoint x.pth and 'b' in mine: the same names in another order"):
        confusion.confusion_of(cfg, domain, Path("x.pth"))
    assert used == [expected], "told before the test"


def test_a_model_is_fused_at_the_size_of_its_test() -> None:
    sizes: list[Any] = []

    def fuse(model: nn.Module, size: tuple[int, int] | None = None) -> int:
        sizes.append(size)
        return 1

    cfg = get_base_cfg()
    cfg.merge_from_list(["MISC.DEVICE", "cpu"])
    domain = SimpleNamespace(
        GeneralizedCNN=lambda cfg, is_train: nn.Flatten(), fuse_conv_bn=fuse, input_size=lambda cfg: (384, 640)
    )
    time_inference(cfg, domain, shape=[8], count=1, warm_up=0, fuse=True)
    assert sizes == [(384, 640)]
