"""The order of rows by name, date, source or a column of the metadata, with a filter, as numbers.

Values are sorted, not rows: a row's place follows from the code of its value. What was sorted is
kept for other requests with the same rows, so that a page far down costs as much as the first.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.filters import Columns, Filter, RowFilter, Where, as_filter
from lookalike.filters.columns import Recent
from lookalike.filters.encoded import STEP, EncodedColumn, kind_of
from lookalike.stores.base import RowReader, matching_rows
from lookalike.stores.full_text import text_search
from lookalike.stores.words import parse_keywords

RowNumbers = NDArray[np.int64]
Ranks = NDArray[np.int32]
"""A number of each row: its place in an order by a value, or a row number."""

FACTS = ("id", "name", "date", "source")
"""What rows can be sorted by that is no column of the metadata."""

DATE_COLUMNS = (
    *("date", "datetime", "taken", "taken_at", "date_taken", "datetimeoriginal"),
    *("created", "created_at", "timestamp"),
)
"""Columns that have the date of an image, in lower case; the first that exists is taken."""

COLUMN = "metadata."
"""Prefix of a column, for those that are called like something else."""

MAX_KEYS = 3
"""Sort keys of one order."""

_FEW_IDS = 2_000
"""Rows whose ids are read to sort them; more are sorted by the order of all rows, which is kept."""

_KEPT_BYTES = 64 << 20
_COMPARED = 1_000
"""Columns whose names are compared with an unknown one."""

_LAST = np.iinfo(np.int32).max
"""Rank of rows without a value, which come last in both directions."""

_KINDS = {"boolean": 0, "number": 1, "text": 2}
_DIGITS = re.compile("[0-9]+")
_LONGEST_NUMBER = 18
"""Digits of a name that are compared as a number."""

_orders = Recent[tuple[str, ...], RowNumbers](_KEPT_BYTES)
_ranks = Recent[tuple[str, ...], Ranks](_KEPT_BYTES)


@dataclass(frozen=True, slots=True)
class SortKey:
    """What rows are sorted by: a fact in :data:`FACTS`, or a column of the metadata.

    Args:
        name: of the fact or column.
        is_column: whether it is a column.
        descending: largest first.
    """

    name: str
    is_column: bool = False
    descending: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key that a text such as ``-year`` names.

        Raises:
            InputError: it names nothing.
        """
        name = text.removeprefix("-")
        if not name or name == COLUMN:
            raise InputError("{sort} must name what to sort by, such as name or -date", sort=text)
        is_column = name not in FACTS
        return cls(name.removeprefix(COLUMN), is_column, descending=text.startswith("-"))

    def __str__(self) -> str:
        prefix = COLUMN if self.is_column else ""
        return f"{'-' * self.descending}{prefix}{self.name}"


def sort_keys(sort: str | Iterable[str]) -> tuple[SortKey, ...]:
    """Return the keys that one or several texts name; rows that are equal are ordered by id.

    Raises:
        InputError: a text names nothing.
        SettingError: there are more than three.
    """
    texts = (sort,) if isinstance(sort, str) else tuple(sort)
    if not all(isinstance(text, str) for text in texts):
        raise InputError("{sort} must be a text, or a list of texts", sort=None)
    if len(texts) > MAX_KEYS:
        raise SettingError(f"{{sort}} has more than {MAX_KEYS} keys", sort=None)
    keys = tuple(map(SortKey.parse, texts))
    ids = [place for place, key in enumerate(keys) if key.name == "id" and not key.is_column]
    return keys[: ids[0] + 1] if ids else keys  # ids differ: what follows one changes nothing


def order_rows(
    store: RowReader,
    *,
    where: Where | None = None,
    keywords: str | None = None,
    sort: str | Iterable[str] = "id",
) -> RowNumbers:
    """Return the numbers of the rows that match, in an order.

    In a column, booleans come before numbers, and numbers before texts; a list counts as its first
    value; rows without a value come last, also in descending order. Texts are compared by code
    point, names without regard to case and with the numbers in them as numbers.

    Args:
        store: a snapshot.
        where: filter by metadata.
        keywords: rows with all of these words in name or metadata; see
            :class:`~lookalike.stores.base.TextSearch`.
        sort: a key or up to three: ``id``, ``name`` (of the file), ``date``, ``source``, or a
            column, as ``COLUMN`` or ``metadata.COLUMN``; with ``-`` before it in descending order.

    Returns:
        ``(rows,)`` int64, read-only.

    Raises:
        InputError: a column does not exist, the filter does not fit the metadata, there is no
            keyword, or there are no dates.
        SettingError: more than three keys.
        CancelledError: the work was cancelled.
    """
    keys = sort_keys(sort)
    condition = _condition(where)
    cache_key = _cache_key(store, condition, keywords, keys)
    order = None if cache_key is None else _orders.get(cache_key)
    if order is None:
        rows = _matching(store, condition, keywords).astype(np.int64)
        order = _sorted(store, rows, keys)
        order.flags.writeable = False
        if cache_key is not None:
            _orders.add(cache_key, order, order.nbytes)
    return order


