"""The parts of a report: sections with figures and tables on one HTML page."""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from lookalike._version import __version__
from lookalike.artifacts import write_atomically
from lookalike.evaluation.metrics import Estimate
from lookalike.gallery.gallery import Gallery
from lookalike.report.svg import picture

if TYPE_CHECKING:
    from lookalike.report.figures.style import Figure
    from lookalike.search.contact_sheet import ContactSheet

SETTINGS = "Settings"
"""The title of the section with the settings, which contains paths."""

INTERVAL = "95 % interval"

_WIDE, _NARROW = 7.5, 3.7
"""Widths of charts in inches; on a phone of 390 pixels, the text of a narrow one is readable."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under column names; ``wrap`` lets long cells break."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    wrap: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart as two SVG documents: for wide windows, and for phones."""

    wide: str
    narrow: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a short text, and a chart or images (PNG, base64), a table or both."""

    title: str
    text: str
    chart: Chart | None = None
    image: str | None = None
    table: Table | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report: ``verdict`` is one sentence; table rows that begin with ``highlight`` stand out."""

    title: str
    subtitle: str
    verdict: str
    sections: Sequence[Section]
    highlight: str | None = None


def write_page(page: Page, path: Path) -> None:
    """Write a report as one self-contained HTML file.

    Raises:
        StorageError: it could not be written.
    """
    write_atomically(path, render_page(page).encode())


def render_page(page: Page | Mapping[str, Any]) -> str:
    """Return a report, or a saved one with the same fields, as self-contained HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lookalike.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["picture"] = picture
    return environment.get_template("report.html").render(page=page)


def settings_section(gallery: Gallery, settings: Mapping[str, Any]) -> Section:
    """Return the section that lists the settings of a run, its gallery and its encoder."""
    encoder = gallery.encoder.describe()
    training = encoder.get("origin", {})
    gallery_facts = gallery.info()
    size = gallery_facts.pop("bytes")
    facts: dict[str, Any] = {
        "lookalike": __version__,
        "python": platform.python_version(),
        "gallery": str(gallery.path),
        **{f"gallery {key}": value for key, value in gallery_facts.items()},
        "gallery size": f"{size / 1e6:,.1f} MB",
        **settings,
        **{f"encoder {key}": value for key, value in encoder.items() if key != "origin"},
        **{f"training {key}": value for key, value in training.items() if key != "history"},
    }
    rows = [(key, _display_text(value)) for key, value in facts.items()]
    text = "Everything needed to reproduce this report."
    return Section(SETTINGS, text, table=Table(("setting", "value"), rows, wrap=True))


def _display_text(value: Any) -> str:
    """Return a JSON value as people read it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_display_text(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_display_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def interval_cells(column: str, estimate: Estimate) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return two table cells with their columns: a value and its confidence interval."""
    interval = estimate.interval.describe(".4f", " to ")
    return (column, f"{estimate.value:.4f}"), (INTERVAL, interval)


def chart(draw: partial[Figure]) -> Chart:
    """Return a chart for :class:`Section`, drawn for wide windows and for phones.

    Args:
        draw: a function of :mod:`lookalike.report.figures` with its arguments but ``width``.
    """
    return Chart(draw(width=_WIDE).svg(), draw(width=_NARROW).svg())


def png(sheet: ContactSheet) -> str:
    """Return images as a base64 PNG, for :class:`Section`."""
    return base64.b64encode(sheet.encode("PNG")).decode()
