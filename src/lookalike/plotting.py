"""The style of figures of matplotlib, and saving them."""

from __future__ import annotations

import io
from collections.abc import Sized
from pathlib import Path
from typing import IO, Any

from matplotlib import figure as mpl_figure

from lookalike.artifacts import write_atomically
from lookalike.errors import InputError, SettingError
from lookalike.files import as_path
from lookalike.process_state import IgnoreWarnings

INK = "#222222"
HIGHLIGHT = "#0b6e99"
MUTED = "#b4b4b4"
CORRECT = "#1a7f37"
INCORRECT = "#cf222e"
PALETTE = ("#e6a23c", "#67a86b", "#a67bc0", "#c97a7a", "#5b8fd6", "#8a8a5c", "#777777")
DPI = 130
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "text.color": INK,
    "axes.labelcolor": INK,
    "text.parse_math": False,  # labels and names are user data; a dollar is a dollar
}


_MISSING_GLYPHS = IgnoreWarnings(UserWarning, r"Glyph \d+ .*missing from")
"""Labels may be in any script; matplotlib draws boxes for what its font lacks, and warns of it."""


class Figure(mpl_figure.Figure):
    """A figure that a notebook shows where it is the value of a cell, without ``%matplotlib``."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        render(self, file)
        return file.getvalue()


def render(figure: mpl_figure.Figure, file: IO[bytes], format: str = "png") -> None:  # noqa: A002 - as theirs
    """Write a figure into a file; the tables beside it have the text that its font lacks.

    Raises:
        ValueError: matplotlib does not support the format.
    """
    with _MISSING_GLYPHS:
        figure.savefig(file, dpi=DPI, format=format)


def check_some(**values: Sized) -> None:
    """Check that there is something to draw, in arguments by name.

    Raises:
        InputError: one is empty.
    """
    for name, value in values.items():
        if not len(value):
            raise InputError(f"{{{name}}} is empty: there is nothing to draw", **{name: None})


def save(figure: mpl_figure.Figure, path: str | Path) -> None:
    """Write a figure as PNG or, by the suffix, SVG or PDF.

    Raises:
        InputError: ``path`` is no path.
        SettingError: matplotlib does not support the suffix.
        StorageError: it could not be written.
    """
    if not isinstance(figure, mpl_figure.Figure):
        raise InputError(
            f"{{figure}} must be a figure of lookalike.figures, not {type(figure).__name__}",
            figure=None,
        )
    path, data = as_path(path, "path"), io.BytesIO()
    try:
        render(figure, data, format=path.suffix.removeprefix(".") or "png")
    except ValueError as error:
        raise SettingError(f"{path}: {error}") from error
    write_atomically(path, data.getvalue())
