"""Decoding of files by Pillow, or by pi-heif as images of Pillow.

Nothing here changes Pillow for the process: plugins are opened directly, not through ``Image.open``
with its limit and its registry, and files are repaired instead of setting
``LOAD_TRUNCATED_IMAGES`` or ``MAX_TEXT_CHUNK``.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import IO, Any, cast

import numpy as np
from PIL import ExifTags, Image, ImageFile

from lookalike.images.formats import FORMATS, Format
from lookalike.images.intensity import full_range
from lookalike.images.options import DAMAGED, FURTHER_BANDS, REDUCED_DEPTH, TRUNCATED
from lookalike.images.raster import (
    CONVERSION_BYTES,
    LARGE,
    ORIENTATIONS,
    Raster,
    Request,
    page_notes,
    select_page,
)
from lookalike.images.repair import PARTIAL_FORMATS, ended_jpeg, load_partially, repaired_png
from lookalike.images.tiff import (
    Tags,
    has_deep_planes,
    has_further_bands,
    means_alpha,
    tag_bits,
    tags_of,
    tiff_pages,
    with_tags,
)

DRAFT_SIDE = 512
"""JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if both sides keep so many pixels."""

_PLUGINS: Mapping[str, tuple[str, str]] = {
    "JPEG": ("PIL.JpegImagePlugin", "jpeg_factory"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "DIB": ("PIL.BmpImagePlugin", "DibImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "JPEG2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "ICO": ("PIL.IcoImagePlugin", "IcoImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "PCX": ("PIL.PcxImagePlugin", "PcxImageFile"),
    "TGA": ("PIL.TgaImagePlugin", "TgaImageFile"),
    "HEIF": ("pi_heif", "HeifImageFile"),
}

_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1}
_DECODER_BYTES = {"WEBP": 8, "AVIF": 8, "HEIF": 8, "JPEG2000": 16}
"""Bytes per pixel that decoders hold beside the image."""

_SWAPPED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_DEEP_COLOR = ("RGB;16", "RGBA;16", "RGBX;16", "LA;16")

_LEAST_BYTES = 32
"""A JPEG with less compressed data and only one color is taken to be empty."""

_MAX_RATIO, _MAX_RATIO_OF_BITS = 10_000, 1_000_000
"""Pixels per byte above which a damaged file holds nearly nothing of its image; the compression of
fax machines takes half a million of black and white ones in a byte."""

_PARTIAL_BYTES = 6
"""Memory of a value of an image that is decoded as far as it goes."""

_PNG_END = b"IEND\xaeB`\x82"
_MAX_16_BITS = 65535
_J2K_HEADER, _J2K_PRECISION, _PPM_HEADER = 1 << 16, 42, 1024


def open_file(kind: Format, file: IO[bytes]) -> ImageFile.ImageFile:
    """Open a file with Pillow's plugin or pi-heif; no pixels are decoded yet."""
    module, factory = _PLUGINS[kind.name]
    opened = cast("ImageFile.ImageFile", getattr(importlib.import_module(module), factory)(file))
    if kind.name == "TIFF":  # whose size Pillow would check again: limits are checked by us
        opened.load_prepare = partial(_prepare_tiff, opened)  # type: ignore[method-assign]
    return opened


def _prepare_tiff(image: Any) -> None:
    """Make the memory of a TIFF as Pillow does, whatever its size."""
    if image._im is None:
        image.im = Image.new(image.mode, image._tile_size).im
    ImageFile.ImageFile.load_prepare(image)


