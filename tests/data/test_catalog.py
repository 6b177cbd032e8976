"""Data sets by name: built in and from YAML, with messages that say what is missing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pet.data.catalog import BUILT_IN, build_dataset, data_root
from pet.data.datasets import ConcatDataset


def write_image(path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))


@pytest.fixture
def flowers(tmp_path):
    for name in ("train/rose/1.png", "train/tulip/2.png", "more/rose/3.png", "more/tulip/4.png"):
        write_image(tmp_path / "flowers" / name)
    return tmp_path


ENTRY = {"TYPE": "image_folder_dataset", "IMAGES": "flowers/train"}


def test_an_entry_of_the_yaml_needs_no_python(flowers):
    dataset = build_dataset(["mine"], True, catalog={"mine": ENTRY}, root=flowers)
    assert (len(dataset), dataset.name, dataset.class_names) == (2, "mine", ["rose", "tulip"])


def test_several_names_become_one_data_set(flowers):
    catalog = {"mine": ENTRY, "more": {"IMAGES": "flowers/more"}}
    both = build_dataset(["mine", "more"], True, catalog=catalog, root=flowers, dataset_type="image_folder_dataset")
    assert isinstance(both, ConcatDataset)
    assert len(both) == 4


def test_the_root_comes_from_the_argument_the_environment_or_the_default(flowers, monkeypatch):
    monkeypatch.setenv("PET_DATA", str(flowers))
    assert len(build_dataset(["mine"], True, catalog={"mine": ENTRY})) == 2
    assert data_root("x").as_posix() == "x"
    monkeypatch.delenv("PET_DATA")
    assert data_root().as_posix() == "data"


def test_options_are_keys_in_upper_or_lower_case():
    catalog = {"s": {"TYPE": "shapes_dataset", "NUM_IMAGES": 30, "image_size": 20, "SPLIT": "test"}}
    dataset = build_dataset(["s"], True, catalog=catalog)
    assert len(dataset) == 30
    expected = build_dataset(["s"], False, catalog={"s": {**catalog["s"], "SPLIT": "test"}})
    assert np.array_equal(dataset.read(0).image, expected.read(0).image)


def test_split_decides_which_files_of_a_folder_are_read(shared_data):
    root = shared_data / "classification"
    entry = {"TYPE": "mnist_dataset", "IMAGES": "mnist"}
    assert len(build_dataset(["m"], True, catalog={"m": entry}, root=root)) == 30_000
    assert len(build_dataset(["m"], False, catalog={"m": entry}, root=root)) == 10_000
    assert len(build_dataset(["m"], True, catalog={"m": {**entry, "SPLIT": "test"}}, root=root)) == 10_000


def test_built_in_names_find_their_folders(shared_data, tmp_path):
    assert len(build_dataset(["mnist_test"], True, root=shared_data / "classification")) == 10_000
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar" / "cifar-10-batches-bin").symlink_to(
        shared_data / "classification" / "cifar10_jpg" / "cifar-10-batches-bin-derived"
    )
    dataset = build_dataset(["cifar10_test"], False, root=tmp_path)
    assert (len(dataset), dataset.class_names[0]) == (100, "airplane")
    assert dataset.source == tmp_path / "cifar" / "cifar-10-batches-bin"
    (tmp_path / "fashion_mnist").symlink_to(shared_data / "classification" / "fashion_mnist_900")
    assert build_dataset(["fashion_mnist_train"], True, root=tmp_path).class_names[9] == "ankle boot"


@pytest.mark.parametrize("with_list", [True, False])
def test_imagenet_validation_by_list_or_by_folders(tmp_path, with_list):
    for name in ("train/n01/a.png", "train/n02/b.png"):
        write_image(tmp_path / "imagenet" / name)
    if with_list:
        write_image(tmp_path / "imagenet" / "val" / "v1.png")
        (tmp_path / "imagenet" / "meta").mkdir()
        (tmp_path / "imagenet" / "meta" / "val.txt").write_text("v1.png 1\n")
    else:
        write_image(tmp_path / "imagenet" / "val" / "n02" / "v1.png")
        (tmp_path / "imagenet" / "val" / "n01").mkdir()
    dataset = build_dataset(["imagenet_val"], False, root=tmp_path)
    assert dataset.class_names == build_dataset(["imagenet_train"], True, root=tmp_path).class_names == ["n01", "n02"]
    assert dataset.labels().tolist() == [1]


def test_every_built_in_name_is_usable_or_says_where_its_files_belong(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "readme.txt").write_text("x")
    for name, known in BUILT_IN.items():
        if not known.folders:
            assert len(build_dataset([name], True)) > 0
            continue
        with pytest.raises(FileNotFoundError) as caught:
            build_dataset([name], True, root=tmp_path)
        message = str(caught.value)
        assert str(tmp_path / known.folders[0]) in message
        assert "\n  other/\n  readme.txt\n" in message
        assert "DATA.ROOT" in message
        assert "PET_DATA" in message
        assert all(url in message for file in known.remote for url in file.urls)


@pytest.mark.parametrize(
    ("names", "entry", "error", "message"),
    [
        (["mnist_tran"], {}, KeyError, "no data set is named 'mnist_tran'. Did you mean 'mnist_train'"),
        ([], {}, ValueError, "TRAIN.DATASETS is empty"),
        (["x"], {"TYPE": "image_folder_datset"}, KeyError, "Did you mean 'image_folder_dataset'"),
        (["x"], {"IMAGES": "flowers"}, KeyError, "x has no TYPE, and DATA.DATASET_TYPE is empty"),
        (
            ["x"],
            {**ENTRY, "CLASES": []},
            TypeError,
            "key CLASES, which image_folder_dataset does not know. Did you mean 'CLASSES'",
        ),
        (
            ["x"],
            {**ENTRY, "IMAGES": "flowers/trian"},
            FileNotFoundError,
            "IMAGES is 'flowers/trian', but .* holds more, train. Did you mean 'train'",
        ),
        (["x"], {**ENTRY, "IMAGES": 5}, TypeError, "IMAGES is 5; expected a path"),
        (["x"], {**ENTRY, "SPLIT": "validation"}, ValueError, "SPLIT is 'validation'; allowed are train and test"),
        (["x"], {"TYPE": "shapes_dataset", "NUM_IMAGES": "many"}, TypeError, "NUM_IMAGES is 'many'; expected int, e.g. 0"),
        (["x"], {"TYPE": "shapes_dataset", "NUM_IMAGES": True}, TypeError, "NUM_IMAGES is True"),
        (["x"], "flowers", TypeError, "DATA.CATALOG.x is 'flowers'; expected keys"),
    ],
)
def test_mistakes_are_named_with_the_remedy(flowers, names, entry, error, message):
    with pytest.raises(error, match=message):
        build_dataset(names, True, catalog={"x": entry} if entry else {}, root=flowers)