def best_by_score(
    store: RowReader, rows: RowNumbers, scores: NDArray[np.float64], page: slice
) -> RowNumbers:
    """Return a page of rows, those with the highest scores first, equal ones by id.

    Args:
        store: a snapshot.
        rows: different row numbers.
        scores: of the rows.
        page: places that exist in their order.
    """
    order = np.argsort(-scores, kind="stable")
    rows, losses = rows[order], -scores[order]
    start, stop, _ = page.indices(len(rows))
    if start >= stop:
        return rows[:0]
    first = int(np.searchsorted(losses, losses[start], "left"))
    last = int(np.searchsorted(losses, losses[stop - 1], "right"))
    rows, losses = rows[first:last], losses[first:last]  # whole runs of equal scores
    by_id = _sorted_by_id(store, rows)
    order = np.argsort(rows, kind="stable")
    losses = losses[order[np.searchsorted(rows, by_id, sorter=order)]]
    return by_id[np.argsort(losses, kind="stable")][start - first : stop - first]


def _sorted_by_id(store: RowReader, rows: RowNumbers) -> RowNumbers:
    if len(rows) <= _FEW_IDS:
        ids = store.ids_at(rows)
        return rows[sorted(range(len(rows)), key=ids.__getitem__)]
    every = _rows_by_id(store)
    is_chosen = np.zeros(len(every), np.bool_)
    is_chosen[rows] = True
    return every[is_chosen[every]].astype(np.int64)


def is_ordered(
    store: RowReader,
    *,
    where: Where | None = None,
    keywords: str | None = None,
    sort: str | Iterable[str] = "id",
) -> bool:
    """Return whether :func:`order_rows` of the same arguments returns at once."""
    cache_key = _cache_key(store, _condition(where), keywords, sort_keys(sort))
    return cache_key is not None and _orders.get(cache_key) is not None


def _condition(where: Where | None) -> Filter | None:
    try:
        return None if where is None else as_filter(where)
    except InputError as error:
        raise error.about("where") from None


def _cache_key(
    store: RowReader, where: Filter | None, keywords: str | None, keys: Sequence[SortKey]
) -> tuple[str, ...] | None:
    """Return what an order is kept by; None if the same key may be of other rows."""
    revision = store.revision
    if isinstance(where, RowFilter) or _is_changing(revision):
        return None
    text = repr((where, keywords, keys))  # which tells 1 from True, and from 1.0
    return (store.identity, revision, hashlib.sha256(text.encode(errors="replace")).hexdigest())


def _is_changing(revision: str) -> bool:
    """Return whether rows on a server are being written: they may change within the revision."""
    number, _, mark = revision.partition("-")
    return not (number.isdecimal() and mark.isalnum())


def _matching(store: RowReader, where: Filter | None, keywords: str | None) -> Ranks:
    """Return the rows that match, by id."""
    every = _rows_by_id(store)
    if where is None and keywords is None:
        return every
    try:
        parts = [] if where is None else [matching_rows(where, store.columns())]
    except InputError as error:
        raise error.about("where") from None
    if keywords is not None:
        search = text_search(store)
        for term in parse_keywords(keywords):
            check_cancelled()
            parts.append(search.matching(f'"{term.text}"' if term.quoted else term.text))
    mask = np.ones(len(every), np.bool_)
    for rows in parts:
        if rows is not None:
            matches = np.zeros(len(every), np.bool_)
            matches[rows] = True
            mask &= matches
    return every[mask[every]]


def _sorted(store: RowReader, rows: RowNumbers, keys: Sequence[SortKey]) -> RowNumbers:
    """Return rows, which are ordered by id, in the order of some keys."""
    for key in reversed(keys):
        if key.name == "id" and not key.is_column:
            rows = rows[::-1].copy() if key.descending else rows
            continue
        check_cancelled()
        ranks = _ranks_of(store, key)[rows]
        if key.descending:
            ranks = np.where(ranks == _LAST, _LAST, -ranks)
        rows = rows[np.argsort(ranks, kind="stable")]
    return rows


def _ranks_of(store: RowReader, key: SortKey) -> Ranks:
    """Return the rank of each row by a key, ``(rows,)``, by row number."""
    name = key.name
    if not key.is_column and name == "date":
        column = date_column(store.columns())
        if column is not None:
            return _column_ranks(store, column)
        return _kept(store, "fact date", lambda: _file_date_ranks(store))
    if not key.is_column:
        return _kept(store, f"fact {name}", lambda: _id_ranks(store, name))
    return _column_ranks(store, name)


def _column_ranks(store: RowReader, name: str) -> Ranks:
    columns = store.columns()
    if not len(columns):
        return np.empty(0, np.int32)
    check_column(columns, name, "sort")
    column = columns.encoded(name)
    table = np.append(_kept(store, f"column {name}", lambda: value_ranks(column)), _LAST)
    return np.asarray(table[column.codes], np.int32)  # code -1 is the last one


def check_column(columns: Columns, name: str, parameter: str) -> None:
    """Check that a column exists.

    Raises:
        UnknownNameError: it does not; the nearest name is suggested.
    """
    if name not in columns.names:
        known = [*FACTS, *columns.names[:_COMPARED]]
        raise UnknownNameError("sort key", name, known).about(parameter)


