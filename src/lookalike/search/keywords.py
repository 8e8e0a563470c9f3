"""Keyword search in the metadata of rows: full text, ranked by BM25, fused with images by rank.

The index is SQLite's FTS5, which is part of Python, in memory. It is built on the first search and
again when the metadata have changed.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError
from lookalike.filters import Columns

FUSION = 60
"""The constant of reciprocal rank fusion (Cormack et al. 2009, section 3)."""

_MAX_WORDS = 50

_TIE = 1e-9
"""Relative difference of scores below which they are equal."""


class KeywordIndex:
    """A full-text index of all metadata columns that hold text or numbers."""

    def __init__(self, columns: Columns) -> None:
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._lock = threading.Lock()
        self._connection.execute(
            "CREATE VIRTUAL TABLE keywords USING fts5("
            "content, content='', columnsize=1, tokenize='unicode61 remove_diacritics 2')"
        )
        rows = ((row, text) for row, text in enumerate(_texts(columns)) if text)
        self._connection.executemany("INSERT INTO keywords (rowid, content) VALUES (?, ?)", rows)

    def search(self, keywords: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the numbers of rows with any of the keywords and their BM25 scores, best first.

        A keyword matches words that begin with it, ignoring case and accents; a phrase in double
        quotes matches its words in that order.

        Raises:
            InputError: there is no keyword, or more than 50.
        """
        query = _fts_query(keywords)
        with self._lock:
            matches = self._connection.execute(
                "SELECT rowid, -bm25(keywords) FROM keywords WHERE keywords MATCH ? "
                "ORDER BY 2 DESC, 1",
                (query,),
            ).fetchall()
        rows = np.array([row for row, _ in matches], np.int64)
        return rows, np.array([score for _, score in matches], np.float64)


_indexes: WeakKeyDictionary[Columns, KeywordIndex] = WeakKeyDictionary()
_building = threading.Lock()


def keyword_index(columns: Columns) -> KeywordIndex:
    """Return the index of these metadata, built once."""
    with _building:
        index = _indexes.get(columns)
        if index is None:
            index = _indexes[columns] = KeywordIndex(columns)
        return index


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A filter that matches rows by their numbers."""

    rows: NDArray[np.int64]

    def mask(self, columns: Columns) -> NDArray[np.bool_]:
        """Return which rows these are."""
        mask = np.zeros(len(columns), np.bool_)
        mask[self.rows] = True
        return mask


def fuse_rankings(by_image: Sequence[str], by_text: Sequence[tuple[str, float]]) -> list[str]:
    """Return ids ordered by reciprocal rank fusion: the sum of 1 / (60 + rank) in both rankings.

    Args:
        by_image: ids, best first.
        by_text: ids and scores, best first. Equal scores share a rank, so that the image ranking
            decides among them.
    """
    total = {row_id: 1 / (FUSION + rank) for rank, row_id in enumerate(by_image, 1)}
    rank, last = 0, None
    for place, (row_id, score) in enumerate(by_text, 1):
        if last is None or score < last - _TIE * abs(last):
            rank, last = place, score
        total[row_id] = total.get(row_id, 0.0) + 1 / (FUSION + rank)
    place_of = {row_id: place for place, row_id in enumerate(by_image)}
    return sorted(total, key=lambda i: (-total[i], place_of.get(i, len(place_of)), i))


def _texts(columns: Columns) -> Iterator[str]:
    """Yield for each row all of its metadata as one text."""
    rows: list[list[str]] = [[] for _ in range(len(columns))]
    for name in columns.names:
        codes, values = columns.encoded(name)
        texts = [" ".join(_words_of(value)) for value in values]
        for row in np.flatnonzero(codes >= 0).tolist():
            rows[row].append(texts[codes[row]])
    for parts in rows:
        yield " ".join(parts)


def _words_of(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _words_of(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield f"{value:g}" if isinstance(value, float) else str(value)


def _fts_query(keywords: str) -> str:
    """Return an FTS5 query in which every character of the keywords is literal."""
    parts = [
        (quoted or word, bool(quoted))
        for quoted, word in re.findall(r'"([^"]*)"|([^\s"]+)', keywords)
    ]
    terms = [
        f'"{part}"' + ("" if quoted else "*")
        for part, quoted in parts
        if any(character.isalnum() for character in part) and "\0" not in part
    ]
    if not terms:
        raise InputError("{keywords} has no word to search for", keywords=repr(keywords[:40]))
    if len(terms) > _MAX_WORDS:
        raise InputError(
            f"{{keywords}} has {len(terms)} words, at most {_MAX_WORDS} are allowed", keywords=None
        )
    return " OR ".join(terms)
