"""What the header of an image file says: size, format, pages, quality, EXIF. No pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header of an image file says.

    Args:
        width: in pixels, upright.
        height: in pixels, upright.
        format: name in :data:`lookalike.images.formats.FORMATS`.
        pages: pages of a TIFF or frames of an animation.
        lossless: whether its compression loses nothing.
        jpeg_quality: 1 to 100, estimated from the quantization tables; None for other formats.
        has_exif: whether it has EXIF data.
        captured_at: when the photograph was taken, in the camera's time zone.
    """

    width: int
    height: int
    format: str
    pages: int
    lossless: bool
    jpeg_quality: int | None
    has_exif: bool
    captured_at: datetime | None


def read_header(image: str | Path | bytes) -> ImageHeader:
    """Read the header of an image file, given by its path or its bytes.

    Raises:
        ImageError: not an image, broken, or in a format that is not read here.
    """
    raise NotImplementedError
