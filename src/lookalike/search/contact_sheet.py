"""Contact sheets: queries beside their hits, as figures of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lookalike.errors import InputError
from lookalike.formatting import format_count, format_distance
from lookalike.plotting import CORRECT, INCORRECT, INK, MUTED, STYLE, Figure, check_some
from lookalike.search.hits import Hits
from lookalike.types import Hit, ImageArray


def hits(results: Hits, correct: Sequence[bool | None] | None = None) -> Figure:
    """Draw a query beside its hits, with their labels and distances.

    Args:
        results: of one query; without a URI its image is not drawn.
        correct: whether each hit is correct, None where unknown.

    Raises:
        InputError: as of :func:`hits_grid`.
    """
    return hits_grid([results], None if correct is None else [correct])


def hits_grid(
    results: Sequence[Hits],
    correct: Sequence[Sequence[bool | None] | None] | None = None,
    *,
    query_titles: Sequence[str | None] | None = None,
    hit_titles: Sequence[Sequence[str]] | None = None,
    row_names: Sequence[str] | None = None,
) -> Figure:
    """Draw queries, one per row, beside their hits with distances.

    Where an image cannot be read, "no image" is written.

    Args:
        results: of each query; without a URI its image is not drawn.
        correct: for each query whether each hit is correct (green frame and check mark) or not
            (red frame and cross). None, for a hit or for all hits of a query, draws no frame.
        query_titles: the title of each query, below "query".
        hit_titles: the title of each hit; by default its label or, without one, its id.
        row_names: a title on the left of each row.

    Raises:
        InputError: no results, something that is no hits, or another number of marks.
    """
    _check(results, correct)
    columns = max(len(row) for row in results) + 1
    left = 0.3 if row_names else 0.05
    figure, axes = image_grid(len(results), columns, cell=(1.05, 1.38), left=left)
    for name, ax in zip(row_names or (), axes[:, 0], strict=False):
        box = ax.get_position()
        middle = (box.y0 + box.y1) / 2
        figure.text(0.008, middle, name, fontsize=8, color=INK, rotation=90, va="center")
    for y, row in enumerate(results):
        if row.uri is not None:
            title = query_titles[y] if query_titles else None
            text = "query" if title is None else f"query\n{shorten_title(title)}"
            picture(axes[y, 0], row.query_image(), text, INK)
        titles = hit_titles[y] if hit_titles else [hit_title(hit) for hit in row]
        marks = (correct[y] if correct else None) or [None] * len(row)
        for x, (image, hit) in enumerate(zip(row.images(), row, strict=True)):
            draw_hit(axes[y, 1 + x], image, hit, titles[x], marks[x])
    return figure


def _check(results: Sequence[Hits], correct: Sequence[Sequence[bool | None] | None] | None) -> None:
    check_some(results=results)
    for y, row in enumerate(results):
        if not isinstance(row, Hits):
            raise InputError(
                f"{{results}} must be Hits of a search, not {type(row).__name__}", results=None
            )
        marks = correct[y] if correct else None
        if marks is not None and len(marks) != len(row):
            raise InputError(
                f"{{correct}} has {len(marks)} marks for {format_count(len(row), 'hit')}",
                correct=None,
            )


def hit_title(hit: Hit) -> str:
    """Return the label of a hit or, without one, its id."""
    label = hit.metadata.get("label")
    return hit.id if label is None else str(label)


def draw_hit(
    ax: Axes, image: ImageArray | None, hit: Hit, title: str, correct: bool | None
) -> None:
    """Draw a hit with its title and distance, and whether it is correct."""
    text = f"{shorten_title(title)}\n{format_distance(hit.distance)}"
    if correct is None:
        picture(ax, image, text, INK)
    else:
        color, mark = (CORRECT, "✓") if correct else (INCORRECT, "✗")
        picture(ax, image, f"{mark} {text}", color)
        frame(ax, color)


def shorten_title(label: str, max_length: int = 15) -> str:
    """Return the last part of a label or id, shortened to fit above an image."""
    last = label.rpartition("/")[2]
    return last if len(last) <= max_length else f"{last[: max_length - 1]}…"


def image_grid(
    rows: int, columns: int, *, cell: tuple[float, float], left: float = 0.05
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure of rows x columns axes without ticks, ``cell`` inches each."""
    width = columns * cell[0] + left + 0.05
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, rows * cell[1] + 0.1))
        axes = figure.subplots(
            rows,
            columns,
            squeeze=False,
            gridspec_kw={
                "left": left / width,
                "right": 1 - 0.05 / width,
                "bottom": 0.02,
                "top": 1 - 0.33 / (rows * cell[1] + 0.1) if cell[1] > 0.9 else 0.98,
                "wspace": 0.12,
                "hspace": 0.12 if cell[1] < 0.9 else 0.42,
            },
        )
    for ax in axes.flat:
        ax.axis("off")
    return figure, axes


def picture(ax: Axes, image: ImageArray | None, title: str, color: str) -> None:
    """Draw an image with a title above it."""
    if image is None:
        ax.text(0.5, 0.5, "no image", ha="center", va="center", fontsize=7.5, color=MUTED)
    else:
        ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_title(title, fontsize=7.5, color=color, pad=4)
    ax.axis("off")


def frame(ax: Axes, color: str) -> None:
    """Draw a frame around an image."""
    ax.axis("on")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=2)