def opened_despite_errors(kind: Format, file: IO[bytes]) -> ImageFile.ImageFile:
    """Open a file like :func:`open_file`, repaired if its header is damaged."""
    try:
        return open_file(kind, file)
    except Exception:
        if kind.name != "PNG":
            raise
        file.seek(0)
        repaired, _, _ = repaired_png(file.read())
        return open_file(kind, io.BytesIO(repaired))


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an image; 1 if there is none, or it cannot be read."""
    try:
        exif = Image.Image.getexif(image)  # that of PNG would decode the pixels
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - broken metadata must not cost the image
        return 1
    return orientation if orientation in ORIENTATIONS else 1


def full_pages(image: ImageFile.ImageFile, kind: Format, file: IO[bytes]) -> tuple[int, ...]:
    """Return the frames of a file that are pages or frames of an animation.

    Reduced copies and masks within a TIFF are none, and neither are the further pictures that
    phones put into a JPEG or HEIC.
    """
    if kind.name == "TIFF":
        return tiff_pages(file)
    if kind.name not in ("GIF", "PNG", "WEBP", "AVIF"):
        return (0,)
    try:
        return tuple(range(int(getattr(image, "n_frames", 1))))
    except Exception:  # noqa: BLE001 - a file that breaks off in its second frame has a first one
        return (0,)


class _PillowFile:
    """Decoding of one file by Pillow, or by pi-heif as an image of Pillow."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.kind = request.kind
        self.data = request.data
        self.frame = 0
        self.notes: list[str] = []
        self._profile: bytes | None = None

    def start(self) -> ImageFile.ImageFile:
        """Open the file at its first page, repaired if its header is damaged."""
        try:
            return self._open()
        except Exception:
            if self.kind.name != "PNG" or not self._repair_png():
                raise
            return self._open()

    def open(self) -> ImageFile.ImageFile:
        """Open the file anew, at the page to read."""
        image = self._open()
        if self.frame:
            image.seek(self.frame)
        return image

    def load(
        self,
        image: ImageFile.ImageFile,
        change: Callable[[ImageFile.ImageFile], None] = lambda _: None,
    ) -> Image.Image:
        """Decode the pixels of the opened file, as far as they go unless that is refused.

        ``change`` is called with the image before it is decoded.
        """

        def reopened() -> ImageFile.ImageFile:
            image = self.open()
            self.draft(image)
            change(image)
            return image

        try:
            self.draft(image)
            change(image)
            image.load()
        except Exception:
            salvaged = self._salvaged(reopened)
            if salvaged is None:
                raise
            return salvaged
        return image

    def draft(self, image: ImageFile.ImageFile) -> None:
        """Have a large JPEG decoded at a reduced size, unless the full size is asked for."""
        if not self.request.full_size:
            image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))

    def _open(self) -> ImageFile.ImageFile:
        image = open_file(self.kind, io.BytesIO(self.data))
        if self._profile is not None:
            image.info["icc_profile"] = self._profile
        return image

    def _salvaged(self, opened: Callable[[], ImageFile.ImageFile]) -> Image.Image | None:
        if self.kind.name == "PNG" and self._repair_png():
            try:
                image = opened()
                image.load()
            except Exception:  # noqa: BLE001 - next, as far as it goes
                pass
            else:
                return image
        if self.request.options.strict:
            return None
        try:
            salvaged = self._partial(opened)
        except Exception:  # noqa: BLE001 - the first error says what is wrong
            return None
        if not {TRUNCATED, DAMAGED} & set(self.notes):
            self.notes.append(TRUNCATED)
        return salvaged

    def _partial(self, opened: Callable[[], ImageFile.ImageFile]) -> Image.Image:
        if self.kind.name != "JPEG":
            if self.kind.name not in PARTIAL_FORMATS:
                raise ValueError("its decoder needs the whole file")
            image = opened()
            pixels = image.width * image.height
            ratio = _MAX_RATIO_OF_BITS if image.mode == "1" else _MAX_RATIO
            if pixels > ratio * len(self.data):
                raise ValueError("nearly nothing of it is there")
            size = _PARTIAL_BYTES * pixels * len(image.getbands())
            self.request.reserve(image.width, image.height, size)
            return load_partially(opened)
        ended = ended_jpeg(self.data)
        if ended is None:
            raise ValueError("it ends before its pixels")
        self.data, pixel_bytes = ended
        image = opened()
        image.load()
        if pixel_bytes < _LEAST_BYTES and all(low == high for low, high in _extrema(image)):
            raise ValueError("nothing of it can be decoded")
        return image

    def _repair_png(self) -> bool:
        """Replace the file by a repaired one; return whether that may help."""
        data, profile, damaged = repaired_png(self.data)
        if data == self.data or (damaged and self.request.options.strict):
            return False
        if damaged:
            self.notes.append(DAMAGED if data.endswith(_PNG_END) else TRUNCATED)
        self.data, self._profile = data, profile
        return True


