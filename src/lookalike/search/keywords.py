"""Keyword search in the metadata of rows: full text, ranked by BM25, fused with images by rank.

The index is SQLite's FTS5, which is part of Python, in memory. It is built on the first search and
again when the metadata have changed.
"""

from __future__ import annotations

import re
import threading
from array import array
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled, holding, is_cancelled
from lookalike.errors import InputError
from lookalike.files import valid_text
from lookalike.filters import Columns
from lookalike.types import Metadata

FUSION = 60
"""The constant of reciprocal rank fusion (Cormack et al. 2009, section 3)."""

MAX_CHARACTERS = 2_000
"""Characters of the keywords of a search."""

_MAX_WORDS = 50

_TIE = 1e-9
"""Relative difference of scores below which they are equal."""

_STEP = 1_000
"""Rows that are indexed or read between checks whether the work was cancelled."""

_INSTRUCTIONS = 10_000
"""Instructions of SQLite between such checks: about a millisecond."""


class KeywordIndex:
    """A full-text index of all metadata columns that hold text or numbers.

    The first search builds it. If that is cancelled, the next search goes on where it ended.
    """

    def __init__(self, columns: Columns) -> None:
        import sqlite3

        self._rows = columns.rows
        self._indexed = 0
        self._latest: tuple[str, NDArray[np.int64], NDArray[np.float64]] | None = None
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.execute(
            "CREATE VIRTUAL TABLE keywords USING fts5("
            "content, content='', columnsize=1, tokenize='unicode61 remove_diacritics 2')"
        )

    def search(self, keywords: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the numbers of rows with any of the keywords and their BM25 scores, best first.

        A keyword matches words that begin with it, ignoring case and accents; a phrase in double
        quotes matches its words in that order.

        Raises:
            InputError: there is no keyword, or more than 50, or more than 2,000 characters.
            CancelledError: the search was cancelled, or took too long.
        """
        import sqlite3

        query = _fts_query(keywords)
        with holding(self._lock):
            if self._latest is not None and self._latest[0] == query:  # as in a batch
                return self._latest[1:]
            self._build()
            self._connection.set_progress_handler(is_cancelled, _INSTRUCTIONS)
            try:
                self._latest = query, *self._matches(query)
                return self._latest[1:]
            except sqlite3.OperationalError:
                check_cancelled()  # which is why SQLite was interrupted
                raise
            finally:
                self._connection.set_progress_handler(None, 0)

    def _build(self) -> None:
        """Index the rows that are not indexed yet."""
        while self._indexed < len(self._rows):
            check_cancelled()
            stop = min(self._indexed + _STEP, len(self._rows))
            texts = [(row, _text(self._rows[row])) for row in range(self._indexed, stop)]
            self._connection.executemany(
                "INSERT INTO keywords (rowid, content) VALUES (?, ?)",
                [(row, text) for row, text in texts if text],
            )
            self._indexed = stop

    def _matches(self, query: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        rows, scores = array("q"), array("d")
        matches = self._connection.execute(
            "SELECT rowid, -bm25(keywords) FROM keywords WHERE keywords MATCH ? ORDER BY 2 DESC, 1",
            (query,),
        )
        while part := matches.fetchmany(_STEP):
            check_cancelled()
            rows.extend(row for row, _ in part)
            scores.extend(score for _, score in part)
        return np.array(rows, np.int64), np.array(scores, np.float64)


_indexes: WeakKeyDictionary[Columns, KeywordIndex] = WeakKeyDictionary()
_adding = threading.Lock()


def keyword_index(columns: Columns) -> KeywordIndex:
    """Return the index of these metadata, of which there is one."""
    with _adding:
        index = _indexes.get(columns)
        if index is None:
            index = _indexes[columns] = KeywordIndex(columns)
        return index


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


def _text(row: Metadata) -> str:
    """Return all metadata of a row as one text, which SQLite can store."""
    text = " ".join(word for name in sorted(row) for word in _words_of(row[name]))
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


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
    if len(keywords) > MAX_CHARACTERS:
        raise InputError(
            f"{{keywords}} has {len(keywords):,} characters, at most {MAX_CHARACTERS:,} are "
            "allowed",
            keywords=None,
        )
    parts = [
        (quoted or word, bool(quoted))
        for quoted, word in re.findall(r'"([^"]*)"|([^\s"]+)', valid_text(keywords))
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
