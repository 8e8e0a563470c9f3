"""How many rows are read to answer small questions, counted where they are read from disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lookalike.gallery.lookup
import lookalike.report.evaluation
from lookalike.errors import MissingRowError
from lookalike.evaluation.evaluate import evaluate
from lookalike.gallery import copy
from lookalike.gallery.gallery import Gallery
from lookalike.server.app import create_app
from lookalike.server.settings import ServeSettings
from lookalike.stores.embedded import database

ROWS = 400


class Counter:
    """Counts rows that SQLite returns while it is counting."""

    def __init__(self) -> None:
        self.rows = 0

    def during(self, work: Callable[[], Any]) -> int:
        """Return how many rows some work reads."""
        self.rows = 0
        work()
        return self.rows

    def __call__(self, cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """Count one, if it has the id of a row."""
        self.rows += "id" in {column[0] for column in cursor.description}
        return row


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter, connect = Counter(), database._connect

    def counting(*arguments: Any) -> database.Connection:
        connection = connect(*arguments)
        connection.row_factory = counter
        return connection

    monkeypatch.setattr(database, "_connect", counting)
    return counter


@pytest.fixture
def opened(gallery: Gallery, read: Counter) -> Gallery:
    """A gallery of which no rows are in memory, opened when they are counted."""
    del read
    return Gallery.open(gallery.path)


def test_a_sample_reads_its_rows_and_a_count_none(opened: Gallery, read: Counter) -> None:
    assert read.during(lambda: opened.store.ids()) == ROWS  # it counts
    again = Gallery.open(opened.path)
    assert read.during(lambda: len(again)) == 0
    assert read.during(lambda: again.store.sample(7)) == 7
    assert read.during(lambda: again.snapshot().store.sample(ROWS + 1)) == ROWS
    assert read.during(lambda: again[again.store.sample(1).ids[0]]) == 3  # the id of its slot


def test_a_page_of_examples_reads_them_only(opened: Gallery, read: Counter) -> None:
    service = create_app({"a": opened}, ServeSettings()).state.service
    [handle] = service

    async def sample() -> int:
        async with service:
            rows = await service.sample(await service.open(handle), 24, 3)
            return len(rows)

    assert read.during(lambda: asyncio.run(sample())) == 24


def test_the_histogram_of_a_report_is_of_a_sample(
    gallery: Gallery, read: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = evaluate(gallery, progress=False)
    again = Gallery.open(gallery.path)
    monkeypatch.setattr(lookalike.report.evaluation, "_SAMPLE", 50)
    sections: list[Any] = []
    pipeline = lookalike.report.evaluation._pipeline
    assert read.during(lambda: sections.extend(pipeline(evaluation, again))) == 50
    assert "the distances to 50 random images" in sections[0].text
    monkeypatch.setattr(lookalike.report.evaluation, "_SAMPLE", 2 * ROWS)
    assert "the distances to all images" in next(iter(pipeline(evaluation, again))).text


def test_a_copy_is_compared_by_a_sample(
    opened: Gallery, tmp_path: Path, read: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.copy_to(tmp_path / "copy.gallery", progress=False)
    copied = Gallery.open(tmp_path / "copy.gallery")
    monkeypatch.setattr(copy, "SAMPLE_ROWS", 30)
    assert read.during(lambda: copy._compare(opened, copied)) == 90  # ids of slots


def test_a_wrong_id_of_a_large_gallery_does_not_list_all(
    gallery: Gallery, read: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookalike.gallery.lookup, "_COMPARED", 10)
    opened = Gallery.open(gallery.path)

    def ask() -> None:
        with pytest.raises(MissingRowError, match=r"did you mean 'digits/train:\d+'"):
            opened["digits/train:9999"]

    assert 0 < read.during(ask) <= 50


def test_a_search_reads_its_hits(gallery: Gallery, read: Counter) -> None:
    opened = Gallery.open(gallery.path)
    row_id = gallery.store.sample(1).ids[0]
    few = 3  # the query, and again as what is left out of the hits
    assert read.during(lambda: opened.search(id=row_id, k=7)) <= 8 + few
    vector = opened[row_id].embedding
    assert read.during(lambda: opened.search(vector=vector, k=7)) == 7
    assert read.during(lambda: opened.store.ids_after(row_id, 5)) == 5
    assert read.during(opened.info) == 0
