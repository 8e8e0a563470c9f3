"""Which formats are read, how they are recognized, and what is said of the others."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.errors import ImageError, SettingError
from lookalike.images import formats
from lookalike.images.decode import decode
from lookalike.images.formats import (
    FORMATS,
    IMAGE_SUFFIXES,
    detect_format,
    developed_raws,
    file_suffix,
    how_to_read,
    media_type,
    supported_formats,
    supported_suffixes,
    upload_formats,
)
from lookalike.images.header import read_header
from lookalike.images.options import DecodeOptions
from tests.conftest import Require
from tests.dng import dng

DATA = Path(__file__).parent.parent / "data"
RNG = np.random.default_rng(5)
RGB = np.repeat(np.repeat(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8), 8, 0), 8, 1)

WITHOUT_PACKAGES = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "TIFF", "JPEG2000", "ICO", "PPM", "PCX"),
    *("DIB", "TGA"),
)
LOSSLESS = ("PNG", "BMP", "DIB", "TIFF", "PPM", "PCX", "TGA")


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", WITHOUT_PACKAGES)
def test_usual_formats_need_no_package_and_no_option(kind: str) -> None:
    assert FORMATS[kind].is_readable
    data = encode(Image.fromarray(RGB), kind, **({"sizes": [(64, 48)]} if kind == "ICO" else {}))
    for suffix in FORMATS[kind].suffixes:
        assert how_to_read(suffix.upper()) is None
        assert suffix in supported_suffixes()
        decoded = decode(data, name=f"a{suffix.upper()}")
        assert decoded.shape[:2] == (48, 64)
        if kind in LOSSLESS:
            np.testing.assert_array_equal(decoded, RGB)
        elif kind != "GIF":
            assert np.abs(decoded.astype(int) - RGB).mean() < 30
        header = read_header(data, name=f"a{suffix}")
        assert (header.width, header.height, header.format) == (64, 48, kind)


def test_page_of_formats_lists_what_is_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    listed: dict[str, str] = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[2].startswith("."):
            listed |= dict.fromkeys(cells[2].split(), cells[3])
    expected = {
        suffix: f"`lookalike[{kind.extra}]`" if kind.extra else ""
        for kind in FORMATS.values()
        for suffix in kind.suffixes
    }
    assert listed == expected


def test_content_decides_the_format_not_the_suffix() -> None:
    for kind in ("JPEG", "WEBP", "AVIF", "TIFF"):
        data = encode(Image.fromarray(RGB), kind)
        found = detect_format(data, "a.png")
        assert found is not None
        assert found.name == kind
        assert decode(data, name="a.png").shape == RGB.shape


def test_mpo_is_a_jpeg_of_one_page() -> None:
    pictures = [Image.fromarray(RGB), Image.fromarray(RGB[::-1])]
    data = encode(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    np.testing.assert_array_equal(decode(data), decode(encode(pictures[0], "JPEG")))
    assert read_header(data).pages == 1


@pytest.mark.parametrize("suffix", [".tga", ".pcx", ".dib"])
def test_formats_with_weak_signatures_need_their_suffix(suffix: str) -> None:
    kind = formats.format_of_suffix(suffix)
    assert kind is not None
    data = encode(Image.fromarray(RGB), kind.name)
    assert detect_format(data, f"a{suffix}") is kind
    assert detect_format(data, "a.txt") is None
    with pytest.raises(ImageError, match="unsupported image format"):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"<html>404 not found</html>",
        b"<!DOCTYPE html><html>Forbidden</html>",
        b"P as in plain text",
        b"BEGIN",
        b"\0" * 600,
        b"%PDF-1.7",
        bytes(range(256)) * 3,
    ],
)
def test_other_files_are_no_images(data: bytes) -> None:
    kind = detect_format(data, "a.jpg")
    assert kind is None or kind.name == "BMP"
    with pytest.raises(ImageError, match=r"unsupported image format|broken image"):
        decode(data, name="a.jpg")
    assert media_type(b"<html>") is None
    assert file_suffix(b"<html>") == ""


def test_signatures_of_common_formats() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "TIFF", "JPEG2000"):
        header = encode(Image.fromarray(RGB), kind)[:16]
        assert detect_format(header) is FORMATS[kind]
        assert media_type(header) == FORMATS[kind].media_type
        assert file_suffix(header) == FORMATS[kind].suffixes[0]
    assert detect_format(b"") is None


OPTIONAL = {"HEIF": "heif", "RAW": "raw", "JXL": "jxl", "SVG": "svg"}


@pytest.mark.parametrize(("kind", "extra"), OPTIONAL.items())
def test_missing_packages_are_named_with_their_install_command(
    kind: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_is_installed", lambda _: False)
    command = f"pip install 'lookalike[{extra}]'"
    for suffix in FORMATS[kind].suffixes:
        assert how_to_read(suffix) == command
        assert suffix not in supported_suffixes()
    assert kind not in supported_formats()
    for call in (decode, read_header):
        with pytest.raises(ImageError) as caught:
            call(optional_file(kind), name=f"a{FORMATS[kind].suffixes[0]}")
        assert str(caught.value).endswith(f"; run: {command}")


def test_formats_that_nothing_reads_have_no_command() -> None:
    for suffix in (".psd", ".pdf", ".txt"):
        assert how_to_read(suffix) is None
        assert suffix not in supported_suffixes()
    assert ".psd" in IMAGE_SUFFIXES
    assert supported_suffixes() <= IMAGE_SUFFIXES


def optional_file(kind: str) -> bytes:
    if kind == "HEIF":
        return (DATA / "sample.heic").read_bytes()
    if kind == "RAW":
        return dng(64, preview=None)
    if kind == "JXL":
        return b"\xff\x0a" + bytes(100)
    return SVG


SVG = b"""<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20">
<rect width="20" height="20" fill="#f00"/><rect x="20" width="20" height="20" fill="#00f"/></svg>"""


def test_heic(require: Require) -> None:
    require(find_spec("pi_heif"), "pi-heif is not installed")
    path = DATA / "sample.heic"
    decoded = decode(path)
    assert decoded.shape == (64, 96, 3)
    np.testing.assert_allclose(decoded[5, 5], (220, 40, 30), atol=6)
    np.testing.assert_allclose(decoded[50, 5], (30, 60, 200), atol=6)
    header = read_header(path)
    assert (header.width, header.height, header.format) == (96, 64, "HEIF")
    assert header.captured_at is not None
    assert header.captured_at.isoformat() == "2024-05-06T07:08:09"
    assert media_type(path.read_bytes()) == "image/heic"
    with pytest.raises(ImageError, match=r"a\.heic: broken image"):
        decode(path.read_bytes()[:300], name="a.heic")


@pytest.mark.parametrize("name", ["a.dng", "bytes"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_raw_photographs_show_their_preview(orientation: int, name: str, require: Require) -> None:
    require(find_spec("rawpy"), "rawpy is not installed")
    preview = Image.new("RGB", (600, 400), (20, 200, 30))
    preview.paste((230, 20, 20), (0, 0, 200, 100))
    raw = dng(640, preview=encode(preview, "JPEG", quality=95), orientation=orientation)
    decoded = decode(raw, name=name)
    turned = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    assert np.abs(decoded.astype(int) - np.rot90(np.asarray(preview), turned)).mean() < 2
    header = read_header(raw, name=name)
    assert (header.format, header.pages, header.lossless) == ("RAW", 1, True)
    assert header.captured_at is not None
    assert header.captured_at.year == 2024


@pytest.mark.parametrize("small_preview", [False, True])
def test_raw_photographs_without_a_preview_are_developed(
    small_preview: bool, require: Require
) -> None:
    require(find_spec("rawpy"), "rawpy is not installed")
    thumbnail = encode(Image.new("RGB", (160, 120), "blue"), "JPEG") if small_preview else None
    decoded = decode(dng(128, preview=thumbnail), name="a.dng")
    assert decoded.shape == (128, 128, 3)
    assert decoded[:, :60].mean() > decoded[:, 68:].mean() + 100


def test_raw_photograph_beside_its_jpeg_counts_once() -> None:
    names = ["IMG_1.CR2", "img_1.jpg", "IMG_2.dng", "IMG_3.NEF", "IMG_3.HEIC", "IMG_4.jpg"]
    developed = developed_raws(names)
    assert developed.pop("IMG_1.CR2") == "img_1.jpg"
    assert developed == ({"IMG_3.NEF": "IMG_3.HEIC"} if FORMATS["HEIF"].is_readable else {})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_jpeg_xl(dtype: type[np.unsignedinteger[Any]], require: Require) -> None:
    require(find_spec("pyjpegxl"), "pyjpegxl is not installed")
    import pyjpegxl

    scale = 257 if dtype is np.uint16 else 1
    data = pyjpegxl.encode_from_numpy(RGB.astype(dtype) * dtype(scale), lossless=True)
    window = (0.0, 65535.0) if dtype is np.uint16 else None
    decoded = decode(data, options=DecodeOptions(window=window))
    assert np.abs(decoded.astype(int) - RGB).max() <= 1
    header = read_header(data)
    assert (header.width, header.height, header.format) == (64, 48, "JXL")
    with pytest.raises(ImageError, match="broken image"):
        decode(data[: len(data) // 2])


def test_svg_is_rendered_at_1024_pixels(require: Require) -> None:
    require(find_spec("resvg_py"), "resvg-py is not installed")
    decoded = decode(SVG)
    assert decoded.shape == (512, 1024, 3)
    assert decoded[256, 100].tolist() == [255, 0, 0]
    assert decoded[256, 900].tolist() == [0, 0, 255]
    assert read_header(SVG).width == 1024
    for broken in (b"<svg", SVG[:-20], SVG.replace(b"0 0 40 20", b"0 0 0 20")):
        with pytest.raises(ImageError, match="broken image"):
            decode(broken)


def test_service_reads_few_formats_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOKALIKE_FORMATS", raising=False)
    heif = {"HEIF"} if FORMATS["HEIF"].is_readable else set()
    assert set(upload_formats()) == {"JPEG", "PNG", "WEBP", "GIF", "BMP"} | heif
    data = encode(Image.fromarray(RGB), "TIFF")
    with pytest.raises(ImageError, match=r"format TIFF .*; set LOOKALIKE_FORMATS=tiff$"):
        decode(data, options=DecodeOptions(formats=upload_formats()))
    monkeypatch.setenv("LOOKALIKE_FORMATS", "tiff, jpeg2000")
    assert set(upload_formats()) == {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000"} | heif
    assert decode(data, options=DecodeOptions(formats=upload_formats())).shape == RGB.shape
    with pytest.raises(ImageError, match="unsupported image format SVG"):
        decode(SVG, options=DecodeOptions(formats=upload_formats()))
    monkeypatch.setenv("LOOKALIKE_FORMATS", "svg")
    with pytest.raises(SettingError, match="must be among avif, tiff, jpeg2000, jxl"):
        upload_formats()
