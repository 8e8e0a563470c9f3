"""Contact sheets: queries beside their hits, and images with titles, drawn by Pillow."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from lookalike.artifacts import write_atomically
from lookalike.errors import InputError, SettingError
from lookalike.files import as_path
from lookalike.formatting import format_count, format_distance, printable, shorten
from lookalike.images.decode import shrink_image
from lookalike.progress import notice
from lookalike.search.hits import Hits
from lookalike.types import ImageArray

INK = "#222222"
MUTED = "#767676"
CORRECT = "#1a7f37"
INCORRECT = "#cf222e"
_PAPER = "#ffffff"
_EMPTY = "#eeeeee"

_SIZES = ((132, 2.0), (132, 1.5), (132, 1.0), (96, 1.0), (64, 1.0))
"""Side of an image in points and pixels per point, the largest that a limit of pixels allows."""

MAX_PIXELS = 20_000_000
_MAX_TILES = 2_000
"""Limits of a sheet; images beyond are left out, which is written below the others."""

_GAP, _MARGIN, _FONT_SIZE, _LINE = 12, 14, 10.5, 14
"""Between images, around all, the size of letters and the height of lines, in points."""

_COLUMNS = ((64, 8), (200, 12))
_MAX_COLUMNS = 16
"""Hits per line for up to so many of a query."""

_SMALL = 64
"""Images up to this side are enlarged with visible pixels, as they are often drawings of these."""

_READ = 64
"""Images of hits that are in memory at a time."""

_FORMATS = {"": "PNG", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"} | {
    ".pdf": "PDF"
}

_MORE_FONTS = (
    *("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSans.ttf"),
    *("wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "unifont.otf"),
    *("Arial Unicode.ttf", "Hiragino Sans GB.ttc", "PingFang.ttc", "AppleSDGothicNeo.ttc"),
    *("msyh.ttc", "YuGothM.ttc", "malgun.ttf", "segoeui.ttf", "seguisym.ttf", "arial.ttf"),
)
"""Fonts of the usual systems, for characters that Pillow's own font lacks, such as Chinese ones."""

_NO_GLYPH = "\U0010fffe"
"""No font has this character: it is drawn as the box of missing ones."""

Marks = Sequence[bool | None]
"""Whether each hit is correct, None where unknown."""


@dataclass(frozen=True, slots=True)
class Tile:
    """An image with its title; None is drawn as "no image", ``words`` instead of an image.

    ``correct`` frames it in green with a check mark, or in red with a cross.
    """

    image: ImageArray | None
    lines: tuple[str, ...] = ()
    correct: bool | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """Where a tile was drawn: its image's box in pixels, and what is written below it."""

    box: tuple[int, int, int, int]
    lines: tuple[str, ...]
    correct: bool | None


