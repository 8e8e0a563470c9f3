"""Opening of image files: each by the decoder of its format, with a limit, also if it is damaged.

Nothing here changes Pillow for the process: plugins are opened directly, not through ``Image.open``
with its limit and its registry, and files are repaired instead of setting
``LOAD_TRUNCATED_IMAGES`` or ``MAX_TEXT_CHUNK``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import IO, Any, cast
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from lookalike.errors import ImageError
from lookalike.formatting import format_count
from lookalike.images.formats import FORMATS, Format, install_command
from lookalike.images.intensity import Window, full_range
from lookalike.images.options import (
    DAMAGED,
    FURTHER_BANDS,
    FURTHER_FRAMES,
    FURTHER_PAGES,
    REDUCED_DEPTH,
    TRUNCATED,
    DecodeOptions,
)
from lookalike.images.repair import PARTIAL_FORMATS, ended_jpeg, load_partially, repaired_png
from lookalike.process_state import IgnoreWarnings, MuteLoggers

DRAFT_SIDE = 512
"""JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if both sides keep so many pixels."""

SVG_SIDE = 1024
"""Longer side of a rendered drawing in pixels."""

Reserve = Callable[[int, int, int], None]
"""Called before decoding with width, height and the bytes of memory it takes; may refuse them."""

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
_ALPHA = (1, 2)
"""Values of the TIFF tag ExtraSamples for transparency, premultiplied or not."""

_FULL_RES = 0
_REDUCED, _MASK = 1, 4
_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _ORIENTATION = 254, 258, 262, 274
_SAMPLES, _MIN_SAMPLE, _MAX_SAMPLE, _PLANAR = 277, 280, 281, 284
_SUB_IFDS, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _SMIN, _SMAX = 330, 338, 339, 340, 341
_DNG_VERSION = 50706
_WHITE_IS_ZERO = 0
_UNSIGNED = 1

_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TOO_LARGE = IgnoreWarnings(Image.DecompressionBombWarning)  # limits are checked here
_BAD_METADATA = IgnoreWarnings(UserWarning, module=r"PIL\.")  # metadata is not needed

_RAW_FLIPS = {3: 3, 5: 8, 6: 6}
"""EXIF orientations by LibRaw's flips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raster:
    """A decoded image before its conversion to gray or RGB of 8 bits.

    Args:
        image: of at most 8 bits per channel, in any of Pillow's modes; None if there are
        values: ``(H, W)`` or ``(H, W, 2..4)`` of more than 8 bits; the second or fourth channel is
            transparency.
        window: the values that the file states to be black and white.
        bits: that the values may take, of which transparency is a fraction.
        inverted: the largest value is black.
        has_alpha: whether transparency of ``image`` is meant as such.
        orientation: of EXIF, 1 to 8.
        profile: ICC profile.
        notes: as those of :mod:`lookalike.images.options`.
        pages: pages or frames of the file.
    """

    image: Image.Image | None = None
    values: NDArray[Any] | None = None
    window: Window | None = None
    bits: int = 8
    inverted: bool = False
    has_alpha: bool = True
    orientation: int = 1
    profile: bytes | None = None
    notes: tuple[str, ...] = ()
    pages: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to read of a file.

    ``reserve`` is called once before pixels are decoded. ``page`` counts from 0.
    """

    data: bytes
    kind: Format
    name: str
    options: DecodeOptions
    reserve: Reserve
    page: int = 0
    full_size: bool = False


def read_raster(request: Request) -> Raster:
    """Decode the pixels of a file.

    Raises:
        ImageError: there is no such page, a package is missing, or the file is too large.
        Exception: whatever the decoder raises for a broken file.
    """
    reader = _READERS.get(request.kind.name, _read_with_pillow)
    return reader(request)


@contextlib.contextmanager
def decoder_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError with the name of the image.

    Raises:
        ImageError: instead of any other exception.
    """
    try:
        with _TOO_LARGE, _BAD_METADATA:
            yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"{name}: decoding needs more memory than allowed") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too many pixels ({error})") from None
    except Exception as error:  # a broken file must not end the batch
        detail = str(error) or type(error).__name__
        raise ImageError(f"{name}: broken image ({detail})") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of decoders in Rust
            raise
        raise ImageError(f"{name}: broken image ({error})") from None


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


