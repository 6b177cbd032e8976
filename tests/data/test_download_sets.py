"""What ``tools/misc/download_dataset.py`` fetches lies where the built-in names look for it."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import pickle
import struct
import tarfile
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pytest

from pet.data import remote_sets
from pet.data.catalog import BUILT_IN, build_dataset
from pet.data.remote_sets import BY_HAND, REMOTE_SETS
from pet.engine.command import run_tool
from tests.helpers import REPOSITORY, run_cli

TOOL = REPOSITORY / "tools" / "misc" / "download_dataset.py"
PNG = cv2.imencode(".png", np.full((8, 10), 1, np.uint8))[1].tobytes()
JPEG = cv2.imencode(".jpg", np.zeros((8, 10, 3), np.uint8))[1].tobytes()


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("download_dataset", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tool, *words):
    """The status of the tool."""
    with pytest.raises(SystemExit) as end:
        run_tool(tool.main, tool.parser(), list(map(str, words)))
    return end.value.code


def as_zip(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as container:
        for name, data in files.items():
            container.writestr(name, data)
    return out.getvalue()


def as_tar(files, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def coco_json(number, **annotation):
    """One picture, ``<number>.jpg``, with one object."""
    image = {"id": number, "file_name": f"{number:012d}.jpg", "height": 8, "width": 10}
    category = {"id": 1, "name": "person", "keypoints": [f"p{i}" for i in range(10)], "skeleton": [], "isthing": 1}
    entry = {"id": 1, "image_id": number, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0, **annotation}
    return json.dumps({"images": [image], "annotations": [entry], "categories": [category]}).encode()


def lvis_json(number, split):
    content = json.loads(coco_json(number, segmentation=[[1, 1, 6, 1, 6, 6]]))
    content["images"][0] = {
        "id": number,
        "height": 8,
        "width": 10,
        "coco_url": f"http://images.cocodataset.org/{split}2017/{number:012d}.jpg",
        "neg_category_ids": [],
        "not_exhaustive_category_ids": [],
    }
    content["categories"][0]["frequency"] = "f"
    return json.dumps(content).encode()


def idx(shape, data):
    return gzip.compress(bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + bytes(data))


def voc_xml():
    return (
        b"<annotation><filename>1.jpg</filename><size><width>10</width><height>8</height></size><object><name>cat</name>"
        b"<difficult>0</difficult><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></object></annotation>"
    )


def voc(year, **lists):
    """Different pictures in each archive of a year."""
    files = {}
    for split, stem in lists.items():
        files[f"VOCdevkit/VOC{year}/JPEGImages/{stem}.jpg"] = JPEG
        files[f"VOCdevkit/VOC{year}/Annotations/{stem}.xml"] = voc_xml()
        files[f"VOCdevkit/VOC{year}/ImageSets/Main/{split}.txt"] = f"{stem}\n".encode()
    return as_tar(files)


def archives():
    """Small archives under the published names, with the members that the real ones have."""
    splits = (("train", 1), ("val", 2))
    points = {"keypoints": [3, 3, 2] * 10, "num_keypoints": 10}
    annotations, inner = {}, {}
    for split, number in splits:
        annotations[f"annotations/instances_{split}2017.json"] = coco_json(number, segmentation=[[1, 1, 6, 1, 6, 6]])
        annotations[f"annotations/person_keypoints_{split}2017.json"] = coco_json(number, **points)
        annotations[f"annotations/captions_{split}2017.json"] = b"{}"
        segments = [{"id": 65793, "category_id": 1, "area": 80, "bbox": [0, 0, 10, 8], "iscrowd": 0}]
        panoptic = json.loads(coco_json(number))
        panoptic["annotations"] = [{"image_id": number, "file_name": f"{number:012d}.png", "segments_info": segments}]
        panoptic["categories"].append({"id": 92, "name": "banner", "isthing": 0})
        inner[f"annotations/panoptic_{split}2017.json"] = json.dumps(panoptic).encode()
        colours = cv2.imencode(".png", np.ones((8, 10, 3), np.uint8))[1].tobytes()
        maps = {f"panoptic_{split}2017/{number:012d}.png": colours, f"__MACOSX/panoptic_{split}2017/._x": b"x"}
        inner[f"annotations/panoptic_{split}2017.zip"] = as_zip(maps)
    cifar = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "filenames": ["a", "b"]}
    batches = {f"cifar-10-batches-py/data_batch_{i}": pickle.dumps(cifar) for i in range(1, 6)}
    meta = {"cifar-10-batches-py/batches.meta": pickle.dumps({"label_names": [f"c{i}" for i in range(10)]})}
    hundred = {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 1], "coarse_labels": [0, 1]}
    ade = {
        f"ADEChallengeData2016/{kind}/{part}/ADE_{part[:5]}_1{end}": data
        for part in ("training", "validation")
        for kind, end, data in (("images", ".jpg", JPEG), ("annotations", ".png", PNG))
    }
    return {
        **{f"{split}2017.zip": as_zip({f"{split}2017/{n:012d}.jpg": JPEG}) for split, n in (*splits, ("test", 3))},
        "annotations_trainval2017.zip": as_zip(annotations),
        "image_info_test2017.zip": as_zip(
            {f"annotations/image_info_{name}.json": coco_json(3) for name in ("test2017", "test-dev2017")}
        ),
        "panoptic_annotations_trainval2017.zip": as_zip(inner),
        "stuffthingmaps_trainval2017.zip": as_zip({f"{split}2017/{n:012d}.png": PNG for split, n in splits}),
        **{
            f"lvis_{v}_{split}.json.zip": as_zip({f"lvis_{v}_{split}.json": lvis_json(n, split)})
            for v in ("v1", "v0.5")
            for split, n in splits
        },
        "VOCtrainval_06-Nov-2007.tar": voc(2007, train="1", val="2", trainval="3"),
        "VOCtest_06-Nov-2007.tar": voc(2007, test="4"),
        "VOCtrainval_11-May-2012.tar": voc(2012, train="1", val="2", trainval="3"),
        "ADEChallengeData2016.zip": as_zip(ade),
        "cifar-10-python.tar.gz": as_tar({**batches, **meta, "cifar-10-batches-py/test_batch": pickle.dumps(cifar)}, "w:gz"),
        "cifar-100-python.tar.gz": as_tar(
            {
                **{f"cifar-100-python/{name}": pickle.dumps(hundred) for name in ("train", "test")},
                "cifar-100-python/meta": pickle.dumps(
                    {"fine_label_names": [f"c{i}" for i in range(100)], "coarse_label_names": [f"s{i}" for i in range(20)]}
                ),
            },
            "w:gz",
        ),
        **{
            f"{part}-{kind}.gz": idx((2, 3, 3), range(18)) if "images" in kind else idx((2,), (4, 9))
            for part in ("train", "t10k")
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        },
        "balloon_dataset.zip": as_zip({f"balloon/{part}/via_region_data.json": b"{}" for part in ("train", "val")}),
    }


@pytest.fixture
def mirror(server, monkeypatch):
    """The small archives on the server, with their own checksums and sizes in place of the published ones."""
    server.files = archives()
    changed = {}
    for name, one in REMOTE_SETS.items():
        files = []
        for file in one.files:
            data = server.files[file.path.rpartition("/")[2]]
            digest = hashlib.new({32: "md5", 64: "sha256"}[len(file.digest or "0" * 32)], data).hexdigest()
            files.append(replace(file, urls=(), digest=digest, size=len(data)))
        changed[name] = replace(one, files=tuple(files))
    monkeypatch.setattr(remote_sets, "REMOTE_SETS", changed)
    return server.url


def test_every_set_is_read_by_its_names_after_one_command(tool, mirror, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PET_DATA", str(tmp_path / "data"))
    names = [name for name in REMOTE_SETS if name not in ("mnist", "fashion-mnist")]
    words = ("--dataset-name", *names, "--unzip", "--delete", "--threads", 3, "--mirror", mirror)
    assert run(tool, *words) == 0
    assert run(tool, "--dataset-name", "mnist", "fashion-mnist", "--mirror", mirror) == 0
    assert "error" not in capsys.readouterr().err
    for name in (name for one in REMOTE_SETS.values() for name in one.names):
        is_train = BUILT_IN[name].is_train
        dataset = build_dataset([name], is_train, root=tmp_path / "data")
        assert dataset.read(0).image.shape[2] == 3, name
    left = {path.name for path in (tmp_path / "data").rglob("*") if path.suffix in (".zip", ".tar", ".part", ".lock")}
    assert left == set()
    asked = len(server.requests)
    assert run(tool, *words) == 0
    assert len(server.requests) == asked


def test_a_folder_of_its_own_has_the_same_layout(tool, mirror, tmp_path):
    folder = tmp_path / "elsewhere"
    assert run(tool, "--dataset-name", "coco2017", "--save-dir", folder, "--unzip", "--mirror", mirror) == 0
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"annotations", "train2017", "val2017", "test2017"}
    assert (folder / "train2017.zip").is_file()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "coco").symlink_to(folder)
    assert len(build_dataset(["coco_2017_val"], False, root=tmp_path / "data")) == 1


def test_without_unzip_archives_stay_as_they_are(tool, mirror, tmp_path):
    assert run(tool, "--dataset-name", "voc2007", "--save-dir", tmp_path, "--mirror", mirror) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["VOCtest_06-Nov-2007.tar", "VOCtrainval_06-Nov-2007.tar"]


def test_any_failure_gives_status_1_and_names_every_file_that_failed(tool, mirror, server, tmp_path, capsys):
    del server.files["VOCtest_06-Nov-2007.tar"]
    server.files["VOCtrainval_11-May-2012.tar"] += b"longer"
    words = ("--dataset-name", "voc2007", "voc2012", "--save-dir", tmp_path, "--unzip", "--mirror", mirror)
    assert run(tool, *words) == 1
    printed = capsys.readouterr()
    assert "cannot fetch VOCtest_06-Nov-2007.tar" in printed.err
    assert "404" in printed.err
    assert "cannot fetch VOCtrainval_11-May-2012.tar" in printed.err
    assert "the checksum (sha256) is" in printed.err
    assert "1 of 3 files are there" in printed.out
    assert (tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "trainval.txt").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["coco2071"], ["no data set 'coco2071'", "Did you mean 'coco2017'?", "fashion-mnist"], id="unknown name"),
        pytest.param(
            ["imagenet"], ["cannot be fetched by a program", "image-net.org", "data/imagenet/meta/val.txt"], id="by hand"
        ),
        pytest.param(["mnist", "--delete"], ["needs --unzip"], id="delete without unzip"),
        pytest.param(
            ["mnist", "fashion-mnist", "--save-dir", "x"], ["two of these data sets have a file", "--save-dir"], id="clash"
        ),
        pytest.param(["mnist", "--threads", "0"], ["--threads is 0"], id="no threads"),
        pytest.param([], ["--dataset-name is missing"], id="no name"),
        pytest.param(["mnist", "--save-dir", __file__], [f"{__file__} is a file", "--save-dir"], id="a file to save into"),
    ],
)
def test_a_wrong_command_gives_status_2_before_anything_is_fetched(tool, tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(tmp_path)
    assert run(tool, *(["--dataset-name", *words] if words else [])) == 2
    error = capsys.readouterr().err
    for text in expected:
        assert text in error
    assert list(tmp_path.iterdir()) == []


def test_a_name_without_its_flag_is_answered_with_the_command(tool, capsys):
    assert run(tool, "coco2017", "--unzip") == 2
    assert "Did you mean --dataset-name coco2017?" in capsys.readouterr().err


def test_a_full_disk_is_told_before_the_start(tool, mirror, server, tmp_path, monkeypatch, capsys):
    huge = {
        name: replace(one, files=tuple(replace(f, size=1 << 60) for f in one.files))
        for name, one in remote_sets.REMOTE_SETS.items()
    }
    monkeypatch.setattr(remote_sets, "REMOTE_SETS", huge)
    assert run(tool, "--dataset-name", "mnist", "--save-dir", tmp_path, "--mirror", mirror) == 2
    assert "not enough room" in capsys.readouterr().err
    assert server.requests == []


def test_the_list_names_every_set_with_its_size_and_loads_no_torch():
    done = run_cli(["-X", "importtime", TOOL, "--list"])
    assert done.returncode == 0
    for name in (*REMOTE_SETS, *BY_HAND):
        assert name in done.stdout
    assert "25.2 GiB" in done.stdout  # 19336861798 + 815585330 + 6646970404 + 252907541 + 1144034 bytes
    assert " torch\n" not in done.stderr


def test_published_checksums_are_those_that_torchvision_knows():
    from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST

    for one, theirs in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        file = REMOTE_SETS[one].files[0]
        assert (file.urls[0], file.digest) == (theirs.url, theirs.tgz_md5)
    for one, theirs in (("mnist", MNIST), ("fashion-mnist", FashionMNIST)):
        ours = {file.path.rpartition("/")[2]: file.digest for file in REMOTE_SETS[one].files}
        assert ours == dict(theirs.resources)


def test_a_missing_set_says_how_to_fetch_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="download_dataset.py --dataset-name coco2017 coco2017-panoptic --unzip"):
        build_dataset(["coco_2017_panoptic_val"], False, root=tmp_path)
