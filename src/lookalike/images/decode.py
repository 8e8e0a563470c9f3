"""From bytes, path, PIL image or array to an upright array; nothing else opens image files.

One set of rules, for what is indexed and for what is asked: the first frame; turned as EXIF says;
colors brought to sRGB by the file's own ICC profile; CMYK without one as Pillow converts it;
what is transparent lies on white; 16 bits cut to their upper 8. Large JPEGs are decoded at a half,
a quarter or an eighth of their size, as long as 512 pixels a side are left.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable, Mapping
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
DRAFT_SIDE = 512
BACKGROUND = "white"

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

_KINDS: Mapping[str, tuple[str, str, Callable[[bytes], bool]]] = {
    "JPEG": (".jpg", "image/jpeg", lambda d: d.startswith(b"\xff\xd8\xff")),
    "PNG": (".png", "image/png", lambda d: d.startswith(b"\x89PNG\r\n")),
    "WEBP": (".webp", "image/webp", lambda d: d[:4] == b"RIFF" and d[8:12] == b"WEBP"),
    "GIF": (".gif", "image/gif", lambda d: d.startswith(b"GIF8")),
    "BMP": (".bmp", "image/bmp", lambda d: d.startswith(b"BM")),
    "TIFF": (".tif", "image/tiff", lambda d: d[:4] in _TIFF),
    "AVIF": (".avif", "image/avif", lambda d: d[4:8] == b"ftyp" and d[8:12] in _AVIF),
    "HEIF": (".heic", "image/heic", lambda d: d[4:8] == b"ftyp" and d[8:12] in _HEIC),
}
"""Suffix, media type and how a file begins, by format."""

ImageInput = str | Path | bytes | Image.Image | ImageArray
"""What :func:`decode` takes; a ``str`` is always a path."""

_BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, OverflowError)
"""What Pillow's decoders leak on broken files."""

_TOO_LARGE = IgnoreWarnings(Image.DecompressionBombWarning)  # these are refused below
_BAD_METADATA = IgnoreWarnings(UserWarning, module=r"PIL\.")  # of no use here


def supported_formats() -> tuple[str, ...]:
    """Return the formats that are read, in Pillow's words.

    Five always, TIFF and AVIF where ``LOOKALIKE_FORMATS`` names them, HEIF where pi-heif is
    installed.

    Raises:
        SettingError: ``LOOKALIKE_FORMATS`` names another one.
    """
    heif = ("HEIF",) if _heif() else ()
    return (*_ALWAYS, *settings().formats, *heif)


def supported_suffixes() -> frozenset[str]:
    """Return the suffixes of files in these formats, in lower case."""
    return frozenset(suffix for name in supported_formats() for suffix in _SUFFIXES[name])


def has_image_signature(start: bytes) -> bool:
    """Tell from a file's first 16 bytes whether it may be in one of the common formats."""
    return any(_KINDS[name][2](start) for name in _ALWAYS)


def media_type(data: bytes) -> str | None:
    """Return the media type of a file in a format that is read, from how it begins."""
    for name, (_, kind, begins) in _KINDS.items():
        if name in supported_formats() and begins(data[:16]):
            return kind
    return None


def file_suffix(data: bytes) -> str:
    """Return the suffix for a file in a format that is read; none if it is in no such format."""
    kind = media_type(data)
    return next((suffix for suffix, named, _ in _KINDS.values() if named == kind), "")


def decode(image: ImageInput, *, name: str | None = None, whole: bool = False) -> ImageArray:
    """Decode one image to ``(H, W)`` gray or ``(H, W, 3)`` RGB uint8, EXIF orientation applied.

    Args:
        image: a path, the bytes of a file, a PIL image, or an array that already is
            ``(H, W)`` or ``(H, W, 3)`` uint8.
        name: what to call the image in errors; a path names itself.
        whole: in all its pixels, also where a large JPEG would be decoded at a part of its size.

    Raises:
        ImageError: not an image, broken, empty, of a format that is not read, or larger than
            50 megapixels.
    """
    if isinstance(image, np.ndarray):
        return _checked(image, name or "image array")
    if isinstance(image, Image.Image):
        return _to_array(image, name or "PIL image", whole=whole)
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
        with _TOO_LARGE, _BAD_METADATA, _opened(file) as opened:
            return _to_array(opened, name, whole=whole)
    except UnidentifiedImageError:
        raise ImageError(_unread(name, file.getvalue())) from None
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
    filter: str = "bilinear",  # noqa: A002 - the word for it
    crop: float | None = None,
) -> ImageArray:
    """Stretch to ``height`` x ``width`` with an antialiased filter.

    With ``crop``, take the middle of the image: that share of its shorter side.
    """
    if image.shape[:2] == (height, width) and crop in (None, 1):
        return image
    box = None if crop is None else _middle(image.shape[:2], height / width, crop)
    return np.asarray(Image.fromarray(image).resize((width, height), FILTERS[filter], box))