def open_file(kind: Format, file: IO[bytes]) -> ImageFile.ImageFile:
    """Open a file with Pillow's plugin or pi-heif; no pixels are decoded yet."""
    module, factory = _PLUGINS[kind.name]
    opened = getattr(importlib.import_module(module), factory)(file)
    return cast("ImageFile.ImageFile", opened)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image turned as its EXIF orientation says."""
    method = _TRANSPOSED.get(orientation)
    return image if method is None else image.transpose(method)


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an image; 1 if there is none, or it cannot be read."""
    try:
        exif = Image.Image.getexif(image)  # that of PNG would decode the pixels
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - broken metadata must not cost the image
        return 1
    return orientation if orientation in _TRANSPOSED else 1


def full_pages(image: ImageFile.ImageFile, kind: Format) -> tuple[int, ...]:
    """Return the frames of a file that are pages or frames of an animation.

    Reduced copies and masks within a TIFF are none, and neither are the further pictures that
    phones put into a JPEG or HEIC.
    """
    if kind.name not in ("TIFF", "GIF", "PNG", "WEBP", "AVIF"):
        return (0,)
    try:
        count = int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001 - a file that breaks off in its second page has a first one
        return (0,)
    if count == 1 or kind.name != "TIFF":
        return tuple(range(count))
    pages = []
    for number in range(count):
        image.seek(number)
        if not _tags(image).get(_SUBFILE_TYPE, _FULL_RES) & (_REDUCED | _MASK):
            pages.append(number)
    image.seek(0)
    return tuple(pages) or (0,)


def is_raw_tiff(image: ImageFile.ImageFile) -> bool:
    """Return whether a TIFF is a raw photograph, whose first page is only a thumbnail."""
    tags = _tags(image)
    thumbnail = bool(tags.get(_SUBFILE_TYPE, _FULL_RES) & _REDUCED) and _SUB_IFDS in tags
    return _DNG_VERSION in tags or thumbnail


def _tags(image: Image.Image) -> Mapping[int, Any]:
    return cast("Mapping[int, Any]", getattr(image, "tag_v2", {}))


def select_page(pages: tuple[int, ...], request: Request) -> int:
    """Return the frame of the page that is asked for.

    Raises:
        ImageError: there is none.
    """
    if request.page >= len(pages):
        raise ImageError(
            f"{request.name}: has {format_count(len(pages), 'page')}, counted from 0; there is no "
            f"page {request.page}"
        )
    return pages[request.page]


def _page_notes(kind: Format, pages: int, page: int) -> tuple[str, ...]:
    if pages == 1 or page:
        return ()
    return (FURTHER_PAGES if kind.name == "TIFF" else FURTHER_FRAMES,)


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
            image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))  # type: ignore[arg-type]

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


_LEAST_BYTES = 32
"""A JPEG with less compressed data and only one color is taken to be empty."""

_PNG_END = b"IEND\xaeB`\x82"


def _extrema(image: Image.Image) -> tuple[tuple[float, float], ...]:
    extrema = image.getextrema()
    one_band = len(image.getbands()) == 1
    return cast("tuple[tuple[float, float], ...]", (extrema,) if one_band else extrema)


