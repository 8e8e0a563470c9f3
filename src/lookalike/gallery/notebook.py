"""Results about the images of a gallery as HTML for notebooks: thumbnails, or a table without."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lookalike.errors import LookalikeError
from lookalike.formatting import printable, shorten
from lookalike.gallery.gallery import Gallery
from lookalike.images.decode import shrink_image
from lookalike.images.inline import grid_html

SHOWN = 24
"""Images, or rows of a table, in a notebook."""

_SIDE = 128


@dataclass(frozen=True, slots=True)
class Caption:
    """An image of a grid: the id of its row, and what is written below it."""

    id: str
    text: str


def images_html(gallery: Gallery | None, captions: Sequence[Caption]) -> str:
    """Return the images of rows with their captions; empty if none can be read.

    Rows that are gone by now, and images that cannot be read, are shown without an image.
    """
    if gallery is None or not captions:
        return ""
    try:
        items = gallery.get([each.id for each in captions])
        existing = [item for item in items if item is not None]
        reduce = partial(shrink_image, side=_SIDE)
        images = gallery.read_images(existing, reduce=reduce)
    except LookalikeError:  # the gallery is gone, or was replaced
        return ""
    if all(image is None for image in images):
        return ""
    image_of = {item.id: image for item, image in zip(existing, images, strict=True)}
    return grid_html([(image_of.get(each.id), each.text) for each in captions], side=_SIDE)


def table_html(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return the first rows of a table, and how many there are if some are left out."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{text_html(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[:SHOWN]
    )
    more = f"<p>{len(rows) - SHOWN:,} more</p>" if len(rows) > SHOWN else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def scores_html(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], verdict: str
) -> str:
    """Return a table of scores with a title above it and a sentence below."""
    above, below = (html.escape(printable(text)) for text in (title, verdict))
    return f"<div><p>{above}</p>{table_html(columns, rows)}<p>{below}</p></div>"


def text_html(value: object) -> str:
    """Return a text that is safe in HTML, shortened."""
    return html.escape(printable(shorten(str(value))))