def value_ranks(column: EncodedColumn) -> Ranks:
    """Return the rank of each value of a column, ``(values,)``; equal values have equal ranks."""
    values = column.values
    ranks = np.full(len(values), _LAST, np.int32)
    sortable: list[tuple[int, Any]] = []
    places: list[int] = []
    for place, value in enumerate(values):
        if place % STEP == 0:
            check_cancelled()
        if isinstance(value, list | tuple):
            value = next(iter(value), None)
        kind = _KINDS.get(kind_of(value))
        if kind is not None and not (kind == _KINDS["number"] and _is_nan(value)):
            sortable.append((kind, value))
            places.append(place)
    rank_of = {value: rank for rank, value in enumerate(sorted(set(sortable)))}
    ranks[places] = [rank_of[value] for value in sortable]
    return ranks


def _is_nan(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _kept(store: RowReader, what: str, compute: Callable[[], NDArray[Any]]) -> Ranks:
    """Return ranks that are computed once for the rows of a revision."""
    revision = store.revision
    if _is_changing(revision):
        return np.asarray(compute(), np.int32)
    key = (store.identity, revision, what)
    ranks = _ranks.get(key)
    if ranks is None:
        ranks = np.asarray(compute(), np.int32)
        ranks.flags.writeable = False
        _ranks.add(key, ranks, ranks.nbytes)
    return ranks


def _rows_by_id(store: RowReader) -> Ranks:
    """Return the numbers of all rows in the order of their ids."""
    own: Callable[[], RowNumbers] | None = getattr(store, "numbers_by_id", None)
    return _kept(store, "by id", lambda: store.row_numbers(store.ids()) if own is None else own())


def _id_ranks(store: RowReader, fact: str) -> Ranks:
    """Return the ranks of rows by a part of the id: the file name, or the source."""
    ids = store.ids()
    part_of = _name_key if fact == "name" else source_of
    parts: list[Any] = []
    for start in range(0, len(ids), STEP):
        check_cancelled()
        parts += map(part_of, ids[start : start + STEP])
    rank_of = {part: rank for rank, part in enumerate(sorted(set(parts)))}
    ranks = np.empty(len(ids), np.int32)
    ranks[_rows_by_id(store)] = [rank_of[part] for part in parts]
    return ranks


def _file_date_ranks(store: RowReader) -> Ranks:
    """Return the ranks of rows by the time at which their files were written.

    Raises:
        InputError: no row has one.
    """
    signatures = row_signatures(store)
    times = list(map(file_time_ns, signatures))
    if signatures and not any(times):
        raise InputError(
            "{sort}: the images have no dates: no column of the metadata is called "
            f"{', '.join(DATE_COLUMNS[:3])}, ..., and they are not files",
            sort="date",
        )
    rank_of: dict[int | None, int] = {
        time: rank for rank, time in enumerate(sorted(filter(None, set(times))))
    }
    return np.array([rank_of.get(time, _LAST) for time in times], np.int32)


def row_signatures(store: RowReader) -> Sequence[str]:
    """Return the signatures of all rows by number: of files, their size and time."""
    own: Callable[[], Sequence[str]] | None = getattr(store, "signatures", None)
    if own is not None:
        return own()
    signatures = [""] * store.count()
    by_id = (record.signature for record in store.records())
    for number, signature in zip(_rows_by_id(store).tolist(), by_id, strict=False):
        signatures[number] = signature
    return signatures


def date_column(columns: Columns) -> str | None:
    """Return the column that has the dates of the images; None if there is none."""
    by_lower = {name.lower(): name for name in reversed(columns.names)}
    return next((by_lower[name] for name in DATE_COLUMNS if name in by_lower), None)


def file_date(signature: str) -> str | None:
    """Return when a file was written, as ISO 8601 in UTC; None if its signature does not say."""
    time = file_time_ns(signature)
    try:
        when = None if time is None else datetime.fromtimestamp(time // 10**9, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None if when is None else when.isoformat()


def file_time_ns(signature: str) -> int | None:
    """Return when a file was written, in nanoseconds since 1970, from the signature of a row.

    It is ``SIZE-TIME`` of files, with more numbers after it of files of several images, and then,
    after a space, how the image was read.
    """
    parts = signature.partition(" ")[0].split("-")
    is_file = len(parts) > 1 and parts[0].isdecimal() and parts[1].isdecimal()
    return int(parts[1]) if is_file and len(parts[1]) <= _LONGEST_NUMBER + 2 else None


def source_of(row_id: str) -> str:
    """Return the name of the source of a row; empty if its id has none."""
    source, separator, _ = row_id.partition(":")
    return source if separator else ""


def name_of(row_id: str) -> str:
    """Return the file name of a row: the last part of its id."""
    key = row_id.partition(":")[2] or row_id
    return key.rpartition("/")[2] or key


def _name_key(row_id: str) -> str:
    """Return a name as names are ordered: without case, and numbers by value."""
    name = name_of(row_id).casefold()
    return _DIGITS.sub(lambda match: match[0].zfill(_LONGEST_NUMBER), name)
