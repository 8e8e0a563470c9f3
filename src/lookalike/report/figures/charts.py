"""Charts: bars with confidence intervals, scatter plots, curves, confusion matrices."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from lookalike.evaluation.metrics import Estimate
from lookalike.report.figures.style import (
    GRID,
    HIGHLIGHT,
    INCORRECT,
    MUTED,
    PALETTE,
    STYLE,
    Figure,
)
from lookalike.search.contact_sheet import INK, check_some

ERROR_BARS = "error bars: 95 % confidence interval"
"""The part of an axis label that explains the intervals."""

WIDTH = 7.5
"""The width of a chart in inches, by default; below ``_NARROW``, it is laid out for a phone."""

_NARROW = 5.0
_CHARACTERS = 12
"""Characters in an inch of a legend, or of the label of an axis."""

_MARKER_CHARACTERS = 8
_NAME_CHARACTERS = 18
"""Characters in a line of a bar's name, in a narrow chart."""

_TICK_INCHES = 0.13
"""Of a label along the x axis that is turned by 90 degrees."""

_MAX_CELLS = 12
"""Labels of a confusion matrix that is drawn cell by cell; more are an image inside the chart."""

_SHARE = "incorrect hits, % of the query label's hits"

_SHADES = LinearSegmentedColormap.from_list("incorrect", [f"{INCORRECT}18", INCORRECT], N=32)
"""From nearly transparent to a color, so that the background is that of the page."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of :func:`interval_chart`: a value in [0, 1] and its 95 % confidence interval."""

    name: str
    value: float
    low: float
    high: float
    highlight: bool = False

    @classmethod
    def of(cls, name: str, estimate: Estimate, *, highlight: bool = False) -> Self:
        """Return the bar of an estimate."""
        interval = estimate.interval
        return cls(name, estimate.value, interval.low, interval.high, highlight)


@dataclass(frozen=True, slots=True)
class Series:
    """One encoder in :func:`scores_per_label`: a score in [0, 1] for each label."""

    name: str
    values: Sequence[float]
    highlight: bool = False


@dataclass(frozen=True, slots=True)
class TradeOff:
    """A point of :func:`quality_by_speed`: an encoder's quality and speed in images per second.

    ``quality`` is in [0, 1], ``low`` and ``high`` its 95 % confidence interval. ``tied``: no
    significant difference to the best one.
    """

    name: str
    images_per_second: float
    quality: float
    low: float
    high: float
    best: bool = False
    tied: bool = False


@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """The losses of a run in :func:`training_curve`.

    ``points`` are ``(n, 2)``: epochs, and the mean loss since the previous point; ``epochs`` are
    ``(m, 2)``: the end of each epoch and its mean loss.
    """

    name: str
    points: NDArray[np.float64]
    epochs: NDArray[np.float64]


def class_distribution(
    gallery: Mapping[str, int], queries: Mapping[str, int], *, width: float = WIDTH
) -> Figure:
    """Draw the number of images with each label in the gallery and among the queries."""
    check_some(gallery=gallery)
    labels = sorted({*gallery, *queries})
    place = np.arange(len(labels))
    with mpl.rc_context(STYLE):
        figure = _chart((width, 2.9))
        ax = figure.subplots()
        for offset, counts, name, color in (
            (-0.2, gallery, "gallery", HIGHLIGHT),
            (0.2, queries, "queries", MUTED),
        ):
            heights = [counts.get(label, 0) for label in labels]
            bars = ax.bar(place + offset, heights, 0.4, label=name, color=color)
            if len(labels) <= 12:
                turned = 90 if width < _NARROW and len(labels) > 4 else 0
                ax.bar_label(bars, fmt="{:,.0f}", fontsize=6.5, padding=1, rotation=turned)
        _label_ticks(ax, place, labels, width)
        ax.set_xlabel("label")
        ax.set_ylabel("number of images")
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def training_curve(curves: Sequence[TrainingCurve], loss: str, *, width: float = WIDTH) -> Figure:
    """Draw training losses: a line per recipe, a point per epoch, and the last epoch's mean.

    Args:
        curves: in the order of the legend.
        loss: the name of the loss with its unit, for the axis.
        width: in inches.
    """
    check_some(curves=curves)
    labels = [
        _wrap(f"{curve.name} (last epoch: mean {curve.epochs[-1, 1]:.5f})", width - 0.7)
        for curve in curves
    ]
    lines = sum(label.count("\n") + 1 for label in labels)
    with mpl.rc_context(STYLE):
        figure = _chart((width, 2.9 + 0.17 * lines))
        ax = figure.subplots()
        for number, curve in enumerate(curves):
            color = PALETTE[number % len(PALETTE)]
            ax.plot(*curve.points.T, color=color, alpha=0.6)
            ax.plot(*curve.epochs.T, "o", color=color, label=labels[number], markersize=4)
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("epochs")
        ax.set_ylabel(loss)
        figure.legend(loc="outside upper left", frameon=False)
    return figure


