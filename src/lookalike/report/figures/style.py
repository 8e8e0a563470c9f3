"""The style of figures of matplotlib, and saving them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import figure as mpl_figure

from lookalike.artifacts import write_atomically
from lookalike.errors import InputError, SettingError
from lookalike.files import as_path
from lookalike.process_state import IgnoreWarnings
from lookalike.report.svg import compact_svg
from lookalike.search.contact_sheet import INK

HIGHLIGHT = "#0b6e99"
MUTED = "#b4b4b4"
INCORRECT = "#b3261e"
GRID = "#eeeeee"
PALETTE = ("#e6a23c", "#67a86b", "#a67bc0", "#c97a7a", "#5b8fd6", "#8a8a5c", "#777777")
"""Colors on a light background; :func:`lookalike.report.svg.dark_svg` has those on a dark one."""


DPI = 130
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "text.color": INK,
    "axes.labelcolor": INK,
    "text.parse_math": False,  # labels and names are user data; a dollar is a dollar
}
_SVG: Any = {"svg.fonttype": "none", "svg.hashsalt": "lookalike"}

_MISSING_GLYPHS = IgnoreWarnings(UserWarning, r"Glyph \d+ .*missing from")
"""Labels may be in any script; matplotlib draws boxes for what its font lacks, and warns of it."""


class Figure(mpl_figure.Figure):
    """A figure that a notebook shows where it is the value of a cell, without ``%matplotlib``."""

    def _repr_png_(self) -> bytes:
        return self.encode("png")

    def encode(self, format: str) -> bytes:  # noqa: A002 - as theirs
        """Return the figure as a file; the tables beside it have the text that its font lacks.

        Raises:
            ValueError: matplotlib does not support the format.
        """
        file = io.BytesIO()
        with _MISSING_GLYPHS:
            self.savefig(file, dpi=DPI, format=format)
        return file.getvalue()

    def svg(self) -> str:
        """Return the figure as SVG for pages: text is text, and equal figures are equal."""
        file = io.StringIO()
        with _MISSING_GLYPHS, mpl.rc_context(_SVG):
            self.savefig(file, dpi=DPI, format="svg", transparent=True, metadata={"Date": None})
        return compact_svg(file.getvalue())


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG or, by the suffix, SVG or PDF.

    Raises:
        InputError: ``path`` is no path.
        SettingError: matplotlib does not support the suffix.
        StorageError: it could not be written.
    """
    if not isinstance(figure, Figure):
        raise InputError(
            f"{{figure}} must be a figure of lookalike.figures, not {type(figure).__name__}",
            figure=None,
        )
    path = as_path(path, "path")
    try:
        data = figure.encode(path.suffix.removeprefix(".") or "png")
    except ValueError as error:
        raise SettingError(f"{path}: {error}") from error
    write_atomically(path, data)
