"""Full text of names and metadata of rows: tables of SQLite's FTS5, on disk or in memory.

There are two tables, so that a row whose name does not match has the score that it has by its
metadata alone; the scores of both are added. The tables have no copy of the texts
(``content=''``): a text is removed by telling FTS5 what it was. A row is known by its slot.

The embedded store keeps the tables in its database, in the transactions of its rows (``SCHEMA``,
:class:`TextUpdate`, :func:`rebuild`). For other stores they are built in memory from all rows, on
the first search (:func:`text_search`).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, zip_longest
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled, holding, is_cancelled
from lookalike.stores.base import Record, RowReader, TextSearch
from lookalike.stores.embedded.rows import RowBatch, StoredRow, all_rows, stored_rows

if TYPE_CHECKING:
    from lookalike.filters import Columns
    from lookalike.stores.words import Term

_TOKENIZER = "unicode61 remove_diacritics 2"

_MERGE = 8
"""Parts of a table on one level that are merged. Fewer make writing slower, more make searching
slower: 500,000 rows in batches of 4,096 took 7.2, 4.9 and 4.2 µs each with 4, 8 and 64."""

SCHEMA = (
    f"CREATE VIRTUAL TABLE metadata_text USING fts5(text, content='', tokenize='{_TOKENIZER}')",
    f"CREATE VIRTUAL TABLE name_text USING fts5(name, source, content='', tokenize='{_TOKENIZER}')",
    "CREATE VIRTUAL TABLE metadata_words USING fts5vocab(metadata_text, row)",
    "CREATE VIRTUAL TABLE name_words USING fts5vocab(name_text, col)",
    "CREATE VIRTUAL TABLE metadata_places USING fts5vocab(metadata_text, instance)",
    "CREATE VIRTUAL TABLE name_places USING fts5vocab(name_text, instance)",
    f"INSERT INTO metadata_text (metadata_text, rank) VALUES ('automerge', {_MERGE})",
    f"INSERT INTO name_text (name_text, rank) VALUES ('automerge', {_MERGE})",
)
"""The tables, and views of their words, which are no data but must exist where nothing can be
written: a connection that may not write cannot create them in its temporary schema either."""

_VIEWS = ("metadata_words", "name_words", "metadata_places", "name_places")

_TABLES = ("metadata_text", "name_text")

_WRITE = {
    "metadata_text": "INSERT INTO metadata_text (metadata_text, rowid, text) VALUES (?, ?, ?)",
    "name_text": "INSERT INTO name_text (name_text, rowid, name, source) VALUES (?, ?, ?, ?)",
}
"""Adds a text, or removes it if the first value is ``delete``."""

_ADD_METADATA = (
    "INSERT INTO metadata_text (rowid, text) SELECT ?1 + key, value FROM json_each(?2) "
    "WHERE value <> ''"
)
_ADD_NAMES = (
    "INSERT INTO name_text (rowid, name, source) SELECT ?1 + key, value, ?3 FROM json_each(?2)"
)
"""Add texts of slots without gaps: the first slot, a JSON list of texts, and the source of all."""

_WRITTEN = 16_384
"""Rows whose texts are added at a time, in less than .1 s."""

_CHARACTERS = 1 << 24
"""Characters of these texts, unless that of one row has more; SQLite reads up to 10^9 bytes."""

_STEP = 1_000
"""Rows that are indexed or read between checks whether the work was cancelled."""

_INSTRUCTIONS = 10_000
"""Instructions of SQLite between such checks: about a millisecond."""

_READ = 5_000
"""Rows that are read at a time, in a few milliseconds for which others wait."""

_FEW = 20_000
"""Rows whose scores are computed apart from those of all matching rows, at most."""

_SUGGESTED = 5
"""Words without a match for which a similar one is looked for, at most."""

_SIMILAR = 20_000
"""Words of the index that a word without a match is compared with, at most."""

_SAMPLED = 100
"""Rows whose texts are looked for by a check that is not deep."""


class TextUpdate:
    """A write in two steps: forming texts, and writing them, which is SQLite's work.

    Args:
        removed: rows whose texts are removed.
        added: rows whose texts are added then. A row that is in both with the same slot has
            changed; texts that stay the same are not written.
    """

    def __init__(self, removed: Sequence[StoredRow], added: RowBatch) -> None:
        self._old, self._new = _texts(RowBatch.of(removed)), _texts(added)

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the texts, in the connection's transaction.

        Raises:
            sqlite3.Error: they cannot be written, or the tables are damaged.
            CancelledError: the work was cancelled.
        """
        if self._old.slots:
            _replace(connection, self._old, self._new)
        elif self._new.slots:
            _add(connection, self._new)