def _middle(
    shape: tuple[int, ...], aspect: float, share: float
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the largest part with an aspect, times a share."""
    rows, columns = shape
    height = min(rows, columns * aspect) * share
    width = height / aspect
    left, top = (columns - width) / 2, (rows - height) / 2
    return left, top, left + width, top + height


def pad_image(image: ImageArray, aspect: float, ground: str) -> ImageArray:
    """Make an image as high as ``aspect`` times its width, itself in the middle.

    What is added is ``white``, or has the median color of the image's ``border``.
    """
    height, width = image.shape[:2]
    rows, columns = max(height, round(width * aspect)), max(width, round(height / aspect))
    if (rows, columns) == (height, width):
        return image
    color: NDArray[np.float64] | float = 255
    if ground == "border":
        sides = (image[0], image[-1], image[:, 0], image[:, -1])
        color = np.median(np.concatenate(sides), axis=0)
    out = np.empty((rows, columns, *image.shape[2:]), np.uint8)
    out[:] = np.asarray(color).astype(np.uint8)
    top, left = (rows - height) // 2, (columns - width) // 2
    out[top : top + height, left : left + width] = image
    return out


def shrink_image(image: ImageArray, side: int) -> ImageArray:
    """Make an image smaller, in proportion, if it has more than ``side`` pixels a side."""
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


def _opened(file: io.BytesIO) -> Image.Image:
    """Open a file in a format that is read.

    HEIF is opened here rather than registered with Pillow, which the whole process shares.
    """
    known = supported_formats()
    try:
        return Image.open(file, formats=[name for name in known if name != "HEIF"])
    except UnidentifiedImageError:
        if "HEIF" not in known or not _KINDS["HEIF"][2](file.getvalue()[:16]):
            raise
    import pi_heif

    file.seek(0)
    heif: Image.Image = pi_heif.HeifImageFile(file)
    return heif


def _to_array(image: Image.Image, name: str, *, whole: bool) -> ImageArray:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {image.width}x{image.height} pixels, more than the limit of "
            f"{MAX_PIXELS // 1_000_000} megapixels; make it smaller"
        )
    if not whole:
        image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))
    image.load()
    upright = _in_srgb(_upright(image))
    if upright.mode in ("1", "L"):
        return _checked(np.asarray(upright.convert("L")), name)
    if upright.mode.startswith("I;16"):
        return _checked((np.asarray(upright) >> 8).astype(np.uint8), name)
    if upright.mode in ("I", "F"):
        return _checked(_of_large_range(np.asarray(upright, np.float64)), name)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, BACKGROUND)
        upright = Image.alpha_composite(ground, rgba)
    return _checked(np.asarray(upright.convert("RGB")), name)


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data say; as it lies if they cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        return image


def _in_srgb(image: Image.Image) -> Image.Image:
    """Apply the ICC profile of a color image; without one, or with a broken one, change nothing.

    Profiles of gray images are passed over: they say how dark ink spreads, not what is seen.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = "RGBA" if image.mode == "RGBA" else "RGB"
        changed = ImageCms.profileToProfile(image, own, _srgb(), outputMode=target)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image if changed is None else changed


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _of_large_range(values: NDArray[np.float64]) -> ImageArray:
    """Bring whole numbers up to 65,535, or fractions up to 1, to 8 bits."""
    values = np.nan_to_num(values)
    largest = values.max(initial=0)
    scale = 255 if largest <= 1 else 1 if largest <= 255 else 255 / max(largest, 65535)
    return np.clip(values * scale, 0, 255).astype(np.uint8)


@cache
def _heif() -> bool:
    """Tell whether HEIF is read, as it is if pi-heif is installed."""
    return find_spec("pi_heif") is not None


def _unread(name: str, data: bytes) -> str:
    """Say why no format that is read took a file, and what would."""
    if _KINDS["HEIF"][2](data):
        return f"{name}: a HEIC image: pip install pi-heif to read it"
    for kind in OPTIONAL_FORMATS:
        if _KINDS[kind][2](data) and kind not in supported_formats():
            return f"{name}: a {kind} image: set LOOKALIKE_FORMATS={kind.lower()} to read it"
    if not data:
        return f"{name}: the file is empty"
    known = ", ".join(supported_formats())
    return f"{name}: not an image in a format that is read ({known})"


def _checked(array: ImageArray, name: str) -> ImageArray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise ImageError(
            f"{name}: expected a uint8 array of shape (H, W) or (H, W, 3), "
            f"got {array.dtype} of shape {array.shape}"
        )
    if array.size == 0:
        raise ImageError(f"{name}: has no pixels (shape {array.shape})")
    return array
