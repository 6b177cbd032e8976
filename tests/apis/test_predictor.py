from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pet.apis import Prediction, Predictor
from pet.data.image import read_image
from pet.engine.checkpoint_file import write_checkpoint
from pet.engine.command import open_config
from pet.engine.evaluation import run_evaluation
from pet.engine.testing import load_test_weights
from tests.apis.models import Saved

SavedModel = Callable[[str], Saved]
Made = Callable[[str], Predictor]


class Collector:
    """An evaluator that keeps what the model said, by picture."""

    def reset(self) -> None:
        self.found: dict[int, dict[str, Any]] = {}

    def process(self, inputs: Any, outputs: dict[str, Any]) -> None:
        for row, id in enumerate(inputs.ids.tolist()):
            self.found[id] = {name: values[row] for name, values in outputs.items()}

    def evaluate(self) -> dict[str, float]:
        return {}


def equal(one: Any, other: Any) -> bool:
    """Whether nested outputs agree in every bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


NAMES = list("abcdefghij")
TTA = ["TEST.TTA.ENABLED=True"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [(kind, []) for kind in ("boxes", "masks", "keypoints", "proposals", "semseg", "panoptic", "classes")]
    + [("masks", TTA), ("classes", TTA)],
    ids=lambda value: value if isinstance(value, str) else ("tta" if value else "plain"),
)
def test_predictions_are_those_of_a_test_bit_by_bit(
    saved: SavedModel, photos: Path, tmp_path: Path, kind: str, words: list[str]
) -> None:
    config, checkpoint = saved(kind)
    files = [photos / f"{number}.png" for number in range(5)]
    entry = image_list(files, tmp_path) if kind == "classes" else coco_set(files, tmp_path)
    options = [*words, "DATA.CATALOG", {"mine": entry}, "TEST.DATASETS", ["mine"], "TEST.WEIGHTS", str(checkpoint)]
    opened = open_config(config, options)
    cfg, domain, tested = opened.cfg, opened.domain_module, Collector()
    model = domain.GeneralizedCNN(cfg, is_train=False)
    load_test_weights(cfg, model)
    dataset = domain.build_dataset(cfg, is_train=False)
    run_evaluation(model, domain.make_test_data_loader(cfg, dataset), tested, domain.forward_test)
    found = Predictor(config, checkpoint, "cpu", words)(files)
    assert isinstance(found, list)
    assert [prediction.source for prediction in found] == [str(file) for file in files]
    for number, prediction in enumerate(found):
        assert prediction.outputs.keys() == tested.found[number].keys()
        assert equal(prediction.outputs, tested.found[number]), (kind, number)


def image_list(files: list[Path], folder: Path) -> dict[str, Any]:
    """A test set for classification without labels."""
    (folder / "list.txt").write_text("".join(f"{file.name}\n" for file in files))
    return {
        "TYPE": "image_folder_dataset",
        "IMAGES": str(files[0].parent),
        "ANNOTATIONS": str(folder / "list.txt"),
        "CLASSES": NAMES,
    }


def coco_set(files: list[Path], folder: Path) -> dict[str, Any]:
    """A test set without annotations."""
    sizes = [read_image(file).shape for file in files]
    images = [
        {"id": number, "file_name": file.name, "height": height, "width": width}
        for number, (file, (height, width, _)) in enumerate(zip(files, sizes, strict=True))
    ]
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(NAMES)]
    (folder / "set.json").write_text(json.dumps({"images": images, "categories": categories}))
    return {"TYPE": "coco_dataset", "IMAGES": str(files[0].parent), "ANNOTATIONS": str(folder / "set.json"), "SPLIT": "test"}


def test_every_way_to_name_a_picture_gives_the_same(predictor: Made, photos: Path) -> None:
    model, path = predictor("boxes"), photos / "0.png"
    rgb, bgr = read_image(path), cv2.imread(str(path))
    ways = [model(path), model(str(path)), model(rgb), model(bgr, channels="bgr"), model([path])[0], next(model.stream(path))]
    ways.append(next(iter(model(str(photos / "0*.png")))))
    assert all(isinstance(way, Prediction) for way in ways)
    assert len(ways[0].instances["boxes"]) > 5
    assert all(equal(way.outputs, ways[0].outputs) for way in ways)
    assert not equal(model(bgr).outputs, ways[0].outputs)


def test_grey_arrays_are_pictures(predictor: Made) -> None:
    grey = np.arange(48 * 40, dtype=np.uint8).reshape(48, 40)
    assert equal(predictor("boxes")(grey).outputs, predictor("boxes")(np.dstack([grey] * 3)).outputs)


def test_the_size_of_a_batch_changes_nothing(saved: SavedModel, photos: Path) -> None:
    one, three = (list(Predictor(*saved("masks"), "cpu", batch_size=size)(photos)) for size in (1, 3))
    assert len(one) == len(three) == 5
    for first, second in zip(one, three, strict=True):
        for name in ("boxes", "scores"):
            torch.testing.assert_close(first.instances[name], second.instances[name], atol=1e-4, rtol=1e-4)


def test_a_folder_is_read_as_far_as_it_is_asked_for(predictor: Made, photos: Path, tmp_path: Path) -> None:
    for name in ("0.png", "1.png", "2.png"):
        (tmp_path / name).write_bytes((photos / name).read_bytes())
    (tmp_path / "3.png").write_bytes(b"no picture")
    found = predictor("boxes")(tmp_path)
    assert Path(next(found).source).name == "0.png"
    assert Path(next(found).source).name == "1.png"
    next(found)
    with pytest.raises(ValueError, match=r"cannot read image .*3\.png"):
        next(found)


def test_a_video_gives_a_prediction_a_frame(predictor: Made, clip: Path) -> None:
    found = list(predictor("boxes")(clip))
    assert [prediction.source for prediction in found] == [f"{clip}, frame {number}" for number in range(6)]
    assert {prediction.image.shape for prediction in found} == {(48, 64, 3)}
    brightness = [prediction.image[30:, 40:].mean() for prediction in found]
    assert np.allclose(brightness, [40, 70, 100, 130, 160, 190], atol=4)


def test_gradients_stay_on_and_the_model_in_evaluation_mode(predictor: Made, photos: Path) -> None:
    model = predictor("boxes")
    stream = model.stream(photos)
    next(stream)
    assert torch.is_grad_enabled()
    assert not model.training
    assert not model.model.training
    assert next(iter(model.parameters())).requires_grad


# ------------------------------------------------------------------------------------------------- weights and names


def test_names_come_from_the_checkpoint(saved: SavedModel, tmp_path: Path) -> None:
    config, checkpoint = saved("boxes")
    content = torch.load(checkpoint, weights_only=True)
    animals = [f"animal {number}" for number in range(10)]
    content["meta"]["class_names"] = animals
    write_checkpoint(content, tmp_path / "mine.pth")
    assert list(Predictor(config, tmp_path / "mine.pth", "cpu").CLASSES) == animals


def test_a_file_without_names_takes_those_of_the_config_and_says_so(
    saved: SavedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, checkpoint = saved("panoptic")
    state = torch.load(checkpoint, weights_only=True)["model"]
    write_checkpoint({"model": state, "meta": {"iteration": 1}}, tmp_path / "bare.pth")
    with caplog.at_level(logging.WARNING):
        names = Predictor(config, tmp_path / "bare.pth", "cpu").names
    assert names.class_names[:2] == ("circle", "square")
    assert names.stuff_names == ("background",)
    assert names.is_thing == (True,) * 10 + (False,)
    assert "those of the data sets in the config are used" in caplog.text


def test_names_that_nobody_knows_are_numbered_with_a_warning(saved: SavedModel, caplog: pytest.LogCaptureFixture) -> None:
    config, _ = saved("boxes")
    with caplog.at_level(logging.WARNING):
        model = Predictor(config, "", "cpu", {"MODEL.NUM_CLASSES": 3, "MISC.CKPT": "nowhere"})
    assert model.CLASSES == ("class_0", "class_1", "class_2")
    assert "class_names are numbered" in caplog.text


def test_without_weights_those_of_the_run_are_taken(saved: SavedModel, tmp_path: Path, photos: Path) -> None:
    config, checkpoint = saved("boxes")
    (tmp_path / "model_best.pth").write_bytes(checkpoint.read_bytes())
    found = Predictor(config, "", "cpu", ["MISC.CKPT", str(tmp_path)])
    assert found.weights == tmp_path / "model_best.pth"
    assert equal(found(photos / "0.png").outputs, Predictor(config, checkpoint, "cpu")(photos / "0.png").outputs)


def test_a_random_model_is_announced(saved: SavedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = Predictor(saved("boxes").config, "", "cpu", ["MISC.CKPT", str(tmp_path / "nothing")])
    assert model.weights is None
    assert "the model is random" in caplog.text


def test_a_config_in_memory_serves_and_is_not_changed(saved: SavedModel, photos: Path) -> None:
    config, checkpoint = saved("boxes")
    cfg = open_config(config).cfg
    before = cfg.dump_resolved()
    model = Predictor(cfg, checkpoint, "cpu", ["MODEL.ROI_HEAD.FASTER.DETECTIONS_PER_IMG", 7], batch_size=2)
    assert len(model(photos / "0.png").instances["boxes"]) == 7
    assert cfg.dump_resolved() == before
    assert model.cfg.TEST.IMS_PER_GPU == 2


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"weights": "nothing.pth"}, FileNotFoundError, "nothing.pth does not exist"),
        ({"device": "gpu"}, ValueError, "expected auto, cpu, cuda"),
        ({"device": "cuda:99"}, ValueError, "cannot be used on this machine"),
        ({"cfg_options": ["MODEL.NUM_CLASES", 3]}, ValueError, "MODEL.NUM_CLASSES"),
    ],
    ids=["weights", "device_name", "device_number", "config_key"],
)
def test_wrong_arguments_are_told(saved: SavedModel, arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Predictor(saved("boxes").config, **arguments)
