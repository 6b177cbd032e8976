from __future__ import annotations

import pytest
import torch
import torchvision

from pet.engine.checkpointer import CheckPointer
from pet.tasks.cls import GeneralizedCNN, get_base_cfg


def build(num_classes: int) -> GeneralizedCNN:
    cfg = get_base_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE", "torchvision/mobilenet_v2", "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES", num_classes])
    return GeneralizedCNN(cfg)


@pytest.fixture
def library_file(tmp_path):
    torch.manual_seed(1)
    library = torchvision.models.mobilenet_v2(num_classes=7)
    torch.save(library.state_dict(), tmp_path / "mobilenet.pth")
    return library, tmp_path / "mobilenet.pth"


def test_a_file_of_the_library_loads_whole_and_gives_the_same_numbers(library_file, tmp_path):
    library, path = library_file
    model = CheckPointer(tmp_path / "run", path).load_model(build(7)).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    expected = library.eval()(model.pixels(images)).softmax(1)
    torch.testing.assert_close(model(images)["scores"], expected, rtol=0, atol=1e-6)


def test_another_number_of_classes_needs_the_allow_list(library_file, tmp_path):
    _, path = library_file
    with pytest.raises(ValueError, match=r"other shape: global_head\.cls\.fc"):
        CheckPointer(tmp_path / "run", path).load_model(build(3))
    checkpointer = CheckPointer(tmp_path / "run", path, allow_mismatch=("global_head.*",))
    checkpointer.load_model(build(3))
    assert len(checkpointer.mismatch_keys) == 2
