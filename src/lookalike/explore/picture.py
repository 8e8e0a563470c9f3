"""The map as a picture, for notebooks; the interactive page is in :mod:`lookalike.explore.page`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from lookalike.explore.clusters import UNCLUSTERED
from lookalike.gallery.notebook import text_html
from lookalike.images.inline import data_uri
from lookalike.types import ImageArray

if TYPE_CHECKING:
    from lookalike.explore.map import CollectionMap

SIDE = 560
"""Pixels per side of the picture."""

_COLORS = (
    *("#3b76af", "#ef8636", "#519e3e", "#c53a32", "#8d69b8", "#84584e", "#d57dbe", "#8a8a2f"),
    *("#40a8b9", "#1f9e74", "#b0469f", "#6f7fd8", "#a96b1d", "#4d8f96", "#d1605e", "#5d7d3a"),
)
"""Colors of clusters, as in ``static/map.js``."""

_UNCLUSTERED_COLOR = "#9aa1a8"
_OVERSAMPLING = 2
_MARGIN = 0.02
_MAX_POINTS = 50_000
_LISTED = 12
_RADII = ((500, 4.0), (5_000, 2.5), (20_000, 1.5))


def draw_map(collection_map: CollectionMap, side: int = SIDE) -> ImageArray:
    """Return a picture of a map, ``(side, side, 3)`` uint8, its points colored by cluster.

    Of more than 50,000 points, so many are drawn, at random.
    """
    count = len(collection_map)
    rows = np.random.default_rng(0).permutation(count)[:_MAX_POINTS]
    radius = next((size for limit, size in _RADII if count <= limit), 1.0) * _OVERSAMPLING
    size = side * _OVERSAMPLING
    places = (_MARGIN + (1 - 2 * _MARGIN) * collection_map.points[rows]) * size
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    numbers = collection_map.membership[rows].tolist()
    for (x, y), number in zip(places.tolist(), numbers, strict=True):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=color_of(number))
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


def color_of(cluster: int) -> str:
    """Return the color of a cluster by its number."""
    return _UNCLUSTERED_COLOR if cluster == UNCLUSTERED else _COLORS[cluster % len(_COLORS)]


def map_html(collection_map: CollectionMap) -> str:
    """Return the picture of a map with a legend of its largest clusters, as HTML."""
    clusters = collection_map.clusters[:_LISTED]
    entries = [(color_of(each.number), each.name, each.size) for each in clusters]
    if collection_map.unclustered:
        entries.append((_UNCLUSTERED_COLOR, "unclustered", collection_map.unclustered))
    legend = "".join(
        f'<li><span style="color:{color}">&#9632;</span> {text_html(name)} ({size:,})</li>'
        for color, name, size in entries
    )
    more = len(collection_map.clusters) - len(clusters)
    rest = f"<li>{more:,} more</li>" if more else ""
    source = data_uri(draw_map(collection_map), SIDE)
    return (
        f"<p>{text_html(collection_map)}</p>"
        '<div style="display:flex;flex-wrap:wrap;gap:16px">'
        f'<img src="{source}" alt="map" width="{SIDE}" height="{SIDE}">'
        f'<ul style="list-style:none;padding:0">{legend}{rest}</ul></div>'
    )
