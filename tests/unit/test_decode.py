from __future__ import annotations

import io
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from lookalike.errors import ImageError, SettingError
from lookalike.images.decode import (
    content_hash,
    decode,
    resize_image,
    shrink_image,
    to_channels,
)
from lookalike.images.formats import supported_suffixes
from tests.conftest import Require

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


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
        np.testing.assert_array_equal(decode(encode(image)), GRAY)
        return
    kind = "JPEG" if mode == "CMYK" else "PNG"
    array = decode(encode(Image.fromarray(RGB).convert(mode), kind))
    assert array.dtype == np.uint8
    assert array.shape in ((6, 9), (6, 9, 3))


def test_transparency_is_composited_over_white() -> None:
    clear = Image.new("RGBA", (3, 2), (10, 20, 30, 0))
    assert (decode(encode(clear)) == 255).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "the file is empty"),
        (b"hello", "unsupported image format"),
        (encode(Image.fromarray(RGB))[:60], "broken image"),
        (
            encode(Image.fromarray(RGB), "TIFF"),
            "TIFF is not enabled; set LOOKALIKE_FORMATS=tiff",
        ),
        (encode(Image.fromarray(RGB), "PPM"), "unsupported image format"),
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


def test_truncated_files_decode_or_raise_image_errors() -> None:
    refused = 0
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        data = encode(Image.fromarray(RGB), kind)
        for end in range(0, len(data), 7):
            try:
                assert decode(data[:end]).shape == RGB.shape
            except ImageError:
                refused += 1
    assert refused > 100


def test_too_many_pixels_are_refused_before_decoding() -> None:
    bomb = encode(Image.new("1", (10_001, 5_000)))
    with pytest.raises(ImageError, match="10001x5000 pixels, more than the limit of 50 megapixels"):
        decode(bomb)


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
def test_exif_orientation_is_applied_in_every_format(
    kind: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_FORMATS", "tiff,avif")
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
    deep = Image.fromarray(np.array([[0, 256 * 7, 65535]], np.int32))
    assert decode(deep).tolist() == [[0, 6, 255]]
    fractions = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert decode(fractions).tolist() == [[0, 127, 255]]


def test_large_jpegs_are_decoded_at_reduced_size() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (40, 70, 3), dtype=np.uint8)
    large = Image.fromarray(small).resize((70 * 32, 40 * 32), Image.Resampling.BICUBIC)
    decoded = decode(encode(large, "JPEG", quality=95))
    assert decoded.shape == (640, 1120, 3)
    expected = np.asarray(large.resize((1120, 640), Image.Resampling.BOX))
    assert np.abs(decoded.astype(int) - expected).mean() < 3
    assert decode(encode(large, "PNG")).shape == (1280, 2240, 3)


def test_optional_formats_are_enabled_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOKALIKE_FORMATS", raising=False)
    for kind in ("TIFF", "AVIF"):
        data = encode(Image.fromarray(RGB), kind)
        with pytest.raises(ImageError, match=f"set LOOKALIKE_FORMATS={kind.lower()}"):
            decode(data)
        assert f".{kind.lower()}" not in supported_suffixes()
        monkeypatch.setenv("LOOKALIKE_FORMATS", kind)
        assert decode(data).shape == RGB.shape
        assert f".{kind.lower()}" in supported_suffixes()
    monkeypatch.setenv("LOOKALIKE_FORMATS", "tga")
    with pytest.raises(SettingError, match="must be tiff, avif or both"):
        decode(encode(Image.fromarray(RGB)))


def test_heic_needs_pi_heif(require: Require) -> None:
    require(find_spec("pi_heif"), "pi-heif is not installed")
    assert ".heic" in supported_suffixes()
    # pi-heif cannot write a test file; a truncated header at least reaches it.
    header = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"
    with pytest.raises(ImageError, match=r"broken|unsupported image format|HEIC"):
        decode(header)


def test_only_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (5, 5), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


def test_broken_exif_is_ignored() -> None:
    data = encode(Image.fromarray(RGB), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data), RGB)


def test_empty_file_is_refused() -> None:
    with pytest.raises(ImageError, match="the file is empty"):
        decode(b"", name="a.png")