@dataclass(frozen=True, slots=True, repr=False)
class ContactSheet:
    """A drawn sheet: ``image``, RGB, and its ``cells`` in reading order; a notebook shows it."""

    image: Image.Image
    cells: tuple[Cell, ...]

    def __repr__(self) -> str:
        width, height = self.image.size
        return f"<ContactSheet of {format_count(len(self.cells), 'image')}: {width}x{height}>"

    def _repr_png_(self) -> bytes:
        return self.encode("PNG")

    def encode(self, format: str) -> bytes:  # noqa: A002 - as Pillow's
        """Return the sheet as a file of a format of Pillow, such as PNG."""
        file = io.BytesIO()
        self.image.save(file, format, dpi=self.image.info["dpi"], quality=90)
        return file.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the sheet as PNG or, by the suffix, JPEG, WebP or PDF.

        Raises:
            InputError: ``path`` is no path.
            SettingError: another suffix.
            StorageError: it could not be written.
        """
        path = as_path(path, "path")
        write_atomically(path, self.encode(sheet_format(path)))


def sheet_format(path: Path) -> str:
    """Return the format of a sheet's file, by its suffix, as Pillow calls it.

    Raises:
        SettingError: there is none.
    """
    name = _FORMATS.get(path.suffix.lower())
    if name is None:
        names = ", ".join(suffix for suffix in _FORMATS if suffix)
        raise SettingError(f"{path}: a contact sheet is one of {names}")
    return name


def contact_sheet(
    results: Hits | Sequence[Hits],
    correct: Marks | Sequence[Marks | None] | None = None,
    *,
    query_titles: Sequence[str | None] | None = None,
    hit_titles: Sequence[Sequence[str]] | None = None,
    row_names: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> ContactSheet:
    """Draw queries beside their hits, each with its name, distance and label.

    The hits of a query go on in further lines where they do not fit into one. Where an image
    cannot be read, "no image" is written.

    Args:
        results: of one query or of several; a text is written in place of a query's image.
        correct: whether each hit is correct (green frame and check mark) or not (red frame and
            cross), for several queries a sequence for each. None, for a hit or for all hits of a
            query, draws no frame.
        query_titles: the title of each query, below "query".
        hit_titles: the title of each hit; by default the name of its file, and its label.
        row_names: a heading above each query.
        max_pixels: of the sheet, about; images are drawn smaller for it.

    Raises:
        InputError: no results, something that is no hits, or another number of marks.
    """
    marks: Any = correct
    if isinstance(results, Hits):
        results, marks = [results], None if correct is None else [correct]
    _check(results, marks)
    marks = marks or [None] * len(results)
    strips = [
        _Strip(
            len(row),
            _hit_tiles(row, hit_titles[y] if hit_titles else None, marks[y]),
            _query_tile(row, query_titles[y] if query_titles else None),
            row_names[y] if row_names else "",
        )
        for y, row in enumerate(results)
    ]
    return _draw(strips, _hits_per_line(max(map(len, results))), max_pixels)


def image_sheet(
    images: Iterable[ImageArray | None], titles: Sequence[str], columns: int = 10
) -> ContactSheet:
    """Draw images with their titles, ten to a line; a title may have several lines.

    Raises:
        InputError: no images.
    """
    check_some(images=titles)
    tiles = (
        Tile(image, tuple(title.split("\n"))) for image, title in zip(images, titles, strict=True)
    )
    return _draw([_Strip(len(titles), tiles)], min(columns, len(titles)))


def rows_sheet(
    rows: Sequence[Sequence[tuple[ImageArray | None, str]]], names: Sequence[str] = ()
) -> ContactSheet:
    """Draw rows of images with their titles, each row below its name.

    Raises:
        InputError: no rows.
    """
    check_some(rows=rows)
    strips = [
        _Strip(
            len(row),
            (Tile(image, (title,) if title else ()) for image, title in row),
            name=names[y] if names else "",
        )
        for y, row in enumerate(rows)
    ]
    return _draw(strips, max(map(len, rows)))


def check_some(**values: Sized) -> None:
    """Check that there is something to draw, in arguments by name.

    Raises:
        InputError: one is empty.
    """
    for name, value in values.items():
        if not len(value):
            raise InputError(f"{{{name}}} is empty: there is nothing to draw", **{name: None})


def _check(results: Sequence[Hits], correct: Any) -> None:
    check_some(results=results if isinstance(results, Sized) else [results])
    for y, row in enumerate(results if isinstance(results, Sized) else [results]):
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


def _hits_per_line(hits: int) -> int:
    return next((columns for limit, columns in _COLUMNS if hits <= limit), _MAX_COLUMNS)


def _query_tile(results: Hits, title: str | None) -> Tile:
    lines = ("query",) if title is None else ("query", _last_part(title))
    if results.uri is None:
        return Tile(None, lines, words=results.query)
    name = _last_part(results.uri)
    return Tile(results.query_image(), (*lines, name) if title is None else lines)


def _hit_tiles(results: Hits, titles: Sequence[str] | None, marks: Marks | None) -> Iterator[Tile]:
    for start in range(0, len(results), _READ):
        part = results[start : start + _READ]
        for place, (image, hit) in enumerate(zip(part.images(), part, strict=True), start):
            facts = [format_distance(hit.distance)] if results.has_distances else []
            if titles is not None:
                name = _last_part(titles[place])
            else:
                name = _last_part(hit.id.partition(":")[2] or hit.id)
                label = hit.metadata.get("label")
                facts += [] if label is None else [str(label)]
            lines = (name, *(["  ".join(facts)] if facts else []))
            yield Tile(image, lines, None if marks is None else marks[place])


def _last_part(name: str) -> str:
    """Return the file name of an id, a path or a URL; the last part of a label."""
    return name.rstrip("/").rpartition("/")[2] or name


@dataclass(frozen=True, slots=True)
class _Strip:
    """Tiles that follow each other in lines, ``lead`` in a column of its own on the left."""

    count: int
    tiles: Iterable[Tile]
    lead: Tile | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Layout:
    """The places of tiles on a sheet."""

    side: int
    scale: float
    columns: int
    leads: bool

    def line_height(self, tallest: float, text_lines: int) -> int:
        """Return the height of a line of tiles in points, the tallest image given."""
        return math.ceil(tallest) + 4 + text_lines * _LINE + _GAP

    @property
    def width(self) -> int:
        """Of the sheet, in points."""
        columns = self.columns + self.leads
        return 2 * _MARGIN + columns * self.side + (columns - 1 + self.leads) * _GAP

    def left(self, column: int) -> int:
        """Return where a column of tiles begins, in points; -1 is that of queries."""
        if column < 0:
            return _MARGIN
        return _MARGIN + (column + self.leads) * (self.side + _GAP) + self.leads * _GAP


def _draw(strips: Sequence[_Strip], columns: int, max_pixels: int = MAX_PIXELS) -> ContactSheet:
    columns = max(1, min(columns, max(strip.count for strip in strips)))
    leads = any(strip.lead for strip in strips)
    strips, omitted = _limit(strips)
    lines = [max(1, math.ceil(strip.count / columns)) for strip in strips]
    titles = sum(bool(strip.name) for strip in strips)
    for side, scale in _SIZES:
        layout = _Layout(side, scale, columns, leads)
        # Below images are two lines as a rule, and three at most.
        height = sum(lines) * layout.line_height(side, 3) + titles * (_LINE + _GAP)
        if layout.width * height * scale**2 <= max_pixels:
            break
    painter = _Painter(layout)
    for strip in strips:
        painter.draw(strip)
    if omitted:
        painter.write_heading(f"{format_count(omitted, 'more image')} not drawn")
    return painter.sheet()


def _limit(strips: Sequence[_Strip]) -> tuple[list[_Strip], int]:
    """Return the strips with at most :data:`_MAX_TILES` tiles, and how many are left out."""
    kept: list[_Strip] = []
    room = _MAX_TILES
    for strip in strips:
        count = min(strip.count, room)
        if kept and room <= 0:
            break
        kept.append(_Strip(count, islice(iter(strip.tiles), count), strip.lead, strip.name))
        room -= count + 1
    return kept, sum(strip.count for strip in strips) - sum(strip.count for strip in kept)


class _Painter:
    """Draws strips below each other, each line of tiles as a band of its own."""

    def __init__(self, layout: _Layout) -> None:
        self._layout = layout
        self._bands: list[Image.Image] = []
        self._cells: list[Cell] = []
        self._top = self._px(_MARGIN)  # of the next band, in pixels
        self._text = _Text(_FONT_SIZE * layout.scale)

    def draw(self, strip: _Strip) -> None:
        """Draw a strip below what is drawn already."""
        if strip.name:
            self.write_heading(strip.name)
        tiles = iter(strip.tiles)
        lead = strip.lead
        line = list(islice(tiles, self._layout.columns))
        while line or lead is not None:
            self._draw_line(lead, line)
            lead, line = None, list(islice(tiles, self._layout.columns))

    def write_heading(self, text: str) -> None:
        """Write a line of text below what is drawn already."""
        band = self._band(_LINE + _GAP // 2)
        width = self._px(self._layout.width - 2 * _MARGIN)
        self._text.write(band, text, (self._px(_MARGIN), 0), width, INK)

    def _draw_line(self, lead: Tile | None, tiles: Sequence[Tile]) -> None:
        placed = [(column, tile) for column, tile in enumerate(tiles)]
        if lead is not None:
            placed.insert(0, (-1, lead))
        pictures = [self._picture(tile) for _, tile in placed]
        tallest = max(picture.height for picture in pictures)
        text_lines = max(len(tile.lines) for _, tile in placed)
        top = self._top
        height = self._layout.line_height(tallest / self._layout.scale, text_lines)
        band = self._band(height)
        for (column, tile), picture in zip(placed, pictures, strict=True):
            self._draw_tile(band, tile, picture, self._px(self._layout.left(column)), tallest)
            box = self._box(picture, self._px(self._layout.left(column)), tallest)
            below = (box[0], top + box[1], box[2], top + box[3])
            self._cells.append(Cell(below, tile.lines, tile.correct))

    def _picture(self, tile: Tile) -> Image.Image:
        """Return what is drawn of a tile's image, in its size on the sheet."""
        side = self._px(self._layout.side)
        if tile.image is not None:
            return _fit(tile.image, side)
        picture = Image.new("RGB", (side, side), _EMPTY)
        lines = self._text.wrap(
            tile.words or "no image", side - self._px(8), side // self._px(_LINE) - 1
        )
        top = (side - len(lines) * self._px(_LINE)) / 2
        for number, line in enumerate(lines):
            place = side / 2, top + number * self._px(_LINE)
            self._text.write_centered(picture, line, place, side, MUTED)
        return picture

    def _box(self, picture: Image.Image, left: int, bottom: int) -> tuple[int, int, int, int]:
        """Return where a picture is in its band: centered in its column, at the bottom."""
        x = left + (self._px(self._layout.side) - picture.width) // 2
        return x, bottom - picture.height, x + picture.width, bottom

    def _draw_tile(
        self, band: Image.Image, tile: Tile, picture: Image.Image, left: int, bottom: int
    ) -> None:
        x, y, right, _ = self._box(picture, left, bottom)
        band.paste(picture, (x, y))
        side, color = self._px(self._layout.side), INK
        if tile.correct is not None:
            color = CORRECT if tile.correct else INCORRECT
            box = (x, y, right - 1, bottom - 1)
            _mark(ImageDraw.Draw(band), box, tile.correct, self._layout.scale)
        below = bottom + self._px(4)
        for number, line in enumerate(tile.lines):
            place = left + side / 2, below + number * self._px(_LINE)
            self._text.write_centered(band, line, place, side, color if number == 0 else MUTED)

    def sheet(self) -> ContactSheet:
        """Return all that was drawn."""
        scale = self._layout.scale
        width = self._px(self._layout.width)
        height = self._top + self._px(_MARGIN - _GAP)
        image = Image.new("RGB", (width, height), _PAPER)
        top = self._px(_MARGIN)
        for band in self._bands:
            image.paste(band, (0, top))
            top += band.height
        image.info["dpi"] = (72 * scale * 4 / 3,) * 2  # a point is a pixel of a 96 dpi screen
        self._text.note_missing()
        return ContactSheet(image, tuple(self._cells))

    def _band(self, height: int) -> Image.Image:
        band = Image.new("RGB", (self._px(self._layout.width), self._px(height)), _PAPER)
        self._bands.append(band)
        self._top += band.height
        return band

    def _px(self, points: float) -> int:
        return round(points * self._layout.scale)


