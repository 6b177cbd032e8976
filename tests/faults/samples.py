"""Bad pictures and bad annotations: found, told, and kept out of training (F27, F28)."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image as Pillow

from pet.data.datasets import CocoDataset, ImageFolderDataset, VocDataset
from pet.data.datasets.base import VisionDataset
from pet.data.image import decode_image
from pet.data.loader import TrainLoader
from pet.data.report import data_report
from pet.data.structures import BadImageError
from tests.data.test_faults import ANNOTATION_FAULTS, HEIGHT, WIDTH, content
from tests.data.test_image import encode, picture, png_claiming
from tests.data.test_voc import write_devkit
from tests.faults.catalog import Figure, fault
from tests.user_sets import KEYPOINT, MASK, TINY

# ------------------------------------------------------------------------------------------------------------- F27


def _exif(orientation: int) -> Pillow.Exif:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return exif


def _sixteen_bit() -> bytes:
    return cv2.imencode(".png", picture()[:, :, ::-1].astype(np.uint16) << 8)[1].tobytes()


def _with_alpha() -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(np.dstack([picture(), np.full(picture().shape[:2], 9, np.uint8)])).save(buffer, "PNG")
    return buffer.getvalue()


Judge = Callable[[np.ndarray], bool]


def _close(expected: np.ndarray, tolerance: int) -> Judge:
    def judge(image: np.ndarray) -> bool:
        return image.shape == expected.shape and int(np.abs(image.astype(int) - expected).max()) <= tolerance

    return judge


def _image_faults() -> dict[str, tuple[bytes, str | Judge]]:
    """By name: the content of a file, and why it is refused or how what it decodes to is recognised."""
    grey = np.repeat(cv2.cvtColor(picture(), cv2.COLOR_RGB2GRAY)[:, :, None], 3, 2)
    jpeg, png = encode(picture(), quality=95), encode(picture(), "PNG")
    return {
        "truncated_jpeg": (jpeg[: len(jpeg) // 2], "truncated JPEG"),
        "truncated_png": (png[: len(png) // 2], "truncated PNG"),
        "empty": (b"", "the file is empty"),
        "text": (b"this is no picture", "not an image that OpenCV can decode"),
        "wrong_suffix": (png, _close(picture(), 0)),
        "sixteen_bit": (_sixteen_bit(), _close(picture(), 0)),
        "grey": (encode(picture(), "PNG", "L"), _close(grey, 2)),
        "alpha": (_with_alpha(), _close(picture(), 0)),
        "cmyk": (encode(picture(), "JPEG", "CMYK", quality=95), _close(picture(), 40)),
        "exif_rotated": (encode(picture(), exif=_exif(6), quality=95), _close(np.rot90(picture(), -1), 12)),
        "one_pixel": (encode(np.full((1, 1, 3), 77, np.uint8), "PNG"), _close(np.full((1, 1, 3), 77), 0)),
        "huge_header": (png_claiming(60_000, 60_000), "claims 60000 x 60000 pixels"),
    }


def _image_set(folder: Path, files: dict[str, bytes]) -> ImageFolderDataset:
    """A set of one class with a file for each content and as many good ones."""
    (folder / "thing").mkdir(parents=True)
    for name, data in files.items():
        (folder / "thing" / f"{name}.jpg").write_bytes(data)
        (folder / "thing" / f"good_{name}.jpg").write_bytes(encode(picture(64, 64)))
    return ImageFolderDataset("pictures", folder)


def _batches(dataset: VisionDataset, workers: int) -> list[Any]:
    """Ids of an epoch that replaces what cannot be read, and what took its place."""
    loader = TrainLoader(dataset, [_first_pixels], 8, num_workers=workers, bad_image="replace")
    windows = list(islice(iter(loader), loader.iter_per_epoch))
    return [(batch.ids.tolist(), batch.images.sum().item(), batch.replaced) for window in windows for batch in window]


def _first_pixels(sample: Any, rng: np.random.Generator) -> Any:
    sample.image = np.ascontiguousarray(sample.image[:1, :1])
    return sample


@fault("F27", "an unusual or damaged picture decodes as documented, or is refused, replaced by rule and listed",
       small=36, full=212)  # fmt: skip
def bad_pictures(count: int, seed: int, folder: Path) -> Figure:
    faults = _image_faults()
    dataset = _image_set(folder, {name: data for name, (data, _) in faults.items()})
    report = "\n".join(data_report(dataset, 1, "full"))
    figure = Figure(0, count, "found or decoded as documented")
    for index in range(len(dataset)):
        name = Path(dataset.describe(index)).stem
        if name.startswith("good_"):
            continue
        problem = _wrong_reading(dataset, index, faults[name][1], report)
        figure.good += not problem
        figure.failures += [f"{name}: {problem}"] if problem else []
    if _batches(dataset, 0) != _batches(dataset, 2):
        figure.failures.append("what replaces a bad picture depends on the number of workers")
    noisy = encode(np.random.default_rng(seed).integers(0, 256, (64, 96, 3), np.uint8))
    for cut in random.Random(seed).sample(range(len(noisy) - 1), count - len(faults)):
        try:
            decode_image(noisy[:cut])
            figure.failures.append(f"seed {seed}: a JPEG cut to {cut} of {len(noisy)} bytes is read as a picture")
        except BadImageError:
            figure.good += 1
    figure.extra = f"{len(faults)} kinds, {count - len(faults)} truncated JPEGs"
    return figure


def _wrong_reading(dataset: VisionDataset, index: int, expected: str | Judge, report: str) -> str:
    """How reading a picture, or the report about it, differs from what is documented."""
    listed = f"{dataset.describe(index)}:" in report
    try:
        image = dataset.read(index).image
    except BadImageError as error:
        if not isinstance(expected, str):
            return f"refused: {error}"
        return "" if expected in str(error) and listed else f"listed: {listed}; {error}"
    if isinstance(expected, str):
        return f"read as a picture of {image.shape}"
    return "" if expected(image) and not listed else f"other pixels than documented, listed: {listed}"


# ------------------------------------------------------------------------------------------------------------- F28


def _coco(folder: Path, data: dict[str, Any], name: str = "annotations.json") -> CocoDataset:
    path = folder / name
    path.write_text(json.dumps(data), encoding="utf-8")
    return CocoDataset("faulty", folder, path)


def _faulty_annotation(fault: str) -> Callable[[Path], str]:
    def report(folder: Path) -> str:
        data = content()
        data["annotations"].append({**copy.deepcopy(data["annotations"][0]), "id": 3, **ANNOTATION_FAULTS[fault]})
        return "\n".join(data_report(_coco(folder, data, f"{fault}.json"), 1))

    return report


def _missing_image(folder: Path) -> str:
    data = content()
    data["images"].append({"id": 3, "file_name": "nowhere.png", "height": HEIGHT, "width": WIDTH})
    data["annotations"].append({**copy.deepcopy(data["annotations"][0]), "id": 3, "image_id": 3})
    return "\n".join(data_report(_coco(folder, data), 1))


def _other_size(folder: Path) -> str:
    data = content()
    data["images"][1]["height"] += 7
    return "\n".join(data_report(_coco(folder, data), 1, "full"))


def _label_out_of_range(folder: Path) -> str:
    return _refusal(lambda: data_report(_image_set(folder / "classes", {"a": encode(picture())}), 0))


def _wrong_charset(folder: Path) -> str:
    """Latin-1 in an XML file that does not say so."""
    kit = write_devkit(folder, {"a": [("dog", 0, 5, 5, 20, 20)], "b": [("dog", 0, 5, 5, 20, 20)]})
    (kit / "ImageSets/Main/all.txt").write_text("a\nb\n")
    xml = kit / "Annotations/b.xml"
    xml.write_bytes(xml.read_bytes().replace(b"dog", "Hündin".encode("latin-1")))
    return "\n".join(data_report(VocDataset("v", kit, image_set="all", classes=["dog"]), 1))


def _bad_encoding(folder: Path) -> str:
    """Latin-1 in a list of files, and in a JSON file."""
    kit = write_devkit(folder / "lists", {"a": [("dog", 0, 5, 5, 20, 20)]})
    (kit / "ImageSets/Main/all.txt").write_bytes("Hündin\n".encode("latin-1"))
    text = json.dumps(content(), ensure_ascii=False).replace("thing", "Hündin")
    (folder / "latin.json").write_bytes(text.encode("latin-1"))
    told = _refusal(lambda: VocDataset("v", kit, image_set="all", classes=["dog"]))
    return told + _refusal(lambda: CocoDataset("c", folder, folder / "latin.json"))


def _refusal(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except ValueError as error:
        return str(error)
    return "nothing was said"


# Name in the table: what makes it, and the words of the report or the refusal.
_ANNOTATIONS: dict[str, tuple[Callable[[Path], str], tuple[str, ...]]] = {
    "zero box": (_faulty_annotation("zero_size_box"), ("zero_size_box: 1",)),
    "negative box": (_faulty_annotation("negative_size_box"), ("negative_size_box: 1",)),
    "NaN box": (_faulty_annotation("nan_box"), ("nan_box: 1",)),
    "box outside": (_faulty_annotation("box_outside_image"), ("box_outside_image: 1",)),
    "unknown category": (_faulty_annotation("unknown_category"), ("unknown_category: 1",)),
    "label out of range": (_label_out_of_range, ("labels do not fit the head",)),
    "duplicate id": (_faulty_annotation("duplicate_annotation_id"), ("duplicate_annotation_id: 1",)),
    "missing image": (_missing_image, ("missing_image_file: 1", "nowhere.png")),
    "size mismatch": (_other_size, ("image_size_mismatch: 1", "2.png")),
    "empty polygon": (_faulty_annotation("empty_polygon"), ("empty_polygon: 1",)),
    "bad RLE": (_faulty_annotation("bad_rle"), ("bad_rle: 1",)),
    "NaN keypoint": (_faulty_annotation("nan_keypoint"), ("nan_keypoint: 1",)),
    "wrong charset": (_wrong_charset, ("malformed_xml: 1", "b.xml")),
    "bad encoding": (_bad_encoding, ("all.txt is not UTF-8 text", "latin.json is not JSON")),
}


@fault("F28", "a faulty annotation is counted in the data report or refused, and no loss is NaN", small=14, full=14)
def bad_annotations(count: int, seed: int, folder: Path) -> Figure:
    figure = Figure(0, count, "reported")
    for name, (make, words) in list(_ANNOTATIONS.items())[:count]:
        place = folder / name.replace(" ", "_")
        _write_pictures(place)
        report = make(place)
        missing = [word for word in words if word not in report]
        figure.good += not missing
        figure.failures += [f"{name}: {missing} not in the report:\n{report}"] if missing else []
    losses = _losses_with_all_faults(folder / "together", seed)
    broken = sum(not np.isfinite(value) for value in losses)
    figure.failures += [f"seed {seed}: losses {losses}"] if broken else []
    figure.extra = f"{broken} of {len(losses)} losses not finite with all of them in one set"
    return figure


def _write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("1.png", "2.png"):
        cv2.imwrite(str(folder / name), picture(HEIGHT, WIDTH)[:, :, ::-1])


def _losses_with_all_faults(folder: Path, seed: int) -> list[float]:
    """Losses and the norm of the gradient of a few updates of Mask R-CNN with keypoints on a set with every fault."""
    from pet.vision import GeneralizedCNN, build_dataset, forward_train, get_base_cfg, infer_cfg, make_train_data_loader

    _write_pictures(folder)
    data = content()
    good = data["annotations"][0]
    faulty = [{**copy.deepcopy(good), **change} for change in ANNOTATION_FAULTS.values()]
    data["annotations"] += [
        {"id": 10 + n, **{k: v for k, v in one.items() if k != "id" or v != 1}} for n, one in enumerate(faulty)
    ]
    (folder / "all.json").write_text(json.dumps(data), encoding="utf-8")
    yaml = folder / "cfgs" / "vision" / "tiny.yaml"
    yaml.parent.mkdir(parents=True)
    yaml.write_text(TINY, encoding="utf-8")
    cfg = get_base_cfg()
    cfg.merge_from_file(yaml)
    sets = {"faulty": {"TYPE": "coco_dataset", "IMAGES": str(folder), "ANNOTATIONS": str(folder / "all.json")}}
    words = [*MASK, *KEYPOINT, "MODEL.ROI_HEAD.KEYPOINT.NUM_KEYPOINTS=2", "MODEL.NUM_CLASSES=1", f"MISC.SEED={seed % 1000}"]
    cfg.merge_from_list([*words, f"DATA.CATALOG={json.dumps(sets)}", "TRAIN.DATASETS=[faulty]", "TEST.DATASETS=[faulty]"])
    infer_cfg(cfg, yaml)
    cfg.freeze()
    torch.manual_seed(seed)
    model = GeneralizedCNN(cfg)
    optimizer = torch.optim.SGD(model.parameters(), 0.005)
    found = []
    for window in islice(iter(make_train_data_loader(cfg, build_dataset(cfg))), 4):
        losses = forward_train(model, window[0])["losses"]
        optimizer.zero_grad()
        sum(losses.values()).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found += [*(float(loss.detach()) for loss in losses.values()), float(torch.nn.utils.get_total_norm(gradients))]
        optimizer.step()
    return found
