"""Contact sheets: what is written, where images are, and how large the sheet becomes."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageFont, features

import lookalike as la
from lookalike.errors import InputError
from lookalike.search import contact_sheet as sheets
from lookalike.search.contact_sheet import (
    CORRECT,
    INCORRECT,
    Cell,
    ContactSheet,
    contact_sheet,
    image_sheet,
    rows_sheet,
)
from lookalike.search.hits import Hits
from lookalike.types import Hit, ImageArray, Metric

BLUE = (20, 40, 200)


def blue(rows: Sequence[Hit]) -> list[ImageArray | None]:
    return [np.full((60, 90, 3), BLUE, np.uint8) for _ in rows]


def hits(*distances: float, reader: Any = blue, uri: str | None = None, **metadata: object) -> Hits:
    rows = tuple(
        Hit(rank, f"photos:trip/{rank}.jpg", f"{rank}.jpg", distance, metadata)
        for rank, distance in enumerate(distances, 1)
    )
    return Hits("a red flower", Metric.COSINE, rows, uri, reader)


def lines(sheet: ContactSheet) -> list[tuple[str, ...]]:
    return [cell.lines for cell in sheet.cells]


def frame_color(sheet: ContactSheet, cell: Cell) -> tuple[int, ...]:
    """The color of the right edge of a cell's image."""
    _, top, right, bottom = cell.box
    color = sheet.image.getpixel((right - 1, (top + bottom) // 2))
    assert isinstance(color, tuple)
    return color


def test_hits_have_their_file_name_distance_and_label() -> None:
    sheet = contact_sheet(hits(-2e-15, 0.25, label="cat"))
    assert lines(sheet) == [("query",), ("1.jpg", "0.0000  cat"), ("2.jpg", "0.2500  cat")]
    bare = hits(0.5)
    assert lines(contact_sheet(bare))[1:] == [("1.jpg", "0.5000")]
    keywords = replace(hits(0.0, label="cat"), ranked_by="keywords")
    assert lines(contact_sheet(keywords))[1:] == [("1.jpg", "cat")]
    assert lines(contact_sheet(replace(bare, ranked_by="keywords")))[1:] == [("1.jpg",)]


def test_the_query_is_an_image_with_its_name_or_words(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "q.png")
    sheet = contact_sheet(hits(0.1, uri=str(tmp_path / "q.png")))
    assert sheet.cells[0].lines == ("query", "q.png")
    left, top, right, bottom = sheet.cells[0].box
    assert sheet.image.getpixel(((left + right) // 2, (top + bottom) // 2)) == (255, 0, 0)
    words = contact_sheet(hits(0.1))
    area = words.image.crop(words.cells[0].box)
    dark = np.asarray(area.convert("L")) < 160
    assert dark.any()  # letters of the text
    unreadable = contact_sheet(hits(0.1, uri=str(tmp_path / "gone.png")))
    assert unreadable.cells[0].lines == ("query", "gone.png")


def test_frames_mark_correct_and_incorrect_hits() -> None:
    sheet = contact_sheet(hits(0.1, 0.2, 0.3), [True, None, False])
    assert [cell.correct for cell in sheet.cells] == [None, True, None, False]
    assert [frame_color(sheet, cell) for cell in sheet.cells[1:]] == [
        ImageColor.getrgb(CORRECT),
        BLUE,
        ImageColor.getrgb(INCORRECT),
    ]


def test_several_queries_take_marks_titles_and_headings() -> None:
    sheet = contact_sheet(
        [hits(0.1, 0.2), hits(0.3)],
        [[False, False], None],
        query_titles=["folder/cat", None],
        hit_titles=[["x", "y"], ["z"]],
        row_names=["plain", "adapted"],
    )
    assert lines(sheet) == [
        *(("query", "cat"), ("x", "0.1000"), ("y", "0.2000")),
        *(("query",), ("z", "0.3000")),
    ]
    plain = contact_sheet([hits(0.1, 0.2), hits(0.3)])
    assert sheet.image.height > plain.image.height  # the headings


def test_hits_go_on_below_each_other_beside_their_query() -> None:
    sheet = contact_sheet(hits(*np.linspace(0, 1, 20)))
    query, *cells = sheet.cells
    assert len(cells) == 20
    lefts = sorted({cell.box[0] for cell in cells})
    assert len(lefts) == 8
    assert query.box[2] < lefts[0]
    assert [cell.box[0] for cell in cells] == [lefts[place % 8] for place in range(20)]
    tops = [cell.box[1] for cell in cells]
    assert tops == sorted(tops)
    assert query.box[1] <= tops[0]
    assert len(set(tops)) == 3


@pytest.mark.parametrize("count", [1, 300, 1_000])
def test_a_sheet_of_any_number_of_hits_is_bounded(count: int) -> None:
    read: list[int] = []

    def reader(rows: Sequence[Hit]) -> list[ImageArray | None]:
        read.append(len(rows))
        return [np.zeros((8, 8), np.uint8) for _ in rows]

    sheet = contact_sheet(hits(*[0.5] * count, reader=reader))
    assert len(sheet.cells) == 1 + count
    width, height = sheet.image.size
    assert width * height <= sheets.MAX_PIXELS
    assert max(read) <= 64  # never all images in memory
    assert max(cell.box[2] for cell in sheet.cells) <= width
    assert max(cell.box[3] for cell in sheet.cells) <= height
    last = sheet.image.crop(sheet.cells[-1].box).convert("L")
    assert last.getextrema()[1] == 0  # black, where its cell says that it is
    small = contact_sheet(hits(*[0.5] * count), max_pixels=100_000)
    assert small.image.width < width


def test_what_is_too_much_for_a_sheet_is_left_out() -> None:
    sheet = image_sheet((np.zeros((8, 8), np.uint8) for _ in range(2_500)), ["x"] * 2_500)
    assert len(sheet.cells) == 2_000
    many = contact_sheet([hits(0.1, 0.2)] * 1_000)
    assert len(many.cells) <= 2_001


def test_images_keep_their_proportions_and_small_ones_their_pixels() -> None:
    images = [
        np.zeros((10, 2_000), np.uint8),
        np.full((300, 200, 3), BLUE, np.uint8),
        np.tile(np.array([[0, 255], [255, 0]], np.uint8), (4, 4)),
        None,
    ]
    sheet = image_sheet(images, ["wide", "tall", "small\nsecond", "gone"])
    wide, tall, small, gone = ((b[2] - b[0], b[3] - b[1]) for b in (c.box for c in sheet.cells))
    assert wide == (264, 1)
    assert tall == (176, 264)
    assert small == (264, 264)
    assert gone == (264, 264)
    assert sheet.cells[2].lines == ("small", "second")
    values = set(np.asarray(sheet.image.crop(sheet.cells[2].box).convert("L")).ravel().tolist())
    assert values == {0, 255}


@pytest.mark.parametrize(
    "name", ["x" * 300, "фото.jpg", "写真.jpg", "🌸", "a\x1b[31m\nb", "صورة", "\ud800", "", " "]
)
def test_any_name_is_drawn_within_its_column(name: str) -> None:
    sheet = image_sheet([np.zeros((8, 8), np.uint8)] * 3, ["a", name, "b"])
    left, right = sheet.cells[0].box[2], sheet.cells[1].box[0]
    gap = np.asarray(sheet.image.convert("L"))[:, left + 2 : right - 2]
    assert gap.min() == 255  # nothing runs into the next column


def test_a_character_that_no_font_has_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sheets, "_MORE_FONTS", ())
    with caplog.at_level(logging.INFO, "lookalike.notice"):
        image_sheet([None, None], ["写真", "写"])
    assert caplog.messages == [
        "contact sheet: no font here has '写真', which are drawn as boxes; install one that has "
        "them, such as Noto Sans CJK"
    ]


def test_without_freetype_names_are_drawn_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda _: False)
    monkeypatch.setattr(sheets, "_MORE_FONTS", ())
    bitmap = ImageFont.load_default_imagefont()
    monkeypatch.setattr(sheets, "_default_font", lambda _: bitmap)
    assert lines(image_sheet([None], ["фото naïve"])) == [("фото naïve",)]


def test_rows_of_images_have_their_names_above_them() -> None:
    image = np.zeros((28, 28), np.uint8)
    sheet = rows_sheet([[(image, ""), (image, "blur")], [(image, "")]], ["original", "decoded"])
    assert lines(sheet) == [(), ("blur",), ()]
    assert [cell.box[0] for cell in sheet.cells] == [
        *(sheet.cells[0].box[0], sheet.cells[1].box[0], sheet.cells[0].box[0])
    ]


def test_a_sheet_is_saved_and_shows_itself_in_a_notebook(tmp_path: Path) -> None:
    sheet = contact_sheet(hits(0.1))
    for suffix, kind in ((".png", "PNG"), (".JPG", "JPEG"), (".webp", "WEBP")):
        sheet.save(tmp_path / f"sheet{suffix}")
        with Image.open(tmp_path / f"sheet{suffix}") as image:
            assert (image.format, image.size) == (kind, sheet.image.size)
    with Image.open(io.BytesIO(sheet._repr_png_())) as image:
        assert image.info["dpi"] == pytest.approx((192, 192), abs=0.1)
    assert repr(sheet).startswith("<ContactSheet of 2 images: ")
    assert len(contact_sheet(Hits("q", Metric.COSINE, ())).cells) == 1


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (lambda: la.contact_sheet([]), "results"),
        (lambda: la.contact_sheet([3]), "results"),  # type: ignore[list-item]
        (lambda: la.contact_sheet(3), "results"),  # type: ignore[arg-type]
        (lambda: la.contact_sheet(Hits("q", Metric.L2, ()), [True]), "correct"),
        (lambda: image_sheet([], []), "images"),
        (lambda: rows_sheet([]), "rows"),
        (lambda: la.contact_sheet(Hits("q", Metric.L2, ())).save(3), "path"),  # type: ignore[arg-type]
    ],
)
def test_nothing_to_draw_is_an_error_that_names_the_argument(draw: Any, name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}"):
        draw()