def confusion(
    labels: Sequence[str], counts: NDArray[np.int64], *, width: float | None = None
) -> Figure:
    """Draw a confusion matrix of the queries' and the hits' labels, in percent of each row.

    Args:
        labels: names of rows and columns.
        counts: ``(labels, labels)`` hits, by label of the query (row) and of the hit (column).
        width: in inches; by default, as wide as the labels need.
    """
    check_some(labels=labels)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    incorrect = np.ma.masked_array(share, np.eye(len(labels), dtype=bool) | (share == 0))
    side = max(3.6, 0.46 * len(labels) + 1.4)
    narrow = width is not None and width < _NARROW
    size = (side + 0.8, side)
    if width is not None:
        size = (width, min(side, width if narrow else width - 0.8))
    with mpl.rc_context({**STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = _chart((size[0], size[1] + 0.7 * narrow))
        ax = figure.subplots()
        many = len(labels) > _MAX_CELLS
        cells = ax.pcolormesh(incorrect, cmap=_SHADES, vmin=0, shading="nearest", rasterized=many)
        ax.set_aspect("equal")
        ax.invert_yaxis()
        ax.set_facecolor("none")
        if len(labels) <= (12 if narrow else 20):
            _write_shares(ax, share, decimals=0 if narrow else 1)
        _label_ticks(ax, np.arange(len(labels)), labels, size[0])
        step = int(np.ceil(len(labels) * _TICK_INCHES / (size[0] - 1)))
        small = len(labels) > (15 if narrow else 30)
        ax.set_yticks(range(0, len(labels), step), labels[::step], fontsize=6.5 if small else 9)
        ax.tick_params(length=0)
        ax.set_xlabel("label of the hit")
        ax.set_ylabel("label of the query")
        figure.colorbar(
            cells,
            ax=ax,
            label="incorrect hits, % of\nthe query label's hits" if narrow else _SHARE,
            location="bottom" if narrow else "right",
            shrink=0.75,
        )
    return figure


def _write_shares(ax: Axes, share: NDArray[np.float64], decimals: int) -> None:
    """Write the share of each cell of a confusion matrix, in percent, that is not 0."""
    least = 0.5 * 10.0**-decimals
    off_diagonal = share[~np.eye(len(share), dtype=bool)]
    darkest = off_diagonal.max(initial=0.0)
    for y, x in np.ndindex(share.shape):
        if x == y or share[y, x] >= least:
            color = "w" if x != y and share[y, x] > 0.6 * darkest else INK
            text = f"{share[y, x]:.{decimals}f}"
            ax.text(x, y, text, ha="center", va="center", fontsize=7, color=color)


def scores_per_label(
    labels: Sequence[str], series: Sequence[Series], score: str, *, width: float = WIDTH
) -> Figure:
    """Draw the score of each label's queries, with one marker per encoder.

    Args:
        labels: along the x axis.
        series: the encoders' scores, in the order of the legend; the highlighted one is on top.
        score: the name of the score, for the y axis.
        width: in inches.
    """
    check_some(labels=labels, series=series)
    place = np.arange(len(labels))
    with mpl.rc_context(STYLE):
        names = [_wrap(each.name, width - 0.7) for each in series]
        longest = max(len(line) for name in names for line in name.split("\n"))
        longest += _MARKER_CHARACTERS
        columns = min(len(series), max(1, int(_CHARACTERS * width) // longest))
        lines = -(-sum(name.count("\n") + 1 for name in names) // columns)
        figure = _chart((width, 3.2 + 0.17 * lines))
        ax = figure.subplots()
        styles = iter(zip("s^vDP<>", PALETTE, strict=True))
        for each, name in zip(series, names, strict=True):
            marker, color = ("o", HIGHLIGHT) if each.highlight else next(styles, ("x", MUTED))
            size, layer = (8, 3) if each.highlight else (5, 2)
            ax.plot(place, each.values, marker, color=color, ms=size, label=name, zorder=layer)
        _label_ticks(ax, place, labels, width)
        ax.set_xlabel("label of the query")
        ax.set_ylabel(score)
        ax.grid(axis="y", color=GRID)
        figure.legend(loc="outside upper center", ncols=columns, frameon=False)
    return figure


def interval_chart(
    bars: Sequence[Bar], label: str, *, reference: float | None = None, width: float = WIDTH
) -> Figure:
    """Draw values in [0, 1] as horizontal bars with confidence intervals.

    Args:
        bars: from top to bottom; each is annotated with its value.
        label: of the value axis.
        reference: position of a dotted vertical line.
        width: in inches.
    """
    check_some(bars=bars)
    values = np.array([bar.value for bar in bars])
    # Rounding may put the end of an interval on the wrong side of its value.
    below = np.maximum(values - [bar.low for bar in bars], 0)
    above = np.maximum([bar.high for bar in bars] - values, 0)
    place = np.arange(len(bars))  # two bars may have the same name
    label = "\n".join(_wrap(line, width) for line in label.split("\n"))
    lines = label.count("\n") + 1
    names = [bar.name for bar in bars]
    if width < _NARROW:
        names = [textwrap.fill(name, _NAME_CHARACTERS) for name in names]
    name_lines = max(name.count("\n") + 1 for name in names)
    height = max(0.34, 0.17 * name_lines) * len(bars) + 0.65 + 0.15 * lines
    with mpl.rc_context(STYLE):
        figure = _chart((width, height))
        ax = figure.subplots()
        colors = [HIGHLIGHT if bar.highlight else MUTED for bar in bars]
        ax.barh(place, values, xerr=[below, above], color=colors, ecolor=INK, height=0.7)
        ax.set_yticks(place, names)
        ax.invert_yaxis()
        for y, (end, value) in enumerate(zip(values + above, values, strict=True)):
            ax.text(end + 0.006, y, f"{value:.4f}", va="center", fontsize=8)
        if reference is not None:
            ax.axvline(reference, color=INK, linewidth=0.8, linestyle=":")
        ax.set_xlim(0, 1.09)
        ax.set_xticks(np.linspace(0, 1, 6 if width >= _NARROW else 3))
        figure.supxlabel(label, fontsize="medium")  # names may leave the axes no room for it
    return figure


def quality_by_speed(points: Sequence[TradeOff], quality: str) -> Figure:
    """Draw encoders by speed and quality, with 95 % confidence intervals.

    The best encoder has the highlight color; those tied with it are filled.

    Args:
        points: the encoders, in the order of the legend.
        quality: the name of the quality measure, for the y axis.
    """
    check_some(points=points)
    with mpl.rc_context(STYLE):
        figure = _chart((7.5, 3.8))
        ax = figure.subplots()
        for number, point in enumerate(points):
            below = max(point.quality - point.low, 0)
            above = max(point.high - point.quality, 0)
            color = HIGHLIGHT if point.best else PALETTE[number % len(PALETTE)]
            ax.errorbar(
                point.images_per_second,
                point.quality,
                yerr=[[below], [above]],
                fmt="os^vDP<>"[number % 8],
                color=color,
                mfc=color if point.tied or point.best else "w",
                capsize=2,
                label=f"{point.name} (best)" if point.best else point.name,
            )
        ax.set_xscale("log")
        ax.margins(x=0.08)
        ax.set_xlabel(
            "encoding speed, images per second (log scale)\n"
            f"filled: tied with the best; {ERROR_BARS}"
        )
        ax.set_ylabel(quality)
        figure.legend(loc="outside right upper", frameon=False)
    return figure


def _label_ticks(ax: Axes, place: NDArray[np.int64], labels: Sequence[str], width: float) -> None:
    """Write labels along the x axis, rotated if they are long or many; not all if too many."""
    narrow = width < _NARROW
    if len(labels) > (15 if narrow else 30):
        step = int(np.ceil(len(labels) * _TICK_INCHES / (width - 1)))
        ax.set_xticks(place[::step], labels[::step], rotation=90, fontsize=6.5)
    elif max(map(len, labels)) > 3:
        ax.set_xticks(place, labels, rotation=35, ha="right", rotation_mode="anchor")
    else:
        ax.set_xticks(place, labels)


def _wrap(label: str, width: float) -> str:
    """Break the label of an axis into lines that fit a chart of this width in inches."""
    return textwrap.fill(label, int(_CHARACTERS * width))


def _chart(size: tuple[float, float]) -> Figure:
    """Return a figure of this size in inches with constrained layout."""
    return Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
