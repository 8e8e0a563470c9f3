"""Decoding of image files, bytes, PIL images and arrays; no other module decodes image files.

Indexed images and queries are decoded alike, by these rules (version 2):

- The first page or frame, or the one that is asked for, upright as EXIF says.
- Large JPEGs at 1/2, 1/4 or 1/8 of their size, of at least 512 pixels a side; images that are still
  above 50 megapixels are reduced by a whole factor.
- Colors converted to sRGB by the embedded ICC profile; CMYK without one as Pillow does.
- More than 8 bits: mapped by a window, see :mod:`lookalike.images.intensity`.
- Transparency, where the file says so, on white; on black or gray if over a quarter of what is
  visible would vanish on white.
- Truncated and damaged files as far as they go, with a note; the rest gets their median color.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from lookalike.errors import ImageError
from lookalike.images.decoders import read_raster
from lookalike.images.formats import (
    Format,
    detect_format,
    supported_formats,
    upload_hint,
)
from lookalike.images.intensity import full_range, percentile_window, to_8_bits
from lookalike.images.memory import BUDGET, COUNTED_BYTES, read_file
from lookalike.images.options import (
    BY_PERCENTILES,
    DEFAULT_OPTIONS,
    DecodeOptions,
)
from lookalike.images.pillow import deep_gray, is_deep, orientation_of
from lookalike.images.raster import (
    LARGE,
    Raster,
    Request,
    check_readable,
    decoder_errors,
    upright,
)
from lookalike.types import ImageArray

FILTERS = {each.name.lower(): each for each in Image.Resampling}
"""Pillow's resampling filters, such as ``bilinear``, ``bicubic``, ``lanczos`` and ``nearest``."""

RESIZE_MODES = ("exact", "cover", "contain")
"""How an image is resized to a height and width before the crop: stretched to them, or with its
aspect ratio to the smallest size that covers them, or the largest that they contain."""

_WHOLE = 64
"""An image that becomes over so many times as large as its crop is not resized as a whole."""

_STRIP = 1 << 22
"""Pixels that are converted at a time, where the image is reduced."""

_REDUCING_GAP = 3.0
"""Images for people are at least so many times as large as the result before Lanczos' filter."""

_GROUNDS = (255, 0, 128)
_VANISHING = 0.25
_CONTRAST = 32
"""Transparent images are put on white unless more than this share of what is visible differs by
less than so many levels; then on the one of the three grounds on which the least vanishes."""

_GROUND_SAMPLE = 1 << 20

ImageInput = str | Path | bytes | Image.Image | ImageArray
"""What :func:`decode` accepts; a ``str`` is always a path."""

Reduction = Callable[[Image.Image], Image.Image]
"""Makes a gray or RGB image smaller, or gray."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image ``(H, W)`` or ``(H, W, 3)`` uint8, and what is not as usual with it.

    ``notes`` are short and countable, such as :data:`lookalike.images.options.TRUNCATED`;
    ``pages`` counts the pages or frames of its file.
    """

    pixels: ImageArray
    notes: tuple[str, ...] = ()
    pages: int = 1


def decode(
    image: ImageInput,
    *,
    name: str | None = None,
    full_size: bool = False,
    options: DecodeOptions = DEFAULT_OPTIONS,
    page: int = 0,
    reduce: Reduction | None = None,
) -> ImageArray:
    """Decode one image to ``(H, W)`` gray or ``(H, W, 3)`` RGB uint8, EXIF orientation applied.

    Args:
        image: a path, the bytes of a file, a PIL image, or an array ``(H, W)`` or ``(H, W, 3)``
            uint8.
        name: of the image in error messages; default the path. Its suffix tells raw photographs
            and a few old formats from others.
        full_size: decode large images at full resolution too.
        options: limits, formats, and what to do with damaged files and with more than 8 bits.
        page: of a TIFF, or frame of an animation, counted from 0.
        reduce: applied before the pixels are copied, which saves memory; see :func:`shrink_to`.

    Raises:
        ImageError: not an image, broken, empty, in a format that is not read, too large, or without
            that page.
    """
    return decode_with_notes(
        image, name=name, full_size=full_size, options=options, page=page, reduce=reduce
    ).pixels


