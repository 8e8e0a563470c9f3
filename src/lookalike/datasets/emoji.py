"""Emoji drawings: from the SVG in an Iconify package to images, drawn once and then kept.

Such a package holds ``icons.json`` (drawings by name), ``chars.json`` (names by codepoint) and
``metadata.json`` (names by category). Which packages there are is
:mod:`lookalike.datasets.registry`.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import write_atomically
from lookalike.errors import ImageError
from lookalike.images.decode import decode
from lookalike.types import ImageArray, Progress, ProgressCallback, ignore_progress

log = logging.getLogger(__name__)

FILES = ("icons.json", "chars.json", "metadata.json")
SIDE = 64
"""Height and width of a drawing in pixels, unless another is asked for."""

_RULES = 1
"""Raise it when other icons are chosen or they are drawn otherwise: what was kept is made anew."""

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

_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What numpy leaks on a file that is no archive of arrays, or a damaged one."""


@dataclass(frozen=True, slots=True)
class Icon:
    """One emoji of a package, not yet drawn; ``codepoint`` as in ``1f468-200d-1f33e``.

    ``drawing`` holds the SVG's body and, where they are stated, its left, top, width and height.
    """

    name: str
    codepoint: str
    category: str
    drawing: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Drawings:
    """Images ``(n, side, side, 3)`` uint8, RGB on white, and what is known of each.

    A codepoint is hexadecimal, its parts joined by hyphens, without variation selectors; the same
    emoji has the same one at every vendor.
    """

    images: NDArray[np.uint8]
    names: tuple[str, ...]
    codepoints: tuple[str, ...]
    categories: tuple[str, ...]


def choose(files: Mapping[str, bytes]) -> list[Icon]:
    """Return the icons of a package that have a category and one codepoint, in order of name.

    Left out are skin tones, since a variant would find its likes by shape alone; aliases, which
    draw an icon a second time; and the few names that two codepoints share, since the package
    does not say which of the two it draws.

    Args:
        files: the bytes of each of :data:`FILES`.
    """
    named: dict[str, list[Icon]] = defaultdict(list)
    for icon in by_codepoint(files).values():
        named[icon.name].append(icon)
    return [named[name][0] for name in sorted(named) if len(named[name]) == 1]


def by_codepoint(files: Mapping[str, bytes]) -> dict[str, Icon]:
    """Return the icons of a package that have a category, by codepoint, without skin tones.

    An icon that stands for two codepoints is there twice.
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


def draw(
    icons: Sequence[Icon], on_progress: ProgressCallback = ignore_progress, *, side: int = SIDE
) -> Drawings:
    """Draw each icon in the middle of a white square of ``side`` pixels.

    Raises:
        ImageError: the renderer refuses one.
        ImportError: ``resvg_py`` is not installed.
    """
    images = np.empty((len(icons), side, side, 3), np.uint8)
    for number, icon in enumerate(icons):
        images[number] = _rasterise(icon, side)
        on_progress(Progress("draw emoji", number + 1, len(icons), "images"))
    return Drawings(
        images,
        tuple(icon.name for icon in icons),
        tuple(icon.codepoint for icon in icons),
        tuple(icon.category for icon in icons),
    )


def kept(
    path: Path, sums: Mapping[str, str], make: Callable[[], Drawings], *, side: int = SIDE
) -> Drawings:
    """Return the drawings that were kept in a file, or make them and keep them.

    They are made anew where the file is damaged, or of other files, rules or another renderer.

    Args:
        path: the ``.npz`` file; it holds plain arrays and no pickle.
        sums: what the drawings are made of: each file of the package, and its SHA-256.
        make: draws them.
        side: of the drawings, in pixels.

    Raises:
        ImportError: ``resvg_py`` is not installed.
        StorageError: the file cannot be written.
    """
    made_of = _made_of(sums, side)
    found = _read(path, made_of)
    if found is None:
        found = make()
        write_atomically(path, _to_bytes(found, made_of))
    return found


def _document(icon: Mapping[str, Any], side: int) -> str:
    """Return a whole SVG of one icon; what it does not state is Iconify's default."""
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", 16), icon.get("height", 16)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{side}" height="{side}" viewBox="{left} {top} {width} {height}">'
        f"{icon['body']}</svg>"
    )


def _rasterise(icon: Icon, side: int) -> ImageArray:
    import resvg_py

    try:
        # Without the fonts of this machine every machine draws the same.
        png = resvg_py.svg_to_bytes(
            svg_string=_document(icon.drawing, side), background="#ffffff", skip_system_fonts=True
        )
    except ValueError as error:
        renderer = resvg_py.__resvg_version__
        raise ImageError(f"emoji {icon.name}: resvg {renderer} cannot draw it ({error})") from error
    return decode(png, name=f"emoji {icon.name}")


def _made_of(sums: Mapping[str, str], side: int) -> str:
    import resvg_py

    parts = [_RULES, side, resvg_py.__resvg_version__, sorted(sums.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read(path: Path, made_of: str) -> Drawings | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("it holds no named arrays")
            images, texts, seal = arrays["images"], arrays["texts"], str(arrays["seal"])
    except _BROKEN as error:
        log.info("%s: cannot be read (%s); the emoji are drawn again", path, error)
        return None
    if seal != _seal(images, texts, made_of):
        log.info("%s: damaged, or made otherwise; the emoji are drawn again", path)
        return None
    names, codepoints, categories = (tuple(row) for row in texts.tolist())
    return Drawings(images, names, codepoints, categories)


def _to_bytes(drawings: Drawings, made_of: str) -> bytes:
    texts = np.array([drawings.names, drawings.codepoints, drawings.categories], dtype=np.str_)
    seal = np.array(_seal(drawings.images, texts, made_of))
    file = io.BytesIO()
    np.savez_compressed(file, images=drawings.images, texts=texts, seal=seal)
    return file.getvalue()


def _seal(images: NDArray[np.uint8], texts: NDArray[np.str_], made_of: str) -> str:
    """Hash what is kept and what it was made of, so that neither can change unnoticed."""
    digest = hashlib.sha256(f"{made_of} {images.shape} {texts.shape}".encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(json.dumps(texts.tolist()).encode())
    return digest.hexdigest()
