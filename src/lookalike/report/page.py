"""What reports are made of: sections with figures and tables, on one HTML page."""

from __future__ import annotations

import base64
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from lookalike._version import __version__
from lookalike.artifacts import write_atomically
from lookalike.gallery.gallery import Gallery

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS = "Exact settings"
"""The title of the section that says what was asked of what, paths among it."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under column names; ``wrap`` lets long cells break."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    wrap: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence or two, and a figure or a table or both."""

    title: str
    text: str
    image: str | None = None
    table: Table | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A report: ``verdict`` is one sentence; rows of tables that begin with ``ours`` stand out."""

    title: str
    subtitle: str
    verdict: str
    sections: Sequence[Section]
    ours: str | None = None


def write_page(page: Page, path: Path) -> None:
    """Write a report as one HTML file that needs no other.

    Raises:
        StorageError: it could not be written.
    """
    write_atomically(path, rendered(page).encode())


def rendered(page: Page | Mapping[str, Any]) -> str:
    """Return a report, or one kept as a mapping of the same fields, as HTML that needs no other."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lookalike.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html").render(page=page)


def settings_of(gallery: Gallery, asked: Mapping[str, Any]) -> Section:
    """Return the section that says what was asked of which gallery and encoder, exactly."""
    described = gallery.encoder.describe()
    origin = described.get("origin", {})
    facts: dict[str, Any] = {
        "lookalike": __version__,
        "python": platform.python_version(),
        "gallery": str(gallery.path),
        **{f"gallery {key}": value for key, value in gallery.info().items()},
        **asked,
        **{f"encoder {key}": value for key, value in described.items() if key != "origin"},
        **{f"training {key}": value for key, value in origin.items() if key != "history"},
    }
    rows = [
        (key, value if isinstance(value, str) else json.dumps(value))
        for key, value in facts.items()
    ]
    text = "With these the figures can be made again."
    return Section(SETTINGS, text, table=Table(("setting", "value"), rows, wrap=True))


def png(figure: Figure) -> str:
    """Return a figure as the base64 text of a PNG, for :class:`Section`."""
    from lookalike.report import figures  # a service shows reports and draws none

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figures.DPI)
    return base64.b64encode(buffer.getvalue()).decode()
