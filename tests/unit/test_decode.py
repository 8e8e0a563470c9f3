from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageColor

from lookalike.errors import ImageError
from lookalike.images.decode import (
    content_hash,
    decode,
    resize_image,
    shrink_image,
    shrink_to,
    to_channels,
)
from lookalike.images.options import DecodeOptions

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


WHOLE_RANGE = DecodeOptions(window=(0, 65535))


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_path_bytes_pil_and_array_decode_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    for source in (path, str(path), path.read_bytes(), Image.fromarray(RGB), RGB):
        np.testing.assert_array_equal(decode(source), RGB)


def test_gray_stays_gray() -> None:
    np.testing.assert_array_equal(decode(encode(Image.fromarray(GRAY))), GRAY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(stored_as(RGB, orientation))
    np.testing.assert_array_equal(decode(encode(stored, exif=exif)), RGB)


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_mode_becomes_gray_or_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(GRAY.astype(np.uint16) * 257)
        np.testing.assert_array_equal(decode(encode(image), options=WHOLE_RANGE), GRAY)
        return
    kind = "JPEG" if mode == "CMYK" else "PNG"
    array = decode(encode(Image.fromarray(RGB).convert(mode), kind))
    assert array.dtype == np.uint8
    assert array.shape in ((6, 9), (6, 9, 3))


@pytest.mark.parametrize(
    ("shares", "ground"),
    [
        ({}, 255),
        ({"navy": 1}, 255),
        ({"white": 1}, 0),
        ({"#e8e8e8": 1}, 0),
        ({"black": 1}, 255),
        ({"white": 0.2, "navy": 0.8}, 255),
        ({"white": 0.6, "navy": 0.4}, 0),
        ({"white": 0.5, "black": 0.5}, 128),
        ({"white": 0.4, "#808080": 0.6}, 0),
        ({"white": 0.3, "black": 0.3, "#808080": 0.4}, 255),
    ],
)
def test_transparent_images_are_put_on_a_ground_that_shows_them(
    shares: dict[str, float], ground: int
) -> None:
    pixels = np.zeros((30, 100, 4), np.uint8)
    pixels[:, :, :3] = (255, 0, 255)  # invisible, so that it does not count
    left = 0
    for color, share in shares.items():
        right = left + round(share * 60)
        pixels[10:20, left:right] = (*ImageColor.getrgb(color), 255)
        left = right
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        decoded = decode(encode(Image.fromarray(pixels), kind, **options))
        assert (decoded[:10] == ground).all()
        assert (decoded[10:20, :left] == pixels[10:20, :left, :3]).all()


def test_transparency_of_palettes_and_gray_images() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 255, 255, 10, 20, 30])
    palette.paste(0, (0, 0, 4, 8))
    for kind in ("PNG", "GIF"):
        decoded = decode(encode(palette, kind, transparency=1))
        assert decoded[0, 0].tolist() == [0, 0, 0]
        assert decoded[0, 7].tolist() == [255, 255, 255]
        decoded = decode(encode(palette, kind, transparency=0))
        assert decoded[0, 0].tolist() == [0, 0, 0]
        assert decoded[0, 7].tolist() == [255, 255, 255]
    gray = Image.new("L", (4, 4), 255)
    gray.paste(0, (0, 0, 2, 4))
    decoded = decode(encode(gray, transparency=0))
    assert (decoded[:, :2] == 0).all()
    assert (decoded[:, 2:] == 255).all()