def rebuild(connection: sqlite3.Connection) -> None:
    """Empty the tables, and fill them from all ``rows``; of removed rows nothing is left.

    Raises:
        sqlite3.Error: they cannot be written.
        CancelledError: the work was cancelled.
    """
    try:
        for table in _TABLES:
            connection.execute(f"INSERT INTO {table} ({table}) VALUES ('delete-all')")
    except sqlite3.DatabaseError:  # they are damaged
        _recreate(connection)
    _write_all(connection, all_rows(connection))
    optimize(connection)


def _recreate(connection: sqlite3.Connection) -> None:
    """Drop the tables and create them, whatever is damaged in them.

    FTS5 drops only what it can open, so what it reads then is made valid first.
    """
    for table in _TABLES:
        connection.execute(f"INSERT OR REPLACE INTO {table}_data VALUES (10, x'{'00' * 7}')")
        connection.execute(f"INSERT OR REPLACE INTO {table}_config VALUES ('version', 4)")
    for table in (*_VIEWS, *_TABLES):
        connection.execute(f"DROP TABLE {table}")
    for statement in SCHEMA:
        connection.execute(statement)


def optimize(connection: sqlite3.Connection) -> None:
    """Merge the parts of the tables, which makes them smaller and faster.

    Raises:
        sqlite3.Error: they cannot be written, or the tables are damaged.
    """
    for table in _TABLES:
        connection.execute(f"INSERT INTO {table} ({table}) VALUES ('optimize')")


def verify(connection: sqlite3.Connection, *, deep: bool = False) -> list[str]:
    """Compare the tables with the rows; return what is wrong, nothing if they agree.

    Nothing is written, so this works where nothing can be.

    Args:
        connection: of a database with ``rows`` and the tables.
        deep: compare every word of every row, with tables that are built anew in memory; by
            default, the number of texts, and the words of 100 rows.

    Raises:
        CancelledError: the work was cancelled.
    """
    try:
        problems = _differences(connection) if deep else _samples_missing(connection)
        return [f"full text: {problem}" for problem in problems]
    except sqlite3.DatabaseError as error:
        check_cancelled()  # which may be why SQLite was interrupted
        return [f"full text: {error}"]


class _Texts(NamedTuple):
    """What is indexed of rows, by slot; documented in ``RowTexts``."""

    slots: Sequence[int]
    metadata: Sequence[str]
    names: Sequence[str]
    sources: Sequence[str]


def _texts(rows: RowBatch) -> _Texts:
    from lookalike.stores.words import row_texts

    return _Texts(rows.slots, *row_texts(rows.ids, rows.uris, rows.metadata))


def _write_all(connection: sqlite3.Connection, rows: Iterator[StoredRow]) -> None:
    """Add the texts of all rows to empty tables."""
    while (part := RowBatch.of(islice(rows, _WRITTEN))).slots:
        _add(connection, _texts(part))


def _add(connection: sqlite3.Connection, texts: _Texts) -> None:
    """Add texts; of one source in slots without gaps, SQLite divides them faster than Python."""
    slots, metadata, names, sources = texts
    if [*slots] != [*range(slots[0], slots[0] + len(slots))] or len(set(sources)) > 1:
        _replace(connection, _Texts((), (), (), ()), texts)
        return
    for part in _parts([*map(add, map(len, metadata), map(len, names))]):
        check_cancelled()
        first = slots[part.start]
        data = (json.dumps(column[part], ensure_ascii=False) for column in (metadata, names))
        connection.execute(_ADD_METADATA, (first, next(data)))
        connection.execute(_ADD_NAMES, (first, next(data), sources[0]))


