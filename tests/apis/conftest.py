"""Models and pictures, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pet.apis import Predictor
from pet.data.catalog import build_dataset
from tests.apis.models import Saved, save_model


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """A function from a kind of model to its YAML and checkpoint."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Saved] = {}

    def get(kind: str) -> Saved:
        if kind not in made:
            made[kind] = save_model(kind, folder)
        return made[kind]

    return get


@pytest.fixture(scope="session")
def predictor(saved: Callable[[str], Saved]) -> Callable[[str], Predictor]:
    """A function from a kind of model to its predictor."""
    made: dict[str, Predictor] = {}

    def get(kind: str) -> Predictor:
        if kind not in made:
            made[kind] = Predictor(*saved(kind), "cpu")
        return made[kind]

    return get


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five drawn pictures of different sizes, RGB 0.png to 4.png, and a text file."""
    folder = tmp_path_factory.mktemp("photos")
    dataset = build_dataset(("shapes_det_val",), False)
    for number, size in enumerate(((60, 44), (40, 64), (50, 50), (64, 40), (33, 61))):
        image = cv2.resize(dataset.read(number).image, size[::-1])
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 6 frames of 48 x 64 pixels, 5 a second, made with PyAV: bright, and each frame of another brightness."""
    import av

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(6):
            pixels = np.full((48, 64, 3), 30 * number + 40, np.uint8)
            pixels[:20, :30] = generator.integers(0, 256, 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path
