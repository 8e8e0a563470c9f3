"""The map as one HTML file that needs no other: its document, its thumbnails and its script."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from importlib.resources import files

import numpy as np
from PIL import Image

from lookalike.errors import ImageError, SettingError, SourceError
from lookalike.explore.map import CollectionMap
from lookalike.gallery.gallery import Gallery
from lookalike.images.decode import with_channels, within
from lookalike.sources import open_items
from lookalike.sources.sampling import each_in_threads
from lookalike.types import ImageArray, Progress, ProgressCallback, ignore_progress

_SHEET = 32
"""Thumbnails a side of one picture that holds many of them."""

_QUALITY = 70
_MOST = 256
_HOLDS = ("__TITLE__", "__STYLE__", "__SCRIPT__", "__DATA__")


def html(
    found: CollectionMap,
    gallery: Gallery,
    *,
    side: int = 32,
    on_progress: ProgressCallback = ignore_progress,
) -> str:
    """Return the page.

    Args:
        found: the map of the gallery.
        gallery: whose images are read for their thumbnails.
        side: pixels a side of a thumbnail, at most 256; 0 leaves them out.
        on_progress: told after each picture of thumbnails.

    Raises:
        SettingError: ``side`` out of range.
    """
    if not 0 <= side <= _MOST:
        raise SettingError(f"--thumbnails {side}: must be from 0 (none) to {_MOST} pixels")
    sheets = list(_sheets(found, gallery, side, on_progress)) if side else []
    data = {**found.document(), "gallery": gallery.path.name, "side": side, "sheets": sheets}
    # A "</script>" in an id would end the script.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    room = files("lookalike.explore") / "static"
    page = (room / "map.html").read_text(encoding="utf-8")
    script = (room / "map.js").read_text(encoding="utf-8").replace("export function", "function")
    style = (room / "map.css").read_text(encoding="utf-8")
    title = gallery.path.name.replace("&", "&amp;").replace("<", "&lt;")
    for hold, value in zip(_HOLDS, (title, style, script, text), strict=True):
        page = page.replace(hold, value)  # the data come last: a hold in them stays
    return page


def _sheets(
    found: CollectionMap, gallery: Gallery, side: int, on_progress: ProgressCallback
) -> Iterator[str]:
    """Yield WebP pictures of 32 x 32 thumbnails each, in order of rows, as base64."""
    uris = gallery.store.get(found.ids).uris
    each = _SHEET * _SHEET
    for start in range(0, len(uris), each):
        part = uris[start : start + each]
        sheet = np.zeros((-(-len(part) // _SHEET) * side, _SHEET * side, 4), np.uint8)
        for place, image in enumerate(each_in_threads(_read, part)):
            if image is not None:
                _put(sheet, image, place, side)
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, format="WEBP", quality=_QUALITY, method=2)
        on_progress(Progress("thumbnails", start + len(part), len(uris), "images"))
        yield base64.b64encode(buffer.getvalue()).decode()


def _put(sheet: ImageArray, image: ImageArray, place: int, side: int) -> None:
    """Put a thumbnail in the middle of its place; around it nothing is seen."""
    small = with_channels(within(image, side), 3)
    height, width = small.shape[:2]
    top = place // _SHEET * side + (side - height) // 2
    left = place % _SHEET * side + (side - width) // 2
    sheet[top : top + height, left : left + width, :3] = small
    sheet[top : top + height, left : left + width, 3] = 255


def _read(uri: str) -> ImageArray | None:
    try:
        return open_items([uri])[0].image()
    except (ImageError, SourceError, OSError):
        return None
