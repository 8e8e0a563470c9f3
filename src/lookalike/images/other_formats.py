"""Formats that Pillow does not read: raw photographs, JPEG XL and SVG, by optional packages."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from lookalike.images.formats import FORMATS
from lookalike.images.intensity import full_range
from lookalike.images.pillow import DRAFT_SIDE, open_file, read_with_pillow
from lookalike.images.raster import CONVERSION_BYTES, Raster, Request, check_readable

SVG_SIDE = 1024
"""Longer side of a rendered drawing in pixels."""

_RAW_BYTES = 24
_JXL_BYTES = 8
"""Bytes per pixel that the decoders hold."""

_RAW_FLIPS = {3: 3, 5: 8, 6: 6}
"""EXIF orientations by LibRaw's flips."""

_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")


def read_raw(request: Request) -> Raster:
    """Read the preview that the camera has put into a raw photograph, or else develop it.

    Raises:
        RefusedError: rawpy is not installed.
    """
    check_readable(request.kind)
    import rawpy

    with rawpy.imread(io.BytesIO(request.data)) as raw:
        sizes = raw.sizes
        preview = _preview(raw)
        if preview is None:
            width, height = sizes.width, sizes.height
            request.reserve(width, height, _RAW_BYTES * width * height)
            return Raster(image=Image.fromarray(raw.postprocess(use_camera_wb=True)))
    raster = read_with_pillow(replace(request, kind=FORMATS["JPEG"], data=preview))
    if raster.orientation == 1:
        return replace(raster, orientation=_RAW_FLIPS.get(sizes.flip, 1))
    return raster


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


def read_jxl(request: Request) -> Raster:
    """Read a JPEG XL image, which libjxl turns upright."""
    import pyjpegxl

    header = pyjpegxl.probe(request.data)
    channels = header.num_color_channels + header.has_alpha
    each = channels * max(1, header.bits_per_sample // 8) + _JXL_BYTES
    pixels = header.width * header.height
    size = len(request.data) + (each + CONVERSION_BYTES) * pixels
    request.reserve(header.width, header.height, size)
    header, values = pyjpegxl.decode_to_numpy(request.data)
    values = values[:, :, 0] if values.shape[2] == 1 else values
    if values.dtype == np.uint8:
        return Raster(image=Image.fromarray(values), profile=header.icc)
    bits = header.bits_per_sample
    scaled = values.dtype.kind == "u" and bits < 16
    window = full_range(values, 16) if scaled else None
    return Raster(values=values, window=window, bits=16 if scaled else bits, profile=header.icc)


def read_svg(request: Request) -> Raster:
    """Render a drawing."""
    import resvg_py

    text = request.data.decode("utf-8", "replace")
    plain = "<text" not in text  # loading the system's fonts takes half a second
    width, height = svg_size(request.data)
    request.reserve(width, height, CONVERSION_BYTES * 2 * width * height)
    rendered = resvg_py.svg_to_bytes(
        svg_string=text, width=width, height=height, skip_system_fonts=plain
    )
    return read_with_pillow(replace(request, kind=FORMATS["PNG"], data=bytes(rendered)))


def svg_size(data: bytes) -> tuple[int, int]:
    """Return the width and height at which a drawing is rendered: 1,024 pixels, the longer one.

    Raises:
        ValueError: it is not an SVG drawing.
    """
    from xml.etree import ElementTree

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
