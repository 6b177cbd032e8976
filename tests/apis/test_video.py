from __future__ import annotations

import logging
import resource
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pet.apis import HardwareVideoReader, Predictor, VideoReader, VideoWriter, annotate_video
from pet.apis.sources import open_source
from pet.apis.video import FrameReader

Reader = type[FrameReader]
READERS = pytest.mark.parametrize("reader", [VideoReader, HardwareVideoReader], ids=["opencv", "pyav"])


def decoded(path: Path) -> list[np.ndarray]:
    """All frames of a video by PyAV, RGB."""
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@READERS
def test_frames_are_those_of_the_file(reader: Reader, clip: Path) -> None:
    with reader(clip) as video:
        assert (video.fps, video.size, video.num_frames) == (5.0, (48, 64), 6)
        frames = list(video)
    expected = decoded(clip)
    assert len(frames) == 6
    assert all(np.array_equal(frame, other) for frame, other in zip(frames, expected, strict=True))


def test_frames_come_as_opencv_has_them_if_asked_and_are_predicted_the_same(clip: Path) -> None:
    with VideoReader(clip, channels="bgr") as video:
        frames = list(video)
    assert all(np.array_equal(frame[..., ::-1], other) for frame, other in zip(frames, decoded(clip), strict=True))
    with VideoReader(clip, channels="bgr") as video:
        pictures = [picture.image for picture in open_source(video).pictures]
    assert all(np.array_equal(image, other) for image, other in zip(pictures, decoded(clip), strict=True))


@pytest.mark.parametrize("name", ["action/mmaction_samples/videos/part_0.mp4", "action/mmaction_samples/videos/test.avi"])
def test_both_readers_give_the_same_frames_of_real_videos(shared_data: Path, name: str) -> None:
    with VideoReader(shared_data / name) as one, HardwareVideoReader(shared_data / name, hardware=False) as other:
        assert (one.fps, one.size, one.num_frames) == (other.fps, other.size, other.num_frames)
        count = 0
        for count, (frame, same) in enumerate(zip(one, other, strict=True), start=1):
            assert np.array_equal(frame, same), count
        assert count == one.num_frames > 30


def test_both_readers_turn_a_video_that_lies_on_its_side(clip: Path, tmp_path: Path) -> None:
    """The matrix of the track, which cameras write when they are held upright, says a quarter turn."""
    data = bytearray(clip.read_bytes())
    one, end = (1 << 16).to_bytes(4, "big"), (1 << 30).to_bytes(4, "big")
    minus, zero = (-(1 << 16)).to_bytes(4, "big", signed=True), bytes(4)
    identity = one + zero * 3 + one + zero * 3 + end
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + 36] = zero + one + zero + minus + zero * 4 + end
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data)
    with VideoReader(turned) as first, HardwareVideoReader(turned, hardware=False) as second:
        assert first.size == second.size == (64, 48)
        frames = list(zip(first, second, strict=True))
    assert len(frames) == 6
    assert all(np.array_equal(frame, same) for frame, same in frames)


def test_a_machine_without_a_gpu_decodes_on_the_cpu_and_says_so(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), HardwareVideoReader(clip) as video:
        assert len(list(video)) == 6
        assert video.decoder == "cuda" or "is decoded on the CPU" in caplog.text


