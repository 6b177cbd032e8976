"""Pictures with label maps: pairing, void, shifts, palettes, ADE20K."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from pet.data.catalog import build_dataset
from pet.data.datasets import SemanticDataset
from pet.data.datasets.class_lists import ADE20K
from pet.data.datasets.label_maps import picture_size, read_label_map
from pet.data.image import read_image
from pet.data.report import data_report
from pet.data.structures import BadImageError

LABELS = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def pair(tmp_path):
    write(tmp_path / "images/city/a.jpg", np.zeros((2, 3, 3), np.uint8))
    write(tmp_path / "labels/city/a.png", LABELS)
    return tmp_path


def build(folder, **options):
    return SemanticDataset("s", folder / "images", folder / "labels", **{"classes": ["x", "y", "z"], **options})


def test_a_folder_pair_gives_maps_with_void(pair):
    dataset = build(pair)
    assert (len(dataset), dataset.kinds) == (1, {"semseg"})
    assert dataset.semseg_names == dataset.class_names == ["x", "y", "z"]
    sample = dataset.read(0)
    assert sample.target.keys() == {"semseg", "original_size"}
    assert np.array_equal(sample.target["semseg"], LABELS)
    assert dataset.labels().tolist() == [[True, True, True]]
    assert dataset.sizes().tolist() == [[2, 3]]
    assert len(dataset.annotations(0)) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ignore_label": 2, "label_shift": 0, "reduce": {0: 0, 1: 1}}, [[0, 1, 255], [255, 1, 0]]),
        ({"label_shift": -1}, [[255, 0, 1], [255, 0, 255]]),
        ({"reduce": {2: 0}}, [[255, 255, 0], [255, 255, 255]]),
        ({"reduce": {0: 1, 1: 1, 2: 2}}, [[1, 1, 2], [255, 1, 1]]),
    ],
    ids=["ignore", "shift", "one", "merge"],
)
def test_values_become_classes(pair, options, expected):
    assert build(pair, **options).semseg(0).tolist() == expected


def test_a_value_that_is_no_class_is_refused_with_its_file(pair):
    with pytest.raises(BadImageError, match=r"a.png: the label map has the values 2, which are neither a class \(there are 2\)"):
        build(pair, classes=["x", "y"]).read(0)


def test_a_label_map_of_another_size_is_refused_with_both_sizes(pair):
    write(pair / "labels/city/a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(BadImageError, match="2x3 pixels .* 4x4"):
        build(pair).read(0)
    assert "image_size_mismatch: 1" in "\n".join(data_report(build(pair), 3, "full"))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_and_small_depths_keep_their_values(tmp_path, depth):
    values = np.arange(2**depth, dtype=np.uint8).reshape(1, -1) % 200
    palette = Pillow.fromarray(values, "P")
    palette.putpalette([(37 * i) % 256 for i in range(768)])
    palette.save(tmp_path / "p.png", bits=depth)
    assert np.array_equal(read_label_map(tmp_path / "p.png"), values)


def test_label_maps_with_colours_are_refused(pair):
    write(pair / "labels/city/a.png", np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(BadImageError, match="it has 3 channels; a label map has one value a pixel"):
        build(pair).read(0)


def test_pictures_without_labels_are_left_out_and_a_wrong_suffix_is_explained(pair):
    write(pair / "images/city/b.jpg", np.zeros((2, 3, 3), np.uint8))
    dataset = build(pair)
    assert len(dataset) == 1
    assert dict(dataset.faults) == {"missing_annotation_file": 1}
    with pytest.raises(FileNotFoundError, match="none of 2 pictures has a label picture, e.g. .*a_label.png.*set LABEL_SUFFIX"):
        build(pair, label_suffix="_label.png")
    with pytest.raises(ValueError, match="CLASSES names 0 classes"):
        build(pair, classes=[])


def test_coco_semantic_masks_are_read_with_a_map_of_ids(shared_data):
    folder = shared_data / "segmentation/coco128_panoptic"
    catalog = {
        "c": {
            "TYPE": "semantic_dataset",
            "IMAGES": "images/val2017",
            "ANNOTATIONS": "semantic_masks/val2017",
            "CLASSES": ["person", "chair"],
            "REDUCE": {1: 0, 62: 1},
        }
    }
    dataset = build_dataset(["c"], False, catalog=catalog, root=folder)
    assert len(dataset) == 12
    raw = cv2.imread(str(folder / "semantic_masks/val2017/000000001490.png"), cv2.IMREAD_UNCHANGED)
    index = next(i for i in range(12) if "1490" in dataset.path(i))
    semseg = dataset.read(index).target["semseg"]
    assert np.array_equal(semseg == 0, raw == 1)
    assert np.array_equal(semseg == 1, raw == 62)
    assert (semseg == 0).any()


def test_ade20k_has_150_classes_and_zero_is_void(tmp_path):
    assert len(ADE20K) == len(set(ADE20K)) == 150
    folder = tmp_path / "ADEChallengeData2016"
    write(folder / "images/validation/ADE_val_00000001.jpg", np.zeros((1, 4, 3), np.uint8))
    write(folder / "annotations/validation/ADE_val_00000001.png", np.array([[0, 1, 150, 13]], np.uint8))
    dataset = build_dataset(["ade20k_val"], False, root=tmp_path)
    assert dataset.semseg(0).tolist() == [[255, 0, 149, 12]]
    assert (dataset.class_names[0], dataset.class_names[12], dataset.class_names[149]) == ("wall", "person", "flag")


def test_the_size_in_the_header_is_that_of_the_upright_picture(tmp_path):
    picture = Pillow.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = Pillow.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "plain.jpg")
    assert picture_size(tmp_path / "plain.jpg") == (20, 30)
    assert picture_size(tmp_path / "turned.jpg") == (30, 20)


def png_chunks(data: bytes) -> list[bytes]:
    """The chunks of a PNG, with their lengths and check sums."""
    chunks, place = [], 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        chunks.append(data[place:end])
        place = end
    return chunks


def test_the_size_of_a_png_is_read_without_its_pixels_and_still_upright(tmp_path):
    picture, exif = Pillow.fromarray(np.zeros((20, 30, 3), np.uint8)), Pillow.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "early.png", exif=exif)
    data = (tmp_path / "early.png").read_bytes()
    chunks = png_chunks(data)
    last = sorted(chunks, key=lambda chunk: (chunk[4:8] == b"IEND", chunk[4:8] == b"eXIf"))  # EXIF after the pixels
    (tmp_path / "late.png").write_bytes(data[:8] + b"".join(last))
    for name in ("early.png", "late.png"):
        assert picture_size(tmp_path / name) == read_image(tmp_path / name).shape[:2] == (30, 20)
    pixels = next(chunk for chunk in chunks if chunk[4:8] == b"IDAT")
    (tmp_path / "damaged.png").write_bytes(
        data[:8] + b"".join(pixels[:8] + bytes(len(pixels) - 8) if c is pixels else c for c in chunks if c[4:8] != b"eXIf")
    )
    assert picture_size(tmp_path / "damaged.png") == (20, 30)