def _parts(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield parts of texts that are not too large for one statement."""
    start = size = 0
    for place, each in enumerate(sizes):
        if place - start == _WRITTEN or (place > start and size + each > _CHARACTERS):
            yield slice(start, place)
            start, size = place, 0
        size += each
    yield slice(start, len(sizes))


def _replace(connection: sqlite3.Connection, old: _Texts, new: _Texts) -> None:
    """Replace texts by slot. FTS5 wants them in this order."""
    before, after = (
        {slot: texts for slot, *texts in zip(*every, strict=True)} for every in (old, new)
    )
    metadata: list[tuple[str | int | None, ...]] = []
    names: list[tuple[str | int | None, ...]] = []
    for slot in sorted({**before, **after}):
        if slot in before:
            text, *name = before[slot]
            if text and (slot not in after or text != after[slot][0]):
                metadata.append(("delete", slot, text))
            if slot not in after or name != after[slot][1:]:
                names.append(("delete", slot, *name))
        if slot in after:
            text, *name = after[slot]
            if text and (slot not in before or text != before[slot][0]):
                metadata.append((None, slot, text))
            if slot not in before or name != before[slot][1:]:
                names.append((None, slot, *name))
    for start in range(0, max(len(metadata), len(names)), _STEP):
        check_cancelled()
        stop = start + _STEP
        connection.executemany(_WRITE["metadata_text"], metadata[start:stop])
        connection.executemany(_WRITE["name_text"], names[start:stop])


Run = Callable[[Callable[[sqlite3.Connection], Any]], Any]
"""Returns what some work reads from a connection; it can be cancelled."""

Numbers = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Returns the numbers of rows by slot, or their slots by number."""


class Addressing(NamedTuple):
    """How a reader's rows are numbered.

    Args:
        numbers: returns the numbers of rows by their slots, which ascend with them.
        slots: returns their slots by number.
        ends: returns the first and last id, or None of no rows.
    """

    numbers: Numbers
    slots: Numbers
    ends: Callable[[sqlite3.Connection], tuple[str, str] | None]


@dataclass(slots=True)
class _Matches:
    """The rows that match some keywords.

    Args:
        keywords: which they are.
        slots: of all rows that match, ascending.
        scores: of all of them; None until they are needed.
        is_used: whether scores of some were read.
        unmatched: keywords without a match; None until they are needed.
    """

    keywords: str
    slots: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None
    is_used: bool = False
    unmatched: dict[str, str | None] | None = None


class LatestMatches:
    """The rows that matched the last keywords: the queries of a batch have the same.

    It may be used by several threads.
    """

    def __init__(self) -> None:
        self.matches: _Matches | None = None


class FullText:
    """Searches the tables of one snapshot; documented in ``TextSearch``.

    Args:
        run: reads from the tables.
        addressing: how rows are numbered.
        latest: of this snapshot.
    """

    def __init__(self, run: Run, addressing: Addressing, latest: LatestMatches) -> None:
        self._run = run
        self._addressing = addressing
        self._latest = latest

    def matching(self, keywords: str) -> NDArray[np.int64]:
        """Return the rows with any of the keywords, ascending."""
        from lookalike.stores.words import parse_keywords

        matches = self._matches(keywords, parse_keywords(keywords))
        return self._addressing.numbers(matches.slots)

    def scores(self, keywords: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the BM25 scores of rows."""
        from lookalike.stores.words import parse_keywords

        terms = parse_keywords(keywords)
        slots = self._addressing.slots(rows)
        matches = self._matches(keywords, terms)
        is_first, matches.is_used = not matches.is_used, True
        every = matches.scores
        if every is None:
            if is_first and 2 * len(slots) < min(len(matches.slots), _FEW):
                return self._scores(terms, slots, only=True)
            every = matches.scores = self._scores(terms, matches.slots)
        return _scores_of(matches.slots, every, slots)

    def unmatched(self, keywords: str) -> dict[str, str | None]:
        """Return the keywords that match no row, each with the most similar word there is."""
        from lookalike.stores.words import parse_keywords

        terms = parse_keywords(keywords)
        matches = self._matches(keywords, terms)
        unmatched = matches.unmatched
        if unmatched is None:
            is_several = self._has_several_sources()
            words = [term.text for term in terms if not self._has_match(term, is_several)]
            similar = [self._similar_word(word, is_several) for word in words[:_SUGGESTED]]
            unmatched = matches.unmatched = dict(zip_longest(words, similar))
        return unmatched

    def _matches(self, keywords: str, terms: Sequence[Term]) -> _Matches:
        """Return the rows that match, read once for all queries of a batch."""
        matches = self._latest.matches
        if matches is None or matches.keywords != keywords:
            queries = _queries(terms, self._has_several_sources())
            parts = [self._slots_matching(table, query) for table, query in queries]
            matches = self._latest.matches = _Matches(keywords, _union(parts))
        return matches

    def _slots_matching(self, table: str, query: str) -> NDArray[np.int64]:
        """Return the slots of the rows that match, ascending."""
        slots = array("q")
        for part in self._select(f"SELECT rowid FROM {table} WHERE {table} MATCH ?", query):
            slots.extend(chain.from_iterable(part))
        return np.array(slots, np.int64)

    def _scores(
        self, terms: Sequence[Term], slots: NDArray[np.int64], *, only: bool = False
    ) -> NDArray[np.float64]:
        """Return the scores of rows; ``only`` these are read, or all that match."""
        scores = np.zeros(len(slots))
        numbers = f" AND +rowid IN ({','.join(map(str, slots.tolist()))})" if only else ""
        for table, query in _queries(terms, self._has_several_sources()):
            rows, values = array("q"), array("d")
            statement = f"SELECT rowid, -bm25({table}) FROM {table} WHERE {table} MATCH ?{numbers}"
            for part in self._select(statement, query):
                part_rows, part_scores = zip(*part, strict=True)
                rows.extend(part_rows)
                values.extend(part_scores)
            scores += _scores_of(np.array(rows, np.int64), np.array(values), slots)
        return scores

    def _select(self, statement: str, query: str) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows of a statement in parts; others may read meanwhile."""
        cursor = self._run(lambda connection: connection.execute(statement, (query,)))

        def read(_: sqlite3.Connection) -> list[tuple[Any, ...]]:
            part: list[tuple[Any, ...]] = cursor.fetchmany(_READ)
            if any(None in row for row in part):  # a score, of lengths that make no sense
                raise sqlite3.DatabaseError("its full text is damaged")
            return part

        while part := self._run(read):
            yield part

    def _has_several_sources(self) -> bool:
        ends = self._run(self._addressing.ends)
        return ends is not None and len({row_id.partition(":")[0] for row_id in ends}) > 1

    def _has_match(self, term: Term, is_several: bool) -> bool:
        def read(connection: sqlite3.Connection) -> bool:
            return any(
                connection.execute(
                    f"SELECT 1 FROM {table} WHERE {table} MATCH ? LIMIT 1", (query,)
                ).fetchone()
                for table, query in _queries([term], is_several)
            )

        return bool(self._run(read))

    def _similar_word(self, word: str, is_several: bool) -> str | None:
        """Return the word that is most similar to one that no row has; None without."""
        similar: str | None = self._run(
            lambda connection: _similar_word(connection, word, is_several)
        )
        return similar


def _queries(terms: Sequence[Term], is_several: bool) -> list[tuple[str, str]]:
    """Return the tables and what to search for in each.

    The name of the only source says nothing about a row, so it matches only in front of a key.
    """
    metadata = " OR ".join(term.for_metadata for term in terms)
    names = " OR ".join(term.for_names for term in terms)
    if not is_several:
        names = f"{{name}} : ({names})"
    ids = [term.for_id for term in terms]
    return [
        ("metadata_text", metadata),
        ("name_text", " OR ".join([names, *filter(None, ids)])),
    ]


def _union(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return what ascending arrays have, ascending; faster than by hashing, as numpy does it."""
    every = np.concatenate(parts)
    if sum(map(bool, map(len, parts))) > 1:
        every.sort(kind="stable")
        every = every[np.r_[True, every[1:] != every[:-1]]]
    return every


def _scores_of(
    rows: NDArray[np.int64], scores: NDArray[np.float64], wanted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the scores of wanted rows, 0 of those that are not among the ascending ``rows``."""
    if not len(rows):
        return np.zeros(len(wanted))
    places = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
    return np.where(rows[places] == wanted, scores[places], 0.0)


def _similar_word(connection: sqlite3.Connection, word: str, is_several: bool) -> str | None:
    """Return the word of the tables that is most similar to one that they lack; None without.

    It begins with the first or second letter, so that only a part of the words is read.
    """
    from difflib import get_close_matches

    from lookalike.stores.words import plain_word

    word = plain_word(word)
    if not word.isalpha() or len(word) < 3:
        return None
    words: list[str] = []
    for table, where in (
        ("metadata_words", ""),
        ("name_words", "" if is_several else "AND col = 'name' "),
    ):
        candidates: list[tuple[int, str]] = []
        for letter in sorted({*word[:2]}):
            candidates += connection.execute(
                f"SELECT cnt, term FROM {table} WHERE term >= ? AND term < ? {where}"
                "AND length(term) BETWEEN ? AND ? ORDER BY cnt DESC LIMIT ?",
                (letter, chr(ord(letter) + 1), len(word) - 2, len(word) + 2, _SIMILAR),
            )
        candidates.sort(key=lambda pair: -pair[0])
        words += (term for _, term in candidates[:_SIMILAR])
    check_cancelled()
    matches = get_close_matches(word, words, n=1, cutoff=0.7)
    return matches[0] if matches else None


class _MemoryTables:
    """The tables in memory, of rows that are read from a store.

    If building them is cancelled, the next search goes on where it ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        _create(self._connection)
        self._first: str | None = None
        self._last = ""
        self._is_built = False
        self.latest = LatestMatches()

    def run(self, store: RowReader, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Return what some work reads from the tables, which are built first."""
        with holding(self._lock):
            self._build(store)
            self._connection.set_progress_handler(is_cancelled, _INSTRUCTIONS)
            try:
                return work(self._connection)
            except sqlite3.OperationalError:
                check_cancelled()  # which is why SQLite was interrupted
                raise
            finally:
                self._connection.set_progress_handler(None, 0)

    def ends(self, _: sqlite3.Connection) -> tuple[str, str] | None:
        """Return the first and last id."""
        return None if self._first is None else (self._first, self._last)

    def _build(self, store: RowReader) -> None:
        """Index the rows that are not indexed yet; they come sorted by id."""
        if self._is_built:
            return
        part: list[Record] = []
        for record in store.records():
            if self._first is not None and record.id <= self._last:
                continue
            part.append(record)
            if len(part) == _STEP:
                self._add(store, part)
                part = []
        self._add(store, part)
        self._is_built = True

    def _add(self, store: RowReader, records: Sequence[Record]) -> None:
        check_cancelled()
        if not records:
            return
        numbers = store.row_numbers([record.id for record in records]).tolist()
        rows = RowBatch.of(
            StoredRow(number, record.id, record.uri, record.metadata)
            for number, record in zip(numbers, records, strict=True)
            if number >= 0  # it was deleted meanwhile, on a server
        )
        if rows.slots:
            with self._connection:
                _add(self._connection, _texts(rows))
        if self._first is None:
            self._first = records[0].id
        self._last = records[-1].id


_tables: WeakKeyDictionary[Columns, _MemoryTables] = WeakKeyDictionary()
"""By the columns of a snapshot, which stay the same for as long as its rows."""

_adding = threading.Lock()


def text_search(store: RowReader) -> TextSearch:
    """Return the full-text search in a snapshot: its own, or one in memory, of which there is one.

    That is built from all rows on the first search.
    """
    own: Callable[[], TextSearch] | None = getattr(store, "full_text", None)
    if own is not None:
        return own()
    columns = store.columns()
    with _adding:
        tables = _tables.get(columns)
        if tables is None:
            tables = _tables[columns] = _MemoryTables()
    addressing = Addressing(lambda slots: slots, lambda numbers: numbers, tables.ends)
    return FullText(partial(tables.run, store), addressing, tables.latest)


def _create(connection: sqlite3.Connection) -> None:
    for statement in SCHEMA:
        connection.execute(statement)


def _samples_missing(connection: sqlite3.Connection) -> Iterable[str]:
    """Yield what a quick check finds."""
    from random import Random

    (rows,) = connection.execute("SELECT count(*) FROM rows").fetchone()
    for table in _TABLES:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}_docsize").fetchone()
        if count > rows or (table == "name_text" and count < rows):
            yield f"{table} has {count:,} rows, of {rows:,}"
    for view in _VIEWS[:2]:
        connection.execute(f"SELECT total(cnt) FROM {view}").fetchone()  # which reads all of it
    (highest,) = connection.execute("SELECT max(slot) FROM rows").fetchone()
    slots = range(0 if highest is None else highest + 1)
    sample = Random(0).sample(slots, min(_SAMPLED, len(slots)))
    sampled = RowBatch.of(stored_rows(connection, "slot", sample))
    for slot, *texts in zip(*_texts(sampled), strict=True):
        for table, text in zip(_TABLES, texts[:2], strict=True):
            if not _has_words(connection, table, slot, text):
                yield f"{table} lacks words of the row in slot {slot:,}"
                return


def _has_words(connection: sqlite3.Connection, table: str, slot: int, text: str) -> bool:
    """Return whether a text of ours is found by its first words."""
    words = " ".join(text[:200].replace('"', " ").split(" ")[: -1 if len(text) > 200 else None])
    if not any(map(str.isalnum, words)):
        return True
    return (
        connection.execute(
            f"SELECT 1 FROM {table} WHERE {table} MATCH ? AND rowid = ?", (f'"{words}"', slot)
        ).fetchone()
        is not None
    )


def _differences(connection: sqlite3.Connection) -> Iterable[str]:
    """Yield in which tables the words or lengths of rows differ from those of tables built anew.

    Then FTS5 checks how words are looked up, which needs writing, in a copy.
    """
    with _tables_in_memory() as fresh:
        fresh.execute("BEGIN")
        _write_all(fresh, all_rows(connection))
        fresh.execute("COMMIT")
        for table in _TABLES:
            for what, query in (
                ("the lengths of its texts", f"SELECT id, sz FROM {table}_docsize ORDER BY id"),
                ("its totals", _TOTALS.format(table)),
                ("its words", _WORDS.format(table.replace("_text", "_places"))),
            ):
                if not _is_equal(connection.execute(query), fresh.execute(query)):
                    yield f"{table}: {what} differ from the rows"
            view = table.replace("_text", "_words")
            if connection.execute(_NOT_FOUND.format(view)).fetchone() is not None:
                yield f"{table}: a word that it has is not found"
    with _tables_in_memory() as copy:
        for table in _TABLES:
            for part in ("data", "idx", "docsize", "config"):
                copy.execute(f"DELETE FROM {table}_{part}")
                rows = connection.execute(f"SELECT * FROM {table}_{part}")
                while some := rows.fetchmany(_STEP):
                    check_cancelled()
                    marks = ", ".join("?" * len(some[0]))
                    copy.executemany(f"INSERT INTO {table}_{part} VALUES ({marks})", some)
        copy.execute("PRAGMA writable_schema = RESET")  # FTS5 opens the tables again
        for table in _TABLES:
            copy.execute(f"INSERT INTO {table} ({table}) VALUES ('integrity-check')")


@contextlib.contextmanager
def _tables_in_memory() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        _create(connection)
        yield connection


_TOTALS = "SELECT block FROM {0}_data WHERE id = 1 AND EXISTS (SELECT 1 FROM {0}_docsize)"
"""The number of texts and words. Of none, it is empty or has zeros."""

_WORDS = (
    "SELECT term, count(*), sum(doc), sum((doc * 2654435761 + offset * 40503 + (col = 'source')) "
    "% 4294967291) FROM {} GROUP BY term"
)
"""The words of a table, and a checksum of where each occurs."""


_NOT_FOUND = (
    "SELECT 1 FROM (SELECT term AS word, sum(cnt) AS total FROM {0} GROUP BY term) "
    "WHERE total IS NOT (SELECT sum(cnt) FROM {0} WHERE term = word) LIMIT 1"
)
"""A word that looking it up finds less often than reading all words."""


def _is_equal(rows: Iterable[Any], others: Iterable[Any]) -> bool:
    for number, (one, other) in enumerate(zip_longest(rows, others)):
        if one != other:
            return False
        if number % _STEP == 0:
            check_cancelled()
    return True
