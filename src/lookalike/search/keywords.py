"""Keyword search in names and metadata of rows: full text, ranked by BM25, fused by rank.

The index is SQLite's FTS5, which is part of Python, in memory. It is built on the first search and
again when the rows have changed. Metadata and names (file and folder names, by id and uri) are two
tables, so that a row whose name does not match has the score that it has by its metadata alone; the
scores of both are added.

Names are indexed as they are and split where case or letters and digits meet: ``redBicycle12.jpg``
has the words redbicycle12, red, bicycle, 12 and jpg. Chinese, Japanese and Korean have no spaces
between words; there each character is a word, and a keyword is a phrase.
"""

from __future__ import annotations

import difflib
import re
import threading
import unicodedata
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled, holding, is_cancelled
from lookalike.errors import InputError
from lookalike.files import valid_text
from lookalike.filters import Columns
from lookalike.stores.base import RowReader
from lookalike.types import Metadata

T = TypeVar("T")

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

_TABLES = ("keywords", "names")
"""The full-text tables: of metadata, and of names."""

_SUGGESTED = 5
"""Words without a match for which a similar one is looked for, at most."""

_SIMILAR = 20_000
"""Words of the index that a word without a match is compared with, at most."""

_STOP_WORDS = frozenset(
    (
        *("a", "an", "and", "are", "at", "by", "for", "from", "in", "is"),
        *("it", "its", "of", "on", "or", "that", "the", "this", "to", "with"),
    )
)
"""Words of a text in English that say nothing about an image."""

_MIXED = re.compile("[a-z][A-Z]|[A-Za-z][0-9]|[0-9][A-Za-z]|[A-Z][A-Z][a-z]")
"""Where a name without spaces has another word: redBicycle, IMG2041, 4x, XMLFile."""

_PARTS = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\\x00-\\x7f]+")
"""The words that a name is made of."""

_IDEOGRAPH = re.compile(
    "([\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff])"
)
"""A character of Chinese, Japanese or Korean."""

_HASH = re.compile("[0-9a-f]{24,}(-[0-9a-f]+)?")

_SAMPLED = 16
"""Rows that tell whether ids name the files."""

NameReader = Callable[[], Sequence[str]]
"""Returns the names of all rows, in the order of their metadata."""


