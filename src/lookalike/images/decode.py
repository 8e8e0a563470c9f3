"""Decoding of image files, bytes, PIL images and arrays; no other module opens image files.

Indexed images and queries are decoded alike: the first frame, with the EXIF orientation applied;
colors converted to sRGB by the embedded ICC profile, CMYK without one as Pillow does; transparency
over white; 16 bits truncated to 8. Large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, of at
least 512 pixels a side.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from lookalike.config import OPTIONAL_FORMATS, settings
from lookalike.errors import ImageError
from lookalike.process_state import IgnoreWarnings
from lookalike.types import ImageArray

MAX_PIXELS = 50_000_000
_DRAFT_SIDE = 512
_TRANSPARENCY_COLOR = "white"

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
_ALWAYS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")

_FORMATS: Mapping[str, tuple[str, str, Callable[[bytes], bool]]] = {
    "JPEG": (".jpg", "image/jpeg", lambda d: d.startswith(b"\xff\xd8\xff")),
    "PNG": (".png", "image/png", lambda d: d.startswith(b"\x89PNG\r\n")),
    "WEBP": (".webp", "image/webp", lambda d: d[:4] == b"RIFF" and d[8:12] == b"WEBP"),
    "GIF": (".gif", "image/gif", lambda d: d.startswith(b"GIF8")),
    "BMP": (".bmp", "image/bmp", lambda d: d.startswith(b"BM")),
    "TIFF": (".tif", "image/tiff", lambda d: d[:4] in _TIFF),
    "AVIF": (".avif", "image/avif", lambda d: d[4:8] == b"ftyp" and d[8:12] in _AVIF),
    "HEIF": (".heic", "image/heic", lambda d: d[4:8] == b"ftyp" and d[8:12] in _HEIC),
}
"""Suffix, media type and test of the first 16 bytes, by Pillow's name of the format."""

@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """How images are decoded.

    Args:
        max_megapixels: largest image; ``math.inf``: any. By default, images are refused that would
            need more memory than the machine can spare.
        strict: refuse truncated and damaged files, instead of decoding them as far as they go.
        window: the values shown as black and as white, for images of more than 8 bits; by default
            as the file states, or by percentiles of each image.
        formats: names of the formats to read; default all that can be read here.
    """

    max_megapixels: float | None = None
    strict: bool = False
    window: tuple[float, float] | None = None
    formats: tuple[str, ...] | None = None


DEFAULT_OPTIONS = DecodeOptions()


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image ``(H, W)`` or ``(H, W, 3)`` uint8, and what is not as usual with it.

    ``notes`` are short and countable, such as :data:`TRUNCATED`; ``pages`` counts the pages or
    frames of its file.
    """

    pixels: ImageArray
    notes: tuple[str, ...] = ()
    pages: int = 1


TRUNCATED = "truncated"

ImageInput = str | Path | bytes | Image.Image | ImageArray
"""What :func:`decode` accepts; a ``str`` is always a path."""

_BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, OverflowError)
"""Exceptions that Pillow's decoders raise for broken files."""

_TOO_LARGE = IgnoreWarnings(Image.DecompressionBombWarning)  # larger images are refused below
_BAD_METADATA = IgnoreWarnings(UserWarning, module=r"PIL\.")  # metadata is not needed


def supported_formats() -> tuple[str, ...]:
    """Return the supported formats, by Pillow's names.

    Five always; TIFF and AVIF if ``LOOKALIKE_FORMATS`` names them; HEIF if pi-heif is installed.

    Raises:
        SettingError: ``LOOKALIKE_FORMATS`` names another format.
    """
    heif = ("HEIF",) if _has_heif() else ()
    return (*_ALWAYS, *settings().formats, *heif)


def supported_suffixes() -> frozenset[str]:
    """Return the file suffixes of the supported formats, in lower case."""
    return frozenset(suffix for name in supported_formats() for suffix in _SUFFIXES[name])


def has_image_signature(header: bytes) -> bool:
    """Return whether a file's first 16 bytes have the signature of a common image format."""
    return any(_FORMATS[name][2](header) for name in _ALWAYS)


