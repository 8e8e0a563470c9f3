"""Render emoji from the SVG in an Iconify package, once; later they are read from a cache file.

A package holds ``icons.json`` (drawings by name), ``chars.json`` (names by codepoint) and
``metadata.json`` (names by category). The packages are listed in
:mod:`lookalike.datasets.registry`.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.array_files import read_archive
from lookalike.artifacts import write_cache
from lookalike.errors import ImageError
from lookalike.images.decode import decode
from lookalike.types import ImageArray, Progress, ProgressCallback, ignore_progress

log = logging.getLogger(__name__)

FILES = ("icons.json", "chars.json", "metadata.json")
SIDE = 64
"""Default height and width of a rendered emoji, in pixels."""

_CACHE_VERSION = 1
"""Raise it when the selection or the rendering changes: cached drawings are then rendered again."""

_SKIN_TONES = frozenset(("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"))
_WITH_AMPERSAND = {
    name.replace(" &", ""): name
    for name in (
        "Animals & Nature",
        "Food & Drink",
        "People & Body",
        "Smileys & Emotion",
        "Travel & Places",
    )
}
"""OpenMoji's categories are Unicode's without the ampersand; labels of all vendors should agree."""

_BROKEN = (OSError, ValueError, KeyError)
"""What numpy raises on a file that is damaged or not an archive of arrays."""


@dataclass(frozen=True, slots=True)
class Icon:
    """One emoji of a package, not yet rendered; ``codepoint`` as in ``1f468-200d-1f33e``.

    ``svg`` holds the body and, where present, left, top, width and height.
    """

    name: str
    codepoint: str
    category: str
    svg: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Drawings:
    """Images ``(n, side, side, 3)`` uint8, RGB on white, with names, codepoints and categories.

    A codepoint is hexadecimal, its parts joined by hyphens, without variation selectors, so that it
    is the same at all vendors.
    """

    images: NDArray[np.uint8]
    names: tuple[str, ...]
    codepoints: tuple[str, ...]
    categories: tuple[str, ...]


def select_icons(files: Mapping[str, bytes]) -> list[Icon]:
    """Return the icons of a package that have a category and a single codepoint, sorted by name.

    Left out are skin tones, which would be trivial matches by shape; aliases, which repeat an icon;
    and the few names that two codepoints share, where the package does not say which one it draws.

    Args:
        files: the bytes of each of :data:`FILES`.
    """
    by_name: dict[str, list[Icon]] = defaultdict(list)
    for icon in icons_by_codepoint(files).values():
        by_name[icon.name].append(icon)
    return [by_name[name][0] for name in sorted(by_name) if len(by_name[name]) == 1]


def icons_by_codepoint(files: Mapping[str, bytes]) -> dict[str, Icon]:
    """Return the icons of a package that have a category, by codepoint, without skin tones.

    An icon with two codepoints is listed under both.
    """
    icons, characters, metadata = (json.loads(files[name]) for name in FILES)
    categories = {
        name: _WITH_AMPERSAND.get(category, category)
        for category, names in metadata["categories"].items()
        for name in names
    }
    return {
        codepoint: Icon(name, codepoint, categories[name], {**icons, **icons["icons"][name]})
        for codepoint, name in characters.items()
        if name in categories
        and name in icons["icons"]
        and not _SKIN_TONES & set(codepoint.split("-"))
    }


def render(
    icons: Sequence[Icon], on_progress: ProgressCallback = ignore_progress, *, side: int = SIDE
) -> Drawings:
    """Render each icon centered on a white square of ``side`` pixels.

    Raises:
        ImageError: an icon cannot be rendered.
        ImportError: ``resvg_py`` is not installed.
    """
    images = np.empty((len(icons), side, side, 3), np.uint8)
    for number, icon in enumerate(icons):
        images[number] = _rasterize(icon, side)
        on_progress(Progress("render emoji", number + 1, len(icons), "images"))
    return Drawings(
        images,
        tuple(icon.name for icon in icons),
        tuple(icon.codepoint for icon in icons),
        tuple(icon.category for icon in icons),
    )


def load_or_render(
    path: Path, checksums: Mapping[str, str], render: Callable[[], Drawings], *, side: int = SIDE
) -> Drawings:
    """Return cached drawings, or render and cache them.

    They are rendered again if the cache file is damaged or was made from other files, by other
    rules or by another version of the renderer.

    Args:
        path: the cache, an ``.npz`` file of plain arrays (no pickle).
        checksums: SHA-256 of the package files that the drawings are made from.
        render: makes the drawings.
        side: of the drawings, in pixels.

    Raises:
        ImportError: ``resvg_py`` is not installed.
    """
    key = _cache_key(checksums, side)
    drawings = _read(path, key)
    if drawings is None:
        drawings = render()
        write_cache(path, _to_bytes(drawings, key))
    return drawings


def _document(icon: Mapping[str, Any], side: int) -> str:
    """Return a complete SVG of one icon, with Iconify's defaults for what is missing."""
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", 16), icon.get("height", 16)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{side}" height="{side}" viewBox="{left} {top} {width} {height}">'
        f"{icon['body']}</svg>"
    )


def _rasterize(icon: Icon, side: int) -> ImageArray:
    import resvg_py

    try:
        # System fonts differ between machines; without them rendering is reproducible.
        png = resvg_py.svg_to_bytes(
            svg_string=_document(icon.svg, side), background="#ffffff", skip_system_fonts=True
        )
    except ValueError as error:
        renderer = resvg_py.__resvg_version__
        raise ImageError(
            f"emoji {icon.name}: resvg {renderer} cannot render it ({error})"
        ) from error
    return decode(png, name=f"emoji {icon.name}")


def _cache_key(checksums: Mapping[str, str], side: int) -> str:
    import resvg_py

    parts = [_CACHE_VERSION, side, resvg_py.__resvg_version__, sorted(checksums.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read(path: Path, key: str) -> Drawings | None:
    if not path.is_file():
        return None
    try:
        arrays = read_archive(path)
        images, texts, seal = arrays["images"], arrays["texts"], str(arrays["seal"])
    except _BROKEN as error:
        log.info("%s: cannot be read (%s); rendering the emoji again", path, error)
        return None
    if seal != _seal(images, texts, key):
        log.info("%s: damaged or outdated; rendering the emoji again", path)
        return None
    names, codepoints, categories = (tuple(row) for row in texts.tolist())
    return Drawings(images, names, codepoints, categories)


def _to_bytes(drawings: Drawings, key: str) -> bytes:
    texts = np.array([drawings.names, drawings.codepoints, drawings.categories], dtype=np.str_)
    seal = np.array(_seal(drawings.images, texts, key))
    file = io.BytesIO()
    np.savez_compressed(file, images=drawings.images, texts=texts, seal=seal)
    return file.getvalue()


def _seal(images: NDArray[np.uint8], texts: NDArray[np.str_], key: str) -> str:
    """Return a hash of the cached arrays and their cache key, to detect damage and staleness."""
    digest = hashlib.sha256(f"{key} {images.shape} {texts.shape}".encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(json.dumps(texts.tolist()).encode())
    return digest.hexdigest()
