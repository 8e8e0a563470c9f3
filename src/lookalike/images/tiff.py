"""What the tags of a TIFF say of its pixels, and the TIFFs that Pillow does not read."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import IO, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.images.intensity import Window
from lookalike.images.options import FURTHER_BANDS
from lookalike.images.raster import (
    CONVERSION_BYTES,
    Raster,
    RefusedError,
    Request,
    page_notes,
    select_page,
)
from lookalike.process_state import MuteLoggers

_SUBFILE_TYPE, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 254, 258, 259, 262, 274
_SAMPLES, _MIN_SAMPLE, _MAX_SAMPLE, _PLANAR = 277, 280, 281, 284
_SUB_IFDS, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _SMIN, _SMAX = 330, 338, 339, 340, 341
_PROFILE, _DNG_VERSION = 34675, 50706
_REDUCED, _MASK = 1, 4
_BIG_TIFF, _SHORT, _MAX_TAGS, _MAX_OFFSET = 43, 3, 4096, 1 << 62
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2
_ALPHA = (1, 2)
"""Values of the tag ExtraSamples for transparency, premultiplied or not."""

Tags = Mapping[int, Any]
"""The tags of a page by number."""


def tags_of(image: Image.Image) -> Tags:
    """Return the tags of an opened TIFF; empty for other formats."""
    return cast("Tags", getattr(image, "tag_v2", {}))


def is_page(tags: Tags) -> bool:
    """Return whether this is a page, and not a reduced copy or a mask of one."""
    return not tags.get(_SUBFILE_TYPE, 0) & (_REDUCED | _MASK)


def is_raw(file: IO[bytes]) -> bool:
    """Return whether a TIFF is a raw photograph, whose first page is sensor values or a thumbnail.

    The file is at its start afterwards.
    """
    tags = next(_directories(file), {})
    file.seek(0)
    thumbnail = bool(tags.get(_SUBFILE_TYPE, 0) & _REDUCED) and _SUB_IFDS in tags
    return _DNG_VERSION in tags or thumbnail


def tiff_pages(file: IO[bytes]) -> tuple[int, ...]:
    """Return the numbers of the pages of a TIFF that are no reduced copies or masks.

    The file is at its start before and afterwards.
    """
    pages = tuple(number for number, tags in enumerate(_directories(file)) if is_page(tags))
    file.seek(0)
    return pages or (0,)


def _directories(file: IO[bytes]) -> Iterator[dict[int, int]]:
    """Yield the tags of each page, with their values where these fit into the directory.

    Pillow cannot count pages of which it does not know the order of bands.
    """
    file.seek(0)
    header = file.read(16)
    order: Literal["little", "big"] = "little" if header[:2] == b"II" else "big"
    big = int.from_bytes(header[2:4], order) == _BIG_TIFF
    word, count_bytes = (8, 8) if big else (4, 2)
    offset = int.from_bytes(header[word : 2 * word], order)
    seen: set[int] = set()
    while 0 < offset < _MAX_OFFSET and offset not in seen:
        seen.add(offset)
        file.seek(offset)
        length = 4 + 2 * word
        count = int.from_bytes(file.read(count_bytes), order)
        entries = file.read(min(count, _MAX_TAGS) * length)
        if not entries:
            return
        tags = {}
        for start in range(0, len(entries) - length + 1, length):
            tag, kind = (int.from_bytes(entries[start + i : start + i + 2], order) for i in (0, 2))
            value = start + 4 + word
            size = 2 if kind == _SHORT else word
            tags[tag] = int.from_bytes(entries[value : value + size], order)
        yield tags
        offset = int.from_bytes(file.read(word), order)


def has_deep_planes(tags: Tags) -> bool:
    """Return whether the bands are stored one after another, with more than 8 bits."""
    return tag_bits(tags) > 8 and tags.get(_PLANAR, 1) != 1 and tags.get(_SAMPLES, 1) > 1


def has_signed_bytes(tags: Tags) -> bool:
    """Return whether the values are integers from -128 to 127, which Pillow takes for 0 to 255."""
    formats = _several(tags.get(_SAMPLE_FORMAT, _UNSIGNED))
    return tag_bits(tags) == 8 and all(each == _SIGNED for each in formats)


def is_compressed(tags: Tags) -> bool:
    """Return whether the pixels are compressed."""
    return bool(tags.get(_COMPRESSION, 1) != 1)


def tag_bits(tags: Tags) -> int:
    """Return the bits of a value."""
    return int(max(_several(tags.get(_BITS, 1))))


def is_unsigned(tags: Tags) -> bool:
    """Return whether the values are integers from 0."""
    return bool(tags) and all(each == _UNSIGNED for each in _several(tags.get(_SAMPLE_FORMAT, 1)))


def with_tags(raster: Raster, tags: Tags) -> Raster:
    """Return values with the window, bits and inversion that their tags state."""
    values = raster.values
    assert values is not None
    if values.dtype == np.int32 and is_unsigned(tags):
        values = values.view(np.uint32)
    bits = int(max(_several(tags.get(_BITS, 8 * values.dtype.itemsize))))
    return replace(
        raster,
        values=values,
        bits=bits,
        window=tiff_window(tags, bits),
        inverted=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
    )


def tiff_window(tags: Tags, bits: int) -> Window | None:
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


def has_further_bands(tags: Tags) -> bool:
    """Return whether there is a band that is neither color nor transparency."""
    transparent = any(value in _ALPHA for value in _several(tags.get(_EXTRA_SAMPLES, ())))
    return bool(tags) and tags.get(_SAMPLES, 1) > _colors(tags.get(_PHOTOMETRIC, 1)) + transparent


def means_alpha(tags: Tags) -> bool:
    """Return whether a further band means transparency: in a TIFF only if a tag says so."""
    return not tags or any(value in _ALPHA for value in _several(tags.get(_EXTRA_SAMPLES, ())))


def _colors(photometric: int) -> int:
    return {2: 3, 6: 3, 8: 3, 5: 4}.get(photometric, 1)


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list | np.ndarray) else (value,)


def is_unknown_order(error: SyntaxError) -> bool:
    """Return whether this is Pillow's error for bands and bits that it does not read."""
    return "unknown" in str(error)