def _fit(image: ImageArray, side: int) -> Image.Image:
    """Return an image that fills a square of a side in pixels, in its own proportions."""
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest > 2 * side:
        image = shrink_image(image, 2 * side)
    picture = Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
    factor = max(1, side // longest) if longest <= _SMALL else side / longest
    size = max(1, round(width * factor)), max(1, round(height * factor))
    method = Image.Resampling.NEAREST if longest <= _SMALL else Image.Resampling.LANCZOS
    return picture.resize(size, method) if size != picture.size else picture


def _mark(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], correct: bool, scale: float
) -> None:
    """Draw a frame around a box, and a check mark or a cross in its corner."""
    color, line = (CORRECT if correct else INCORRECT), round(3 * scale)
    draw.rectangle(box, outline=color, width=line)
    size = 16 * scale
    left, top = box[0], box[1]
    draw.rectangle((left, top, left + size, top + size), fill=color)
    strokes = (
        [[(0.22, 0.52), (0.42, 0.74), (0.8, 0.28)]]
        if correct
        else [[(0.25, 0.25), (0.75, 0.75)], [(0.25, 0.75), (0.75, 0.25)]]
    )
    for stroke in strokes:
        points = [(left + x * size, top + y * size) for x, y in stroke]
        draw.line(points, fill=_PAPER, width=round(2.2 * scale), joint="curve")