def media_type(data: bytes) -> str | None:
    """Return the media type of a file in a supported format, by its first bytes."""
    for name, (_, media, matches) in _FORMATS.items():
        if name in supported_formats() and matches(data[:16]):
            return media
    return None


def file_suffix(data: bytes) -> str:
    """Return the suffix of a file in a supported format, by its first bytes; else empty."""
    detected = media_type(data)
    return next((suffix for suffix, media, _ in _FORMATS.values() if media == detected), "")


def decode_with_notes(
    image: ImageInput,
    *,
    name: str | None = None,
    full_size: bool = False,
    options: DecodeOptions = DEFAULT_OPTIONS,
    page: int = 0,
) -> DecodedImage:
    """Like :func:`decode`, with notes."""
    return DecodedImage(
        decode(image, name=name, full_size=full_size, options=options, page=page)
    )


def decode(
    image: ImageInput,
    *,
    name: str | None = None,
    full_size: bool = False,
    options: DecodeOptions = DEFAULT_OPTIONS,
    page: int = 0,
) -> ImageArray:
    """Decode one image to ``(H, W)`` gray or ``(H, W, 3)`` RGB uint8, EXIF orientation applied.

    Args:
        image: a path, the bytes of a file, a PIL image, or an array ``(H, W)`` or ``(H, W, 3)``
            uint8.
        name: of the image in error messages; default the path.
        full_size: decode large JPEGs at full resolution too.

    Raises:
        ImageError: not an image, broken, empty, in an unsupported format, or larger than 50
            megapixels.
    """
    if isinstance(image, np.ndarray):
        return _checked(image, name or "image array")
    if isinstance(image, Image.Image):
        return _to_array(image, name or "PIL image", full_size=full_size)
    if isinstance(image, bytes):
        name = name or "image bytes"
        file = io.BytesIO(image)
    else:
        path = Path(image)
        name = name or str(path)
        try:
            file = io.BytesIO(path.read_bytes())
        except IsADirectoryError:
            raise ImageError(f"{name}: is a folder, not an image file") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise ImageError(f"{name}: cannot be read ({reason})") from error
    try:
        with _TOO_LARGE, _BAD_METADATA, _open(file) as pil_image:
            return _to_array(pil_image, name, full_size=full_size)
    except UnidentifiedImageError:
        raise ImageError(_unsupported(name, file.getvalue())) from None
    except (Image.DecompressionBombError, *_BROKEN) as error:
        raise ImageError(f"{name}: broken image ({error})") from error


def content_hash(data: bytes | ImageArray) -> str:
    """Return the SHA-256 of a file's bytes, or of an array's shape and pixels, as hexadecimal."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256(repr(data.shape).encode())
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()


def resize_image(
    image: ImageArray,
    height: int,
    width: int,
    *,
    filter: str = "bilinear",  # noqa: A002 - the field's word
    crop: float | None = None,
) -> ImageArray:
    """Stretch to ``height`` x ``width`` with an antialiased filter.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)`` uint8.
        height: in pixels.
        width: in pixels.
        filter: a key of :data:`FILTERS`.
        crop: first take the center crop of this share of the shorter side.
    """
    if image.shape[:2] == (height, width) and crop in (None, 1):
        return image
    box = None if crop is None else _center_crop(image.shape[:2], height / width, crop)
    return np.asarray(Image.fromarray(image).resize((width, height), FILTERS[filter], box))


def _center_crop(
    shape: tuple[int, ...], aspect: float, share: float
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the largest centered crop, scaled by ``share``.

    ``aspect`` is its height by its width.
    """
    rows, columns = shape
    height = min(rows, columns * aspect) * share
    width = height / aspect
    left, top = (columns - width) / 2, (rows - height) / 2
    return left, top, left + width, top + height


def pad_image(image: ImageArray, aspect: float, fill: str) -> ImageArray:
    """Pad an image equally on both sides until its height is ``aspect`` times its width.

    ``fill`` is ``white``, or ``border`` for the median color of the image's border.
    """
    height, width = image.shape[:2]
    rows, columns = max(height, round(width * aspect)), max(width, round(height / aspect))
    if (rows, columns) == (height, width):
        return image
    color: NDArray[np.float64] | float = 255
    if fill == "border":
        sides = (image[0], image[-1], image[:, 0], image[:, -1])
        color = np.median(np.concatenate(sides), axis=0)
    out = np.empty((rows, columns, *image.shape[2:]), np.uint8)
    out[:] = np.asarray(color).astype(np.uint8)
    top, left = (rows - height) // 2, (columns - width) // 2
    out[top : top + height, left : left + width] = image
    return out