def _read_with_pillow(request: Request) -> Raster:
    file = _PillowFile(request)
    image = file.start()
    if request.kind.name == "TIFF" and is_raw_tiff(image):
        return _read_raw(replace(request, kind=FORMATS["RAW"]))
    pages = full_pages(image, request.kind)
    number = select_page(pages, request)
    reserve_pixels(request, image)  # before the frames in between are decoded
    if number or len(pages) > 1:
        file.frame = number
        image = file.open()
        reserve_pixels(request, image)
    if _has_deep_planes(image):
        return _read_with_tifffile(request)
    notes = [*_page_notes(request.kind, len(pages), request.page)]
    if _further_bands(image):
        notes.append(FURTHER_BANDS)
    raw_mode = raw_mode_of(image)
    tags = dict(_tags(image))
    if raw_mode.startswith(_DEEP_COLOR):
        raster = _deep_color(file, image, raw_mode)
    else:
        if _drops_bits(image, request.data):
            notes.append(REDUCED_DEPTH)
        loaded = file.load(image)
        raster = deep_gray(loaded) if is_deep(loaded) else Raster(image=loaded)
        image = cast("ImageFile.ImageFile", loaded)
    if raster.values is not None:
        raster = replace(raster, **_sample_meaning(raster.values, tags, request.data))
    return replace(
        raster,
        has_alpha=_means_alpha(tags),
        orientation=orientation_of(image),
        profile=image.info.get("icc_profile"),
        notes=(*file.notes, *notes),
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
    converted = _CONVERSION_BYTES * (pixels if request.full_size else min(pixels, LARGE))
    request.reserve(width, height, len(request.data) + whole + each * pixels + converted)


LARGE = 50_000_000
"""Images of more pixels are reduced by a whole factor once they are decoded."""

_CONVERSION_BYTES = 12
"""Bytes per pixel of the copies in which colors, transparency and orientation are converted."""


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


def _set_raw_mode(image: ImageFile.ImageFile, raw_mode: str) -> None:
    def changed(arguments: Any) -> Any:
        return raw_mode if isinstance(arguments, str) else (raw_mode, *arguments[1:])

    image.tile = [tile._replace(args=changed(tile.args)) for tile in image.tile]
    if raw_mode == "RGBA":
        image._mode = "RGBA"


def _sample_meaning(values: NDArray[Any], tags: Mapping[int, Any], data: bytes) -> dict[str, Any]:
    """Return what a file states of its values: window, bits, and whether white is zero."""
    bits = int(max(_several(tags.get(_BITS, 8 * values.dtype.itemsize))))
    window = tiff_window(tags, bits) if tags else None
    if not tags and values.dtype.kind == "u" and _stated_bits(data) < 16:
        window = full_range(values.astype(np.uint16), 16)  # the decoder has scaled them
    inverted = bool(tags) and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    return {"bits": bits, "window": window, "inverted": inverted}


def tiff_window(tags: Mapping[int, Any], bits: int) -> Window | None:
    """Return the values that a TIFF states to be its smallest and largest.

    These are the tags SMinSampleValue and SMaxSampleValue, or MinSampleValue and MaxSampleValue,
    or all values of BitsPerSample if these are not whole bytes.
    """
    for smallest, largest in ((_SMIN, _SMAX), (_MIN_SAMPLE, _MAX_SAMPLE)):
        if largest in tags:
            low = float(min(_several(tags.get(smallest, 0))))
            high = float(max(_several(tags[largest])))
            if math.isfinite(low) and math.isfinite(high) and low < high:
                return low, high
    return (0.0, 2.0**bits - 1) if 8 < bits < 32 and bits % 8 else None


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list | np.ndarray) else (value,)


def _stated_bits(data: bytes) -> int:
    """Return the bits of the values by the header of a JPEG 2000 or PPM file; 16 for others."""
    if (start := data.find(b"\xff\x4f\xff\x51", 0, _J2K_HEADER)) >= 0:
        precision = data[start + _J2K_PRECISION : start + _J2K_PRECISION + 1]
        return (precision[0] & 0x7F) + 1 if precision else 16
    if FORMATS["PPM"].matches(data):
        lines = [line.partition(b"#")[0] for line in data[:_PPM_HEADER].splitlines()]
        words = b" ".join(lines).split()
        if len(words) > 3 and words[3].isdigit():
            return min(16, int(words[3]).bit_length()) if int(words[3]) < 65535 else 16
    return 16


_J2K_HEADER, _J2K_PRECISION, _PPM_HEADER = 1 << 16, 42, 1024


