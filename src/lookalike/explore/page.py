"""The map as one self-contained HTML file with its data, thumbnails and script."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from functools import partial
from importlib.resources import files

import numpy as np
from PIL import Image

from lookalike.errors import SettingError
from lookalike.explore.map import CollectionMap
from lookalike.gallery.gallery import Gallery
from lookalike.images.decode import shrink_image, to_channels
from lookalike.languages import DEFAULT_LANGUAGE, TEXTS
from lookalike.types import ImageArray, Progress, ProgressCallback, ignore_progress

_SHEET_SIDE = 32
"""Thumbnails per row and column of a sprite sheet; ``map.html`` has the same constant."""

_WEBP_QUALITY = 70
_MAX_THUMBNAIL = 256
_PLACEHOLDERS = ("__TITLE__", "__STYLE__", "__SCRIPT__", "__TEXTS__", "__DATA__")


def html(
    collection_map: CollectionMap,
    gallery: Gallery,
    *,
    thumbnails: int = 32,
    on_progress: ProgressCallback = ignore_progress,
) -> str:
    """Return the HTML page of a map.

    Args:
        collection_map: the map of the gallery.
        gallery: whose images are read for the thumbnails.
        thumbnails: pixels per side of a thumbnail, at most 256; 0 for no thumbnails.
        on_progress: called after each sheet of thumbnails.

    Raises:
        SettingError: ``thumbnails`` is out of range.
    """
    if not 0 <= thumbnails <= _MAX_THUMBNAIL:
        raise SettingError(
            f"{{thumbnails}} must be from 0 (none) to {_MAX_THUMBNAIL} pixels",
            thumbnails=thumbnails,
        )
    sheets: list[str] = []
    if thumbnails:
        sheets = list(_sheets(collection_map, gallery, thumbnails, on_progress))
    data = {
        **collection_map.as_dict(),
        "gallery": gallery.path.name,
        "side": thumbnails,
        "sheets": sheets,
    }
    # "</script>" in an id would end the script element.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    static = files("lookalike.explore") / "static"
    page = (static / "map.html").read_text(encoding="utf-8")
    modules = [(static / name).read_text(encoding="utf-8") for name in ("texts.js", "map.js")]
    script = "\n".join(modules).replace("\nexport ", "\n")
    texts = json.dumps(TEXTS[DEFAULT_LANGUAGE], ensure_ascii=False).replace("<", "\\u003c")
    style = (static / "map.css").read_text(encoding="utf-8")
    title = gallery.path.name.replace("&", "&amp;").replace("<", "&lt;")
    for placeholder, value in zip(_PLACEHOLDERS, (title, style, script, texts, text), strict=True):
        page = page.replace(placeholder, value)  # data last: a placeholder in it is not replaced
    return page


def _sheets(
    collection_map: CollectionMap, gallery: Gallery, side: int, on_progress: ProgressCallback
) -> Iterator[str]:
    """Yield sprite sheets of 32 x 32 thumbnails in the order of rows, WebP as base64."""
    ids = collection_map.ids
    per_sheet = _SHEET_SIDE * _SHEET_SIDE
    for start in range(0, len(ids), per_sheet):
        part = list(gallery.store.get(ids[start : start + per_sheet]).records())
        height = -(-len(part) // _SHEET_SIDE) * side
        sheet = np.zeros((height, _SHEET_SIDE * side, 4), np.uint8)
        images = gallery.read_images(part, reduce=partial(shrink_image, side=side))
        for place, image in enumerate(images):
            if image is not None:
                _paste(sheet, image, place, side)
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, format="WEBP", quality=_WEBP_QUALITY, method=2)
        on_progress(Progress("thumbnails", start + len(part), len(ids), "images"))
        yield base64.b64encode(buffer.getvalue()).decode()


def _paste(sheet: ImageArray, image: ImageArray, place: int, side: int) -> None:
    """Center a thumbnail in its cell of an RGBA sheet; the rest of the cell is transparent."""
    small = to_channels(image, 3)
    height, width = small.shape[:2]
    top = place // _SHEET_SIDE * side + (side - height) // 2
    left = place % _SHEET_SIDE * side + (side - width) // 2
    sheet[top : top + height, left : left + width, :3] = small
    sheet[top : top + height, left : left + width, 3] = 255