def test_alpha_is_blended() -> None:
    half = Image.new("RGBA", (3, 2), (200, 0, 0, 128))
    np.testing.assert_allclose(decode(encode(half))[0, 0], (227, 127, 127), atol=1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "the file is empty"),
        (b"hello", "unsupported image format"),
        (encode(Image.fromarray(RGB))[:60], "broken image"),
        (b"8BPS\0\1", "unsupported image format"),
        (np.zeros((2, 2), np.float32), "expected a uint8 array"),
        (np.zeros((2, 2, 4), np.uint8), "expected a uint8 array"),
        (np.zeros((0, 4), np.uint8), "the image is empty"),
        (np.zeros(4, np.uint8), "expected a uint8 array"),
    ],
)
def test_invalid_images_are_refused_by_name(image: bytes | np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        decode(image, name="query 7")
    assert str(caught.value).startswith("query 7: ")


def test_too_many_pixels_are_refused_before_decoding() -> None:
    bomb = encode(Image.new("1", (10_001, 5_000)))
    with pytest.raises(ImageError, match="10001x5000 pixels, more than the limit of 50 megapixels"):
        decode(bomb, options=DecodeOptions(max_megapixels=50))


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        decode(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a folder"):
        decode(tmp_path)


def test_content_hash_depends_on_content_and_shape() -> None:
    assert content_hash(GRAY) == content_hash(GRAY.copy())
    assert content_hash(GRAY) != content_hash(GRAY.T)
    assert content_hash(b"a") != content_hash(b"b")


def test_resizing_and_channels() -> None:
    assert shrink_image(RGB, 9) is RGB
    assert shrink_image(RGB, 3).shape == (2, 3, 3)
    assert shrink_image(np.zeros((1, 4000), np.uint8), 100).shape == (1, 100)
    assert resize_image(RGB, 12, 4).shape == (12, 4, 3)
    assert resize_image(RGB, 6, 9) is RGB
    assert to_channels(GRAY, 3).shape == (6, 9, 3)
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(to_channels(RGB, 1)[..., 0] - luma).max() <= 1


def stored_as(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return an array as stored by a camera held in this orientation."""
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, *range(2, a.ndim)),
        6: np.rot90,
        7: lambda a: np.rot90(a, 2).transpose(1, 0, *range(2, a.ndim)),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(undo[orientation](array))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_in_every_format(kind: str, orientation: int) -> None:
    array = np.zeros((40, 24, 3), np.uint8)
    array[:10, :6] = (250, 10, 10)
    array[30:, 18:] = (10, 10, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, dict[str, Any]] = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 95, "subsampling": 0},
    }
    data = encode(
        Image.fromarray(stored_as(array, orientation)), kind, exif=exif, **options.get(kind, {})
    )
    decoded = decode(data)
    assert decoded.shape == array.shape
    tolerance = 0 if kind in ("PNG", "WEBP", "TIFF") else 3
    assert np.abs(decoded.astype(int) - array).mean() <= tolerance


def test_icc_profile_is_converted_to_srgb() -> None:
    rgb = np.full((4, 4, 3), (200, 30, 60), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decode(encode(Image.fromarray(rgb), icc_profile=srgb)), rgb)
    np.testing.assert_array_equal(
        decode(encode(Image.fromarray(rgb), icc_profile=b"no profile at all")), rgb
    )
    # This profile swaps red and green, and so does the decoded image.
    swapped = swapped_profile(srgb)
    decoded = decode(encode(Image.fromarray(rgb), icc_profile=swapped))
    np.testing.assert_allclose(decoded[0, 0], (30, 200, 60), atol=3)
    rgba = np.dstack([rgb, np.full((4, 4), 128, np.uint8)])
    over_white = decode(encode(Image.fromarray(rgba), icc_profile=swapped))
    np.testing.assert_allclose(over_white[0, 0], (142, 227, 157), atol=4)


def swapped_profile(profile: bytes) -> bytes:
    """Return an ICC profile with the names of its red and green primaries exchanged."""
    table = profile[128:].replace(b"rXYZ", b"?XYZ", 1)
    table = table.replace(b"gXYZ", b"rXYZ", 1).replace(b"?XYZ", b"gXYZ", 1)
    return profile[:128] + table


def test_cmyk_and_deep_images_become_8_bit_rgb() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    decoded = decode(encode(red, "JPEG", quality=95))
    np.testing.assert_allclose(decoded[0, 0], (255, 0, 0), atol=4)
    deep = Image.fromarray(np.array([[0, 257 * 7, 65535]], np.int32))
    assert decode(deep, options=WHOLE_RANGE).tolist() == [[0, 7, 255]]
    fractions = Image.fromarray(np.array([[0.0, 0.2, 1.0]], np.float32))
    assert decode(fractions, options=DecodeOptions(window=(0, 1))).tolist() == [[0, 51, 255]]


def test_large_jpegs_are_decoded_at_reduced_size() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (40, 70, 3), dtype=np.uint8)
    large = Image.fromarray(small).resize((70 * 32, 40 * 32), Image.Resampling.BICUBIC)
    decoded = decode(encode(large, "JPEG", quality=95))
    assert decoded.shape == (640, 1120, 3)
    expected = np.asarray(large.resize((1120, 640), Image.Resampling.BOX))
    assert np.abs(decoded.astype(int) - expected).mean() < 3
    assert decode(encode(large, "PNG")).shape == (1280, 2240, 3)


def test_only_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (5, 5), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


def test_broken_exif_is_ignored() -> None:
    data = encode(Image.fromarray(RGB), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data), RGB)


def test_orientation_is_applied_whatever_else_is_in_the_exif_data() -> None:
    """A text where a number belongs: Pillow can read the orientation, but not write the rest."""
    entries = ((0x0112, 3, 1, 6 << 16), (0x0132, 12, 1, 58), (0x8769, 4, 1, 0xFFFFFF))
    table = struct.pack(">H", len(entries)) + b"".join(struct.pack(">HHII", *e) for e in entries)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + table + bytes(4) + struct.pack(">d", 1.5) * 2
    data = encode(Image.fromarray(RGB), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data), np.rot90(RGB, 3))


def test_images_that_are_opened_by_others_are_left_as_they_are() -> None:
    data = encode(Image.new("RGB", (2400, 1800)), "JPEG")
    image = Image.open(io.BytesIO(data))
    assert decode(image).shape == (1800, 2400, 3)
    assert image.size == (2400, 1800)


def test_empty_file_is_refused() -> None:
    with pytest.raises(ImageError, match="the file is empty"):
        decode(b"", name="a.png")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize("size", [(90, 60), (60, 91), (7, 300), (20, 20)])
def test_downscaling_while_decoding_is_downscaling_afterwards(
    mode: str, size: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    shrunk = decode(file.getvalue(), reduce=shrink_to(40))
    np.testing.assert_array_equal(shrunk, shrink_image(decode(file.getvalue()), 40))
    assert max(shrunk.shape[:2]) == min(40, max(size))
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(decode(image, reduce=shrink_to(40)), shrink_image(pixels, 40))
    np.testing.assert_array_equal(decode(pixels, reduce=shrink_to(40)), shrink_image(pixels, 40))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_of_large_images_are_copied_in_strips(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    module = importlib.import_module("lookalike.images.decode")
    monkeypatch.setattr(module, "_STRIP", 100)
    pixels = np.random.default_rng(0).integers(0, 256, (37, 29, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    np.testing.assert_array_equal(decode(image), np.asarray(image))