def _drops_bits(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Return whether Pillow reads a color image of more than 8 bits as one of 8."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return False
    if tags := _tags(image):
        return max(_several(tags.get(_BITS, 1))) > 8
    name = image.format
    if name == "JPEG2000":
        return _stated_bits(data) > 8
    return name == "PPM" and _stated_bits(data) > 8 and image.mode == "RGB" and data[1:2] in b"36"


def _has_deep_planes(image: ImageFile.ImageFile) -> bool:
    """Return whether a TIFF stores bands of more than 8 bits one after another."""
    tags = _tags(image)
    deep = max(_several(tags.get(_BITS, 1))) > 8
    return deep and tags.get(_PLANAR, 1) != 1 and tags.get(_SAMPLES, 1) > 1


def _colors(photometric: int) -> int:
    return {2: 3, 6: 3, 8: 3, 5: 4}.get(photometric, 1)


def _further_bands(image: ImageFile.ImageFile) -> bool:
    """Return whether a TIFF has a band that is neither color nor transparency."""
    tags = _tags(image)
    transparent = any(value in _ALPHA for value in _several(tags.get(_EXTRA_SAMPLES, ())))
    return bool(tags) and tags.get(_SAMPLES, 1) > _colors(tags.get(_PHOTOMETRIC, 1)) + transparent


def _means_alpha(tags: Mapping[int, Any]) -> bool:
    """Return whether a further band means transparency: in a TIFF only if a tag says so."""
    return not tags or any(value in _ALPHA for value in _several(tags.get(_EXTRA_SAMPLES, ())))


def _read_tiff(request: Request) -> Raster:
    try:
        return _read_with_pillow(request)
    except SyntaxError as error:  # of Pillow, for pixels in an order it does not know
        if "unknown" not in str(error):
            raise
    return _read_with_tifffile(request)


def _read_with_tifffile(request: Request) -> Raster:
    """Read a TIFF of many bands, of floats in color, or of more than 8 bits in planes."""
    if find_spec("tifffile") is None:
        raise ImageError(
            f"{request.name}: a TIFF with this number of bands and bits needs tifffile; run: "
            "pip install 'lookalike[tiff]'"
        )
    import tifffile

    with MuteLoggers("tifffile"), tifffile.TiffFile(io.BytesIO(request.data)) as file:
        pages = tuple(
            number
            for number, each in enumerate(file.pages)
            if not each.subfiletype & (_REDUCED | _MASK)
        )
        page = file.pages[select_page(pages or (0,), request)]
        size = page.nbytes * 2 + _CONVERSION_BYTES * page.imagewidth * page.imagelength
        request.reserve(page.imagewidth, page.imagelength, len(request.data) + size)
        values = page.asarray(maxworkers=1)
        tags = {tag.code: tag.value for tag in page.tags}
        axes = page.axes
    if axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    elif axes not in ("YX", "YXS"):
        raise ValueError(f"pixels with the axes {axes}")
    if values.dtype.kind not in "uif":
        raise ValueError(f"pixels of the type {values.dtype}")
    notes = [*_page_notes(request.kind, len(pages), request.page)]
    values, further = _colors_and_alpha(values, tags)
    if further:
        notes.append(FURTHER_BANDS)
    deep = values.dtype != np.uint8
    profile = tags.get(34675)
    return replace(
        Raster(
            image=None if deep else Image.fromarray(values),
            values=values if deep else None,
            orientation=int(tags.get(_ORIENTATION, 1)),
            profile=profile if isinstance(profile, bytes) else None,
            notes=tuple(notes),
            pages=max(1, len(pages)),
        ),
        **(_sample_meaning(values, tags, b"") if deep else {}),
    )


def _colors_and_alpha(values: NDArray[Any], tags: Mapping[int, Any]) -> tuple[NDArray[Any], bool]:
    """Return gray or the first three bands, with transparency, and whether bands are left."""
    if values.ndim == 2:
        return values, False
    bands = values.shape[2]
    extra = _several(tags.get(_EXTRA_SAMPLES, ()))
    alpha = [bands - len(extra) + i for i, value in enumerate(extra) if value in _ALPHA][:1]
    opaque = [band for band in range(bands) if band not in alpha]
    colors = opaque[:3] if len(opaque) >= 3 else opaque[:1]
    chosen = values[:, :, colors + alpha]
    further = len(colors) + len(alpha) < bands
    return np.ascontiguousarray(chosen[:, :, 0] if chosen.shape[2] == 1 else chosen), further


def _read_raw(request: Request) -> Raster:
    """Read the preview that the camera has put into a raw photograph, or else develop it."""
    if not request.kind.is_readable:
        raise ImageError(needs_package(request.kind, request.name))
    import rawpy

    with rawpy.imread(io.BytesIO(request.data)) as raw:
        sizes = raw.sizes
        preview = _preview(raw)
        if preview is None:
            width, height = sizes.width, sizes.height
            request.reserve(width, height, _RAW_BYTES * width * height)
            return Raster(image=Image.fromarray(raw.postprocess(use_camera_wb=True)))
    raster = read_raster(replace(request, kind=FORMATS["JPEG"], data=preview))
    if raster.orientation == 1:
        return replace(raster, orientation=_RAW_FLIPS.get(sizes.flip, 1))
    return raster


_RAW_BYTES = 24


def _preview(raw: Any) -> bytes | None:
    """Return the JPEG in a raw photograph; None if there is none, or it is only a thumbnail."""
    import rawpy

    try:
        preview = raw.extract_thumb()
    except rawpy.LibRawError:
        return None
    if preview.format != rawpy.ThumbFormat.JPEG:
        return None
    image = open_file(FORMATS["JPEG"], io.BytesIO(preview.data))
    return preview.data if max(image.size) >= DRAFT_SIDE else None


def _read_jxl(request: Request) -> Raster:
    import pyjpegxl

    header = pyjpegxl.probe(request.data)
    channels = header.num_color_channels + header.has_alpha
    each = channels * max(1, header.bits_per_sample // 8) + _DECODER_BYTES["AVIF"]
    pixels = header.width * header.height
    size = len(request.data) + (each + _CONVERSION_BYTES) * pixels
    request.reserve(header.width, header.height, size)
    header, values = pyjpegxl.decode_to_numpy(request.data)
    values = values[:, :, 0] if values.shape[2] == 1 else values
    if values.dtype == np.uint8:
        return Raster(image=Image.fromarray(values), profile=header.icc)
    bits = header.bits_per_sample
    scaled = values.dtype.kind == "u" and bits < 16
    window = full_range(values, 16) if scaled else None
    return Raster(values=values, window=window, bits=16 if scaled else bits, profile=header.icc)


def _read_svg(request: Request) -> Raster:
    import resvg_py

    text = request.data.decode("utf-8", "replace")
    plain = "<text" not in text  # loading the system's fonts takes half a second
    width, height = svg_size(request.data)
    request.reserve(width, height, _CONVERSION_BYTES * 2 * width * height)
    rendered = resvg_py.svg_to_bytes(
        svg_string=text, width=width, height=height, skip_system_fonts=plain
    )
    return read_raster(replace(request, kind=FORMATS["PNG"], data=bytes(rendered)))


def svg_size(data: bytes) -> tuple[int, int]:
    """Return the width and height at which a drawing is rendered: 1,024 pixels, the longer one.

    Raises:
        ValueError: it is not an SVG drawing.
    """
    root = next((element for _, element in ElementTree.iterparse(io.BytesIO(data), ("start",))))
    if not root.tag.endswith("svg"):
        raise ValueError(f"its root is {root.tag}, not svg")
    box = [float(number) for number in re.findall(r"[-+.\deE]+", root.get("viewBox", ""))]
    sides = [_NUMBER.match(root.get(name, "")) for name in ("width", "height")]
    if len(box) == 4:
        width, height = box[2:]
    elif sides[0] and sides[1]:
        width, height = float(sides[0][0]), float(sides[1][0])
    else:
        width = height = 1.0
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ValueError("the drawing has no size")
    scale = SVG_SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")

_READERS: Mapping[str, Callable[[Request], Raster]] = {
    "TIFF": _read_tiff,
    "RAW": _read_raw,
    "JXL": _read_jxl,
    "SVG": _read_svg,
}


def needs_package(kind: Format, name: str) -> str:
    """Return the message for a file whose format needs a package that is not installed."""
    return f"{name}: reading {kind.name} needs {kind.package}; run: {install_command(kind)}"