@contextlib.contextmanager
def open_tifffile(file: IO[bytes]) -> Iterator[Any]:
    """Open a TIFF with tifffile.

    Raises:
        RefusedError: it is not installed.
    """
    if find_spec("tifffile") is None:
        raise RefusedError(
            "a TIFF with this number of bands and bits needs tifffile; run: "
            "pip install 'lookalike[tiff]'"
        )
    import tifffile

    with MuteLoggers("tifffile"), tifffile.TiffFile(file) as opened:
        yield opened


def read_with_tifffile(request: Request) -> Raster:
    """Read a TIFF of many bands, of floats in color, or of more than 8 bits in planes.

    Raises:
        RefusedError: tifffile is not installed, or there is no such page.
        ImageError: it is too large.
    """
    with open_tifffile(io.BytesIO(request.data)) as opened:
        pages = tiff_pages(io.BytesIO(request.data))
        page = opened.pages[select_page(pages, request)]
        size = page.nbytes * 2 + CONVERSION_BYTES * page.imagewidth * page.imagelength
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
    notes = [*page_notes(request.kind, len(pages), request.page)]
    values, further = _colors_and_alpha(values, tags)
    if further:
        notes.append(FURTHER_BANDS)
    deep = values.dtype != np.uint8
    profile = tags.get(_PROFILE)
    raster = Raster(
        image=None if deep else Image.fromarray(values),
        values=values if deep else None,
        orientation=int(tags.get(_ORIENTATION, 1)),
        profile=profile if isinstance(profile, bytes) else None,
        notes=tuple(notes),
        pages=len(pages),
    )
    return with_tags(raster, tags) if deep else raster


def _colors_and_alpha(values: NDArray[Any], tags: Tags) -> tuple[NDArray[Any], bool]:
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