def _extrema(image: Image.Image) -> tuple[tuple[float, float], ...]:
    extrema = image.getextrema()
    one_band = len(image.getbands()) == 1
    return cast("tuple[tuple[float, float], ...]", (extrema,) if one_band else extrema)


def read_with_pillow(request: Request) -> Raster:
    """Decode a file, as far as it goes unless that is refused.

    Raises:
        RefusedError: there is no such page.
        ImageError: it is too large.
        Exception: whatever Pillow raises for a broken file.
    """
    file = _PillowFile(request)
    image = file.start()
    pages = full_pages(image, request.kind, io.BytesIO(file.data))
    number = select_page(pages, request)
    reserve_pixels(request, image)  # before the frames in between are decoded
    if number or getattr(image, "is_animated", False) or request.kind.name == "GIF":
        # Counting has moved it, maybe to a page that is broken.
        file.frame = number
        image = file.open()
        reserve_pixels(request, image)
    notes = [*page_notes(request.kind, len(pages), request.page)]
    if has_further_bands(tags_of(image)):
        notes.append(FURTHER_BANDS)
    raw_mode = raw_mode_of(image)
    tags = dict(tags_of(image))
    if raw_mode.startswith(_DEEP_COLOR) and not has_deep_planes(tags):
        raster = _deep_color(file, image, raw_mode)
    elif request.data.startswith(b"P6") and _drops_bits(image, request.data):
        raster = _deep_ppm(request, image)
    else:
        if _drops_bits(image, request.data):
            notes.append(REDUCED_DEPTH)
        loaded = file.load(image)
        raster = deep_gray(loaded) if is_deep(loaded) else Raster(image=loaded)
        image = cast("ImageFile.ImageFile", loaded)
    if raster.values is not None:
        raster = _with_meaning(raster, tags, request.data)
    return replace(
        raster,
        has_alpha=means_alpha(tags),
        orientation=orientation_of(image),
        profile=image.info.get("icc_profile"),
        notes=(*raster.notes, *file.notes, *notes),
        pages=len(pages),
    )


