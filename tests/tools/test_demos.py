"""The demos as a user types them."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pet.data.image import read_image
from tests.apis.models import Saved, save_model
from tests.helpers import fork_start, run_cli
from tests.shell import Ended, check

Demo = Callable[..., Ended]


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save_model("boxes", tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save_model("classes", tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Demo:
    """A function that runs ``tools/demo/<name>.py`` with words, in an empty folder and without a display."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    scripts = Path.cwd() / "tools" / "demo"
    monkeypatch.chdir(tmp_path)

    def run(name: str, *words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(scripts / f"{name}.py"), run_name="__main__")
        printed = capsys.readouterr()
        return Ended(int(end.value.code or 0), printed.out + printed.err)

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8))
    return path


def facts(path: Path) -> tuple[int, float, tuple[int, int]]:
    """Frames that can be decoded, frames a second, and (height, width) of a video."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        return len(frames), float(stream.average_rate), (frames[0].height, frames[0].width)


def test_image_demo_draws_and_the_async_one_draws_the_same(demo: Demo, detector: Saved, photo: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "new" / "a.jpg", tmp_path / "new" / "b.jpg"
    words = [photo, *detector, "--device", "cpu", "--score-thr", "0.05", "--palette", "citys"]
    check(demo("image_demo", *words, "--out-file", first), 0, "objects of score at least 0.05", f"written: {first}")
    check(demo("image_demo", *words, "--out-file", second, "--async-test"), 0, f"written: {second}")
    assert first.read_bytes() == second.read_bytes()
    assert max(read_image(first).shape) >= 400
    check(demo("image_demo", *words, "--out-file", tmp_path / "a.json"), 0)
    assert json.loads((tmp_path / "a.json").read_text())["instances"]


def test_image_demo_without_a_display_says_where_the_picture_is(demo: Demo, detector: Saved, photo: Path, tmp_path: Path) -> None:
    check(demo("image_demo", photo, *detector), 0, "no display", "photo_result.png", "--out-file")
    assert (tmp_path / "photo_result.png").is_file()


def test_image_demo_prints_class_and_score(demo: Demo, classifier: Saved, photo: Path) -> None:
    """A process of its own, in another folder."""
    script = Path(__file__).parents[2] / "tools" / "demo" / "image_demo.py"
    words = [script, photo, *classifier, "--out-file", photo.parent / "x.png"]
    done = run_cli(words, env={"DISPLAY": ""}, cwd=photo.parent, start=fork_start)
    assert done.returncode == 0, done.stderr
    name, score = done.stdout.splitlines()[0].removeprefix(f"{photo}: ").split()
    assert name in ("circle", "square", "triangle", "star", "cross", "ring", "pentagon", "arrow", "moon", "bar")
    assert 0.1 <= float(score) <= 1


def test_video_demos_keep_frames_speed_and_size_and_agree(demo: Demo, detector: Saved, shared_data: Path, tmp_path: Path) -> None:
    video = shared_data / "keypoints" / "mmpose_samples" / "demo" / "demo.mp4"
    words = [video, *detector, "--score-thr", "0.05", "--device", "cpu"]
    check(demo("video_demo", *words, "--out", tmp_path / "a.mp4"), 0, "5 frames of", "a.mp4")
    assert facts(tmp_path / "a.mp4") == facts(video) == (5, 5.0, (540, 960))
    ended = demo("video_gpuaccel_demo", *words, "--out", tmp_path / "b.mp4", "--nvdecode")
    check(ended, 0, "5 frames of")
    assert "decoded on cuda" in ended.text or "is decoded on the CPU" in ended.text
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_file_serves_as_camera(demo: Demo, detector: Saved, shared_data: Path, tmp_path: Path) -> None:
    video = shared_data / "keypoints" / "mmpose_samples" / "demo" / "demo.mp4"
    check(demo("webcam_demo", *detector, "--camera-id", video, "--out", tmp_path / "c.avi"), 0, "5 frames of")
    assert facts(tmp_path / "c.avi") == (5, 5.0, (540, 960))


@pytest.mark.parametrize(
    ("script", "words", "texts"),
    [
        ("image_demo", ["none.png", "MODEL"], ["none.png does not exist"]),
        ("image_demo", ["photo.png", "CONFIG", "none.pth"], ["none.pth does not exist"]),
        ("image_demo", ["photo.png", "none.yaml"], ["none.yaml does not exist"]),
        ("image_demo", ["photo.png", "MODEL", "--palette", "coc"], ["no palette 'coc'", "'coco'"]),
        ("image_demo", ["photo.png", "MODEL", "--score-thr", "30"], ["--score-thr is 30"]),
        ("image_demo", ["photo.png", "MODEL", "--out-file", "x.doc"], ["must be one of .png"]),
        ("image_demo", ["photo.png", "MODEL", "--device", "cuda:77"], ["cuda:77 cannot be used"]),
        ("image_demo", ["photo.png", "MODEL", "--out-file", "photo.png"], ["is the source itself"]),
        ("image_demo", ["CONFIG", "CHECKPOINT", "photo.png"], ["is a checkpoint, not a config"]),
        ("image_demo", ["photo.png", "MODEL", "--outfile", "x.png"], ["unrecognized arguments", "--out-file"]),
        ("video_demo", ["none.mp4", "MODEL", "--out", "x.mp4"], ["none.mp4 does not exist"]),
        ("video_demo", ["photo.png.mp4", "MODEL", "--out", "x.mp4"], ["photo.png.mp4 is not a video"]),
        ("video_demo", ["clip.mp4", "MODEL", "--out", "clip.mp4"], ["is the source itself"]),
        ("video_demo", ["clip.mp4", "MODEL", "--out", "x.mp4", "--wait-time", "-3"], ["--wait-time is -3"]),
        ("video_demo", ["photo.png.mp4", "MODEL"], ["--out FILE.mp4", "--show"]),
        ("video_demo", ["photo.png.mp4", "MODEL", "--show"], ["no display", "--out FILE.mp4"]),
        ("video_gpuaccel_demo", ["photo.png.mp4", "MODEL", "--out", "x.mp4"], ["photo.png.mp4 is not a video"]),
        ("webcam_demo", ["MODEL"], ["no display", "--out FILE.mp4"]),
        ("webcam_demo", ["MODEL", "--camera-id", "93", "--out", "x.mp4"], ["camera 93 gives no picture"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(value),
)
def test_mistakes_end_with_an_answer(
    demo: Demo, detector: Saved, photo: Path, shared_data: Path, script: str, words: list[str], texts: list[str]
) -> None:
    shutil.copy(shared_data / "keypoints" / "mmpose_samples" / "demo" / "demo.mp4", photo.with_name("clip.mp4"))
    photo.with_name("photo.png.mp4").write_bytes(photo.read_bytes()[:500])
    stands_for = {"MODEL": list(detector), "CONFIG": [detector.config], "CHECKPOINT": [detector.checkpoint]}
    check(demo(script, *(part for word in words for part in stands_for.get(word, [word]))), 2, *texts)
    assert not photo.with_name("x.mp4").exists()


@pytest.mark.parametrize("script", ["image_demo", "video_demo", "video_gpuaccel_demo", "webcam_demo"])
def test_help_shows_an_example(demo: Demo, script: str) -> None:
    check(demo(script, "--help"), 0, f"python tools/demo/{script}.py", "CONFIG", "--device", "--score-thr", "--cfg-options")