def decode_with_notes(
    image: ImageInput,
    *,
    name: str | None = None,
    full_size: bool = False,
    options: DecodeOptions = DEFAULT_OPTIONS,
    page: int = 0,
    reduce: Reduction | None = None,
) -> DecodedImage:
    """Decode one image like :func:`decode`; also return what is not as usual with it.

    Raises:
        ImageError: as of :func:`decode`.
    """
    if isinstance(image, np.ndarray):
        pixels = _checked(image, name or "image array")
        if reduce is not None:
            pixels = np.asarray(reduce(Image.fromarray(pixels)))
        return DecodedImage(pixels)
    if isinstance(image, Image.Image):
        name = name or "PIL image"
        with decoder_errors(name):
            image.load()
            upright_image, notes, pages = _finish(_raster_of(image), options, full_size=full_size)
            return DecodedImage(_pixels(upright_image, name, reduce), notes, pages)
    if isinstance(image, bytes):
        data, name = image, name or "image bytes"
    else:
        name = name or str(image)
        data = _read_file(Path(image), name)
    kind = _format_to_read(data, name, options)
    with decoder_errors(name), contextlib.ExitStack() as reservations:
        check_readable(kind)

        def reserve(width: int, height: int, size: int) -> None:
            _check_size(name, width, height, size, options)
            reservations.close()
            reservations.enter_context(BUDGET.reserve(size))

        raster = read_raster(
            Request(
                data=data,
                kind=kind,
                options=options,
                reserve=reserve,
                page=page,
                full_size=full_size,
            )
        )
        upright_image, notes, pages = _finish(raster, options, full_size=full_size)
        del raster  # before its pixels are copied
        return DecodedImage(_pixels(upright_image, name, reduce), notes, pages)


def _read_file(path: Path, name: str) -> bytes:
    try:
        return read_file(path)
    except IsADirectoryError:
        raise ImageError(f"{name}: is a folder, not an image file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{name}: cannot be read ({reason})") from error


