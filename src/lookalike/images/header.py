"""What the header of an image file says: size, format, pages, quality, EXIF; without pixels."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from PIL import ExifTags, Image, ImageFile

from lookalike.errors import ImageError
from lookalike.files import check_regular
from lookalike.images.exif import Value, capture_date, exif_columns
from lookalike.images.formats import FORMATS, HEADER_BYTES, Format, detect_format
from lookalike.images.memory import BUDGET, COUNTED_BYTES
from lookalike.images.other_formats import svg_size
from lookalike.images.pillow import full_pages, open_file, opened_despite_errors, orientation_of
from lookalike.images.raster import RefusedError, check_readable, decoder_errors
from lookalike.images.tiff import (
    is_raw,
    is_unknown_order,
    open_tifffile,
    tiff_pages,
)

_LOSSLESS = frozenset(("PNG", "GIF", "BMP", "DIB", "ICO", "PPM", "PCX", "TGA", "RAW", "SVG"))
_LOSSY_TIFF = frozenset(("jpeg", "tiff_jpeg", "webp"))
_TURNED = (5, 6, 7, 8)
_MARKS = frozenset((0x9003, 0x9004, 0x0132, 0x010F))
"""EXIF tags of dates and of the maker: a TIFF that has one has more than its own tags."""

_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
"""Table K.1 of the JPEG standard, which libjpeg scales by the quality."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header of an image file says.

    Args:
        width: in pixels, upright.
        height: in pixels, upright.
        format: name in :data:`lookalike.images.formats.FORMATS`.
        pages: pages of a TIFF or frames of an animation.
        lossless: whether its compression loses nothing; False where the header does not say.
        jpeg_quality: 1 to 100, estimated from the quantization tables; None for other formats.
        has_exif: whether it has EXIF data.
        captured_at: when the photograph was taken, by the camera's clock, without a time zone.
        columns: what EXIF says of the photograph, by column: some of
            :data:`lookalike.images.exif.EXIF_COLUMNS` and ``GPS_COLUMNS``, always the size.
    """

    width: int
    height: int
    format: str
    pages: int
    lossless: bool
    jpeg_quality: int | None
    has_exif: bool
    captured_at: datetime | None
    columns: Mapping[str, Value] = field(default_factory=dict)


def read_header(image: str | Path | bytes, *, name: str | None = None) -> ImageHeader:
    """Read the header of an image file. No pixels are decoded.

    Args:
        image: a path, or the bytes of a file.
        name: of the image in error messages; default the path.

    Raises:
        ImageError: not an image, broken, or in a format that is not read here.
    """
    if isinstance(image, bytes):
        return _read(io.BytesIO(image), name or "image bytes")
    name = name or str(image)
    try:
        check_regular(image)
        with Path(image).open("rb") as file:
            return _read(file, name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{name}: cannot be read ({reason})") from error


def _read(file: IO[bytes], name: str) -> ImageHeader:
    kind = detect_format(file.read(HEADER_BYTES), name)
    file.seek(0)
    if kind is None:
        raise ImageError(f"{name}: unsupported image format")
    with decoder_errors(name):
        check_readable(kind)
        header = _READERS.get(kind.name, _with_pillow)(file, kind)
        size = {"width": header.width, "height": header.height}
        return replace(header, columns={**header.columns, **size})


def _with_pillow(file: IO[bytes], kind: Format) -> ImageHeader:
    image = opened_despite_errors(kind, file)
    tags, gps = _exif(image)
    width, height = image.size
    if kind.name != "TIFF" and orientation_of(image) in _TURNED:  # TIFFs tell the upright size
        width, height = height, width
    return ImageHeader(
        width=width,
        height=height,
        format=kind.name,
        pages=len(full_pages(image, kind, file)),
        lossless=_is_lossless(image, kind, file),
        jpeg_quality=_jpeg_quality(image) if kind.name == "JPEG" else None,
        has_exif=(bool(tags) and kind.name != "TIFF") or bool(tags.keys() & _MARKS),
        captured_at=capture_date(tags),
        columns=exif_columns(tags, gps),
    )


def _of_tiff(file: IO[bytes], kind: Format) -> ImageHeader:
    if is_raw(file):
        return _of_raw(file, FORMATS["RAW"])
    try:
        return _with_pillow(file, kind)
    except SyntaxError as error:
        if not is_unknown_order(error):
            raise
        file.seek(0)
        return _with_tifffile(file, kind)


def _with_tifffile(file: IO[bytes], kind: Format) -> ImageHeader:
    with open_tifffile(file) as opened:
        pages = tiff_pages(file)
        page = opened.pages[pages[0]]
        tags = {tag.code: tag.value for tag in page.tags}
        width, height = page.imagewidth, page.imagelength
        lossless = page.compression.name not in ("JPEG", "OJPEG", "WEBP")
    if tags.get(ExifTags.Base.Orientation) in _TURNED:
        width, height = height, width
    texts = {tag: value for tag, value in tags.items() if isinstance(value, str)}
    date, columns = capture_date(tags), exif_columns(texts, {})  # its fractions are pairs
    count, has_exif = len(pages), date is not None
    return ImageHeader(width, height, kind.name, count, lossless, None, has_exif, date, columns)


_Tags = Mapping[int, Any]


def _exif(image: Image.Image) -> tuple[_Tags, _Tags]:
    """Return the EXIF tags of an image, and those of its GPS directory.

    They are empty if it has none, or they cannot be read.
    """
    try:
        return _directories(Image.Image.getexif(image))  # that of PNG would decode the pixels
    except Exception:  # noqa: BLE001 - broken metadata must not cost the image
        return {}, {}


def _directories(exif: Image.Exif) -> tuple[_Tags, _Tags]:
    gps: _Tags = {}
    with contextlib.suppress(Exception):  # a broken place must not cost the rest
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    return {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}, gps


def _is_lossless(image: ImageFile.ImageFile, kind: Format, file: IO[bytes]) -> bool:
    if kind.name == "TIFF":
        return image.info.get("compression") not in _LOSSY_TIFF
    if kind.name in ("WEBP", "JPEG2000"):
        file.seek(0)
        data = file.read(1 << 16)
        if kind.name == "WEBP":
            return b"VP8L" in data and b"VP8 " not in data
        start = data.find(b"\xff\x52", max(0, data.find(b"\xff\x4f\xff\x51")))
        return start >= 0 and data[start + _TRANSFORM : start + _TRANSFORM + 1] == b"\1"
    return kind.name in _LOSSLESS


_TRANSFORM = 13
"""Where the COD segment of JPEG 2000 states the wavelet; 1 is the reversible one."""


def _jpeg_quality(image: Image.Image) -> int | None:
    """Return the quality whose table in libjpeg is nearest to that of a JPEG, by its sum."""
    tables: Mapping[int, Sequence[int]] = getattr(image, "quantization", {})
    table = tables.get(0)
    if not table or len(table) != len(_LUMINANCE):
        return None
    total = sum(table)
    return min(range(100, 0, -1), key=lambda quality: abs(_TABLE_SUMS[quality] - total))


def _table_sum(quality: int) -> int:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return sum(min(255, max(1, (value * scale + 50) // 100)) for value in _LUMINANCE)


_TABLE_SUMS = {quality: _table_sum(quality) for quality in range(1, 101)}


def _of_raw(file: IO[bytes], kind: Format) -> ImageHeader:
    check_readable(kind)
    import rawpy

    with rawpy.imread(cast("BinaryIO", file)) as raw:
        width, height = raw.sizes.width, raw.sizes.height
        if raw.sizes.flip in _TURNED:
            width, height = height, width
    tags: _Tags = {}
    gps: _Tags = {}
    with contextlib.suppress(Exception):  # only some raw formats are a kind of TIFF
        file.seek(0)
        tags, gps = _exif(open_file(FORMATS["TIFF"], file))
    date, columns = capture_date(tags), exif_columns(tags, gps)
    return ImageHeader(width, height, kind.name, 1, True, None, True, date, columns)


def _of_jxl(file: IO[bytes], kind: Format) -> ImageHeader:
    import pyjpegxl

    header = pyjpegxl.probe(_read_all(file))
    exif = Image.Exif()
    if header.exif:
        exif.load(header.exif)
    tags, gps = _directories(exif)
    size, date, columns = (header.width, header.height), capture_date(tags), exif_columns(tags, gps)
    return ImageHeader(*size, kind.name, 1, False, None, bool(tags), date, columns)


def _read_all(file: IO[bytes]) -> bytes:
    """Return the bytes of a file.

    Raises:
        RefusedError: it does not fit into memory.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size >= COUNTED_BYTES and size > BUDGET.limit():
        raise RefusedError(f"the file has {size / 1e9:.1f} GB, more than fits into memory")
    return file.read()


def _of_svg(file: IO[bytes], kind: Format) -> ImageHeader:
    width, height = svg_size(_read_all(file))
    return ImageHeader(width, height, kind.name, 1, True, None, False, None)


_READERS: Mapping[str, Callable[[IO[bytes], Format], ImageHeader]] = {
    "TIFF": _of_tiff,
    "RAW": _of_raw,
    "JXL": _of_jxl,
    "SVG": _of_svg,
}
