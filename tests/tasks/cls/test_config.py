"""The keys of classification and what must hold between them."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from pet.config import CfgNode, ConfigError
from pet.tasks.cls import get_base_cfg, infer_cfg


def config(*options: object) -> CfgNode:
    cfg = get_base_cfg()
    cfg.merge_from_list(["SOLVER.SCHEDULER.TOTAL_EPOCHS", "1", *options])
    return infer_cfg(cfg)


def test_reading_the_config_does_not_import_torch() -> None:
    code = "import sys, pet.tasks.cls as d, pet.tasks.cls.config; d.get_base_cfg(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_export_exists_and_a_wrong_one_lists_them() -> None:
    import pet.tasks.cls as domain

    assert all(getattr(domain, name) for name in domain.__all__)
    with pytest.raises(AttributeError, match="GeneralizedCNN"):
        domain.GeneralisedCNN  # noqa: B018


def test_the_defaults_are_valid_and_can_be_pickled() -> None:
    cfg = config()
    assert pickle.loads(pickle.dumps(cfg)).MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES == 1000


CLS = "MODEL.GLOBAL_HEAD.CLS"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((f"{CLS}.NUM_CLASSES", 1), "at least 2, or LOSS bce"),
        ((f"{CLS}.TARGET_THRESHOLD", 0.2), "belongs to the loss bce"),
        (("TRAIN.TRANSFORMS", ("resize", "normalize"), "TEST.TRANSFORMS", ("resize",)), r"TEST\.TRANSFORMS.*has no normalize"),
        (("TRAIN.TRANSFORMS", ("resize",), "TEST.TRANSFORMS", ("normalize",)), r"TRAIN\.TRANSFORMS.*has no normalize"),
        (("TEST.TRANSFORMS", ("Normaliz",)), r"1 problem:\n.*no transform is named 'Normaliz'\. Did you mean 'normalize'"),
        (("TEST.TRANSFORMS", ("LoadImageFromFile", "Resize", "Pad", "Collect")), r"1 problem:\n.*LoadImageFromFile, Pad, Collect: done by"),
        (("EVAL.METRICS", ("mAP", "accuracy")), "choose one kind"),
        (("EVAL.METRICS", ("mAP",)), "need bce"),
        (("MODEL.PRETRAINED", True, "MODEL.NORM", "GN"), "needs PRETRAINED False"),
        (("MODEL.FREEZE_NECK", True), "no neck"),
        (("EVAL.METRICS", ("acuracy",)), "accuracy"),
    ],
)
def test_contradictions_are_refused_at_start(options: tuple, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(*options)


def test_several_problems_come_in_one_report() -> None:
    with pytest.raises(ConfigError) as caught:
        config(f"{CLS}.NUM_CLASSES", 1, "MODEL.FREEZE_NECK", True)
    assert len(caught.value.problems) == 2


def test_a_yes_or_no_label_and_several_labels_are_allowed_with_bce() -> None:
    config(f"{CLS}.NUM_CLASSES", 1, f"{CLS}.LOSS", "bce")
    config("EVAL.METRICS", ("mAP", "CF1"), f"{CLS}.LOSS", "bce", f"{CLS}.TARGET_THRESHOLD", 0.2)