class KeywordIndex:
    """A full-text index of names, and of all metadata columns that hold text or numbers.

    The first search builds it. If that is cancelled, the next search goes on where it ended.
    """

    def __init__(self, columns: Columns) -> None:
        import sqlite3

        self._rows = columns.rows
        self._names: Sequence[str] | None = None
        self._indexed = 0
        self._latest: tuple[str, NDArray[np.int64], NDArray[np.float64]] | None = None
        self._latest_unmatched: tuple[str, dict[str, str | None]] | None = None
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        for table in _TABLES:
            self._connection.execute(
                f"CREATE VIRTUAL TABLE {table} USING fts5(content, content='', columnsize=1, "
                "tokenize='unicode61 remove_diacritics 2')"
            )
            self._connection.execute(
                f"CREATE VIRTUAL TABLE {table}_words USING fts5vocab({table}, row)"
            )

    def search(
        self, keywords: str, names: NameReader = list
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the numbers of rows with any of the keywords and their BM25 scores, best first.

        A keyword matches words that begin with it, ignoring case and accents; a phrase in double
        quotes matches its words in that order.

        Args:
            keywords: words and phrases.
            names: returns the name of each row; called when the index is built.

        Raises:
            InputError: there is no keyword, or more than 50, or more than 2,000 characters.
            CancelledError: the search was cancelled, or took too long.
        """
        terms = _terms(keywords)

        def find(_: Any) -> tuple[str, NDArray[np.int64], NDArray[np.float64]]:
            if self._latest is None or self._latest[0] != keywords:  # as in a batch
                self._latest = keywords, *self._matches(terms)
            return self._latest

        return self._run(find, names)[1:]

    def unmatched(self, keywords: str) -> dict[str, str | None]:
        """Return the keywords that match no row, each with the most similar word of the index.

        The word is None if there is no similar one. Call it after :meth:`search`.

        Raises:
            InputError, CancelledError: as :meth:`search`.
        """
        terms = _terms(keywords)

        def find(connection: Any) -> dict[str, str | None]:
            if self._latest_unmatched is None or self._latest_unmatched[0] != keywords:
                words = [
                    term.text
                    for term in terms
                    if not any(_has_match(connection, table, term) for table in _TABLES)
                ]
                similar = [self._similar_word(connection, word) for word in words[:_SUGGESTED]]
                self._latest_unmatched = keywords, dict(zip_longest(words, similar))
            return self._latest_unmatched[1]

        return self._run(find)

    def _run(self, work: Callable[[Any], T], names: NameReader = list) -> T:
        """Return what ``work`` reads from the index, which is built first; it can be cancelled."""
        import sqlite3

        with holding(self._lock):
            self._build(names)
            self._connection.set_progress_handler(is_cancelled, _INSTRUCTIONS)
            try:
                return work(self._connection)
            except sqlite3.OperationalError:
                check_cancelled()  # which is why SQLite was interrupted
                raise
            finally:
                self._connection.set_progress_handler(None, 0)

    def _build(self, names: NameReader) -> None:
        """Index the rows that are not indexed yet."""
        if self._names is None:
            self._names = names()
        while self._indexed < len(self._rows):
            check_cancelled()
            stop = min(self._indexed + _STEP, len(self._rows))
            numbers = range(self._indexed, stop)
            self._insert("keywords", ((row, _text(self._rows[row])) for row in numbers))
            named = range(self._indexed, min(stop, len(self._names)))
            self._insert("names", ((row, _name_text(self._names[row])) for row in named))
            self._indexed = stop
        if self._names:
            self._names = ()

    def _insert(self, table: str, texts: Iterator[tuple[int, str]]) -> None:
        self._connection.executemany(
            f"INSERT INTO {table} (rowid, content) VALUES (?, ?)",
            [(row, text) for row, text in texts if text],
        )

    def _matches(self, terms: Sequence[_Term]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        rows, scores = self._matches_of("keywords", terms)
        named, name_scores = self._matches_of("names", terms)
        if not len(named):
            return rows, scores
        every, places = np.unique(np.concatenate([rows, named]), return_inverse=True)
        total = np.zeros(len(every))
        np.add.at(total, places, np.concatenate([scores, name_scores]))
        order = np.lexsort((every, -total))
        return every[order], total[order]

    def _matches_of(
        self, table: str, terms: Sequence[_Term]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the matching rows of one table and their scores, best first."""
        rows, scores = array("q"), array("d")
        query = " OR ".join(term.query(table) for term in terms)
        matches = self._connection.execute(
            f"SELECT rowid, -bm25({table}) FROM {table} WHERE {table} MATCH ? ORDER BY 2 DESC, 1",
            (query,),
        )
        while part := matches.fetchmany(_STEP):
            check_cancelled()
            rows.extend(row for row, _ in part)
            scores.extend(score for _, score in part)
        return np.array(rows, np.int64), np.array(scores, np.float64)

    def _similar_word(self, connection: Any, word: str) -> str | None:
        """Return the word of the index that is most similar to one that it lacks; None without."""
        word = _plain(word)
        if not word.isalpha() or len(word) < 3:
            return None
        words: list[str] = []
        for table in _TABLES:
            rows = connection.execute(
                f"SELECT term FROM {table}_words WHERE length(term) BETWEEN ? AND ? "
                "AND instr(?, substr(term, 1, 1)) ORDER BY cnt DESC LIMIT ?",
                (len(word) - 2, len(word) + 2, word[:2], _SIMILAR),
            )
            words += (term for (term,) in rows)
        check_cancelled()
        matches = difflib.get_close_matches(word, words, n=1, cutoff=0.7)
        return matches[0] if matches else None


_indexes: WeakKeyDictionary[Columns, KeywordIndex] = WeakKeyDictionary()
_adding = threading.Lock()


def keyword_index(columns: Columns) -> KeywordIndex:
    """Return the index of these rows, of which there is one."""
    with _adding:
        index = _indexes.get(columns)
        if index is None:
            index = _indexes[columns] = KeywordIndex(columns)
        return index


def names_of_rows(store: RowReader) -> list[str]:
    """Return what rows are called: the key of each id, and the name of its file if that is another.

    The name of a source is part of it if there are several. The number of an image in a file of
    several, such as of a data set, is no name.
    """
    ids = store.ids()
    if not len(ids):
        return []
    sources = {ids[0].partition(":")[0], ids[-1].partition(":")[0]}  # they are sorted
    sample = store.sample(_SAMPLED)
    pairs = list(zip(sample.ids, sample.uris, strict=True))
    numbered = {row_id.partition(":")[0] for row_id, uri in pairs if _is_number(row_id, uri)}
    names = [_name(row_id, numbered, with_source=len(sources) > 1) for row_id in ids]
    if any(_file_name(uri) not in row_id for row_id, uri in pairs):
        places = {row_id: place for place, row_id in enumerate(ids)}
        for number, record in enumerate(store.records()):
            place, name = places.get(record.id), _file_name(record.uri)
            if place is not None and name not in record.id:
                names[place] += f" {name}"
            if not number % _STEP:
                check_cancelled()
    return names


def _is_number(row_id: str, uri: str) -> bool:
    """Return whether the key of an id is the number of the image in its file."""
    key = row_id.partition(":")[2]
    return key.isdecimal() and uri.endswith(f"#{key}")


def _name(row_id: str, numbered: Collection[str], *, with_source: bool) -> str:
    """Return what a row is called by its id; its source alone if that numbers its images."""
    source, _, key = row_id.partition(":")
    if source in numbered and key.isdecimal():
        return source if with_source else ""
    return row_id if with_source else key or row_id


def keywords_of_text(text: str) -> str:
    """Return the keywords that stand for a text where there is no image-text encoder.

    Those are its words without articles and prepositions (of English), the first 50.

    Raises:
        InputError: it has no word.
    """
    words = [word for word in re.split(r'[\s"\0,;]+', text) if any(map(str.isalnum, word))]
    if not words:
        raise InputError("{text} has no word to search for", text=text[:40])
    content_words = [word for word in words if word.strip(".,;:!?").casefold() not in _STOP_WORDS]
    return " ".join(list(dict.fromkeys(content_words or words))[:_MAX_WORDS])[:MAX_CHARACTERS]


def with_text(keywords: str | None, text: str | None) -> str:
    """Return keywords with those of a text, as many as may be searched for at once.

    Args:
        keywords: that were passed as such.
        text: the words of a text, as of :func:`keywords_of_text`.
    """
    if not keywords or not text:
        return keywords or text or ""
    words = text.split()[: max(0, _MAX_WORDS - len(_terms(keywords)))]
    while words and len(keywords) + sum(len(word) + 1 for word in words) > MAX_CHARACTERS:
        words.pop()
    return " ".join([keywords, *words])


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
    return _separated(" ".join(word for name in sorted(row) for word in _words_of(row[name])))


def _name_text(name: str) -> str:
    """Return a name and the words that it is made of."""
    return _separated(f"{name} {_split(name)}" if _MIXED.search(name) else name)


def _split(name: str) -> str:
    """Return the words that a name is made of, separated by spaces."""
    return " ".join(_PARTS.findall(name))


def _separated(text: str) -> str:
    """Return a text with spaces around each character that is a word, as SQLite can store it."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    return _IDEOGRAPH.sub(r" \1 ", text)


def _plain(word: str) -> str:
    """Return a word in lower case without accents, as it is in the index."""
    letters = unicodedata.normalize("NFD", word.lower())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _words_of(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _words_of(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield f"{value:g}" if isinstance(value, float) else str(value)


def _file_name(uri: str) -> str:
    """Return the name of a file without its suffix, or its place in a file of several.

    It is empty for a file that is named by a hash of its content, as images that were added are.
    """
    name = uri.rpartition("#")[2] if "#" in uri else uri.partition("?")[0].rpartition("/")[2]
    name = name.rpartition(".")[0] or name
    return "" if _HASH.fullmatch(name) else name


@dataclass(frozen=True, slots=True)
class _Term:
    """A keyword, or a phrase that was in quotes."""

    text: str
    quoted: bool

    def query(self, table: str) -> str:
        """Return it as an FTS5 query, in which every character is literal.

        A name matches also by its words, and ranks higher if they are not just beginnings.
        """
        text = _separated(self.text)
        if table == "keywords" or self.quoted:
            return f'"{text}"' + ("" if self.quoted else "*")
        forms = (text, _split(text)) if _MIXED.search(text) else (text,)
        return " OR ".join(f'"{form}" OR "{form}"*' for form in forms)


def _has_match(connection: Any, table: str, term: _Term) -> bool:
    rows = connection.execute(
        f"SELECT 1 FROM {table} WHERE {table} MATCH ? LIMIT 1",
        (term.query(table),),
    )
    return rows.fetchone() is not None


def _terms(keywords: str) -> list[_Term]:
    """Return the keywords and phrases of a text."""
    if len(keywords) > MAX_CHARACTERS:
        raise InputError(
            f"{{keywords}} has {len(keywords):,} characters, at most {MAX_CHARACTERS:,} are "
            "allowed",
            keywords=None,
        )
    terms = [
        _Term(quoted or word, bool(quoted))
        for quoted, word in re.findall(r'"([^"]*)"|([^\s"]+)', valid_text(keywords))
        if any(map(str.isalnum, quoted or word)) and "\0" not in quoted + word
    ]
    if not terms:
        raise InputError("{keywords} has no word to search for", keywords=keywords[:40])
    if len(terms) > _MAX_WORDS:
        raise InputError(
            f"{{keywords}} has {len(terms)} words, at most {_MAX_WORDS} are allowed", keywords=None
        )
    return terms
