"""Decoding of image files: each by the decoder of its format."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace

from lookalike.images.formats import FORMATS
from lookalike.images.other_formats import read_jxl, read_raw, read_svg
from lookalike.images.pillow import open_file, read_with_pillow
from lookalike.images.raster import Raster, RefusedError, Request
from lookalike.images.tiff import (
    has_deep_planes,
    has_signed_bytes,
    is_compressed,
    is_raw,
    is_unknown_order,
    read_with_tifffile,
    tags_of,
)


def read_raster(request: Request) -> Raster:
    """Decode the pixels of a file.

    Raises:
        RefusedError: there is no such page, or a package is missing.
        ImageError: the file is too large.
        Exception: whatever the decoder raises for a broken file.
    """
    return _READERS.get(request.kind.name, read_with_pillow)(request)


def _read_tiff(request: Request) -> Raster:
    file = io.BytesIO(request.data)
    if is_raw(file):
        return read_raw(replace(request, kind=FORMATS["RAW"]))
    try:
        tags = tags_of(open_file(request.kind, file))
        if not has_deep_planes(tags) and not has_signed_bytes(tags):
            return read_with_pillow(request)
    except SyntaxError as error:
        if not is_unknown_order(error):
            raise
        return read_with_tifffile(request)
    try:
        return read_with_tifffile(request)
    except (RefusedError, ValueError):
        if not is_compressed(tags):  # which Pillow would take for planes of 8 bits
            raise
    return read_with_pillow(request)


_READERS: Mapping[str, Callable[[Request], Raster]] = {
    "TIFF": _read_tiff,
    "RAW": read_raw,
    "JXL": read_jxl,
    "SVG": read_svg,
}