@READERS
def test_what_is_no_video_is_told_with_its_path(
    reader: Reader, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video at all")
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:200])
    for name in ("text.mp4", "cut.mp4"):
        with pytest.raises(ValueError, match=rf"{name} is not a video that can be decoded"):
            reader(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none\.mp4 does not exist"):
        reader(tmp_path / "none.mp4")


def test_frames_that_are_missing_at_the_end_are_told(clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file whose index comes first, and whose second half was never written."""
    import av

    whole, half = tmp_path / "whole.mp4", tmp_path / "half.mp4"
    with av.open(str(whole), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 2_000_000
        generator = np.random.default_rng(0)
        for _ in range(20):
            pixels = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    data = whole.read_bytes()
    half.write_bytes(data[: len(data) // 2])
    for reader in (VideoReader, HardwareVideoReader):
        caplog.clear()
        with caplog.at_level(logging.WARNING), reader(half) as video:
            count = len(list(video))
        assert 0 < count < 20
        assert f"{count} of 20 frames can be decoded" in caplog.text


def test_an_absent_camera_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="camera 93 gives no picture"):
        VideoReader(93)
    assert "WARN" not in capfd.readouterr().err


# ----------------------------------------------------------------------------------------------------------- writing


def test_a_drawn_video_has_size_speed_and_frames_of_its_source(
    predictor: Callable[[str], Predictor], clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "drawn.mp4"
    with VideoReader(clip) as video:
        assert annotate_video(predictor("boxes"), video, out=out, score_thr=0.05) == 6
    with VideoReader(out) as written:
        assert (written.fps, written.size) == (5.0, (48, 64))
    frames = decoded(out)
    assert len(frames) == 6
    brightness = [int(np.median(frame[25:])) for frame in frames]
    assert brightness == sorted(brightness)
    assert not np.allclose(frames[3], decoded(clip)[3], atol=40)
    assert [path.name for path in out.parent.iterdir()] == ["drawn.mp4"]


def test_a_video_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    frame = np.zeros((48, 64, 3), np.uint8)
    with pytest.raises(RuntimeError, match="on purpose"), VideoWriter(tmp_path / "a.mp4", 5, (48, 64)) as writer:
        writer.write(frame)
        raise RuntimeError("on purpose")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="a frame of .*a.mp4 is"), VideoWriter(tmp_path / "a.mp4", 5, (48, 64)) as writer:
        writer.write(frame[1:])
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "recorded.avi", 5, (48, 64)) as writer:
        writer.write(frame)
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["recorded.avi"]
    assert len(decoded(tmp_path / "recorded.avi")) == 1


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_file_that_cannot_grow_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, before[1]))  # the system refuses more, as a full disk does
    try:
        with pytest.raises(OSError, match=rf"cannot write the video .*{name}: .*MiB free in"), VideoWriter(tmp_path / name, 5, (48, 64)) as writer:
            for frame in frames:
                writer.write(frame)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_until_the_disk_is_full_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = np.zeros((48, 64, 3), np.uint8)
    with pytest.raises(OSError, match=r"a.mp4: the disk is full; the 3 frames until here are in the file"), VideoWriter(tmp_path / "a.mp4", 5, (48, 64)) as writer:
        for _ in range(3):
            writer.write(frame)
        monkeypatch.setattr("pet.apis.video._RESERVE", 2**60)
        writer.write(frame)
    assert len(decoded(tmp_path / "a.mp4")) == 3


def test_a_video_below_a_file_is_refused_with_its_place(clip: Path) -> None:
    with pytest.raises(NotADirectoryError, match="clip.mp4 is a file, not a folder"):
        VideoWriter(clip / "drawn.mp4", 5, (48, 64))


def test_a_result_that_nobody_would_see_is_refused(
    predictor: Callable[[str], Predictor], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    with VideoReader(clip) as video:
        with pytest.raises(ValueError, match="--out"):
            annotate_video(predictor("boxes"), video)
        with pytest.raises(ValueError, match=r"must be one of \.mp4"):
            annotate_video(predictor("boxes"), video, out=tmp_path / "x.gif")
        with pytest.raises(OSError, match="no window can be opened here.*--out"):
            annotate_video(predictor("boxes"), video, show=True)
        assert len(list(video)) == 6


@pytest.mark.parametrize(("key", "seen"), [(27, 2), (ord("q"), 2), (ord("Q"), 2), (ord("x"), 6)], ids=["esc", "q", "Q", "other"])
def test_esc_and_q_end_a_shown_video(
    predictor: Callable[[str], Predictor], clip: Path, monkeypatch: pytest.MonkeyPatch, key: int, seen: int
) -> None:
    """The window is OpenCV's; only its three functions are replaced, there being no display."""
    shown: list[np.ndarray] = []
    monkeypatch.setattr("pet.apis.video.require_display", lambda instead: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda wait: key if len(shown) == 2 else -1)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append(np.zeros(0)))
    with VideoReader(clip) as video:
        assert annotate_video(predictor("boxes"), video, show=True, score_thr=1.0) == seen
    assert len(shown) == seen + 1
    np.testing.assert_array_equal(shown[0][..., ::-1], decoded(clip)[0])