class _Text:
    """Writes text, each in the first font that has all of its characters."""

    def __init__(self, size: float) -> None:
        self._size = size
        self._missing: set[str] = set()

    def write(
        self, image: Image.Image, text: str, place: tuple[float, float], width: int, color: str
    ) -> None:
        """Write a line of at most ``width`` pixels from its upper left corner, shortened."""
        font = self._font(text)
        draw = ImageDraw.Draw(image)
        draw.text(place, _encodable(_shorten_to(printable(text), font, width)), color, font=font)

    def write_centered(
        self, image: Image.Image, text: str, place: tuple[float, float], width: int, color: str
    ) -> None:
        """Write a line of at most ``width`` pixels around its upper middle, shortened."""
        font = self._font(text)
        line = _encodable(_shorten_to(printable(text), font, width))
        left = place[0] - font.getlength(line) / 2
        ImageDraw.Draw(image).text((left, place[1]), line, color, font=font)

    def wrap(self, text: str, width: int, count: int) -> list[str]:
        """Return a text in at most ``count`` lines of ``width`` pixels, broken between words."""
        font = self._font(text)
        lines: list[str] = []
        for word in printable(text).split():
            joined = f"{lines[-1]} {word}" if lines else word
            if lines and font.getlength(_encodable(joined)) <= width:
                lines[-1] = joined
            else:
                lines.append(word)
        if len(lines) > count:
            lines = [*lines[: count - 1], f"{lines[count - 1]} …"]
        return lines or [""]

    def note_missing(self) -> None:
        """Say which characters no font has: they are boxes."""
        if self._missing:
            some = "".join(sorted(self._missing)[:8])
            notice(
                f"contact sheet: no font here has {some!r}, which are drawn as boxes; install one "
                "that has them, such as Noto Sans CJK"
            )

    def _font(self, text: str) -> Any:
        """Return the first font that has all characters, or the one that has most of them."""
        characters = frozenset(printable(text))
        least, best = None, None
        for font in _fonts(self._size):
            lacking = frozenset(each for each in characters if not _has_glyph(font, each))
            if not lacking:
                return font
            if least is None or len(lacking) < len(least):
                least, best = lacking, font
        self._missing |= least or frozenset()
        return best


