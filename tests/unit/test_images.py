from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.errors import ImageError
from lookalike.images import content_hash, decode, resized, with_channels, within

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_path_bytes_pil_and_array_are_one_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    for given in (path, str(path), path.read_bytes(), Image.fromarray(RGB), RGB):
        np.testing.assert_array_equal(decode(given), RGB)


def test_grey_stays_grey() -> None:
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(GREY))), GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    undo = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: np.rot90,
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(RGB)))
    np.testing.assert_array_equal(decode(encoded(stored, exif=exif)), RGB)


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_mode_becomes_grey_or_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(GREY.astype(np.uint16) * 257)
        np.testing.assert_array_equal(decode(encoded(image)), GREY)
        return
    kind = "JPEG" if mode == "CMYK" else "PNG"
    array = decode(encoded(Image.fromarray(RGB).convert(mode), kind))
    assert array.dtype == np.uint8
    assert array.shape in ((6, 9), (6, 9, 3))


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (3, 2), (10, 20, 30, 0))
    assert (decode(encoded(clear)) == 255).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (encoded(Image.fromarray(RGB))[:60], "broken image"),
        (encoded(Image.fromarray(RGB), "TIFF"), "not an image in a format that is read"),
        (np.zeros((2, 2), np.float32), "expected a uint8 array"),
        (np.zeros((2, 2, 4), np.uint8), "expected a uint8 array"),
        (np.zeros((0, 4), np.uint8), "has no pixels"),
        (np.zeros(4, np.uint8), "expected a uint8 array"),
    ],
)
def test_what_is_no_image_is_refused_by_name(given: bytes | np.ndarray, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        decode(given, name="query 7")
    assert str(caught.value).startswith("query 7: ")


def test_every_prefix_of_a_file_is_an_image_or_an_image_error() -> None:
    refused = 0
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        data = encoded(Image.fromarray(RGB), kind)
        for end in range(0, len(data), 7):
            try:
                assert decode(data[:end]).shape == RGB.shape
            except ImageError:
                refused += 1
    assert refused > 100


def test_too_many_pixels_are_refused_before_decoding() -> None:
    bomb = encoded(Image.new("1", (10_001, 5_000)))
    with pytest.raises(ImageError, match="10001x5000 pixels, more than the limit of 50 megapixels"):
        decode(bomb)


def test_missing_files_and_folders_say_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        decode(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a folder"):
        decode(tmp_path)


def test_hashes_tell_contents_and_shapes_apart() -> None:
    assert content_hash(GREY) == content_hash(GREY.copy())
    assert content_hash(GREY) != content_hash(GREY.T)
    assert content_hash(b"a") != content_hash(b"b")


def test_resizing_and_channels() -> None:
    assert within(RGB, 9) is RGB
    assert within(RGB, 3).shape == (2, 3, 3)
    assert within(np.zeros((1, 4000), np.uint8), 100).shape == (1, 100)
    assert resized(RGB, 12, 4).shape == (12, 4, 3)
    assert resized(RGB, 6, 9) is RGB
    assert with_channels(GREY, 3).shape == (6, 9, 3)
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(with_channels(RGB, 1)[..., 0] - luma).max() <= 1
