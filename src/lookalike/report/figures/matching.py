"""Matches of geometric verification: two images with their inliers."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection

from lookalike.images.local_features import GeometricMatch
from lookalike.report.figures.style import HIGHLIGHT, STYLE, Figure
from lookalike.search.contact_sheet import INK
from lookalike.types import ImageArray

_SIDE = 3.2
_GAP = 0.04


def matches(
    query_image: ImageArray, row_image: ImageArray, match: GeometricMatch, title: str | None = None
) -> Figure:
    """Draw a query beside a row's image, with a line for each inlier.

    Args:
        query_image: drawn on the left.
        row_image: drawn on the right.
        match: the inliers of both images.
        title: a line above the number of inliers.
    """
    images = query_image, row_image
    scales = [1 / max(image.shape[:2]) for image in images]  # each fills a square of side 1
    sizes = [
        np.array(image.shape[1::-1]) * scale for image, scale in zip(images, scales, strict=True)
    ]
    width = sizes[0][0] + _GAP + sizes[1][0]
    height = max(size[1] for size in sizes)
    top = 0.5 if title else 0.3
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_SIDE * width + 0.1, _SIDE * height + top + 0.05))
        inches = figure.get_size_inches()
        ax = figure.add_axes(
            (0.05 / inches[0], 0.05 / inches[1], 1 - 0.1 / inches[0], 1 - (top + 0.05) / inches[1])
        )
    ends = []
    lefts = (0, width - sizes[1][0])
    points = match.query_points, match.candidate_points
    for image, scale, size, left, at in zip(images, scales, sizes, lefts, points, strict=True):
        corner = np.array([left, (height - size[1]) / 2])
        right, bottom = corner + size
        extent = (corner[0], right, bottom, corner[1])
        ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="antialiased", extent=extent)
        ends.append((at + 0.5) * scale + corner)
    ax.add_collection(
        LineCollection(list(np.stack(ends, axis=1)), colors=HIGHLIGHT, linewidths=0.7)
    )
    x, y = np.concatenate(ends).T
    ax.scatter(x, y, s=7, color=HIGHLIGHT, edgecolors="white", linewidths=0.4)
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    count = "1 inlier" if match.inlier_count == 1 else f"{match.inlier_count or 'no'} inliers"
    ax.set_title(f"{title}\n{count}" if title else count, fontsize=9, color=INK, pad=4)
    return figure