def _fonts(size: float) -> Iterator[Any]:
    """Yield Pillow's own font, then those of the system, of a size in pixels."""
    yield _default_font(size)
    for name in _MORE_FONTS:
        font = _system_font(name, size)
        if font is not None:
            yield font


@cache
def _default_font(size: float) -> Any:
    return ImageFont.load_default(size) if features.check("freetype2") else ImageFont.load_default()


@cache
def _system_font(name: str, size: float) -> Any:
    try:
        return ImageFont.truetype(name, size)
    except (ImportError, OSError):  # without FreeType, or no such font
        return None


@cache
def _has_glyph(font: Any, character: str) -> bool:
    """Return whether a font draws a character otherwise than one that it lacks."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return character.isascii()
    if character.isspace() or not character.isprintable():
        return True
    mask, missing = font.getmask(character), font.getmask(_NO_GLYPH)
    return mask.size != missing.size or bytes(mask) != bytes(missing)


def _encodable(text: str) -> str:
    """Return a text that Pillow can draw, also where it has no FreeType."""
    if features.check("freetype2"):
        return text
    return text.encode("latin-1", "replace").decode("latin-1")


def _shorten_to(text: str, font: Any, width: int) -> str:
    """Return a text of at most ``width`` pixels, with an ellipsis in its middle."""
    text = shorten(text)
    characters = len(text)
    while characters > 2 and font.getlength(_encodable(text)) > width:
        characters -= 1
        text = shorten(text, characters)
    return text
