"""From bytes, path, PIL image or array to an upright array; nothing else opens image files."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lookalike.errors import ImageError
from lookalike.types import ImageArray

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 50_000_000
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})

ImageInput = str | Path | bytes | Image.Image | ImageArray
"""What :func:`decode` takes; a ``str`` is always a path."""

_BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, OverflowError)
"""What Pillow's decoders leak on broken files."""


def decode(image: ImageInput, *, name: str | None = None) -> ImageArray:
    """Decode one image to ``(H, W)`` grey or ``(H, W, 3)`` RGB uint8, EXIF orientation applied.

    Args:
        image: a path, the bytes of a file, a PIL image, or an array that already is
            ``(H, W)`` or ``(H, W, 3)`` uint8.
        name: what to call the image in errors; a path names itself.

    Raises:
        ImageError: not an image, broken, empty, of a format that is not read, or larger than
            50 megapixels.
    """
    if isinstance(image, np.ndarray):
        return _checked(image, name or "image array")
    if isinstance(image, Image.Image):
        return _to_array(image, name or "PIL image")
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as opened:
                return _to_array(opened, name)
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ImageError(f"{name}: not an image in a format that is read ({known})") from None
    except (Image.DecompressionBombError, *_BROKEN) as error:
        raise ImageError(f"{name}: broken image ({error})") from error


def content_hash(data: bytes | ImageArray) -> str:
    """Return the SHA-256 of a file's bytes, or of an array's shape and pixels, as hexadecimal."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256(repr(data.shape).encode())
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()


def resized(image: ImageArray, height: int, width: int) -> ImageArray:
    """Stretch to ``height`` x ``width`` with an antialiased bilinear filter."""
    if image.shape[:2] == (height, width):
        return image
    scaled = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(scaled)


def within(image: ImageArray, side: int) -> ImageArray:
    """Make an image smaller, in proportion, if it has more than ``side`` pixels a side."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return resized(image, height, width)


def with_channels(image: ImageArray, channels: int) -> ImageArray:
    """Return ``(H, W, channels)`` for 1 (grey, ITU-R 601 luma) or 3 (RGB) channels."""
    if image.ndim == 2:
        return np.repeat(image[:, :, None], channels, axis=2) if channels == 3 else image[..., None]
    if channels == 3:
        return image
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def _to_array(image: Image.Image, name: str) -> ImageArray:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {image.width}x{image.height} pixels, more than the limit of "
            f"{MAX_PIXELS // 1_000_000} megapixels; make it smaller"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("1", "L"):
        return _checked(np.asarray(upright.convert("L")), name)
    if upright.mode.startswith("I;16"):
        return _checked((np.asarray(upright) >> 8).astype(np.uint8), name)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        upright = Image.alpha_composite(white, rgba)
    return _checked(np.asarray(upright.convert("RGB")), name)


def _checked(array: ImageArray, name: str) -> ImageArray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise ImageError(
            f"{name}: expected a uint8 array of shape (H, W) or (H, W, 3), "
            f"got {array.dtype} of shape {array.shape}"
        )
    if array.size == 0:
        raise ImageError(f"{name}: has no pixels (shape {array.shape})")
    return array
