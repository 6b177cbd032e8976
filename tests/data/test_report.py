"""The data report: what is there, what is wrong, and whether it fits the head."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pet.data.datasets import ImageFolderDataset, MultiLabelDataset, ShapesDataset
from pet.data.report import data_report


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["cat/1.png", "cat/2.png", "dog/3.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(tmp_path / name), np.zeros((4 + number, 5, 3), np.uint8))
    (tmp_path / "emu").mkdir()
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    return tmp_path


def test_counts_empty_classes_and_spare_outputs_are_listed(folder):
    text = "\n".join(data_report(ImageFolderDataset("pets", folder), 5))
    assert "pets: 4 images, 3 classes" in text
    assert "cat 3, dog 1, emu 0 (fewest 0, most 3)" in text
    assert "warning: 1 classes have no image: emu" in text
    assert "the head has 5 outputs, 2 more than there are classes" in text


def test_full_check_names_unreadable_images_and_sizes(folder):
    text = "\n".join(data_report(ImageFolderDataset("pets", folder), 3, "full"))
    assert "sizes (height x width): 4x5 to 6x5" in text
    assert "warning: 1 images cannot be read:" in text
    assert f"cannot read image {folder / 'cat' / 'broken.jpg'}: truncated JPEG" in text
    assert "every image can be read" in "\n".join(data_report(ShapesDataset("s", num_images=20, image_size=16), 10, "full"))


def test_off_looks_at_nothing(folder):
    assert len(data_report(ImageFolderDataset("pets", folder), 1, "off")) == 1


def test_more_classes_than_outputs_stop_the_run(folder):
    with pytest.raises(
        ValueError, match="has 3 classes .cat, dog, emu., but the head has 2 outputs; set MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES 3"
    ):
        data_report(ImageFolderDataset("pets", folder), 2)


def test_a_label_outside_the_head_is_named_with_its_file(folder):
    (folder / "list.txt").write_text("cat/1.png 0\ndog/3.png 7\n")
    with pytest.raises(
        ValueError, match=r"1 labels do not fit the head, which has 2 outputs .labels 0 to 1.; the first is 7 at .*dog/3.png"
    ):
        data_report(ImageFolderDataset("pets", folder, folder / "list.txt", classes=["cat", "dog"]), 2)


def test_classes_beyond_the_head_are_named(folder):
    (folder / "emu" / "4.png").write_bytes((folder / "dog" / "3.png").read_bytes())
    with pytest.raises(ValueError, match=r"emu/4.png; classes without an output: emu\. Correct .* give CLASSES in the entry"):
        data_report(ImageFolderDataset("pets", folder), 2)


def test_multi_label_and_unlabelled_sets(folder):
    (folder / "list.txt").write_text("cat/1.png a,b\ndog/3.png -\n")
    text = "\n".join(data_report(MultiLabelDataset("m", folder, folder / "list.txt"), 2))
    assert "1.00 labels an image, at most 2; 1 images without one" in text
    assert "a 1, b 1" in text
    (folder / "list.txt").write_text("cat/1.png\ndog/3.png\n")
    assert "2 images without a label" in "\n".join(data_report(ImageFolderDataset("u", folder, folder / "list.txt"), 2))
