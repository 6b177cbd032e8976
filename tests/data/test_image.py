"""Image files: damaged ones are found, unusual ones decode as documented."""

from __future__ import annotations

import io
import random
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from pet.data.image import decode_image, read_image
from pet.data.structures import BadImageError


def picture(height: int = 37, width: int = 53) -> np.ndarray:
    """A smooth RGB picture, so that lossy formats stay close."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], -1).astype(np.uint8)


def encode(image: np.ndarray, kind: str = "JPEG", mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(image).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 6),
        ("JPEG", {"progressive": True, "quality": 95}, 6),
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
    ],
)
def test_formats_decode_to_rgb(kind, options, tolerance):
    image = decode_image(encode(picture(), kind, **options))
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - picture()).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_pictures_get_three_equal_channels(mode):
    image = decode_image(encode(picture(), "PNG", mode))
    assert image.shape == (37, 53, 3)
    assert np.array_equal(image[..., 0], image[..., 2])


def test_alpha_is_dropped_not_blended():
    rgba = np.dstack([picture(), np.zeros((37, 53), np.uint8)])
    assert np.array_equal(decode_image(encode(rgba, "PNG", "RGBA")), picture())


def test_sixteen_bit_pictures_keep_their_upper_bits():
    deep = picture().astype(np.uint16) * 256 + 255
    ok, data = cv2.imencode(".png", deep[..., ::-1])
    assert ok
    assert np.array_equal(decode_image(data.tobytes()), picture())


def test_cmyk_is_converted_to_rgb():
    image = decode_image(encode(picture(), "JPEG", "CMYK", quality=95))
    assert np.abs(image.astype(int) - picture()).max() <= 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), "JPEG", quality=95, exif=exif)
    from PIL import ImageOps

    upright = np.asarray(ImageOps.exif_transpose(Pillow.open(io.BytesIO(data))))
    image = decode_image(data)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).max() <= 3


def test_one_pixel_is_a_picture():
    assert decode_image(encode(picture(1, 1), "PNG")).shape == (1, 1, 3)


def test_a_wrong_suffix_does_not_matter(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encode(picture(), "PNG"))
    assert np.array_equal(read_image(path), picture())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}])
def test_200_of_200_truncated_jpegs_are_found(options):
    noisy = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    exif = Pillow.Exif()
    exif[0x010E] = "holds an end marker: " + "\xff\xd9"  # like the thumbnail of a camera
    data = encode(noisy, "JPEG", exif=exif, **options)
    decode_image(data)
    cuts = random.Random(0).sample(range(len(data) - 1), 200)
    silent = [cut for cut in cuts if not _refused(data[:cut])]
    assert silent == []


def test_200_of_200_truncated_pngs_are_found():
    data = encode(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8), "PNG")
    assert [cut for cut in random.Random(0).sample(range(len(data) - 8), 200) if not _refused(data[:cut])] == []


def _refused(data: bytes) -> bool:
    try:
        decode_image(data)
    except BadImageError:
        return True
    return False


@pytest.mark.parametrize("tail", [b"", b"\0" * 100, b"\r\n", b"trailer of a camera" * 50])
def test_bytes_after_the_end_of_a_jpeg_are_allowed(tail):
    assert decode_image(encode(picture()) + tail).shape == (37, 53, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "not an image that OpenCV can decode"),
        (b"\xff\xd8\xff", "truncated JPEG"),
        (b"\xff\xd8hello, I am a text file", "no marker at byte 2"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (png_claiming(60_000, 60_000), "claims 60000 x 60000 pixels"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + b"\0" * 20, "claims 65535 x 65535 pixels"),
    ],
)
def test_damage_is_named(data, reason, tmp_path):
    path = tmp_path / "a picture.jpg"
    path.write_bytes(data)
    with pytest.raises(BadImageError, match=reason) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_missing_and_forbidden_files_are_bad_images(tmp_path):
    with pytest.raises(BadImageError, match="No such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(BadImageError, match="Is a directory"):
        read_image(tmp_path)


def test_real_files(shared_data):
    for path in sorted((shared_data / "classification" / "mmpretrain_demo").iterdir()):
        expected = np.asarray(Pillow.open(path).convert("RGB"))
        image = read_image(path)
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).mean() < 1.5
    with pytest.raises(BadImageError, match="truncated JPEG"):
        read_image(next((shared_data / "ocr" / "mmocr_toy").rglob("broken.jpg")))