def _format_to_read(data: bytes, name: str, options: DecodeOptions) -> Format:
    """Return the format of a file.

    Raises:
        ImageError: it is none that is to be read.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    kind = detect_format(data, name)
    if kind is not None and (options.formats is None or kind.name in options.formats):
        return kind
    which = f" {kind.name}" if kind is not None else ""
    hint = upload_hint(kind) if kind is not None else ""
    supported = ", ".join(options.formats or supported_formats())
    raise ImageError(f"{name}: unsupported image format{which} (supported: {supported}){hint}")


def _check_size(name: str, width: int, height: int, size: int, options: DecodeOptions) -> None:
    """Refuse an image that is larger than allowed, or that needs more memory than there is."""
    limit = options.max_megapixels
    if limit is not None:
        if width * height > limit * 1_000_000:
            raise ImageError(
                f"{name}: {width}x{height} pixels, more than the limit of {limit:g} megapixels; "
                "downscale it"
            )
    elif size >= COUNTED_BYTES and size > (available := BUDGET.limit()):
        raise ImageError(
            f"{name}: {width}x{height} pixels need {size / 1e9:.1f} GB of memory to decode, more "
            f"than the {available / 1e9:.1f} GB that may be used; downscale it, or set "
            "{max_megapixels}",
            max_megapixels=None,
        )


def _raster_of(image: Image.Image) -> Raster:
    """Return a loaded PIL image as what decoders of files return."""
    raster = deep_gray(image) if is_deep(image) else Raster(image=image)
    return replace(raster, orientation=orientation_of(image), profile=image.info.get("icc_profile"))


def _finish(
    raster: Raster, options: DecodeOptions, *, full_size: bool
) -> tuple[Image.Image, tuple[str, ...], int]:
    """Return a decoded image as upright gray or RGB of 8 bits, its notes, and its pages."""
    notes = raster.notes
    if raster.values is None:
        assert raster.image is not None
        image = raster.image
    else:
        image, by_percentiles = _in_8_bits(raster, options)
        notes = (*notes, BY_PERCENTILES) if by_percentiles else notes
    factor = 1 if full_size else math.ceil(math.sqrt(image.width * image.height / LARGE))

    def convert(part: Image.Image) -> Image.Image:
        return _in_srgb(part, raster)

    converted = convert(image) if factor == 1 else _reduced(image, factor, convert)
    return _opaque(upright(converted, raster.orientation)), notes, raster.pages


def _pixels(image: Image.Image, name: str, reduce: Reduction | None) -> ImageArray:
    """Return the pixels of a gray or RGB image, reduced before if that is asked for."""
    if reduce is not None and min(image.size) > 0:
        image = reduce(image)
    width, height = image.size
    rows = max(1, _STRIP // max(1, width))
    if rows >= height:
        return _checked(np.asarray(image), name)
    out = np.empty((height, width, *((3,) if image.mode == "RGB" else ())), np.uint8)
    for top in range(0, height, rows):  # or Pillow would hold two copies of them
        out[top : top + rows] = image.crop((0, top, width, min(height, top + rows)))
    return _checked(out, name)


def _in_8_bits(raster: Raster, options: DecodeOptions) -> tuple[Image.Image, bool]:
    """Map values of more than 8 bits to an image; return whether percentiles decided."""
    values = raster.values
    assert values is not None
    alpha = None
    if values.ndim == 3 and values.shape[2] in (2, 4):
        values, alpha = values[:, :, :-1], values[:, :, -1]
        values = values[:, :, 0] if values.shape[2] == 1 else values
    window = options.window or raster.window
    if window is None and raster.profile is not None:
        window = full_range(values, raster.bits)
    levels = to_8_bits(values, window or percentile_window(values))
    if raster.inverted:
        levels = 255 - levels
    image = Image.fromarray(levels)
    if alpha is not None and raster.has_alpha:
        image.putalpha(Image.fromarray(to_8_bits(alpha, full_range(alpha, raster.bits))))
    return image, window is None


def _in_srgb(image: Image.Image, raster: Raster) -> Image.Image:
    """Convert an image to gray (L), RGB or RGBA in sRGB; a broken ICC profile is ignored.

    Profiles of gray images are ignored too: they describe dot gain in print.
    """
    profile = None
    if image.mode == "LAB":
        profile = _lab()
    elif raster.profile and image.mode in ("RGB", "RGBA", "CMYK"):
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(raster.profile))
    if profile is not None:
        target = "RGBA" if image.mode == "RGBA" else "RGB"
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            image = ImageCms.profileToProfile(image, profile, _srgb(), outputMode=target) or image
    if image.has_transparency_data and raster.has_alpha:
        mode = "RGBA"
    else:
        mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _reduced(
    image: Image.Image, factor: int, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Convert a large image and reduce it by a whole factor, some rows at a time."""
    width, height = image.size
    rows = factor * max(1, _STRIP // (width * factor))
    out: Image.Image | None = None
    for top in range(0, height, rows):
        strip = convert(image.crop((0, top, width, min(height, top + rows)))).reduce(factor)
        if out is None:
            out = Image.new(strip.mode, (strip.width, -(-height // factor)))
        out.paste(strip, (0, top // factor))
    assert out is not None
    return out


def _opaque(image: Image.Image) -> Image.Image:
    """Return an image without transparency, on a ground on which its content is visible."""
    if image.mode != "RGBA":
        return image
    ground = Image.new("RGBA", image.size, (_ground_level(np.asarray(image)),) * 3 + (255,))
    return Image.alpha_composite(ground, image).convert("RGB")


def _ground_level(pixels: ImageArray) -> int:
    """Return the gray level of the ground of a transparent image, ``(H, W, 4)`` uint8.

    A pixel vanishes on a ground if none of its channels differs from it by 32 levels; pixels count
    by their opacity.
    """
    step = max(1, math.ceil(math.sqrt(pixels.shape[0] * pixels.shape[1] / _GROUND_SAMPLE)))
    sample = pixels[::step, ::step].reshape(-1, 4)
    weight = sample[:, 3].astype(np.float64)
    total = weight.sum()
    if not total:
        return _GROUNDS[0]
    colors = sample[:, :3].astype(np.int16)

    def vanishing(level: int) -> float:
        close = (np.abs(colors - level) < _CONTRAST).all(axis=1)
        return float(weight[close].sum() / total)

    shares = [vanishing(level) for level in _GROUNDS]
    return _GROUNDS[0] if shares[0] <= _VANISHING else _GROUNDS[int(np.argmin(shares))]


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@cache
def _lab() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))


def _checked(array: ImageArray, name: str) -> ImageArray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise ImageError(
            f"{name}: expected a uint8 array of shape (H, W) or (H, W, 3), "
            f"got {array.dtype} of shape {array.shape}"
        )
    if array.size == 0:
        raise ImageError(f"{name}: the image is empty (shape {array.shape})")
    return array


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


@dataclass(frozen=True, slots=True)
class Resize:
    """How an image is resized before a center crop.

    Args:
        height: in pixels.
        width: in pixels.
        mode: one of :data:`RESIZE_MODES`.
        fill: levels of what the crop has outside of the resized image, one or three.
        round_offset: a crop that is half a pixel off the grid begins at the even pixel, and the
            larger padding is behind the image, as in torchvision; otherwise the crop begins at the
            pixel before, and the larger padding is before the image, as in transformers.
    """

    height: int
    width: int
    mode: str = "exact"
    fill: Sequence[int] = (0,)
    round_offset: bool = False

    def shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Return height and width of an image of that shape once it is resized, at least 1."""
        if self.mode == "exact":
            return self.height, self.width
        ratios = (self.height / rows, self.width / columns)
        if self.mode == "cover":
            # One side exactly; the other is cut to whole pixels for a square, as torchvision does,
            # and rounded otherwise, as timm does.
            whole = int if self.height == self.width else round
            if ratios[0] >= ratios[1]:
                return self.height, max(1, whole(self.height * columns / rows))
            return max(1, whole(self.width * rows / columns)), self.width
        scale = min(ratios)
        return max(1, round(rows * scale)), max(1, round(columns * scale))


def resize_and_crop(
    image: ImageArray,
    resize: Resize,
    crop: tuple[int, int],
    *,
    filter: str = "bilinear",  # noqa: A002 - the field's word
) -> ImageArray:
    """Resize, then take the center crop, padded where the resized image is smaller.

    An image of any aspect ratio takes little memory.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)`` uint8.
        resize: to what size, and how.
        crop: height and width of the result.
        filter: a key of :data:`FILTERS`.
    """
    rows, columns = image.shape[:2]
    height, width = resize.shape(rows, columns)
    top, down, kept_rows = _centered(height, crop[0], round_offset=resize.round_offset)
    left, across, kept_columns = _centered(width, crop[1], round_offset=resize.round_offset)
    if height * width > _WHOLE * crop[0] * crop[1]:
        # Only the crop is computed: equal but for rounding.
        across_scale, down_scale = columns / width, rows / height
        box = (
            left * across_scale,
            top * down_scale,
            (left + kept_columns) * across_scale,
            (top + kept_rows) * down_scale,
        )
        size = (kept_columns, kept_rows)
        part = np.asarray(Image.fromarray(image).resize(size, FILTERS[filter], box))
    else:
        part = resize_image(image, height, width, filter=filter)
        part = part[top : top + kept_rows, left : left + kept_columns]
    if (kept_rows, kept_columns) == tuple(crop):
        return part
    is_colored = len(set(resize.fill)) > 1
    if is_colored:
        part = to_channels(part, 3)
    out = np.empty((*crop, *part.shape[2:]), np.uint8)
    out[:] = np.asarray(resize.fill if is_colored else resize.fill[0], np.uint8)
    out[down : down + kept_rows, across : across + kept_columns] = part
    return out


def _centered(length: int, side: int, *, round_offset: bool) -> tuple[int, int, int]:
    """Return where a crop begins in a length, where the length begins in the crop, and what it has.

    One of the first two is 0.
    """
    half = abs(length - side) / 2
    if length > side:
        return round(half) if round_offset else int(half), 0, side
    return 0, int(half) if round_offset else math.ceil(half), length


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
    height, width = image.shape[:2]
    size = _shrunk_size((width, height), side)
    return image if size is None else resize_image(image, size[1], size[0])


def shrink_to(side: int, *, sharp: bool = False) -> Reduction:
    """Return what downscales an image of Pillow as :func:`shrink_image` does its pixels.

    ``sharp`` is for people, not for encoders: by Lanczos' filter instead of the bilinear one, which
    blurs; of much larger images after a reduction by a whole factor.
    """

    def shrink(image: Image.Image) -> Image.Image:
        size = _shrunk_size(image.size, side)
        if size is None:
            return image
        if sharp:
            return image.resize(size, FILTERS["lanczos"], reducing_gap=_REDUCING_GAP)
        return image.resize(size, FILTERS["bilinear"])

    return shrink


def _shrunk_size(size: tuple[int, int], side: int) -> tuple[int, int] | None:
    """Return width and height downscaled to at most ``side`` pixels; None if they are no more."""
    scale = side / max(size)
    if scale >= 1:
        return None
    width, height = (max(1, round(length * scale)) for length in size)
    return width, height


def to_channels(image: ImageArray, channels: int) -> ImageArray:
    """Return ``(H, W, channels)`` for 1 (gray, ITU-R 601 luma) or 3 (RGB) channels."""
    if image.ndim == 2:
        return np.repeat(image[:, :, None], channels, axis=2) if channels == 3 else image[..., None]
    if channels == 3:
        return image
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]
