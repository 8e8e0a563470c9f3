from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from lookalike.errors import ImageError, SettingError
from lookalike.images.decode import (
    content_hash,
    decode,
    resize_image,
    shrink_image,
    supported_suffixes,
    to_channels,
)
from tests.conftest import Require

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_path_bytes_pil_and_array_are_one_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    for given in (path, str(path), path.read_bytes(), Image.fromarray(RGB), RGB):
        np.testing.assert_array_equal(decode(given), RGB)


def test_gray_stays_gray() -> None:
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(GRAY))), GRAY)


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
def test_every_mode_becomes_gray_or_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(GRAY.astype(np.uint16) * 257)
        np.testing.assert_array_equal(decode(encoded(image)), GRAY)
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
        (b"", "the file is empty"),
        (b"hello", "unsupported image format"),
        (encoded(Image.fromarray(RGB))[:60], "broken image"),
        (
            encoded(Image.fromarray(RGB), "TIFF"),
            "TIFF is not enabled; set LOOKALIKE_FORMATS=tiff",
        ),
        (encoded(Image.fromarray(RGB), "PPM"), "unsupported image format"),
        (np.zeros((2, 2), np.float32), "expected a uint8 array"),
        (np.zeros((2, 2, 4), np.uint8), "expected a uint8 array"),
        (np.zeros((0, 4), np.uint8), "the image is empty"),
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


def undone(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return an array as a camera held otherwise would have stored it."""
    undo = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, *range(2, a.ndim)),
        6: np.rot90,
        7: lambda a: np.rot90(a, 2).transpose(1, 0, *range(2, a.ndim)),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    return np.ascontiguousarray(undo(array))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_upright(
    kind: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_FORMATS", "tiff,avif")
    array = np.zeros((40, 24, 3), np.uint8)
    array[:10, :6] = (250, 10, 10)
    array[30:, 18:] = (10, 10, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}
    data = encoded(
        Image.fromarray(undone(array, orientation)), kind, exif=exif, **options.get(kind, {})
    )
    found = decode(data)
    assert found.shape == array.shape
    tolerance = 0 if kind in ("PNG", "WEBP", "TIFF") else 3
    assert np.abs(found.astype(int) - array).mean() <= tolerance


def test_a_profile_is_brought_to_srgb() -> None:
    rgb = np.full((4, 4, 3), (200, 30, 60), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(rgb), icc_profile=srgb)), rgb)
    np.testing.assert_array_equal(
        decode(encoded(Image.fromarray(rgb), icc_profile=b"no profile at all")), rgb
    )
    # The red and the green of this profile are exchanged, so that what is seen is, too.
    swapped = swapped_profile(srgb)
    found = decode(encoded(Image.fromarray(rgb), icc_profile=swapped))
    np.testing.assert_allclose(found[0, 0], (30, 200, 60), atol=3)
    rgba = np.dstack([rgb, np.full((4, 4), 128, np.uint8)])
    over_white = decode(encoded(Image.fromarray(rgba), icc_profile=swapped))
    np.testing.assert_allclose(over_white[0, 0], (142, 227, 157), atol=4)


def swapped_profile(profile: bytes) -> bytes:
    """Return an ICC profile with the names of its red and green primaries exchanged."""
    table = profile[128:].replace(b"rXYZ", b"?XYZ", 1)
    table = table.replace(b"gXYZ", b"rXYZ", 1).replace(b"?XYZ", b"gXYZ", 1)
    return profile[:128] + table


def test_cmyk_is_converted_and_deep_values_are_cut() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    found = decode(encoded(red, "JPEG", quality=95))
    np.testing.assert_allclose(found[0, 0], (255, 0, 0), atol=4)
    deep = Image.fromarray(np.array([[0, 256 * 7, 65535]], np.int32))
    assert decode(deep).tolist() == [[0, 6, 255]]
    fractions = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert decode(fractions).tolist() == [[0, 127, 255]]


def test_large_jpegs_are_decoded_smaller_and_look_the_same() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (40, 70, 3), dtype=np.uint8)
    large = Image.fromarray(small).resize((70 * 32, 40 * 32), Image.Resampling.BICUBIC)
    found = decode(encoded(large, "JPEG", quality=95))
    assert found.shape == (640, 1120, 3)
    whole = np.asarray(large.resize((1120, 640), Image.Resampling.BOX))
    assert np.abs(found.astype(int) - whole).mean() < 3
    assert decode(encoded(large, "PNG")).shape == (1280, 2240, 3)


def test_formats_by_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOKALIKE_FORMATS", raising=False)
    for kind in ("TIFF", "AVIF"):
        data = encoded(Image.fromarray(RGB), kind)
        with pytest.raises(ImageError, match=f"set LOOKALIKE_FORMATS={kind.lower()}"):
            decode(data)
        assert f".{kind.lower()}" not in supported_suffixes()
        monkeypatch.setenv("LOOKALIKE_FORMATS", kind)
        assert decode(data).shape == RGB.shape
        assert f".{kind.lower()}" in supported_suffixes()
    monkeypatch.setenv("LOOKALIKE_FORMATS", "tga")
    with pytest.raises(SettingError, match="must be tiff, avif or both"):
        decode(encoded(Image.fromarray(RGB)))


def test_heic_is_read_where_pi_heif_is(require: Require) -> None:
    require(find_spec("pi_heif"), "pi-heif is not installed")
    assert ".heic" in supported_suffixes()
    # pi-heif only reads, so that there is no file of ours; it must at least be asked.
    header = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"
    with pytest.raises(ImageError, match=r"broken|unsupported image format|HEIC"):
        decode(header)


def test_only_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (5, 5), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


def test_broken_exif_does_not_lose_the_picture() -> None:
    data = encoded(Image.fromarray(RGB), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data), RGB)


def test_an_empty_file_says_so() -> None:
    with pytest.raises(ImageError, match="the file is empty"):
        decode(b"", name="a.png")