def reserve_pixels(request: Request, image: ImageFile.ImageFile) -> None:
    """Reserve the memory that decoding a file takes at most."""
    width, height = image.size
    scale = 1
    if request.kind.name == "JPEG" and not request.full_size:
        while scale < 8 and min(width, height) >= DRAFT_SIDE * scale * 2:
            scale *= 2
    pixels = -(-width // scale) * -(-height // scale)
    channels = len(image.getbands())
    deep = raw_mode_of(image).startswith(_DEEP_COLOR)
    each = _PIXEL_BYTES.get(image.mode, 4) * (1 + 5 * deep) + _DECODER_BYTES.get(
        request.kind.name, 0
    )
    whole = 2 * channels * width * height if "progressive" in image.info else 0
    converted = CONVERSION_BYTES * (pixels if request.full_size else min(pixels, LARGE))
    request.reserve(width, height, len(request.data) + whole + each * pixels + converted)


def is_deep(image: Image.Image) -> bool:
    """Return whether the values of a gray image have more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def raw_mode_of(image: Image.Image) -> str:
    """Return how the file stores its pixels, in Pillow's words; empty if that is not known."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple | list) and arguments else arguments
    return first if isinstance(first, str) else ""


def deep_gray(image: Image.Image) -> Raster:
    """Return the values of a gray image of more than 8 bits."""
    values = np.asarray(image)
    if image.mode == "I" and values.min(initial=0) >= 0:
        values = values.view(np.uint32)
    bits = 16 if image.mode.startswith("I;16") else 32
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and bits == 16:
        values = np.dstack([values, np.where(values == transparent, 0, 65535).astype(np.uint16)])
    return Raster(values=values, bits=bits)


def _deep_color(file: _PillowFile, image: ImageFile.ImageFile, raw_mode: str) -> Raster:
    """Decode a color image of 16 bits, of which Pillow reads one byte at a time."""
    if raw_mode.startswith("LA;16"):  # two values of two bytes are read as four of one
        loaded = file.load(image, lambda each: _set_raw_mode(each, "RGBA"))
        pairs = np.asarray(loaded).astype(np.uint16)
        return Raster(values=pairs[:, :, ::2] << 8 | pairs[:, :, 1::2], bits=16)
    transparent = image.info.get("transparency")
    high = np.asarray(file.load(image)).astype(np.uint16) << 8
    swapped = raw_mode[:-1] + _SWAPPED[raw_mode[-1]]
    low = np.asarray(file.load(file.open(), lambda each: _set_raw_mode(each, swapped)))
    values = high | low
    if isinstance(transparent, tuple) and values.shape[2] == 3:
        clear = (values == np.asarray(transparent)).all(axis=2)
        values = np.dstack([values, np.where(clear, 0, 65535).astype(np.uint16)])
    return Raster(values=values, bits=16)


def _deep_ppm(request: Request, image: ImageFile.ImageFile) -> Raster:
    """Decode a binary color PPM of more than 8 bits; what is cut off is black."""
    values = np.zeros((image.height, image.width, 3), np.uint16)
    start = image.tile[0].offset
    data = request.data[start : start + values.nbytes]
    stored = np.frombuffer(data[: len(data) // 2 * 2], ">u2")
    if not stored.size or (stored.size < values.size and request.options.strict):
        raise ValueError("image file is truncated")
    values.flat[: stored.size] = stored
    largest = _ppm_maximum(request.data)
    window = None if largest == _MAX_16_BITS else (0.0, float(largest))
    notes = (TRUNCATED,) if stored.size < values.size else ()
    return Raster(values=values, bits=16, window=window, notes=notes)


def _set_raw_mode(image: ImageFile.ImageFile, raw_mode: str) -> None:
    def changed(arguments: Any) -> Any:
        return raw_mode if isinstance(arguments, str) else (raw_mode, *arguments[1:])

    image.tile = [tile._replace(args=changed(tile.args)) for tile in image.tile]
    if raw_mode == "RGBA":
        image._mode = "RGBA"


def _with_meaning(raster: Raster, tags: Tags, data: bytes) -> Raster:
    """Return values with what their file states of them: window, bits, and whether white is 0."""
    values = raster.values
    assert values is not None
    if tags:
        return with_tags(raster, tags)
    if (
        raster.window is None and values.dtype.kind == "u" and _stated_bits(data) < 16
    ):  # the decoder has scaled them
        return replace(raster, window=full_range(values.astype(np.uint16), 16), bits=16)
    return raster


def _stated_bits(data: bytes) -> int:
    """Return the bits of the values by the header of a JPEG 2000 or PPM file; 16 for others."""
    if (start := data.find(b"\xff\x4f\xff\x51", 0, _J2K_HEADER)) >= 0:
        precision = data[start + _J2K_PRECISION : start + _J2K_PRECISION + 1]
        return (precision[0] & 0x7F) + 1 if precision else 16
    largest = _ppm_maximum(data) if FORMATS["PPM"].matches(data) else _MAX_16_BITS
    return 16 if largest == _MAX_16_BITS else min(15, largest.bit_length())


def _ppm_maximum(data: bytes) -> int:
    """Return the largest value that a PGM or PPM file states; 65,535 for other kinds."""
    lines = [line.partition(b"#")[0] for line in data[:_PPM_HEADER].splitlines()]
    words = b" ".join(lines).split()
    stated = data[1:2] in b"2356" and len(words) > 3 and words[3].isdigit()
    return int(words[3]) if stated else _MAX_16_BITS


def _drops_bits(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Return whether Pillow reads a color image of more than 8 bits as one of 8."""
    if is_deep(image):
        return False
    if tags := tags_of(image):
        return tag_bits(tags) > 8
    return image.format in ("JPEG2000", "PPM") and image.mode != "1" and _stated_bits(data) > 8