def shrink_image(image: ImageArray, side: int) -> ImageArray:
    """Downscale an image to at most ``side`` pixels on its longer side; small ones are kept."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return resize_image(image, height, width)


def to_channels(image: ImageArray, channels: int) -> ImageArray:
    """Return ``(H, W, channels)`` for 1 (gray, ITU-R 601 luma) or 3 (RGB) channels."""
    if image.ndim == 2:
        return np.repeat(image[:, :, None], channels, axis=2) if channels == 3 else image[..., None]
    if channels == 3:
        return image
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def _open(file: io.BytesIO) -> Image.Image:
    """Open a file in a supported format.

    HEIF is opened here instead of being registered with Pillow for the whole process.
    """
    known = supported_formats()
    try:
        return Image.open(file, formats=[name for name in known if name != "HEIF"])
    except UnidentifiedImageError:
        if "HEIF" not in known or not _FORMATS["HEIF"][2](file.getvalue()[:16]):
            raise
    import pi_heif

    file.seek(0)
    heif: Image.Image = pi_heif.HeifImageFile(file)
    return heif


def _to_array(image: Image.Image, name: str, *, full_size: bool) -> ImageArray:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {image.width}x{image.height} pixels, more than the limit of "
            f"{MAX_PIXELS // 1_000_000} megapixels; downscale it"
        )
    if not full_size:
        image.draft(None, (_DRAFT_SIDE, _DRAFT_SIDE))
    image.load()
    upright = _in_srgb(_upright(image))
    if upright.mode in ("1", "L"):
        return _checked(np.asarray(upright.convert("L")), name)
    if upright.mode.startswith("I;16"):
        return _checked((np.asarray(upright) >> 8).astype(np.uint8), name)
    if upright.mode in ("I", "F"):
        return _checked(_to_8_bits(np.asarray(upright, np.float64)), name)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        background = Image.new("RGBA", rgba.size, _TRANSPARENCY_COLOR)
        upright = Image.alpha_composite(background, rgba)
    return _checked(np.asarray(upright.convert("RGB")), name)


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; unreadable EXIF data is ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        return image


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert a color image to sRGB by its ICC profile; a missing or broken one is ignored.

    Profiles of gray images are ignored too: they describe dot gain in print.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, embedded, _srgb(), outputMode=target)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image if converted is None else converted


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _to_8_bits(values: NDArray[np.float64]) -> ImageArray:
    """Scale integers up to 65,535, or fractions up to 1, to 8 bits."""
    values = np.nan_to_num(values)
    largest = values.max(initial=0)
    scale = 255 if largest <= 1 else 1 if largest <= 255 else 255 / max(largest, 65535)
    return np.clip(values * scale, 0, 255).astype(np.uint8)


@cache
def _has_heif() -> bool:
    """Return whether HEIF is supported, which needs pi-heif."""
    return find_spec("pi_heif") is not None


def _unsupported(name: str, data: bytes) -> str:
    """Return the error message for a file that no supported format accepts."""
    if _FORMATS["HEIF"][2](data):
        return f"{name}: HEIC is not enabled; run: pip install pi-heif"
    for kind in OPTIONAL_FORMATS:
        if _FORMATS[kind][2](data) and kind not in supported_formats():
            return f"{name}: {kind} is not enabled; set LOOKALIKE_FORMATS={kind.lower()}"
    if not data:
        return f"{name}: the file is empty"
    supported = ", ".join(supported_formats())
    return f"{name}: unsupported image format (supported: {supported})"


def _checked(array: ImageArray, name: str) -> ImageArray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise ImageError(
            f"{name}: expected a uint8 array of shape (H, W) or (H, W, 3), "
            f"got {array.dtype} of shape {array.shape}"
        )
    if array.size == 0:
        raise ImageError(f"{name}: the image is empty (shape {array.shape})")
    return array
