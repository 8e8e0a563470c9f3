"""Keyword search over the metadata of rows: full text, ranked by BM25, fused with images by rank.

The index is SQLite's FTS5, which Python brings, in memory; it is made on the first search and
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

_MANY_WORDS = 50


class Keywords:
    """The words in the metadata of rows, in all columns that hold text or numbers."""

    def __init__(self, columns: Columns) -> None:
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._lock = threading.Lock()
        self._connection.execute(
            "CREATE VIRTUAL TABLE words USING fts5("
            "said, content='', columnsize=1, tokenize='unicode61 remove_diacritics 2')"
        )
        rows = ((number, text) for number, text in enumerate(_texts(columns)) if text)
        self._connection.executemany("INSERT INTO words (rowid, said) VALUES (?, ?)", rows)

    def find(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the numbers of rows that have any of the words, and their BM25, best first.

        A word is found where one begins with it, case and accents aside; words in double quotes
        are found in that order.

        Raises:
            InputError: the text has no words, or more than 50.
        """
        asked = _asked(text)
        with self._lock:
            found = self._connection.execute(
                "SELECT rowid, -bm25(words) FROM words WHERE words MATCH ? ORDER BY 2 DESC, 1",
                (asked,),
            ).fetchall()
        rows = np.array([row for row, _ in found], np.int64)
        return rows, np.array([score for _, score in found], np.float64)


_indexes: WeakKeyDictionary[Columns, Keywords] = WeakKeyDictionary()
_making = threading.Lock()


def keywords_of(columns: Columns) -> Keywords:
    """Return the index of some metadata, made once."""
    with _making:
        found = _indexes.get(columns)
        if found is None:
            found = _indexes[columns] = Keywords(columns)
        return found


@dataclass(frozen=True, slots=True)
class Among:
    """A filter that some rows pass, by their numbers."""

    rows: NDArray[np.int64]

    def mask(self, columns: Columns) -> NDArray[np.bool_]:
        """Return which rows these are."""
        found = np.zeros(len(columns), np.bool_)
        found[self.rows] = True
        return found


def fused(looks: Sequence[str], said: Sequence[tuple[str, float]]) -> list[str]:
    """Return ids in the order of both rankings: by the sum of 1 / (60 + rank) in each.

    Args:
        looks: ids, the best first.
        said: ids and their scores, the best first; equal scores have one rank, so that among what
            is said equally well looks decide.
    """
    total = {row_id: 1 / (FUSION + rank) for rank, row_id in enumerate(looks, 1)}
    rank, last = 0, None
    for place, (row_id, score) in enumerate(said, 1):
        if last is None or score < last - _SAME * abs(last):
            rank, last = place, score
        total[row_id] = total.get(row_id, 0.0) + 1 / (FUSION + rank)
    place_of = {row_id: place for place, row_id in enumerate(looks)}
    return sorted(total, key=lambda i: (-total[i], place_of.get(i, len(place_of)), i))


_SAME = 1e-9


def _texts(columns: Columns) -> Iterator[str]:
    """Yield all that the metadata of each row say, as one text."""
    said: list[list[str]] = [[] for _ in range(len(columns))]
    for name in columns.names:
        codes, values = columns.encoded(name)
        texts = [" ".join(_words_of(value)) for value in values]
        for row in np.flatnonzero(codes >= 0).tolist():
            said[row].append(texts[codes[row]])
    for parts in said:
        yield " ".join(parts)


def _words_of(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _words_of(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield f"{value:g}" if isinstance(value, float) else str(value)


def _asked(text: str) -> str:
    """Return an FTS5 query in which nothing that a person types has a meaning of its own."""
    parts = [
        (quoted or word, bool(quoted)) for quoted, word in re.findall(r'"([^"]*)"|([^\s"]+)', text)
    ]
    terms = [
        f'"{part}"' + ("" if quoted else "*")
        for part, quoted in parts
        if any(each.isalnum() for each in part) and "\0" not in part
    ]
    if not terms:
        raise InputError(f"words {text[:40]!r}: there is no word to look for")
    if len(terms) > _MANY_WORDS:
        raise InputError(f"words: {len(terms)} are too many; at most {_MANY_WORDS}")
    return " OR ".join(terms)
