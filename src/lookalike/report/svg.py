"""Charts as SVG for pages: small, without styles and scripts, in the colors of light and dark.

A chart is shown as an image, so what is in a saved report of somebody else runs no scripts and
fetches nothing. An image does not see the styles of the page around it: the page has a version for
each color scheme and for narrow windows, of which browsers show the one that applies.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import Markup

_NARROW = "(max-width: 36rem)"
_DARK = "(prefers-color-scheme: dark)"
"""Media queries; the style sheets of reports and of the service's page have the same width."""

_INK = "#222222"
_DARK_COLORS: Final = {
    "#000000": "#e6e6e6",
    _INK: "#e6e6e6",
    "#555555": "#b4b9be",  # ticks and their labels
    "#888888": "#80868c",  # axes
    "#eeeeee": "#2c3035",  # grid
    "#b4b4b4": "#666d75",  # muted
    "#0b6e99": "#3596c2",  # highlight
    "#b3261e": "#c8372d",  # incorrect
    "#777777": "#9a9a9a",
    "#8a8a5c": "#a8a872",
}
"""Colors of charts on a light background, and what they become on a dark one."""

_ROOT: Final = {
    "xmlns": "http://www.w3.org/2000/svg",
    "font-family": "system-ui, 'Segoe UI', Roboto, Arial, 'DejaVu Sans', sans-serif",
    "fill": _INK,
    "stroke-linejoin": "round",
    "stroke-linecap": "butt",
}
"""What elements inherit; matplotlib repeats the fonts in each text, and leaves out black fills."""

_COLOR = re.compile('(?<=(?:fill|roke)=")#[0-9a-f]{6}(?=")')
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DECIMALS = re.compile(r"(\.\d\d)\d+")
_COMMAND = re.compile(" ?([A-Za-z]) ?")
_REFERENCE = re.compile(r"(?:^|(?<=url\())#([^)]*)")
_FONT = re.compile(r"(?:(?P<weight>bold|[1-9]00) )?(?P<size>[\d.]+px)")


def compact_svg(document: str) -> str:
    """Return an SVG document of matplotlib without what pages do not need or do not allow.

    That is its metadata, its style sheet and ``style`` attributes, which become attributes of
    their own, names that nothing refers to, and decimals beyond a hundredth of a point. Characters
    that XML does not have, in the name of a label, become U+FFFD.
    """
    root = ElementTree.fromstring(_ILLEGAL.sub("\ufffd", document))
    references = [name for element in root.iter() for name in _references(element)]
    names = {name: f"n{number}" for number, name in enumerate(dict.fromkeys(references))}
    (root,) = _compact(root, names)
    markers = {path.get("id") for path in root.iter("path") if path.get("stroke")}
    for use in root.iter("use"):
        if use.attrib["href"].removeprefix("#") in markers:  # the marker's own stroke counts
            use.attrib = {k: v for k, v in use.items() if not k.startswith("stroke")}
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib = {**_ROOT, "viewBox": root.attrib["viewBox"], "width": width, "height": height}
    return ElementTree.tostring(root, encoding="unicode")


def _references(element: Element) -> Iterator[str]:
    for key, value in element.items():
        if _local(key) in ("href", "clip-path") and not value.startswith("data:"):
            yield from _REFERENCE.findall(value)


def _compact(element: Element, names: dict[str, str]) -> list[Element]:
    """Return what remains of an element: itself, its children if it was a mere group, or nothing.

    ``names`` are the new names of the elements that others refer to.
    """
    element.tag, element.tail = _local(element.tag), None
    if element.tag in ("metadata", "style"):
        return []
    attributes = {_local(key): value for key, value in element.items()}
    attributes |= _declarations(attributes.pop("style", ""))
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    if "id" in attributes:
        attributes["id"] = names.get(attributes["id"], "")
    attributes = {key: _shorten(key, value, names) for key, value in attributes.items() if value}
    element.attrib = attributes
    if attributes.get("fill") == "none" and not {"stroke", "id"} & attributes.keys():
        return []  # invisible, such as the masked cells of a matrix
    children = _join([kept for child in element for kept in _compact(child, names)])
    element[:] = children
    if element.tag != "text":
        element.text = None
    if element.tag == "g" and not element.attrib:
        return children
    return [] if element.tag in ("g", "defs") and not children else [element]


def _join(elements: list[Element]) -> list[Element]:
    """Return elements with neighboring areas of one color, such as bars, as one path."""
    joined: list[Element] = []
    for element in elements:
        last = joined[-1] if joined else element
        areas = element.tag == last.tag == "path" and not {"id", "stroke"} & element.attrib.keys()
        if (
            last is not element
            and areas
            and {**last.attrib, "d": ""} == {**element.attrib, "d": ""}
        ):
            last.attrib["d"] += element.attrib["d"]
        else:
            joined.append(element)
    return joined


def _declarations(style: str) -> dict[str, str]:
    """Return the declarations of a ``style`` attribute as attributes; fonts are the document's."""
    pairs = (part.partition(":") for part in style.split(";") if part.strip())
    declared = {key.strip(): value.strip() for key, _, value in pairs}
    font = _FONT.match(declared.pop("font", ""))
    declared.pop("font-family", None)
    if font:  # as matplotlib wrote it before 3.11
        declared |= {f"font-{key}": value for key, value in font.groupdict().items() if value}
    return declared


def _shorten(key: str, value: str, names: dict[str, str]) -> str:
    if value.startswith("data:"):
        return re.sub(r"\s", "", value)
    if key in ("href", "clip-path"):
        return _REFERENCE.sub(lambda match: f"#{names[match[1]]}", value)
    shorter = _DECIMALS.sub(r"\1", " ".join(value.split()))
    return _COMMAND.sub(r"\1", shorter) if key == "d" else shorter


def _local(name: str) -> str:
    """Return the name of an element or attribute without its namespace."""
    return name.rpartition("}")[2]


def dark_svg(document: str) -> str:
    """Return a chart, as of :func:`compact_svg`, in the colors for dark backgrounds."""
    return _COLOR.sub(lambda match: _DARK_COLORS.get(match[0], match[0]), document)


def picture(wide: str, narrow: str, title: str) -> Markup:
    """Return a chart as HTML that needs no styles or scripts.

    Args:
        wide: the SVG document for wide windows, in the colors for light backgrounds.
        narrow: the one for phones.
        title: the alternative text.
    """
    sources = (
        (f"{_NARROW} and {_DARK}", dark_svg(narrow)),
        (_NARROW, narrow),
        (_DARK, dark_svg(wide)),
    )
    return Markup('<picture class="chart">{}<img src="{}" alt="{}"></picture>').format(
        Markup("").join(
            Markup('<source media="{}" srcset="{}">').format(media, _data_uri(document))
            for media, document in sources
        ),
        _data_uri(wide),
        title,
    )


def _data_uri(document: str) -> str:
    encoded = base64.b64encode(document.encode()).decode()
    return f"data:image/svg+xml;base64,{encoded}"
