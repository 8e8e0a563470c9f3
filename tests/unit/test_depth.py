"""More than 8 bits, bands and pages: nothing is reduced without a stated rule."""

from __future__ import annotations

import io
import struct
import zlib
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from lookalike.errors import ImageError
from lookalike.images.decode import decode, decode_with_notes
from lookalike.images.header import read_header
from lookalike.images.intensity import percentile_window, to_8_bits
from lookalike.images.options import (
    BY_PERCENTILES,
    FURTHER_BANDS,
    FURTHER_FRAMES,
    FURTHER_PAGES,
    REDUCED_DEPTH,
    DecodeOptions,
)
from tests.conftest import Require
from tests.unit.test_decode import stored_as

RAMP = np.tile(np.linspace(0, 1, 512), (32, 1))
"""Gray from 0 to 1, left to right."""

COLORS = np.dstack([RAMP, RAMP[:, ::-1], np.abs(2 * RAMP - 1)])


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_png(values: NDArray[np.uint16], extra: bytes = b"") -> bytes:
    """Return a PNG of 16 bits: ``(H, W)`` gray, or with 2 to 4 channels."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_tiff(values: NDArray[Any], **options: Any) -> bytes:
    import tifffile

    file = io.BytesIO()
    photometric = "rgb" if values.ndim == 3 else "minisblack"
    tifffile.imwrite(file, values, **{"photometric": photometric, **options})
    return file.getvalue()


def levels(image: NDArray[np.uint8]) -> int:
    """Return the number of levels in the first row of the first channel."""
    row = image[0] if image.ndim == 2 else image[0, :, 0]
    return len(np.unique(row))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("low", [0, 1000])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
def test_few_bits_in_16_keep_their_levels(bits: int, low: int, kind: str) -> None:
    values = np.minimum(RAMP * (2**bits - 1) + low, 65535).round().astype(np.uint16)
    decoded = decode_with_notes(encode(Image.fromarray(values), kind))
    assert levels(decoded.pixels) > 200
    assert decoded.notes == (BY_PERCENTILES,)
    expected = 255 * (values - float(values.min())) / np.ptp(values)
    assert np.abs(decoded.pixels - expected).max() <= 2


def test_signed_bytes_are_not_taken_for_unsigned_ones() -> None:
    values = np.tile(np.arange(-128, 128, dtype=np.int8), (16, 1))
    assert np.array_equal(decode(deep_tiff(values))[0], np.arange(256))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_color_keeps_its_levels_in_png(channels: int) -> None:
    values = (COLORS * 4095).round().astype(np.uint16)
    opaque = np.full(RAMP.shape, 65535, np.uint16)
    image = {
        2: np.dstack([values[:, :, 0], opaque]),
        3: values,
        4: np.dstack([values, opaque]),
    }[channels]
    decoded = decode(deep_png(image))
    expected = COLORS if channels > 2 else np.dstack([RAMP] * 3)
    assert np.abs(decoded - 255 * expected).max() <= 2
    assert levels(decoded) > 200


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float16])
def test_deep_color_keeps_its_levels_in_tiff(
    dtype: type[np.generic], options: dict[str, Any], byteorder: str, require: Require
) -> None:
    require(find_spec("tifffile"), "tifffile is not installed")
    values = (COLORS * 4095).round().astype(dtype)
    decoded = decode(deep_tiff(values, byteorder=byteorder, **options))
    assert np.abs(decoded - 255 * COLORS).max() <= 3
    planes = np.moveaxis(values, 2, 0)
    separate = decode(deep_tiff(planes, planarconfig="separate", byteorder=byteorder))
    assert np.abs(separate - 255 * COLORS).max() <= 3


@pytest.mark.parametrize(
    "dtype", [np.uint16, np.int16, np.uint32, np.int32, np.float16, np.float32, np.float64]
)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_every_type_of_value_is_read_from_tiff(
    dtype: type[np.generic], byteorder: str, require: Require
) -> None:
    require(find_spec("tifffile"), "tifffile is not installed")
    kind = np.dtype(dtype)
    largest = 1.0 if kind.kind == "f" else float(np.iinfo(kind).max)
    smallest = float(np.iinfo(kind).min) if kind.kind == "i" else 0.0
    values = (smallest + RAMP * (largest - smallest)).astype(dtype)
    decoded = decode(deep_tiff(values, byteorder=byteorder))
    assert np.abs(decoded - 255 * RAMP).max() <= 2


@pytest.mark.parametrize("largest", [0.9, 1.0, 1.1, 254.0, 255.0, 256.0, 65535.0, 70000.0])
def test_brightness_is_no_step_function_of_the_maximum(largest: float) -> None:
    values = (RAMP * largest).astype(np.float32)
    decoded = decode(encode(Image.fromarray(values), "TIFF"))
    assert np.abs(decoded - 255 * RAMP).max() <= 2


def test_single_outliers_do_not_darken_the_image() -> None:
    values = (RAMP * 1000).astype(np.float32)
    values[0, 0], values[5, 5], values[9, 9] = 1e9, -1e9, np.inf
    decoded = decode(encode(Image.fromarray(values), "TIFF"))
    assert np.abs(decoded[20:] - 255 * RAMP[20:]).max() <= 2
    assert (decoded[0, 0], decoded[5, 5], decoded[9, 9]) == (255, 0, 255)


def test_nan_is_black_and_counts_for_nothing() -> None:
    values = (RAMP * 7).astype(np.float32)
    values[:8] = np.nan
    decoded = decode(encode(Image.fromarray(values), "TIFF"))
    assert (decoded[:8] == 0).all()
    assert np.abs(decoded[8:] - 255 * RAMP[8:]).max() <= 2
    values[:] = np.nan
    with pytest.raises(ImageError, match="no pixel has a finite value"):
        decode(encode(Image.fromarray(values), "TIFF"))


def tagged(values: NDArray[Any], tags: dict[int, Any], types: dict[int, int]) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory.tagtype[tag] = types[tag]
        directory[tag] = value
    return encode(Image.fromarray(values), "TIFF", tiffinfo=directory)


@pytest.mark.parametrize("tags", [(280, 281), (340, 341)])
def test_window_of_the_tags_is_used(tags: tuple[int, int]) -> None:
    smallest, largest = tags
    values = (RAMP * 1000).astype(np.uint16)
    data = tagged(values, {smallest: 0, largest: 4000}, {smallest: 3, largest: 3})
    decoded = decode_with_notes(data)
    assert decoded.notes == ()
    assert np.abs(decoded.pixels - 255.0 * values / 4000).max() <= 1
    nonsense = tagged(values, {smallest: 9, largest: 9}, {smallest: 3, largest: 3})
    assert decode_with_notes(nonsense).notes == (BY_PERCENTILES,)


def test_color_profile_means_the_whole_range() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    values = (COLORS * 30000).astype(np.uint16)
    packed = b"sRGB\0\0" + zlib.compress(profile)
    decoded = decode_with_notes(deep_png(values, chunk(b"iCCP", packed)))
    assert decoded.notes == ()
    assert np.abs(decoded.pixels - values / 257).max() <= 2


def test_largest_value_of_a_pgm_is_its_window() -> None:
    values = (COLORS * 2000).astype(">u2")
    gray = decode_with_notes(b"P5 # c\n512 32\n4095\n" + values[:, :, 0].tobytes())
    color = decode_with_notes(b"P6\n512 32\n4095\n" + values.tobytes())
    assert gray.notes == color.notes == ()
    assert np.abs(gray.pixels - values[:, :, 0] / 4095 * 255).max() <= 1
    assert np.abs(color.pixels - values / 4095 * 255).max() <= 1


def test_given_window_holds_for_deep_images_only() -> None:
    options = DecodeOptions(window=(100, 300))
    values = np.array([[0, 100, 180, 300, 4000]], np.uint16)
    decoded = decode_with_notes(deep_png(values), options=options)
    assert decoded.pixels.tolist() == [[0, 0, 102, 255, 255]]
    assert decoded.notes == ()
    flat = np.array([[0, 100, 200]], np.uint8)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(flat)), options=options), flat)


@pytest.mark.parametrize(("value", "shown"), [(0, 0), (30000, 128), (65535, 255)])
def test_noise_of_a_blank_deep_image_stays_faint(value: int, shown: int) -> None:
    noise = np.random.default_rng(0).integers(-3, 4, (40, 50))
    values = np.clip(value + noise, 0, 65535).astype(np.uint16)
    decoded = decode(deep_png(values))
    assert np.ptp(decoded) <= 7
    assert np.abs(decoded.astype(int) - shown).max() <= 7


def test_white_is_zero_is_inverted(require: Require) -> None:
    require(find_spec("tifffile"), "tifffile is not installed")
    values = (RAMP * 4095).astype(np.uint16)
    decoded = decode(deep_tiff(values, photometric="miniswhite"))
    assert np.abs(decoded - 255 * (1 - RAMP)).max() <= 2


def test_fourth_band_is_transparency_only_if_the_tags_say_so(require: Require) -> None:
    require(find_spec("tifffile"), "tifffile is not installed")
    for scale, dtype in ((255, np.uint8), (4095, np.uint16)):
        bands = np.dstack([COLORS * scale, np.zeros_like(RAMP)]).round().astype(dtype)
        unspecified = deep_tiff(bands, extrasamples=["unspecified"])
        without = unspecified.replace(struct.pack("<HH", 338, 3), struct.pack("<HH", 65000, 3))
        for data in (unspecified, without):
            decoded = decode_with_notes(data)
            assert np.abs(decoded.pixels - 255 * COLORS).max() <= 2
            assert FURTHER_BANDS in decoded.notes
        clear = decode_with_notes(deep_tiff(bands, extrasamples=["unassalpha"]))
        assert (clear.pixels == 255).all()
        assert FURTHER_BANDS not in clear.notes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_many_bands_show_the_first_three(dtype: type[np.generic], require: Require) -> None:
    require(find_spec("tifffile"), "tifffile is not installed")
    bands = (np.dstack([COLORS, RAMP * 0.5, RAMP * 0.2]) * 255).astype(dtype)
    data = deep_tiff(bands, photometric="minisblack", planarconfig="contig")
    decoded = decode_with_notes(data)
    assert np.abs(decoded.pixels - 255 * COLORS).max() <= 3
    assert FURTHER_BANDS in decoded.notes
    assert (read_header(data).width, read_header(data).height) == (512, 32)


def test_tiffs_that_need_tifffile_say_so(monkeypatch: pytest.MonkeyPatch, require: Require) -> None:
    require(find_spec("tifffile"), "tifffile is not installed")
    data = deep_tiff(np.zeros((4, 5, 3), np.float32))
    monkeypatch.setattr("lookalike.images.tiff.find_spec", lambda _: None)
    with pytest.raises(ImageError, match=r"a.tif: .* pip install 'lookalike\[tiff\]'"):
        decode(data, name="a.tif")


def test_planes_without_tifffile_keep_8_bits_or_are_refused(
    monkeypatch: pytest.MonkeyPatch, require: Require
) -> None:
    require(find_spec("tifffile"), "tifffile is not installed")
    planes = np.moveaxis((COLORS * 65535).astype(np.uint16), 2, 0)
    packed = deep_tiff(planes, planarconfig="separate", compression="zlib")
    stored = deep_tiff(planes, planarconfig="separate")
    assert REDUCED_DEPTH not in decode_with_notes(packed).notes
    monkeypatch.setattr("lookalike.images.tiff.find_spec", lambda _: None)
    decoded = decode_with_notes(packed)
    assert decoded.notes == (REDUCED_DEPTH,)
    assert np.abs(decoded.pixels - 255 * COLORS).max() <= 2
    with pytest.raises(ImageError, match="pip install"):
        decode(stored)


PAGES = [Image.new("RGB", (16, 12), color) for color in ("red", "lime", "blue")]
SHOWN = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("TIFF", FURTHER_PAGES),
        ("GIF", FURTHER_FRAMES),
        ("PNG", FURTHER_FRAMES),
        ("WEBP", FURTHER_FRAMES),
    ],
)
def test_pages_and_frames_are_counted_and_read_by_number(kind: str, note: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(PAGES[0], kind, save_all=True, append_images=PAGES[1:], **options)
    assert read_header(data).pages == 3
    for number, color in enumerate(SHOWN):
        decoded = decode_with_notes(data, page=number)
        assert decoded.pixels[5, 5].tolist() == color
        assert decoded.pages == 3
        assert decoded.notes == ((note,) if number == 0 else ())
    for number in (3, -1):
        with pytest.raises(ImageError, match=f"^a: has 3 pages; there is no page {number + 1},"):
            decode(data, name="a", page=number)
    with pytest.raises(ImageError, match="has 1 page; "):
        decode(encode(PAGES[0], "JPEG"), page=1)


def test_reduced_copies_within_a_tiff_are_no_pages(require: Require) -> None:
    require(find_spec("tifffile"), "tifffile is not installed")
    import tifffile

    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in PAGES[:2]:
            pixels = np.asarray(page)
            writer.write(pixels, photometric="rgb")
            writer.write(pixels[::2, ::2], photometric="rgb", subfiletype=1)
    assert read_header(file.getvalue()).pages == 2
    assert decode(file.getvalue(), page=1)[5, 5].tolist() == SHOWN[1]


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}])
def test_pages_of_other_kinds_are_pages(options: dict[str, Any], require: Require) -> None:
    require(find_spec("tifffile"), "tifffile is not installed")
    import tifffile

    file = io.BytesIO()
    with tifffile.TiffWriter(file, **options) as writer:
        writer.write((COLORS * 255).astype(np.uint8), photometric="rgb")
        writer.write(COLORS.astype(np.float32), photometric="rgb")
        writer.write((RAMP * 4095).astype(np.uint16), photometric="minisblack")
    assert read_header(file.getvalue()).pages == 3
    for page, expected in enumerate((COLORS, COLORS, RAMP)):
        decoded = decode_with_notes(file.getvalue(), page=page)
        assert decoded.pages == 3
        assert np.abs(decoded.pixels - 255 * expected).max() <= 2


def test_windows_of_percentiles() -> None:
    values = np.arange(100_001, dtype=np.uint32).reshape(1, -1)
    assert percentile_window(values) == pytest.approx((100, 99_900), abs=2)
    constant = np.full((5, 5), 3.5, np.float32)
    assert (to_8_bits(constant, percentile_window(constant)) == 127).all()
    large = np.tile(np.arange(2000, dtype=np.uint16), (1500, 1))
    assert percentile_window(large) == pytest.approx((2, 1997), abs=3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["gray", "color", "floats", "planes", "png"])
def test_deep_images_are_upright(kind: str, orientation: int, require: Require) -> None:
    require(find_spec("tifffile"), "tifffile is not installed")
    whole = np.zeros((16, 24, 3), np.uint16)
    whole[:8, :6], whole[8:, 12:] = (65535, 100, 0), (0, 30000, 65535)
    stored = stored_as(whole, orientation)
    if kind == "png":
        exif = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
        data = deep_png(stored, chunk(b"eXIf", exif))
    else:
        values = stored[:, :, 0] if kind == "gray" else stored
        values = values.astype(np.float32) if kind == "floats" else values
        values = np.moveaxis(values, 2, 0) if kind == "planes" else values
        options = {"planarconfig": "separate"} if kind == "planes" else {}
        data = deep_tiff(values, extratags=[(274, 3, 1, orientation, True)], **options)
    expected = whole[:, :, 0] if kind == "gray" else whole
    window = DecodeOptions(window=(0, 65535))
    np.testing.assert_array_equal(decode(data, options=window), np.rint(expected / 257))
    assert (read_header(data).height, read_header(data).width) == (16, 24)
