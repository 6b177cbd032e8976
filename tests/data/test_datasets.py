"""Data sets read from files: the same samples whatever the form, and messages that help."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct

import cv2
import numpy as np
import pytest

from pet.data.datasets import CifarDataset, ConcatDataset, ImageFolderDataset, MnistDataset, MultiLabelDataset
from pet.data.datasets.base import PackedStrings
from pet.data.datasets.mnist import read_idx


def write_image(path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((6, 8, 3), value, np.uint8))


# ---------------------------------------------------------------------------------------------------- image folder


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["cat/1.png", "cat/deep er/2.PNG", "a dog/x y.png", "a dog/.hidden.png"]):
        write_image(tmp_path / "images" / name, number * 10)
    (tmp_path / "images" / "cat" / "notes.txt").write_text("no image")
    return tmp_path


def test_class_folders_become_sorted_classes(folder):
    dataset = ImageFolderDataset("d", folder / "images")
    assert dataset.class_names == ["a dog", "cat"]
    assert [os.path.relpath(dataset.describe(i), folder / "images") for i in range(3)] == [
        "a dog/x y.png",
        "cat/1.png",
        "cat/deep er/2.PNG",
    ]
    assert dataset.labels().tolist() == [0, 1, 1]
    sample = dataset.read(2)
    assert (sample.id, sample.target, sample.image[0, 0].tolist()) == (2, {"label": 1}, [10, 10, 10])


@pytest.mark.parametrize("form", ["index", "name"])
def test_a_list_gives_the_labels_of_the_folders_even_with_spaces_in_paths(folder, form):
    labels = {"index": ["0", "1", "1"], "name": ["a_dog", "cat", "cat"]}[form]
    files = ["a dog/x y.png", "cat/1.png", "cat/deep er/2.PNG"]
    (folder / "list.txt").write_text("".join(f"{f} {label}\n" for f, label in zip(files, labels, strict=True)) + "\n")
    listed = ImageFolderDataset("l", folder / "images", folder / "list.txt")
    whole = ImageFolderDataset("d", folder / "images")
    assert listed.labels().tolist() == whole.labels().tolist()
    assert [listed.path(i) for i in range(3)] == [whole.path(i) for i in range(3)]
    assert listed.class_names == (["0", "1"] if form == "index" else ["a_dog", "cat"])


def test_a_list_of_paths_alone_is_unlabelled(folder):
    (folder / "list.txt").write_text("a dog/x y.png\ncat/1.png\n")
    dataset = ImageFolderDataset("l", folder / "images", folder / "list.txt")
    assert dataset.labels().tolist() == [-1, -1]
    assert dataset.read(0).target == {}


def test_imagenet_layout_takes_class_names_from_the_training_folders(tmp_path):
    for name in ("train/n02/a.png", "train/n01/b.png", "val/v 1.png", "val/v2.png"):
        write_image(tmp_path / name)
    (tmp_path / "val.txt").write_text("v 1.png 1\nv2.png 0\n")
    val = ImageFolderDataset("v", tmp_path / "val", tmp_path / "val.txt", False, classes="train", root=str(tmp_path))
    assert val.class_names == ImageFolderDataset("t", tmp_path / "train").class_names == ["n01", "n02"]
    assert val.labels().tolist() == [1, 0]


def test_classes_fix_order_and_number(folder):
    dataset = ImageFolderDataset("d", folder / "images", classes=["cat", "bird", "a dog"])
    assert dataset.labels().tolist() == [2, 0, 0]
    with pytest.raises(ValueError, match="folders that CLASSES does not name: a dog"):
        ImageFolderDataset("d", folder / "images", classes=["cat"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alone.png\n", "line 1: expected 'path label', found 'alone.png'"),
        ("cat/1.png 0\ncat/1.png kat\n", "label 'kat' is neither a whole number nor a known class. Did you mean 'cat'?"),
        ("wrong/1.png 0\n", "lists 'wrong/1.png', but .* does not exist; IMAGES must be the folder"),
        ("", "no image in"),
    ],
)
def test_bad_lists_say_what_is_wrong(folder, text, message):
    (folder / "list.txt").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ImageFolderDataset("l", folder / "images", folder / "list.txt", classes=["cat", "a dog"])


def test_a_list_that_is_not_utf8_is_named(folder):
    (folder / "list.txt").write_bytes("ca\xe9/1.png 0\n".encode("latin-1"))
    with pytest.raises(ValueError, match="list.txt is not UTF-8 text .byte 2."):
        ImageFolderDataset("l", folder / "images", folder / "list.txt")


def test_images_without_class_folders_are_refused(tmp_path):
    write_image(tmp_path / "1.png")
    with pytest.raises(FileNotFoundError, match="has no sub-folders; put the images of each class into a folder"):
        ImageFolderDataset("d", tmp_path)


def test_real_folders(shared_data):
    dataset = ImageFolderDataset("h", shared_data / "classification" / "hymenoptera_224" / "train")
    assert (len(dataset), dataset.class_names) == (244, ["ants", "bees"])
    assert dataset.read(0).image.shape[2] == 3


def test_packed_strings_are_a_list_of_strings():
    strings = ["", "a/b", "\u00fc \u4e2d.jpg", "x" * 300, "bad \udcff byte"]
    packed = PackedStrings(strings)
    assert [packed[i] for i in range(len(packed))] == strings
    assert len(PackedStrings([])) == 0
    with pytest.raises(IndexError):
        packed[5]


# ------------------------------------------------------------------------------------------------------------ IDX


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes((0, 0, kind, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def digits(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    for prefix, compress, shift in (("train", gzip.compress, 0), ("t10k", bytes, 1)):
        end = ".gz" if prefix == "train" else ""
        (tmp_path / f"{prefix}-images-idx3-ubyte{end}").write_bytes(compress(idx(images + np.uint8(shift))))
        (tmp_path / f"{prefix}-labels-idx1-ubyte{end}").write_bytes(compress(idx(np.arange(5, dtype=np.uint8))))
    return tmp_path, images


def test_idx_files_are_read_raw_and_compressed_by_folder_and_by_file(digits):
    path, images = digits
    train, test = MnistDataset("m", path), MnistDataset("m", path, is_train=False)
    single = MnistDataset("m", path / "train-images-idx3-ubyte.gz", path / "train-labels-idx1-ubyte.gz", False)
    for index in range(5):
        assert np.array_equal(train.read(index).image, np.stack([images[index]] * 3, -1))
        assert np.array_equal(single.read(index).image, train.read(index).image)
        assert np.array_equal(test.read(index).image, train.read(index).image + np.uint8(1))
    assert train.labels().tolist() == list(range(5))
    assert len(train.class_names) == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(np.zeros((2, 2), np.uint8)), "not an IDX file of bytes with 3 dimension"),
        (idx(np.zeros((2, 2, 2), np.uint8), kind=9), "starts with 00 00 09 03, expected 00 00 08 03"),
        (idx(np.zeros((2, 2, 2), np.uint8))[:-1], "holds 7 bytes than the 8"),
        (idx(np.zeros((2, 2, 2), np.uint8)) + b"x", "holds more bytes than the 8"),
        (bytes((0, 0, 8, 3)) + b"\xff" * 12, "more than the limit"),
        (gzip.compress(idx(np.zeros((20, 20, 20), np.uint8)), mtime=0)[:-15], "damaged or incomplete"),
        (b"", "not an IDX file"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(path, 3)


def test_idx_files_that_do_not_belong_together_are_refused(digits):
    path, _ = digits
    (path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(4, np.uint8))))
    with pytest.raises(ValueError, match="holds 5 pictures, but .* 4 labels"):
        MnistDataset("m", path)
    with pytest.raises(FileNotFoundError, match="holds none of train-images"):
        MnistDataset("m", path.parent)


# ---------------------------------------------------------------------------------------------------------- CIFAR


def cifar_rows(count: int, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), np.uint8), rng.integers(0, 10, count).tolist()


def test_python_and_binary_version_of_cifar10_agree(tmp_path):
    python, binary = tmp_path / "py", tmp_path / "bin"
    python.mkdir()
    binary.mkdir()
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for number, name in enumerate(names):
        data, labels = cifar_rows(4, number)
        (python / name).write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=2))
        rows = np.concatenate([np.array(labels, np.uint8)[:, None], data], 1)
        (binary / f"{name}.bin").write_bytes(rows.tobytes())
    classes = [f"c{i}" for i in range(10)]
    (python / "batches.meta").write_bytes(pickle.dumps({"label_names": classes}, protocol=2))
    (binary / "batches.meta.txt").write_text("\n".join(classes) + "\n\n")
    for is_train, count in ((True, 20), (False, 4)):
        one, two = CifarDataset("p", python, None, is_train), CifarDataset("b", binary, None, is_train)
        assert len(one) == len(two) == count
        assert one.class_names == two.class_names == classes
        assert one.labels().tolist() == two.labels().tolist()
        assert all(np.array_equal(one.read(i).image, two.read(i).image) for i in range(count))
    data, _ = cifar_rows(4, 0)
    assert np.array_equal(CifarDataset("p", python).read(2).image, data[2].reshape(3, 32, 32).transpose(1, 2, 0))
    (python / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="lacks data_batch_3"):
        CifarDataset("p", python)


def test_cifar100_has_fine_and_coarse_labels_in_both_versions(tmp_path):
    data, coarse = cifar_rows(6)
    fine = [99 - c for c in coarse]
    content = {"data": data, "fine_labels": fine, "coarse_labels": coarse}
    (tmp_path / "test").write_bytes(pickle.dumps(content, protocol=2))
    (tmp_path / "test.bin").write_bytes(np.concatenate([np.array([coarse, fine], np.uint8).T, data], 1).tobytes())
    for path in (tmp_path / "test", tmp_path / "test.bin"):
        assert CifarDataset("c", path, None, False).labels().tolist() == fine
        assert len(CifarDataset("c", path, None, False).class_names) == 100
        super_classes = CifarDataset("c", path, None, False, coarse=True)
        assert super_classes.labels().tolist() == coarse
        assert len(super_classes.class_names) == 20


class Payload:
    def __reduce__(self):
        return (os.system, ("touch /tmp/pet_payload_ran",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": Payload(), "labels": [1]}))
    with pytest.raises(ValueError, match=r"(posix|os|nt)\.system, which no CIFAR file needs"):
        CifarDataset("c", tmp_path, None, False)
    assert not os.path.exists("/tmp/pet_payload_ran")


@pytest.mark.parametrize(
    "content", [b"", b"text", pickle.dumps([1]), pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [1, 2]})]
)
def test_what_is_no_cifar_file_is_refused(tmp_path, content):
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(ValueError, match="test_batch"):
        CifarDataset("c", tmp_path, None, False)
    (tmp_path / "test_batch.bin").write_bytes(b"x" * 3000)
    with pytest.raises(ValueError, match="not a multiple of 3073"):
        CifarDataset("c", tmp_path / "test_batch.bin", None, False)


def test_the_binary_batches_hold_the_pictures_of_the_folders(shared_data):
    base = shared_data / "classification" / "cifar10_jpg"
    dataset = CifarDataset("c", base / "cifar-10-batches-bin-derived" / "test_batch.bin")
    folders = ImageFolderDataset("f", base / "test")
    assert dataset.class_names == folders.class_names
    assert dataset.read(0).image.shape == (32, 32, 3)


# ----------------------------------------------------------------------------------------------------- multi-label


@pytest.mark.parametrize("form", ["text", "dict", "list"])
def test_multi_label_lists_in_all_forms(tmp_path, form):
    for name in ("a b.png", "c.png", "d.png"):
        write_image(tmp_path / name)
    content = {"a b.png": ["sky", "tree"], "c.png": ["tree"], "d.png": []}
    path = tmp_path / ("list.txt" if form == "text" else "list.json")
    if form == "text":
        path.write_text("a b.png sky,tree\nc.png tree\nd.png -\n")
    else:
        path.write_text(json.dumps(content if form == "dict" else [{"image": k, "labels": v} for k, v in content.items()]))
    dataset = MultiLabelDataset("m", tmp_path, path)
    assert dataset.class_names == ["sky", "tree"]
    assert dataset.labels().tolist() == [[True, True], [False, True], [False, False]]
    scores = dataset.read(0).target["scores"]
    assert (scores.dtype, scores.tolist()) == (np.float32, [1.0, 1.0])


def test_bad_multi_label_lists_say_what_is_wrong(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a.png 5\n")
    with pytest.raises(ValueError, match="label 5 is outside 0 to 1"):
        MultiLabelDataset("m", tmp_path, path, classes=["x", "y"])
    path.write_text("a.png\n")
    with pytest.raises(ValueError, match="line 1: expected 'path label,label"):
        MultiLabelDataset("m", tmp_path, path)
    (tmp_path / "l.json").write_text('[{"image": "a"}]')
    with pytest.raises(ValueError, match="entry 0: expected an object with 'image' and 'labels'"):
        MultiLabelDataset("m", tmp_path, tmp_path / "l.json")
    (tmp_path / "l.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        MultiLabelDataset("m", tmp_path, tmp_path / "l.json")


# ---------------------------------------------------------------------------------------------------- concatenation


def test_concatenation_keeps_order_and_checks_the_classes(digits):
    path, _ = digits
    one, two = MnistDataset("one", path), MnistDataset("two", path, is_train=False)
    both = ConcatDataset([one, two])
    assert (len(both), both.name) == (10, "one+two")
    assert both.labels().tolist() == [*range(5), *range(5)]
    assert both.read(7).id == 7
    assert np.array_equal(both.read(7).image, two.read(2).image)
    assert both.describe(4) == one.describe(4)
    named = MnistDataset("named", path, classes=[*"0123456789x"])
    with pytest.raises(ValueError, match="one has 10 classes, named has 11; not in both: x"):
        ConcatDataset([one, named])
    swapped = MnistDataset("swapped", path, classes=[*"1023456789"])
    with pytest.raises(ValueError, match="the order differs from class 0 on"):
        ConcatDataset([one, swapped])
