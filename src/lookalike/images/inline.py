"""Images inside HTML: small files as ``data:`` URIs, and grids of them for notebooks."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from lookalike.formatting import printable, shorten
from lookalike.images.decode import shrink_image
from lookalike.types import ImageArray, Metadata

_TINY = 64
"""Images of at most so many pixels a side are PNG, others JPEG, which is smaller."""

_COLUMNS = 20
_CELL_CHARACTERS = 200
"""Columns of the metadata of an image that are shown, and characters of each."""

_CELL = "margin:0;max-width:{side}px;overflow-wrap:anywhere;font-size:12px;line-height:1.3"
_IMAGE = "max-width:{side}px;max-height:{side}px;min-width:64px;object-fit:contain;display:block"
_MISSING = "width:{side}px;height:64px;border:1px dashed #888;color:#888;text-align:center"


def thumbnail_file(pixels: ImageArray, *, webp: bool = False) -> tuple[str, bytes]:
    """Return the media type and the bytes of a small image, as it is: PNG, JPEG or WebP.

    Tiny ones are stored without loss, also as WebP.
    """
    tiny = max(pixels.shape[:2]) <= _TINY
    kind = "WEBP" if webp else "PNG" if tiny else "JPEG"
    options = {"lossless": tiny, "quality": 100 if tiny else 82} if webp else {"quality": 85}
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return Image.MIME[kind], file.getvalue()


def data_uri(image: ImageArray, side: int = 160) -> str:
    """Return an image as a ``data:`` URI, for ``<img src=...>``.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)`` uint8.
        side: maximum width and height in pixels; larger images are scaled down.
    """
    media_type, data = thumbnail_file(shrink_image(image, side))
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def grid_html(cells: Sequence[tuple[ImageArray | None, str]], *, side: int = 128) -> str:
    """Return images with their captions as HTML that needs no styles or scripts around it.

    Args:
        cells: an image, None where it cannot be read, and its caption; captions are plain text of
            one or more lines, which are escaped and shortened.
        side: maximum width and height of an image in pixels.
    """
    figures = "".join(_figure_html(image, caption, side) for image, caption in cells)
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px;align-items:end">{figures}</div>'


def _figure_html(image: ImageArray | None, caption: str, side: int) -> str:
    lines = [html.escape(printable(shorten(line))) for line in caption.split("\n")]
    if image is None:
        picture = f'<div style="{_MISSING.format(side=side)}">no image</div>'
    else:
        style = _IMAGE.format(side=side)
        picture = f'<img src="{data_uri(image, side)}" alt="{lines[0]}" style="{style}">'
    text = "<br>".join(lines)
    return (
        f'<figure style="{_CELL.format(side=side)}">{picture}'
        f"<figcaption>{text}</figcaption></figure>"
    )


def item_html(image: ImageArray | None, name: str, metadata: Metadata) -> str:
    """Return an image with its name and a table of its metadata, as :func:`grid_html`."""
    rows = "".join(
        f"<tr><th>{_cell(column)}</th><td>{_cell(value)}</td></tr>"
        for column, value in list(metadata.items())[:_COLUMNS]
    )
    return f"{grid_html([(image, name)])}<table>{rows}</table>"


def _cell(value: object) -> str:
    return html.escape(shorten(str(value), _CELL_CHARACTERS))
