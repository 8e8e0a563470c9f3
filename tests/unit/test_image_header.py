"""What headers say, without decoding pixels."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile
from PIL.TiffImagePlugin import IFDRational

from lookalike.errors import ImageError
from lookalike.images.exif import EXIF_COLUMNS, GPS_COLUMNS, exif_columns
from lookalike.images.header import read_header
from lookalike.metadata import storable_metadata

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


def photograph(kind: str = "JPEG", **changes: Any) -> bytes:
    """Return a file with the EXIF tags of a camera; ``changes`` are other values, by hex number."""
    exif = Image.Exif()
    tags: dict[int, Any] = {
        0x010F: "Canon\0",
        0x0110: "  Canon EOS  R5 ",
        0x9003: "2023:07:14 18:30:05",
        0xA434: "RF50mm F1.8 STM",
        0x920A: IFDRational(50, 1),
        0x829D: IFDRational(28, 10),
        0x829A: IFDRational(1, 250),
        0x8827: 800,
        **{int(number, 16): value for number, value in changes.items()},
    }
    exif.update({tag: value for tag, value in tags.items() if tag < 0x8000 and value is not None})
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {tag: value for tag, value in tags.items() if tag >= 0x8000 and value is not None}
    )
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(
        {1: "S", 2: (33.0, 51.0, 24.84), 3: "W", 4: (151.0, 12.0, 54.0)}
    )
    return encode(PICTURE, kind, exif=exif)


CAMERA = {
    "date_taken": "2023-07-14T18:30:05",
    "camera_make": "Canon",
    "camera_model": "Canon EOS R5",
    "lens": "RF50mm F1.8 STM",
    "focal_length": 50,
    "aperture": 2.8,
    "exposure_time": 0.004,
    "iso": 800,
    "latitude": -33.8569,
    "longitude": -151.215,
    "width": 40,
    "height": 30,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_facts_of_a_photograph_have_types_and_units(kind: str) -> None:
    assert read_header(photograph(kind)).columns == CAMERA


def test_an_image_without_exif_has_its_size() -> None:
    assert read_header(encode(PICTURE, "PNG")).columns == {"width": 40, "height": 30}
    assert set(CAMERA) == {*EXIF_COLUMNS, *GPS_COLUMNS}


@pytest.mark.parametrize(
    ("number", "value", "column", "expected"),
    [
        ("9003", "0000:00:00 00:00:00", "date_taken", None),
        ("9003", "yesterday", "date_taken", None),
        ("010F", "\x1b[31m", "camera_make", "\\x1b[31m"),
        ("010F", "x" * 1_000, "camera_make", "x" * 200),
        ("0110", " \0", "camera_model", None),
        ("829A", IFDRational(1, 0), "exposure_time", None),
        ("829A", IFDRational(0, 1), "exposure_time", None),
        ("829A", IFDRational(1, 3), "exposure_time", 0.333333),
        ("829A", IFDRational(30, 1), "exposure_time", 30),
        ("8827", (100, 200), "iso", 100),
        ("829D", None, "aperture", None),
    ],
)
def test_a_broken_tag_is_left_out(number: str, value: Any, column: str, expected: Any) -> None:
    columns = dict(read_header(photograph(**{number: value})).columns)
    assert columns.pop(column, None) == expected
    assert columns == {name: each for name, each in CAMERA.items() if name != column}


@pytest.mark.parametrize(
    "gps",
    [
        {1: "N", 2: (33.0, 51.0, 24.84)},  # without a longitude
        {1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)},
        {1: "", 2: (33.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)},
        {1: "N", 2: (33.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)},
        {1: "N", 2: "here", 3: "E", 4: (1.0, 0.0, 0.0)},
        {1: "N", 2: (float("nan"), 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)},
    ],
)
def test_half_a_place_is_none(gps: dict[int, Any]) -> None:
    assert exif_columns({}, gps) == {}


def test_exif_that_is_cut_or_noise_costs_no_image() -> None:
    """Wherever the EXIF block is damaged, the header is read."""
    data = photograph()
    rng = np.random.default_rng(0)
    start, end = data.index(b"Exif"), data.index(b"\xff\xdb")
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(start + 6, end, 12):
            damaged[place] = rng.integers(0, 256)
        columns = read_header(bytes(damaged)).columns
        assert (columns["width"], columns["height"]) in ((40, 30), (30, 40))
        assert columns == storable_metadata(columns)[0]
