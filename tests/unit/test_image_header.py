"""What headers say, without decoding pixels."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from lookalike.errors import ImageError
from lookalike.images.header import read_header

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("quality", [1, 10, 30, 49, 50, 51, 75, 90, 95, 99, 100])
def test_quality_of_a_jpeg_is_that_of_its_tables(quality: int) -> None:
    for image in (PICTURE, PICTURE.convert("L")):
        header = read_header(encode(image, "JPEG", quality=quality))
        assert header.jpeg_quality is not None
        assert abs(header.jpeg_quality - quality) <= 1
        assert not header.lossless


@pytest.mark.parametrize(
    ("kind", "options", "lossless"),
    [
        ("PNG", {}, True),
        ("BMP", {}, True),
        ("GIF", {}, True),
        ("TIFF", {"compression": "tiff_lzw"}, True),
        ("TIFF", {"compression": "jpeg"}, False),
        ("WEBP", {"lossless": True}, True),
        ("WEBP", {"quality": 90}, False),
        ("AVIF", {}, False),
        ("JPEG2000", {"irreversible": False}, True),
        ("JPEG2000", {"irreversible": True, "quality_layers": [50]}, False),
    ],
)
def test_lossless_formats(kind: str, options: dict[str, Any], lossless: bool) -> None:
    header = read_header(encode(PICTURE, kind, **options))
    assert (header.lossless, header.jpeg_quality) == (lossless, None)
    assert (header.width, header.height) == (40, 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    header = read_header(encode(PICTURE, kind, exif=exif))
    assert (header.width, header.height) == ((40, 30) if orientation < 5 else (30, 40))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_and_time_of_capture(kind: str) -> None:
    assert not read_header(encode(PICTURE, kind)).has_exif
    exif = Image.Exif()
    exif[0x0132] = "2021:01:01 00:00:00"
    exif.get_ifd(0x8769)[0x9003] = "2020:02:29 12:34:56"
    header = read_header(encode(PICTURE, kind, exif=exif))
    assert header.has_exif
    if kind != "TIFF":  # of which Pillow writes no further EXIF data
        assert header.captured_at == datetime(2020, 2, 29, 12, 34, 56)
    exif.get_ifd(0x8769)[0x9003] = "0000:00:00 00:00:00"
    header = read_header(encode(PICTURE, kind, exif=exif))
    assert header.captured_at == datetime(2021, 1, 1)


def test_broken_exif_costs_nothing() -> None:
    header = read_header(encode(PICTURE, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 40))
    assert (header.width, header.height, header.captured_at) == (40, 30, None)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP"])
def test_no_pixels_are_decoded(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    path = tmp_path / "a"
    exif = Image.Exif()
    exif[0x0112] = 6
    path.write_bytes(encode(PICTURE, kind, exif=exif))
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    assert read_header(path) == read_header(path.read_bytes())


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with pytest.raises(ImageError, match=r"a\.jpg: cannot be read"):
        read_header(path)
    with pytest.raises(ImageError, match="cannot be read"):
        read_header(tmp_path)
    path.write_bytes(b"hello")
    with pytest.raises(ImageError, match=r"a\.jpg: unsupported image format"):
        read_header(path)
    path.write_bytes(encode(PICTURE, "JPEG")[:30])
    with pytest.raises(ImageError, match=r"a\.jpg: broken image"):
        read_header(path)
