"""The style of figures, and saving them."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from matplotlib.figure import Figure

from lookalike.errors import SettingError, StorageError
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


def render(figure: Figure, file: Path | IO[bytes], **options: Any) -> None:
    """Write a figure with ``savefig``; the tables beside it have the text that its font lacks."""
    with _MISSING_GLYPHS:
        figure.savefig(file, dpi=DPI, **options)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or, by the suffix, SVG or PDF.

    Raises:
        SettingError: matplotlib does not support the suffix.
        StorageError: it could not be written.
    """
    try:
        render(figure, path)
    except ValueError as error:
        raise SettingError(f"{path}: {error}") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
